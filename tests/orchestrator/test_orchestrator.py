"""The life of sessions, from every side that can end it."""

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import replace

import pytest

from enclave.backends.base import Exit, SandboxLost
from enclave.contracts.audit import AuditEvent, SessionFailed, SessionTornDown
from enclave.contracts.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    PolicyUnenforceable,
    QuotaExceeded,
    StaleSession,
    Unavailable,
)
from enclave.contracts.identity import Role
from enclave.contracts.policy import EgressPolicy, Guarantee, Language, RequestedLimits
from enclave.contracts.sessions import CreateSessionRequest, KillReason, Phase, Session
from enclave.core.audit import verify
from enclave.core.session import Change
from enclave.store.base import Filter
from tests.orchestrator.conftest import Stage, member, orchestrator_of
from tests.scripted import Puppet, refuse_to_launch

pytestmark = pytest.mark.anyio

ME = member()
PROGRAM = CreateSessionRequest(code="pass")


def prints_and_succeeds(puppet: Puppet) -> None:
    puppet.print(b"hi \xf0\x9f")
    puppet.print(b"\x98\x80\n")
    puppet.print(b"oh\xff", "stderr")
    puppet.end(Exit(code=0, value=b'{"ok": true}', duration_seconds=0.25))


async def events_of(stage: Stage, session: Session) -> tuple[AuditEvent, ...]:
    return (await stage.orchestrator.audit(ME, session.id, limit=200)).items


async def running(stage: Stage) -> tuple[Session, Puppet]:
    session = await stage.orchestrator.create(ME, PROGRAM)
    while session.phase is Phase.PENDING:
        await asyncio.sleep(0.001)
        session = await stage.orchestrator.get(ME, session.id)
    return session, stage.backend.puppets[session.id]


async def test_waiting_answers_with_the_result(stage: Stage) -> None:
    """One call runs a program to its end."""
    stage.backend.play = prints_and_succeeds
    session = await stage.orchestrator.create(ME, PROGRAM, wait_seconds=5)
    assert session.phase is Phase.SUCCEEDED
    assert session.result is not None
    assert (session.result.stdout, session.result.stderr) == ("hi \U0001f600\n", "oh\ufffd")
    assert session.result.result == {"ok": True}
    assert session.result.duration_ms == 250
    assert session == await stage.store.get("org_a", session.id)
    assert session.result == await stage.orchestrator.result(ME, session.id)


async def test_the_trail_of_a_clean_run_is_whole_and_chained(stage: Stage) -> None:
    """Every move left its event, in the order of the reference."""
    stage.backend.play = prints_and_succeeds
    session = await stage.orchestrator.create(ME, PROGRAM, wait_seconds=5)
    await stage.orchestrator.teardown(ME, session.id)
    events = await events_of(stage, session)
    assert [event.type for event in events] == [
        "session_created",
        "sandbox_started",
        "workload_exited",
        "result_collected",
        "session_torn_down",
    ]
    assert verify(events) is None


async def test_the_sandbox_gets_what_was_decided_and_goes_after_the_answer(stage: Stage) -> None:
    stage.backend.play = prints_and_succeeds
    request = CreateSessionRequest(code="x = 1", limits=RequestedLimits(memory_mib=64))
    session = await stage.orchestrator.create(ME, request, wait_seconds=5)
    (puppet,) = stage.backend.all
    assert (puppet.code, puppet.spec.limits.memory_mib, puppet.spec.limits) == ("x = 1", 64, session.limits)
    assert puppet.spec.env == {"ENCLAVE_SESSION_ID": session.id}
    await asyncio.sleep(0.02)
    assert puppet.gone
    assert not stage.orchestrator._runs


async def test_without_a_wait_the_answer_comes_while_it_runs(stage: Stage) -> None:
    session = await stage.orchestrator.create(ME, PROGRAM)
    assert session.phase in (Phase.PENDING, Phase.RUNNING)


async def test_a_wait_ends_when_its_time_is_over(stage: Stage) -> None:
    began = time.monotonic()
    session = await stage.orchestrator.create(ME, PROGRAM, wait_seconds=0.1)
    assert session.phase is Phase.RUNNING
    assert 0.09 < time.monotonic() - began < 1
    with pytest.raises(Conflict):
        await stage.orchestrator.result(ME, session.id)


