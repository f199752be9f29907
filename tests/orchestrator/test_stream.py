"""Streams: everything once, in order, from any place on, for any number of followers."""

import asyncio
from collections.abc import Sequence
from itertools import groupby
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.backends.base import Egress, Exit
from enclave.contracts.audit import AuditEvent, CloneCompleted, CloneStarted
from enclave.contracts.errors import InvalidRequest
from enclave.contracts.frames import AuditFrame, EndFrame, PhaseFrame, StderrFrame, StdoutFrame, StreamFrame
from enclave.contracts.sessions import Phase, Session, SessionResult
from enclave.core.session import Finished, Lost, Started, TornDown, advance, created, noted
from enclave.orchestrator.attempt import event
from enclave.orchestrator.ending import Loss, lost
from enclave.orchestrator.stream import Channel, Follower, Place, Stream, parse_place, told
from tests.orchestrator.conftest import Stage, member
from tests.orchestrator.test_orchestrator import PROGRAM, prints_and_succeeds, running
from tests.scripted import Puppet

pytestmark = pytest.mark.anyio

ME = member()
Told = Sequence[tuple[str, StreamFrame]]

MOMENT = "2026-01-01T00:00:00Z"
PENDING = Session.model_validate_json(
    f"""{{"id": "ses_{"0" * 26}", "orgId": "o", "createdBy": "me", "phase": "pending", "language": "python",
    "limits": {{}}, "egress": {{}}, "backend": "puppet", "createdAt": "{MOMENT}"}}"""
)
AT = PENDING.created_at

Step = tuple[Channel | Literal["attempt"], str]
printing: st.SearchStrategy[list[Step]] = st.lists(
    st.tuples(st.sampled_from(("stdout", "stderr", "attempt")), st.text(min_size=1, max_size=9)), max_size=12
)
endings = st.sampled_from(("finished", "lost", "torn_down", "finished, then torn_down", "lost at launch"))


def all_of(stream: Stream, place: str | None = None) -> Told:
    follower = Follower(stream, parse_place(place))
    taken: list[tuple[str, StreamFrame]] = []
    while more := follower.take(3):
        taken += more
    return taken


def shape(frames: Told) -> list[object]:
    """What was told, however output was cut into chunks and whichever stream came first."""
    log = [frame for _, frame in frames if not isinstance(frame, StdoutFrame | StderrFrame)]
    out = "".join(frame.chunk for _, frame in frames if isinstance(frame, StdoutFrame))
    err = "".join(frame.chunk for _, frame in frames if isinstance(frame, StderrFrame))
    return [log, out, err]


def played(steps: Sequence[Step], ending: str) -> tuple[Stream, Stream]:
    """The same session, as it was told live and as it is told from what was kept."""
    live, events, session = Stream(), list[AuditEvent](), PENDING

    def publish(change_events: Sequence[AuditEvent], after: Session) -> None:
        events.extend(change_events)
        if live.end is None:
            live.publish(change_events, after)
            live.catch_up()

    publish(created(session, "x").events, session)
    if ending != "lost at launch":
        change = advance(session, Started("puppet"), at=AT, actor="platform")
        session = change.session
        publish(change.events, session)
        for channel, text in steps:
            if channel == "attempt":
                publish(noted(session, event(session, Egress(verdict="denied", target=text), AT)).events, session)
            else:
                live.write(channel, text, AT)
    left = SessionResult(exit_code=None, stdout=live.printed("stdout"), stderr=live.printed("stderr"))
    for name in ending.split(", then "):
        outcome: Finished | Lost | TornDown = TornDown(left)
        if name == "finished":
            outcome = Finished(left.model_copy(update={"exit_code": 0}))
        elif name.startswith("lost"):
            outcome = lost(session, Loss("sandbox_lost", "it fell"), AT, left)
        change = advance(session, outcome, at=AT, actor="platform")
        session = change.session
        publish(change.events, session)
    return live, told(session, events)


@given(printing, endings, st.data())
def test_cut_anywhere_and_resumed_the_same_is_told(steps: list[Step], ending: str, data: st.DataObject) -> None:
    """Neither a gap nor a repeat, whether the session is still live here or told from the store."""
    live, kept = played(steps, ending)
    whole = all_of(live)
    assert isinstance(whole[-1][1], EndFrame)
    cut = data.draw(st.integers(0, len(whole) - 1))
    place = whole[cut - 1][0] if cut else None
    assert [*whole[:cut], *all_of(live, place)] == whole
    assert shape([*whole[:cut], *all_of(kept, place)]) == shape(all_of(kept))


