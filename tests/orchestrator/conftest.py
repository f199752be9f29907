"""An orchestrator on a real store, with a backend whose programs the test plays."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from enclave.backends.base import Backend
from enclave.contracts.identity import Principal, Role
from enclave.core.access import ROLES
from enclave.orchestrator.orchestrator import (
    DEFAULT_RETENTION,
    Bounds,
    Keyring,
    Orchestrator,
    Ports,
    ServiceBindings,
    Webhooks,
)
from enclave.store.files import DirectoryFiles
from enclave.store.journal import DirectoryJournals
from enclave.store.sqlite import SqliteStore
from tests.scripted import PuppetBackend


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def member(org_id: str = "org_a", role: Role = Role.OWNER) -> Principal:
    return Principal(user_id=f"{role}_of_{org_id}", org_id=org_id, role=role, scopes=ROLES[role])


@dataclass
class Stage:
    store: SqliteStore
    backend: PuppetBackend
    orchestrator: Orchestrator
    ports: Ports
    kept: Path

    def another(
        self,
        max_concurrency: int = 100,
        file_retention: timedelta = DEFAULT_RETENTION,
        clock: Callable[[], datetime] | None = None,
    ) -> Orchestrator:
        """A second orchestrator on the same store and backend, as after a restart."""
        ports = replace(self.ports, files=DirectoryFiles.open(self.kept), clock=clock or self.ports.clock)
        return orchestrator_of(self.store, ports, max_concurrency, file_retention)


def ports_of(store: SqliteStore, backend: Backend, kept: Path) -> Ports:
    journals = DirectoryJournals.open(kept.parent / "journals")
    return Ports(store, backend, lambda: datetime.now(UTC), DirectoryFiles.open(kept), store.tenancy(), journals)


def orchestrator_of(
    store: SqliteStore, ports: Ports, max_concurrency: int = 100, file_retention: timedelta = DEFAULT_RETENTION
) -> Orchestrator:
    bindings = ServiceBindings(store.bindings(bytes(32)), ports.clock)
    webhooks = Webhooks(store.outbox(bytes(32)), Keyring(store.signing(bytes(32)), ports.clock), ports.clock)
    bounds = Bounds(max_concurrency=max_concurrency, file_retention=file_retention)
    return Orchestrator(ports, bindings, bounds, webhooks)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    store = SqliteStore.open(tmp_path / "enclave.db")
    backend = PuppetBackend()
    ports = ports_of(store, backend, tmp_path / "files")
    orchestrator = orchestrator_of(store, ports)
    yield Stage(store, backend, orchestrator, ports, tmp_path / "files")
    await orchestrator.close()
    await backend.close()
    await ports.journals.close()
    await store.close()
