"""Streams: everything once, in order, from any place on, for any number of followers."""

import asyncio
from collections.abc import Iterator, Sequence
from itertools import cycle, groupby, repeat
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.backends.base import Egress, Exit
from enclave.contracts.audit import AuditEvent, CloneCompleted, CloneStarted
from enclave.contracts.errors import InvalidRequest, Unavailable
from enclave.contracts.frames import AuditFrame, EndFrame, PhaseFrame, StderrFrame, StdoutFrame, StreamFrame
from enclave.contracts.sessions import Phase, Session, SessionResult
from enclave.core.session import Finished, Lost, Started, TornDown, advance, created, noted
from enclave.orchestrator.attempt import event
from enclave.orchestrator.ending import Loss, Printed, lost
from enclave.orchestrator.stream import Follower, LiveStream, Place, Stream, parse_place, told
from enclave.store.base import Channel, Chunk
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


async def all_of(stream: Stream, place: str | None = None) -> Told:
    follower = Follower(stream, parse_place(place))
    taken: list[tuple[str, StreamFrame]] = []
    while more := await follower.take(3):
        taken += more
    return taken


class Memory:
    """A journal that is at once written, and outlives nothing."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []

    async def append(self, chunks: Sequence[Chunk], *, sync: bool = True) -> int:
        self.chunks += chunks
        return len(self.chunks)

    async def read(self, place: int = 0) -> tuple[Sequence[Chunk], int]:
        part = self.chunks[place : place + 3]
        return part, place + len(part)


def shape(frames: Told) -> list[object]:
    """What was told, however output was cut into chunks and whichever stream came first."""
    log = [frame for _, frame in frames if not isinstance(frame, StdoutFrame | StderrFrame)]
    out = "".join(frame.chunk for _, frame in frames if isinstance(frame, StdoutFrame))
    err = "".join(frame.chunk for _, frame in frames if isinstance(frame, StderrFrame))
    return [log, out, err]


async def played(
    steps: Sequence[Step], ending: str, flushes: Iterator[bool] | None = None
) -> tuple[LiveStream, Stream]:
    """The same session, as it was told live and as it is told from what was kept."""
    journal, flushes = Memory(), flushes or repeat(False)
    live, events, session = LiveStream(journal), list[AuditEvent](), PENDING

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
                live.transcript.write(channel, text, AT)
                if next(flushes):
                    await live.transcript.flush()
    printed = await live.transcript.finish()
    live.transcript.keep_order()
    await live.transcript.flush()
    left = SessionResult(exit_code=None, stdout=printed.stdout, stderr=printed.stderr)
    for name in ending.split(", then "):
        outcome: Finished | Lost | TornDown = TornDown(left)
        if name == "finished":
            outcome = Finished(left.model_copy(update={"exit_code": 0}))
        elif name.startswith("lost"):
            outcome = lost(session, Loss("sandbox_lost", "it fell"), AT, left)
        change = advance(session, outcome, at=AT, actor="platform")
        session = change.session
        publish(change.events, session)
    return live, told(session, events, journal.chunks)


flushing = st.lists(st.booleans(), min_size=1, max_size=5)


somewhere = st.floats(0, 1, exclude_max=True)
"""A place, as a part of the whole. Drawn before the loop runs, which would die of what Hypothesis ends examples by."""


@given(printing, endings, flushing, somewhere)
async def test_cut_anywhere_and_resumed_the_same_is_told(
    steps: list[Step], ending: str, flushes: list[bool], part: float
) -> None:
    """Neither a gap nor a repeat, whether the session is still live here or told from what was kept."""
    live, kept = await played(steps, ending, cycle(flushes))
    whole = await all_of(live)
    assert isinstance(whole[-1][1], EndFrame)
    cut = int(part * len(whole))
    place = whole[cut - 1][0] if cut else None
    assert [*whole[:cut], *await all_of(live, place)] == whole
    assert shape([*whole[:cut], *await all_of(kept, place)]) == shape(await all_of(kept))


@given(printing, flushing, somewhere)
async def test_kept_streams_resume_too(steps: list[Step], flushes: list[bool], part: float) -> None:
    _, kept = await played(steps, "finished, then torn_down", cycle(flushes))
    whole = await all_of(kept)
    cut = int(part * len(whole))
    assert [*whole[:cut], *await all_of(kept, whole[cut - 1][0] if cut else None)] == whole


@given(printing, flushing)
async def test_the_order_of_output_is_kept(steps: list[Step], flushes: list[bool]) -> None:
    """While it runs and afterwards, however it came to be written."""
    expected = [
        (channel, "".join(text for _, text in group))
        for channel, group in groupby([step for step in steps if step[0] != "attempt"], key=lambda step: step[0])
    ]
    for stream in await played(steps, "finished", cycle(flushes)):
        chunks = [frame for _, frame in await all_of(stream) if isinstance(frame, StdoutFrame | StderrFrame)]
        runs = groupby(chunks, key=lambda frame: frame.kind)
        assert [(kind, "".join(frame.chunk for frame in run)) for kind, run in runs] == expected


async def begun() -> tuple[LiveStream, Memory]:
    journal = Memory()
    stream = LiveStream(journal)
    stream.publish(created(PENDING, "x").events, PENDING)
    change = advance(PENDING, Started("puppet"), at=AT, actor="platform")
    stream.publish(change.events, change.session)
    return stream, journal


async def test_a_flood_of_single_bytes_does_not_cost_an_object_each() -> None:
    stream, _ = await begun()
    for number in range(50_000):
        stream.transcript.write("stdout" if number % 2 else "stderr", "x", AT)
    assert stream.transcript.held < 5_000
    printed = await stream.transcript.finish()
    assert (len(printed.stdout), len(printed.stderr)) == (25_000, 25_000)


async def test_a_follower_that_waits_for_every_byte_does_not_cost_a_record_each() -> None:
    stream, journal = await begun()
    for number in range(50_000):
        stream.transcript.want()
        stream.transcript.write("stdout" if number % 2 else "stderr", "x", AT)
        await asyncio.sleep(0)
    await stream.transcript.flush()
    assert len(journal.chunks) < 5_000


async def test_what_is_not_written_is_told_to_nobody() -> None:
    """What a follower was sent would be there after a crash."""
    stream, journal = await begun()
    follower = Follower(stream, Place())
    await follower.take()
    stream.transcript.write("stdout", "a", AT)
    assert await follower.take() == ()
    waiting = follower.changed()
    await asyncio.wait((waiting,), timeout=5)
    assert [frame.kind for _, frame in await follower.take()] == ["stdout"]
    assert [chunk.text for chunk in journal.chunks] == ["a"]


async def test_what_cannot_be_written_is_held_and_told_with_the_end() -> None:
    """A disk that is full loses nothing of a session that ends."""

    class Full(Memory):
        async def append(self, chunks: Sequence[Chunk], *, sync: bool = True) -> int:
            raise Unavailable("the disk is full")

    stream = LiveStream(Full())
    stream.publish(created(PENDING, "x").events, PENDING)
    started = advance(PENDING, Started("puppet"), at=AT, actor="platform")
    stream.publish(started.events, started.session)
    follower = Follower(stream, Place())
    stream.transcript.write("stdout", "a", AT)
    stream.transcript.write("stderr", "b", AT)
    await stream.transcript.flush()
    assert [frame.kind for _, frame in await follower.take()] == ["phase", "audit", "phase", "audit"]
    printed = await stream.transcript.finish()
    assert printed == Printed("a", "b")
    left = SessionResult(exit_code=0, stdout="a", stderr="b")
    ended = advance(started.session, Finished(left), at=AT, actor="platform")
    stream.publish(ended.events, ended.session)
    kinds = [frame.kind for _, frame in await follower.take()]
    assert kinds == ["stdout", "stderr", "audit", "phase", "audit", "result", "end"]


async def test_written_output_is_not_in_memory() -> None:
    stream, journal = await begun()
    for _ in range(100):
        stream.transcript.write("stdout", "x" * 10_000, AT)
        await stream.transcript.flush()
    assert stream.transcript.held == 0
    assert sum(len(chunk.text) for chunk in journal.chunks) == 1_000_000


async def test_output_is_told_in_bounded_frames() -> None:
    live, kept = await played([("stdout", "y" * 100_000)], "finished")
    for stream in (live, kept):
        sizes = [len(frame.chunk) for _, frame in await all_of(stream) if isinstance(frame, StdoutFrame)]
        assert sizes == [32768, 32768, 32768, 1696]


async def test_output_waits_for_the_start_however_many_events_a_clone_has() -> None:
    """The program may print before its start is durable; a place is the same whenever it is told."""
    stream, stamp = LiveStream(Memory()), {"ts": AT, "org_id": "o", "session_id": PENDING.id, "actor": "platform"}
    begun = CloneStarted(**stamp, url="https://example.org/a", ref=None, binding=None, entrypoint=None)  # type: ignore[arg-type]
    done = CloneCompleted(**stamp, commit="c", files=1, bytes=1, omitted=0, duration_ms=1.0)  # type: ignore[arg-type]
    stream.publish((*created(PENDING, "x").events, begun, done), PENDING)
    stream.transcript.write("stdout", "hi", AT)
    await stream.transcript.flush()
    follower = Follower(stream, Place())

    assert [place for place, _ in await follower.take()] == ["1.0.0", "2.0.0", "3.0.0", "4.0.0"]
    started = advance(PENDING, Started("puppet"), at=AT, actor="platform")
    stream.publish(started.events, started.session)
    assert [place for place, _ in await follower.take()] == ["5.0.0", "6.0.0", "6.2.0"]
    with pytest.raises(InvalidRequest):
        Follower(stream, Place(4, 2))


@pytest.mark.parametrize("place", ["", "1", "1.2", "a.b.c", "-1.0.0", "1.0.0 ", "1.0.0\n", "9999999999.0.0", "１.0.0"])
def test_a_place_that_is_none_is_refused_by_name(place: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_place(place)
    assert [problem.field for problem in refused.value.errors] == ["Last-Event-ID"]


NOWHERE = [Place(frames=99), Place(4, 3, 0), Place(4, 0, 1), Place(4, 999999, 0), Place(2, 1, 0), Place(0, 2, 0)]


@pytest.mark.parametrize("place", NOWHERE)
async def test_a_place_the_stream_never_reached_is_refused(place: Place) -> None:
    for stream in await played([("stdout", "hi")], "finished"):
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