@given(printing, st.data())
def test_kept_streams_resume_too(steps: list[Step], data: st.DataObject) -> None:
    _, kept = played(steps, "finished, then torn_down")
    whole = all_of(kept)
    cut = data.draw(st.integers(0, len(whole) - 1))
    assert [*whole[:cut], *all_of(kept, whole[cut - 1][0] if cut else None)] == whole


@given(printing)
def test_the_live_order_of_output_is_kept(steps: list[Step]) -> None:
    live, _ = played(steps, "finished")
    chunks = [frame for _, frame in all_of(live) if isinstance(frame, StdoutFrame | StderrFrame)]
    expected = [
        (channel, "".join(text for _, text in group))
        for channel, group in groupby([step for step in steps if step[0] != "attempt"], key=lambda step: step[0])
    ]
    assert [(chunk.kind, chunk.chunk) for chunk in chunks] == expected


def test_a_flood_of_single_bytes_does_not_cost_an_object_each() -> None:
    stream = Stream()
    for number in range(50_000):
        stream.write("stdout" if number % 2 else "stderr", "x", AT)
    assert len(stream.chunks) < 5_000
    assert (len(stream.printed("stdout")), len(stream.printed("stderr"))) == (25_000, 25_000)


def test_a_follower_sees_what_was_added_to_a_chunk_it_has_seen() -> None:
    stream = Stream()
    stream.publish(created(PENDING, "x").events, PENDING)
    change = advance(PENDING, Started("puppet"), at=AT, actor="platform")
    stream.publish(change.events, change.session)
    follower = Follower(stream, Place())
    seen = ""
    for number in range(10_000):
        stream.write("stdout" if number % 2 else "stderr", "x", AT)
        if number % 3 == 0:
            for _, frame in follower.take(9):
                seen += frame.chunk if isinstance(frame, StdoutFrame | StderrFrame) else ""
    while more := follower.take():
        for _, frame in more:
            seen += frame.chunk if isinstance(frame, StdoutFrame | StderrFrame) else ""
    assert len(seen) == 10_000


def test_output_is_told_in_bounded_frames() -> None:
    live, kept = played([("stdout", "y" * 100_000)], "finished")
    for stream in (live, kept):
        sizes = [len(frame.chunk) for _, frame in all_of(stream) if isinstance(frame, StdoutFrame)]
        assert sizes == [32768, 32768, 32768, 1696]


def test_output_waits_for_the_start_however_many_events_a_clone_has() -> None:
    """The program may print before its start is durable; a place is the same whenever it is told."""
    stream, stamp = Stream(), {"ts": AT, "org_id": "o", "session_id": PENDING.id, "actor": "platform"}
    begun = CloneStarted(**stamp, url="https://example.org/a", ref=None, binding=None, entrypoint=None)  # type: ignore[arg-type]
    done = CloneCompleted(**stamp, commit="c", files=1, bytes=1, omitted=0, duration_ms=1.0)  # type: ignore[arg-type]
    stream.publish((*created(PENDING, "x").events, begun, done), PENDING)
    stream.write("stdout", "hi", AT)
    follower = Follower(stream, Place())

    assert [place for place, _ in follower.take()] == ["1.0.0", "2.0.0", "3.0.0", "4.0.0"]
    started = advance(PENDING, Started("puppet"), at=AT, actor="platform")
    stream.publish(started.events, started.session)
    assert [place for place, _ in follower.take()] == ["5.0.0", "6.0.0", "6.2.0"]
    with pytest.raises(InvalidRequest):
        Follower(stream, Place(4, 2))


