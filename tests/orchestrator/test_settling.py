"""Sessions that nobody runs come to their end; those that somebody runs are let be."""

import asyncio

import pytest

from enclave.contracts.audit import SessionFailed
from enclave.contracts.sessions import Phase
from enclave.core.audit import verify
from tests.orchestrator.conftest import Stage
from tests.orchestrator.test_orchestrator import ME, running

pytestmark = pytest.mark.anyio


async def test_a_session_that_runs_here_is_not_settled(stage: Stage) -> None:
    session, puppet = await running(stage)
    await stage.orchestrator.settle()
    assert (await stage.store.get("org_a", session.id)).phase is Phase.RUNNING
    puppet.end()
    settled = await stage.orchestrator.follow(ME, session.id)
    _ = [frame async for frame in settled]
    assert (await stage.store.get("org_a", session.id)).phase is Phase.SUCCEEDED


async def test_a_session_that_nobody_runs_is_settled_once_with_what_it_printed(stage: Stage) -> None:
    session, puppet = await running(stage)
    puppet.print(b"so far\n")
    following = await stage.orchestrator.follow(ME, session.id)
    async for _, frame in following:
        if frame.kind == "stdout":
            break  # it is written by now
    others = [stage.another(), stage.another()]
    await asyncio.gather(*(other.settle() for other in others))
    found = await stage.store.get("org_a", session.id)
    assert (found.phase, found.result and found.result.stdout) == (Phase.FAILED, "so far\n")
    chain = await stage.store.chain("org_a")
    failed = [event.reason for event in chain if isinstance(event, SessionFailed)]
    assert (failed, verify(chain)) == (["platform_restart"], None)
