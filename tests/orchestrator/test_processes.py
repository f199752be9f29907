"""The same life with real processes: what the puppets stand for."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from enclave.contracts.frames import StdoutFrame
from enclave.contracts.sessions import CreateSessionRequest, Phase
from enclave.orchestrator.orchestrator import Orchestrator
from enclave.store.sqlite import SqliteStore
from tests.orchestrator.conftest import member, orchestrator_of, ports_of
from tests.scripted import ProcessBackend

pytestmark = pytest.mark.anyio

ME = member()


@pytest.fixture
async def orchestrator(tmp_path: Path) -> AsyncIterator[Orchestrator]:
    store, backend = SqliteStore.open(tmp_path / "enclave.db"), ProcessBackend()
    orchestrator = orchestrator_of(store, ports_of(store, backend, tmp_path / "files"))
    yield orchestrator
    await orchestrator.close()
    assert not backend.sandboxes
    await store.close()


async def test_a_program_prints_returns_and_exits(orchestrator: Orchestrator) -> None:
    code = "import sys; print('hi'); print('oh', file=sys.stderr); enclave.result({'ok': True}); sys.exit(3)"
    session = await orchestrator.create(ME, CreateSessionRequest(code=code), wait_seconds=20)
    assert session.result is not None
    assert (session.phase, session.result.exit_code) == (Phase.FAILED, 3)
    assert (session.result.stdout, session.result.stderr, session.result.result) == ("hi\n", "oh\n", {"ok": True})


async def test_a_running_program_is_followed_and_torn_down(orchestrator: Orchestrator) -> None:
    code = "import time; enclave.result('partly'); print('up', end=''); time.sleep(60)"
    session = await orchestrator.create(ME, CreateSessionRequest(code=code))
    async with asyncio.timeout(10):
        async for _, frame in await orchestrator.follow(ME, session.id):
            if isinstance(frame, StdoutFrame):
                break
        torn = await orchestrator.teardown(ME, session.id)
    assert torn.result is not None
    assert (torn.phase, torn.result.exit_code, torn.result.stdout) == (Phase.TORN_DOWN, None, "up")
    assert torn.result.result == "partly"


async def test_many_programs_run_at_once(orchestrator: Orchestrator) -> None:
    async def square(number: int) -> object:
        request = CreateSessionRequest(code=f"enclave.result({number} ** 2)")
        session = await orchestrator.create(ME, request, wait_seconds=30)
        assert session.result is not None
        return session.result.result

    assert await asyncio.gather(*map(square, range(8))) == [number**2 for number in range(8)]
