"""Requests with a key, over days and over control planes."""

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from enclave.contracts.sessions import CreateSessionRequest
from enclave.core.claim import claim_of
from tests.orchestrator.conftest import Stage, member

pytestmark = pytest.mark.anyio


async def test_a_key_is_free_again_after_a_day(stage: Stage) -> None:
    request = CreateSessionRequest(code="x")
    at = datetime.now(UTC)

    def after(hours: int) -> datetime:
        return at + timedelta(hours=hours)

    sessions = []
    for hours in (0, 23, 25, 26):
        orchestrator = stage.another(clock=partial(after, hours))
        session, _ = await orchestrator.create_once(member(), request, "k1", wait_seconds=5)
        sessions.append(session.id)
    first, second = sessions[0], sessions[2]
    assert sessions == [first, first, second, second]
    assert first != second


async def test_of_two_control_planes_one_accepts(stage: Stage) -> None:
    request = CreateSessionRequest(code="x")
    both = (stage.orchestrator, stage.another())
    answers = await asyncio.gather(
        *(orchestrator.create_once(member(), request, "k1", wait_seconds=5) for orchestrator in both * 5)
    )
    assert len({session.id for session, _ in answers}) == 1
    assert sum(made for _, made in answers) == 1


def test_a_claim_is_of_what_is_asked_for() -> None:
    one = CreateSessionRequest(code="x", labels={"a": "1", "b": "2"})
    other = CreateSessionRequest(code="x", labels={"b": "2", "a": "1"})
    assert claim_of("k", one) == claim_of("k", other)
    assert claim_of("k", one) != claim_of("k", one.model_copy(update={"code": "y"}))
