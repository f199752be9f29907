"""The first key: what lets whoever started a control plane use it."""

from pathlib import Path
from typing import Final

from pydantic import ValidationError

from enclave.contracts.errors import Unauthenticated
from enclave.contracts.identity import Credential
from enclave.identity.authority import EmbeddedIdentity
from enclave.identity.home import write_private

CREDENTIALS_FILE: Final = "credentials.json"
OWNER_EMAIL: Final = "owner@localhost"


def bootstrap(home: Path, base_url: str, identity: EmbeddedIdentity) -> Credential:
    """The owner's credential, left in `home` for clients on this machine; a key that is there and valid is kept.

    Without one, the owner gets a new key, and on the very first start an org to own. Raises Unavailable.
    """
    path = home / CREDENTIALS_FILE
    stored = _stored(path)
    if stored is None or not _valid(stored.api_key, identity):
        wanted = Credential(base_url=base_url, api_key=str(identity.issue_key(identity.owner(OWNER_EMAIL))))
    else:
        wanted = stored.model_copy(update={"base_url": base_url})
    if wanted != stored:
        write_private(path, wanted.model_dump_json())
    return wanted


def _stored(path: Path) -> Credential | None:
    try:
        return Credential.model_validate_json(path.read_bytes(), extra="ignore")
    except (FileNotFoundError, ValidationError):
        return None


def _valid(api_key: str, identity: EmbeddedIdentity) -> bool:
    try:
        identity.identify(api_key)
    except Unauthenticated:
        return False
    return True