@pytest.mark.parametrize(
    ("end", "phase"),
    [
        (Exit(code=3), Phase.FAILED),
        (Exit(code=137, signal=9), Phase.FAILED),
        (Exit(code=None, kill_reason=KillReason.MEMORY_EXCEEDED), Phase.KILLED),
    ],
)
async def test_a_program_that_fails_is_a_result(stage: Stage, end: Exit, phase: Phase) -> None:
    stage.backend.play = lambda puppet: puppet.end(end)
    session = await stage.orchestrator.create(ME, PROGRAM, wait_seconds=5)
    assert (session.phase, session.kill_reason) == (phase, end.kill_reason)
    assert session.result is not None
    assert (session.result.exit_code, session.result.signal, session.result.error) == (end.code, end.signal, None)


async def test_a_launch_that_fails_fails_the_session(stage: Stage) -> None:
    refuse_to_launch(stage.backend)
    session = await stage.orchestrator.create(ME, PROGRAM, wait_seconds=5)
    assert session.phase is Phase.FAILED
    assert session.result is not None
    assert session.result.error == "no sandbox is to be had"
    assert [event.type for event in await events_of(stage, session)] == ["session_created", "session_failed"]


async def test_a_sandbox_that_vanishes_fails_the_session(stage: Stage) -> None:
    def fall(puppet: Puppet) -> None:
        puppet.print(b"so far")
        puppet.end(SandboxLost("it fell"))

    stage.backend.play = fall
    session = await stage.orchestrator.create(ME, PROGRAM, wait_seconds=5)
    assert session.phase is Phase.FAILED
    assert session.result is not None
    assert (session.result.stdout, session.result.error) == ("so far", "it fell")
    last = (await events_of(stage, session))[-1]
    assert isinstance(last, SessionFailed)
    assert last.reason == "sandbox_lost"


@pytest.mark.parametrize("where", ["launch", "wait"])
async def test_a_bug_below_fails_the_session_and_tells_nothing(stage: Stage, where: str) -> None:
    if where == "launch":
        stage.backend.refusal = RuntimeError("password")
    stage.backend.play = lambda puppet: puppet.end(RuntimeError("password"))
    session = await stage.orchestrator.create(ME, PROGRAM, wait_seconds=5)
    assert session.phase is Phase.FAILED
    assert "password" not in session.model_dump_json()
    assert session == await stage.store.get("org_a", session.id)


async def test_teardown_of_a_running_session_keeps_what_it_left(stage: Stage) -> None:
    session, puppet = await running(stage)
    puppet.print(b"so far")
    await asyncio.sleep(0.005)
    torn = await stage.orchestrator.teardown(ME, session.id)
    assert puppet.gone
    assert torn.phase is Phase.TORN_DOWN
    assert torn.result is not None
    assert (torn.result.exit_code, torn.result.stdout) == (None, "so far")
    assert torn == await stage.orchestrator.teardown(ME, session.id)
    last = (await events_of(stage, session))[-1]
    assert isinstance(last, SessionTornDown)
    assert (last.was, last.actor) == (Phase.RUNNING, ME.user_id)


async def test_teardown_of_a_terminal_session_keeps_its_result(stage: Stage) -> None:
    stage.backend.play = prints_and_succeeds
    session = await stage.orchestrator.create(ME, PROGRAM, wait_seconds=5)
    torn = await stage.orchestrator.teardown(ME, session.id)
    assert torn == session.model_copy(update={"phase": Phase.TORN_DOWN})
    assert session.result == await stage.orchestrator.result(ME, session.id)


@pytest.mark.parametrize("turns", range(8))
async def test_end_and_teardowns_may_race(stage: Stage, turns: int) -> None:
    """However a natural end and several teardowns meet, one trail comes of it and everyone gets the same session."""
    session, puppet = await running(stage)

    async def end() -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        puppet.end(Exit(code=0))

    calls: list[Awaitable[Session]] = [stage.orchestrator.teardown(ME, session.id) for _ in range(3)]
    *answers, _ = await asyncio.gather(*calls, end())
    assert {answer.phase for answer in answers if answer is not None} == {Phase.TORN_DOWN}
    types = [event.type for event in await events_of(stage, session)]
    assert types.count("session_torn_down") == 1
    assert verify(await events_of(stage, session)) is None


async def test_what_an_earlier_process_left_is_settled(stage: Stage) -> None:
    """A restart leaves no session running that nobody runs."""
    session, _ = await running(stage)
    later = stage.another()
    await later.recover()
    recovered = await later.get(ME, session.id)
    assert recovered.phase is Phase.FAILED
    assert recovered.result is not None
    assert "restarted" in (recovered.result.error or "")
    frames = [frame.kind async for _, frame in await later.follow(ME, session.id)]
    assert frames == ["phase", "audit", "phase", "audit", "phase", "audit", "result", "end"]


