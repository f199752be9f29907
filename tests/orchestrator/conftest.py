"""An orchestrator on a real store, with a backend whose programs the test plays."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from enclave.backends.base import Backend
from enclave.contracts.identity import Principal, Role
from enclave.core.access import ROLES
from enclave.core.policy import Ceiling
from enclave.orchestrator.orchestrator import Orchestrator, Ports, ServiceBindings
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

    def another(self, max_concurrency: int = 100) -> Orchestrator:
        """A second orchestrator on the same store and backend, as after a restart."""
        return orchestrator_of(self.store, self.backend, max_concurrency)


def orchestrator_of(store: SqliteStore, backend: Backend, max_concurrency: int = 100) -> Orchestrator:
    bindings = ServiceBindings(store.bindings(bytes(32)), lambda: datetime.now(UTC))
    return Orchestrator(Ports(store, backend, lambda: datetime.now(UTC)), bindings, Ceiling(), max_concurrency)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    store = SqliteStore.open(tmp_path / "enclave.db")
    backend = PuppetBackend()
    orchestrator = orchestrator_of(store, backend)
    yield Stage(store, backend, orchestrator)
    await orchestrator.close()
    await backend.close()
    await store.close()
