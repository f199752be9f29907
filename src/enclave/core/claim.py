"""Keys that make a request safe to repeat: the first that is accepted with a key takes it, for a day."""

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from enclave.contracts.errors import FieldProblem, InvalidRequest
from enclave.contracts.sessions import CreateSessionRequest

HEADER: Final = "Idempotency-Key"
HELD: Final = timedelta(hours=24)
"""How long a key stays taken."""

_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True, slots=True)
class Claim:
    """A key of a request, and the digest of what it asks for."""

    key: str
    digest: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """Whom a key was taken by: the session, and the digest of the request for it."""

    session_id: str
    digest: str


def claim_of(key: str, request: CreateSessionRequest) -> Claim:
    """The claim of a request. Raises InvalidRequest for a key that is none."""
    if not _KEY.fullmatch(key):
        problem = FieldProblem(field=HEADER, message="must be 1 to 255 visible characters of ASCII, without spaces")
        raise InvalidRequest(f"{HEADER} is malformed", errors=(problem,))
    asked = json.dumps(request.model_dump(mode="json"), sort_keys=True).encode()
    return Claim(key, hashlib.sha256(asked).hexdigest())


def held_since(now: datetime) -> datetime:
    """When the oldest keys were taken that are still."""
    return now - HELD