async def test_close_fails_what_runs_and_refuses_what_comes(stage: Stage) -> None:
    session, puppet = await running(stage)
    waiting = asyncio.create_task(stage.orchestrator.create(ME, PROGRAM, wait_seconds=30))
    await asyncio.sleep(0.02)
    await stage.orchestrator.close()
    assert puppet.gone
    for ended in (await stage.orchestrator.get(ME, session.id), await waiting):
        last = (await events_of(stage, ended))[-1]
        assert isinstance(last, SessionFailed)
        assert last.reason == "platform_restart"
    with pytest.raises(Unavailable):
        await stage.orchestrator.create(ME, PROGRAM)


async def test_the_ceiling_counts_sessions_that_are_not_over(stage: Stage) -> None:
    narrow = stage.another(max_concurrency=1)
    stage.backend.play = prints_and_succeeds
    for _ in range(3):
        await narrow.create(ME, PROGRAM, wait_seconds=5)
    stage.backend.play = lambda puppet: None
    await narrow.create(ME, PROGRAM)
    with pytest.raises(QuotaExceeded) as refused:
        await narrow.create(ME, PROGRAM)
    assert refused.value.retry_after == 1
    await narrow.close()


async def test_a_creation_that_cannot_be_written_stops_the_program(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(change: Change) -> tuple[AuditEvent, ...]:
        raise Unavailable("the disk is full")

    monkeypatch.setattr(stage.store, "commit", refuse)
    for wait in (None, 5):
        with pytest.raises(Unavailable, match="disk"):
            await stage.orchestrator.create(ME, PROGRAM, wait_seconds=wait)
    await asyncio.sleep(0.01)
    assert not stage.backend.puppets
    assert not stage.orchestrator._runs


@pytest.mark.parametrize("refused", [Phase.RUNNING, Phase.SUCCEEDED])
async def test_a_move_that_cannot_be_written_fails_the_session(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, refused: Phase
) -> None:
    """A session never stays running for want of a write."""
    write = stage.store.commit

    async def commit(change: Change) -> tuple[AuditEvent, ...]:
        if change.session.phase is refused:
            raise StaleSession
        return await write(change)

    monkeypatch.setattr(stage.store, "commit", commit)
    stage.backend.play = prints_and_succeeds
    session = await stage.orchestrator.create(ME, PROGRAM, wait_seconds=5)
    assert session.phase is Phase.FAILED
    assert session == await stage.store.get("org_a", session.id)


async def test_an_end_that_cannot_be_written_at_once_is_written_later_with_all_of_its_result(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, refused = stage.store.commit, [Phase.SUCCEEDED] * 3

    async def commit(change: Change) -> tuple[AuditEvent, ...]:
        if refused and change.session.phase is refused[0]:
            refused.pop()
            raise Unavailable("the disk is full")
        return await write(change)

    monkeypatch.setattr(stage.store, "commit", commit)
    stage.backend.play = prints_and_succeeds
    patient = orchestrator_of(stage.store, replace(stage.ports, patience=(0.0,) * 5))
    session = await patient.create(ME, PROGRAM, wait_seconds=5)
    assert (session.phase, refused) == (Phase.SUCCEEDED, [])
    assert session == await stage.store.get("org_a", session.id)
    assert verify(await stage.store.chain("org_a")) is None
    await patient.close()


async def test_a_session_that_cannot_be_settled_hangs_nobody(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    session, puppet = await running(stage)
    following = await stage.orchestrator.follow(ME, session.id)

    async def refuse(change: Change) -> tuple[AuditEvent, ...]:
        raise Unavailable("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(stage.store, "commit", refuse)
        puppet.end()
        with pytest.raises(Unavailable):
            _ = [frame async for frame in following]
    torn = await stage.orchestrator.teardown(ME, session.id)
    assert torn.phase is Phase.TORN_DOWN


async def test_requests_beyond_what_is_promised_are_refused(stage: Stage) -> None:
    async def refusal(request: CreateSessionRequest) -> PolicyUnenforceable:
        with pytest.raises(PolicyUnenforceable) as refused:
            await stage.orchestrator.create(ME, request)
        return refused.value

    stage.backend.guarantees = frozenset(Guarantee) - {Guarantee.EGRESS_ALLOWLIST}
    allowlist = EgressPolicy.model_validate_json('{"mode": "allowlist", "allow": ["example.org"]}')
    assert "egress_allowlist" in (await refusal(CreateSessionRequest(code="x", egress=allowlist))).detail
    with pytest.raises(InvalidRequest, match="limit"):
        await stage.orchestrator.create(ME, CreateSessionRequest(code="x", limits=RequestedLimits(pids=10**9)))
    assert not stage.backend.all


async def test_lists_are_newest_first_and_page(stage: Stage) -> None:
    stage.backend.play = prints_and_succeeds
    made = [
        await stage.orchestrator.create(ME, CreateSessionRequest(code="x", labels={"n": str(n % 2)}), wait_seconds=5)
        for n in range(5)
    ]
    ids = [session.id for session in reversed(made)]
    assert ids == sorted(ids, reverse=True)
    seen: list[str] = []
    cursor = None
    while True:
        page = await stage.orchestrator.list(ME, Filter(), cursor=cursor, limit=2)
        seen += [session.id for session in page.items]
        if (cursor := page.next_cursor) is None:
            break
    assert seen == ids
    odd = await stage.orchestrator.list(ME, Filter(labels={"n": "1"}))
    assert [session.id for session in odd.items] == ids[1::2]
    assert not (await stage.orchestrator.list(member("org_b"), Filter())).items


async def test_a_trail_pages(stage: Stage) -> None:
    stage.backend.play = prints_and_succeeds
    session = await stage.orchestrator.create(ME, PROGRAM, wait_seconds=5)
    first = await stage.orchestrator.audit(ME, session.id, limit=3)
    rest = await stage.orchestrator.audit(ME, session.id, cursor=first.next_cursor, limit=3)
    assert [event.seq for event in (*first.items, *rest.items)] == [1, 2, 3, 4]
    assert rest.next_cursor is None


@pytest.mark.parametrize("cursor", ["", "!", "czo", "ZTox", "a" * 1000, "\x00", "é", "czpzZXNfMQ"])
async def test_a_bad_cursor_is_named(stage: Stage, cursor: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await stage.orchestrator.list(ME, Filter(), cursor=cursor)
    assert [problem.field for problem in refused.value.errors] == ["cursor"]


async def test_a_template_goes_to_the_backend_and_into_the_record(stage: Stage) -> None:
    stage.backend.play = prints_and_succeeds
    stage.backend.offered = {"data": Language.PYTHON}
    request = CreateSessionRequest(code="x", template="data")

    session = await stage.orchestrator.create(ME, request, wait_seconds=5)

    assert (session.template, stage.backend.all[0].spec.template) == ("data", "data")
    assert (await stage.store.get("org_a", session.id)).template == "data"
    assert verify(await events_of(stage, session)) is None


@pytest.mark.parametrize(
    ("language", "name", "message"),
    [
        ("python", "other", "other does not exist; templates for python: data, more"),
        ("python", "js", "js is for node; templates for python: data, more"),
        ("node", "data", "data is for python; templates for node: js"),
    ],
)
async def test_a_template_that_does_not_fit_is_refused_with_those_that_do(
    stage: Stage, language: str, name: str, message: str
) -> None:
    stage.backend.offered = {"more": Language.PYTHON, "data": Language.PYTHON, "js": Language.NODE}
    with pytest.raises(InvalidRequest) as refused:
        await stage.orchestrator.create(ME, CreateSessionRequest(code="x", language=Language(language), template=name))
    assert [(problem.field, problem.message) for problem in refused.value.errors] == [("template", message)]
    assert not stage.backend.all


async def test_another_org_finds_nothing(stage: Stage) -> None:
    session, _ = await running(stage)
    other = member("org_b")
    for call in (
        stage.orchestrator.get(other, session.id),
        stage.orchestrator.result(other, session.id),
        stage.orchestrator.audit(other, session.id),
        stage.orchestrator.follow(other, session.id),
        stage.orchestrator.teardown(other, session.id),
    ):
        with pytest.raises(NotFound):
            await call
    assert (await stage.orchestrator.get(ME, session.id)).phase is Phase.RUNNING


async def test_a_viewer_may_look_and_no_more(stage: Stage) -> None:
    session, _ = await running(stage)
    viewer = member(role=Role.VIEWER)
    assert (await stage.orchestrator.get(viewer, session.id)).id == session.id
    for call in (stage.orchestrator.create(viewer, PROGRAM), stage.orchestrator.teardown(viewer, session.id)):
        with pytest.raises(Forbidden):
            await call