@pytest.mark.parametrize("place", ["", "1", "1.2", "a.b.c", "-1.0.0", "1.0.0 ", "1.0.0\n", "9999999999.0.0", "１.0.0"])
def test_a_place_that_is_none_is_refused_by_name(place: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_place(place)
    assert [problem.field for problem in refused.value.errors] == ["Last-Event-ID"]


NOWHERE = [Place(frames=99), Place(4, 3, 0), Place(4, 0, 1), Place(4, 999999, 0), Place(2, 1, 0), Place(0, 2, 0)]


@pytest.mark.parametrize("place", NOWHERE)
def test_a_place_the_stream_never_reached_is_refused(place: Place) -> None:
    for stream in played([("stdout", "hi")], "finished"):
        with pytest.raises(InvalidRequest):
            Follower(stream, place)


async def test_those_who_follow_a_session_that_is_over_share_what_it_printed(stage: Stage) -> None:
    stage.backend.play = prints_and_succeeds
    session = await stage.orchestrator.create(ME, PROGRAM, wait_seconds=9)

    followers = [await stage.orchestrator.follow(ME, session.id) for _ in range(3)]

    assert len({id(follower._stream) for follower in followers}) == 1


async def test_a_clean_run_is_told_in_order(stage: Stage) -> None:
    stage.backend.play = prints_and_succeeds
    session = await stage.orchestrator.create(ME, PROGRAM)
    frames = [frame async for _, frame in await stage.orchestrator.follow(ME, session.id)]
    told_as = [
        frame.phase
        if isinstance(frame, PhaseFrame)
        else frame.event.type
        if isinstance(frame, AuditFrame)
        else frame.kind
        for frame in frames
    ]
    assert told_as == [
        "pending", "session_created", "running", "sandbox_started", "stdout", "stderr", "workload_exited", "succeeded",
        "result_collected", "result", "end",
    ]  # fmt: skip
    audited = [frame.event for frame in frames if isinstance(frame, AuditFrame)]
    assert audited == list((await stage.orchestrator.audit(ME, session.id)).items)


async def test_output_is_told_while_the_program_runs(stage: Stage) -> None:
    session, puppet = await running(stage)
    follower = await stage.orchestrator.follow(ME, session.id)
    for _ in range(4):
        await anext(follower)
    for text in (b"one", b"two"):
        puppet.print(text)
        async with asyncio.timeout(1):
            _, frame = await anext(follower)
        assert isinstance(frame, StdoutFrame)
        assert frame.chunk == text.decode()


async def test_many_followers_each_get_everything(stage: Stage) -> None:
    session, puppet = await running(stage)

    async def read(delay: float) -> list[object]:
        await asyncio.sleep(delay)
        return shape([pair async for pair in await stage.orchestrator.follow(ME, session.id)])

    readers = [asyncio.create_task(read(n / 1000)) for n in range(50)]
    for number in range(20):
        puppet.print(b"%d," % number)
        await asyncio.sleep(0.002)
    puppet.end(Exit(code=0))
    everything = await asyncio.gather(*readers)
    assert everything[0][1] == "".join(f"{number}," for number in range(20))
    assert all(one == everything[0] for one in everything)


async def test_a_session_torn_down_later_is_told_to_the_end(stage: Stage) -> None:
    """A reader cut off in front of the end resumes into what happened since."""
    stage.backend.play = prints_and_succeeds
    session = await stage.orchestrator.create(ME, PROGRAM, wait_seconds=5)
    before = [pair async for pair in await stage.orchestrator.follow(ME, session.id)]
    await stage.orchestrator.teardown(ME, session.id)
    after = [pair async for pair in await stage.orchestrator.follow(ME, session.id)]
    assert isinstance(after[-1][1], EndFrame)
    assert after[-1][1].phase is Phase.TORN_DOWN
    assert shape(after[: len(before) - 1]) == shape(before[:-1])
    for place, _ in (before[-2], before[-1]):
        rest = [frame async for _, frame in await stage.orchestrator.follow(ME, session.id, place)]
        assert [frame.kind for frame in rest] == ["phase", "audit", "end"]


async def test_a_stream_resumes_in_another_process(stage: Stage) -> None:
    def chatter(puppet: Puppet) -> None:
        for number in range(5):
            puppet.print(b"%d" % number, "stdout" if number % 2 else "stderr")
        puppet.end()

    stage.backend.play = chatter
    session = await stage.orchestrator.create(ME, PROGRAM)
    whole = [pair async for pair in await stage.orchestrator.follow(ME, session.id)]
    later = stage.another()
    for cut in range(1, len(whole)):
        rest = [pair async for pair in await later.follow(ME, session.id, whole[cut - 1][0])]
        assert shape([*whole[:cut], *rest]) == shape(whole)


async def test_a_session_torn_down_before_it_runs_ends_its_stream(stage: Stage) -> None:
    held = asyncio.Event()
    launch = stage.backend.launch

    async def slow(spec: object) -> Puppet:
        await held.wait()
        return await launch(spec)  # type: ignore[arg-type]

    stage.backend.launch = slow  # type: ignore[method-assign]
    session = await stage.orchestrator.create(ME, PROGRAM)
    assert session.phase is Phase.PENDING
    follower = await stage.orchestrator.follow(ME, session.id)
    tearing = asyncio.create_task(stage.orchestrator.teardown(ME, session.id))
    await asyncio.sleep(0.01)
    held.set()
    assert (await tearing).phase is Phase.TORN_DOWN
    kinds = [frame.kind async for _, frame in follower]
    assert kinds == ["phase", "audit", "phase", "audit", "result", "end"]
    assert stage.backend.all[0].code is None
    assert stage.backend.all[0].gone
