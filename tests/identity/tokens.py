"""User tokens, as an identity provider would issue them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import jwt

from enclave.contracts.audit import AuditEvent
from enclave.contracts.errors import Unavailable

# Long enough for every HMAC algorithm, so that only the algorithm itself can be what is refused.
SECRET = "a secret of sixty-four bytes or more, as HS512 would demand of its keys"


def issue_token(*, secret: str = SECRET, lifetime: timedelta = timedelta(hours=1), **claims: Any) -> str:
    """A token for a developer of org_a, but for what `claims` say; a claim that is None is left out."""
    whole = {"sub": "user_1", "orgId": "org_a", "role": "developer", "exp": datetime.now(UTC) + lifetime, **claims}
    kept = {name: value for name, value in whole.items() if value is not None}
    return jwt.encode(kept, secret, algorithm="HS256")


async def nowhere(key: str, event: AuditEvent) -> None:
    """An audit trail that cannot be written."""
    raise Unavailable
