"""The broker as a process that may die: who is told, who goes on, and what comes after it."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from enclave.backends.base import Egress, Output, SandboxLost, Workload
from enclave.backends.local import LocalBackend, broker
from enclave.contracts.errors import Unavailable
from enclave.contracts.policy import EgressMode, EgressPolicy
from tests.backends.running import run_in, spec

pytestmark = [pytest.mark.anyio, pytest.mark.sandbox]

ASKS = "import socket, time\ntry: socket.create_connection(('198.51.100.1', 80))\nexcept OSError: pass\ntime.sleep(600)"
WAITS = "print('here', flush=True)\nimport sys, time\ntime.sleep(1.5)\nprint('done')"


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[LocalBackend]:
    made = LocalBackend(home=tmp_path, pool=2)
    await made.start()
    try:
        yield made
    finally:
        await made.close()


async def until_it_asked(workload: Workload) -> None:
    async for told in workload.output():
        if isinstance(told, Egress):
            return


async def test_a_broker_that_dies_takes_only_the_sessions_that_it_looked_after(backend: LocalBackend) -> None:
    asking, waiting = await backend.launch(spec()), await backend.launch(spec())
    asked, waits = await asking.run(ASKS), await waiting.run(WAITS)
    await until_it_asked(asked)

    os.kill(backend.broker.pid, signal.SIGKILL)

    with pytest.raises(SandboxLost, match="egress broker"):
        await asked.wait()
    printed = b"".join([told.data async for told in waits.output() if isinstance(told, Output)])
    assert (printed, (await waits.wait()).code) == (b"here\ndone\n", 0)
    await asyncio.gather(asking.teardown(), waiting.teardown())
    await backend.broker.settled()
    after = await run_in(backend, "import socket\ntry: socket.create_connection(('198.51.100.1', 80))\n"
                         "except PermissionError: print('refused')")  # fmt: skip
    assert after.stdout == b"refused\n"


async def test_what_asks_while_there_is_no_broker_is_ended_and_told_why(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuses() -> None:
        raise Unavailable("not now")

    monkeypatch.setattr(backend.broker, "open", refuses)
    os.kill(backend.broker.pid, signal.SIGKILL)
    while backend.broker.stands:  # noqa: ASYNC110  it tells nobody
        await asyncio.sleep(0)
    sandbox = await backend.launch(spec())
    workload = await sandbox.run(ASKS)

    with pytest.raises(SandboxLost, match="egress broker is being restarted"):
        await workload.wait()
    await sandbox.teardown()


async def test_a_session_that_may_reach_something_waits_for_the_broker_that_follows(backend: LocalBackend) -> None:
    os.kill(backend.broker.pid, signal.SIGKILL)
    while backend.broker.stands:  # noqa: ASYNC110  it tells nobody
        await asyncio.sleep(0)

    sandbox = await backend.launch(spec(egress=EgressPolicy(mode=EgressMode.ALLOWLIST, allow=("198.51.100.1",))))
    workload = await sandbox.run(WAITS)

    assert (await workload.wait()).code == 0
    await sandbox.teardown()


async def test_closing_leaves_no_broker_and_no_descriptor(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    made = LocalBackend(home=tmp_path, pool=1)
    await made.start()
    pid = made.broker.pid
    sandbox = await made.launch(spec())
    await until_it_asked(await sandbox.run(ASKS))
    await made.close()

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_session_that_asks_for_nothing_costs_the_broker_nothing(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    admitted: list[object] = []
    monkeypatch.setattr(backend.broker, "admit", lambda *given: admitted.append(given))

    for code in ("print(1)", "import os; os._exit(3)", "import subprocess; subprocess.run(['/bin/true'])", "1/0"):
        await run_in(backend, code)

    assert admitted == []


async def test_a_broker_that_hangs_holds_up_no_session_for_good(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "DISMISS_SECONDS", 0.2)
    stuck = backend.broker.pid
    sandbox = await backend.launch(spec(wall_clock_seconds=2.0))
    workload = await sandbox.run(ASKS.replace("time.sleep(600)", "time.sleep(0.3)"))
    await until_it_asked(workload)
    os.kill(stuck, signal.SIGSTOP)

    with pytest.raises(SandboxLost, match="egress broker"):
        await workload.wait()
    await sandbox.teardown()
    await backend.broker.settled()
    assert backend.broker.pid != stuck
