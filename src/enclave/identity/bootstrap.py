"""The first credentials: what lets whoever started a control plane use it, and operate it."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from enclave.contracts.errors import Unavailable
from enclave.contracts.identity import Credential
from enclave.identity.authority import EmbeddedIdentity
from enclave.identity.home import read_private, write_private
from enclave.identity.introspection import EmbeddedService

CREDENTIALS_FILE: Final = "credentials.json"
OPERATOR_FILE: Final = "operator.json"
SERVICE_FILE: Final = "service.json"
OWNER_EMAIL: Final = "owner@localhost"


def bootstrap(home: Path, base_url: str, identity: EmbeddedIdentity) -> Credential:
    """The owner's credential, left in `home` for clients on this machine; a key that is there and valid is kept.

    Without one, the owner gets a new key, and on the very first start an org to own. The operator's credential is left
    beside it in the same way; where the file is gone the operator gets another, and the one before is refused. Raises
    Unavailable.
    """
    _leave(home / OPERATOR_FILE, base_url, identity.is_operator, lambda: str(identity.issue_operator()))

    def new_key() -> str:
        return str(identity.issue_key(identity.owner(OWNER_EMAIL)))

    return _leave(home / CREDENTIALS_FILE, base_url, identity.is_key, new_key)


def bootstrap_service(home: Path, url: str, service: EmbeddedService) -> Credential:
    """What a control plane in another process asks with, left in `home` in the same way; where the file is gone there
    is another one, and the one before is refused. Raises Unavailable."""
    return _leave(home / SERVICE_FILE, url, service.admits, lambda: str(service.issue()))


def read_service(path: Path) -> Credential:
    """The credential that was left by `bootstrap_service`. Raises Unavailable if it cannot be read or others can."""
    try:
        return Credential.model_validate_json(read_private(path), extra="ignore")
    except ValidationError:
        raise Unavailable(f"{path} is damaged: remove it, and start the identity service again") from None


def _leave(path: Path, base_url: str, valid: Callable[[str], bool], make: Callable[[], str]) -> Credential:
    stored = _stored(path)
    if stored is None or not valid(stored.api_key):
        wanted = Credential(base_url=base_url, api_key=make())
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
