"""The audit trail of an installation, proved and exported without its server."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from enclave.config import Settings
from enclave.contracts.checkpoint import Checkpoint
from enclave.contracts.errors import NotFound, Unavailable
from enclave.core.proof import Entry, Finding, Flaw
from enclave.store.examination import export, exported, stored, tombstones, verify

DATABASE: Final = "enclave.db"
PUBLIC_KEY: Final = "audit.pub"

Audited = Iterator[Finding]
"""What is found of each org."""


def verify_audit(settings: Settings, file: BinaryIO | None, checkpoints: Path | None, key: str | None) -> Audited:
    """Examine an export, or without one the database of the settings, in the light of checkpoints and a public key: of
    the home if none are given. Raises NotFound, InvalidRequest and Unavailable, some of it while it goes on."""
    if checkpoints is not None and not checkpoints.exists():
        raise NotFound(f"there are no checkpoints at {checkpoints}")
    if file is not None:
        return verify(exported(file), checkpoints, key)
    held = settings.home / PUBLIC_KEY
    key = key or (held.read_text().strip() if held.exists() else None)
    return verify(_entries(settings), checkpoints or settings.checkpoint_file, key, _tombstones(settings, key))


def export_audit(settings: Settings, org_id: str | None) -> Iterator[bytes]:
    """The database of these settings, of one org or of all, as lines of an export. Raises as `verify_audit` does."""
    return export(_entries(settings, org_id))


@contextlib.contextmanager
def needs_postgres() -> Iterator[None]:
    """Where what PostgreSQL needs is imported. Raises Unavailable, saying what to install."""
    try:
        yield
    except ImportError:
        raise Unavailable("ENCLAVE_DATABASE_URL needs asyncpg: install enclave[postgres]") from None


def _entries(settings: Settings, org_id: str | None = None) -> Iterator[Entry]:
    if settings.database_url is None:
        return stored(settings.home / DATABASE, org_id)
    with needs_postgres():
        from enclave.store.postgres import examination
    return examination.stored(settings.database_url, org_id)


def _tombstones(settings: Settings, key: str | None) -> list[Checkpoint | Flaw]:
    if settings.database_url is None:
        return tombstones(settings.home / DATABASE, key)
    with needs_postgres():
        from enclave.store.postgres import examination
    return examination.tombstones(settings.database_url, key)
