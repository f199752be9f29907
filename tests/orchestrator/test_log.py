"""A session's output page by page, while it runs, when it is over, and after a crash."""

import asyncio
from datetime import timedelta

import pytest

from enclave.backends.base import Exit
from enclave.contracts.errors import InvalidRequest, NotFound
from enclave.contracts.frames import PhaseFrame, StderrFrame, StdoutFrame
from enclave.contracts.logs import LogEntry
from enclave.contracts.sessions import Phase
from enclave.core.cursor import log_cursor
from enclave.orchestrator.log import MAX_PAGE_CHARS
from enclave.orchestrator.orchestrator import Orchestrator
from enclave.store.base import Chunk
from tests.orchestrator.conftest import Stage, member
from tests.orchestrator.test_orchestrator import PROGRAM, running
from tests.scripted import Puppet

pytestmark = pytest.mark.anyio

ME = member()


async def all_of(orchestrator: Orchestrator, session_id: str, limit: int = 50) -> list[LogEntry]:
    page = await orchestrator.logs(ME, session_id, limit=limit)
    entries = list(page.items)
    while page.items and page.next_cursor is not None:
        page = await orchestrator.logs(ME, session_id, after=page.next_cursor, limit=limit)
        entries += page.items
    return entries


def interleaves(puppet: Puppet) -> None:
    for number in range(5):
        puppet.print(b"%d" % number, "stdout" if number % 2 else "stderr")
    puppet.end()


async def written(stage: Stage) -> None:
    """Wait until what was to be written is: nobody else waits for it, and what is asked for later is done later."""
    for run in tuple(stage.orchestrator._runs.values()):
        await asyncio.wait((run.task,))
    await stage.ports.journals.remove("ses_" + "0" * 26)


async def shown(stage: Stage, session_id: str, text: str) -> None:
    """Wait until a follower has been sent a text."""
    async for _, frame in await stage.orchestrator.follow(ME, session_id):
        if isinstance(frame, StdoutFrame | StderrFrame) and text in frame.chunk:
            return


async def test_what_is_printed_is_read_while_the_session_runs_and_goes_on_after(stage: Stage) -> None:
    session, puppet = await running(stage)
    puppet.print(b"one")
    puppet.print(b"two", "stderr")
    await shown(stage, session.id, "two")

    first = await stage.orchestrator.logs(ME, session.id)
    puppet.print(b"three")
    puppet.end(Exit(code=0))
    await stage.orchestrator._runs[session.id].task
    rest = await stage.orchestrator.logs(ME, session.id, after=first.next_cursor)

    assert [(one.channel, one.offset, one.text) for one in first.items] == [("stdout", 0, "one"), ("stderr", 0, "two")]
    assert [(one.channel, one.offset, one.text) for one in rest.items] == [("stdout", 3, "three")]
    assert rest.next_cursor is None


async def test_a_page_is_bounded_by_entries_and_by_characters(stage: Stage) -> None:
    def floods(puppet: Puppet) -> None:
        for _ in range(40):
            puppet.print(b"x" * 32768)
        puppet.end()

    stage.backend.play = floods
    session = await stage.orchestrator.create(ME, PROGRAM, wait_seconds=9)

    whole = await stage.orchestrator.logs(ME, session.id, limit=200)
    assert sum(len(one.text) for one in whole.items) == MAX_PAGE_CHARS
    assert len((await stage.orchestrator.logs(ME, session.id, limit=3)).items) == 3
    entries = await all_of(stage.orchestrator, session.id)
    assert sum(len(one.text) for one in entries) == 40 * 32768
    assert [one.offset for one in entries] == [number * 32768 for number in range(40)]


async def test_the_order_of_the_channels_outlives_the_session(stage: Stage) -> None:
    stage.backend.play = interleaves
    session = await stage.orchestrator.create(ME, PROGRAM, wait_seconds=9)
    await written(stage)

    later = await all_of(stage.another(), session.id)

    assert "".join(one.text for one in later) == "01234"


async def test_without_its_journal_a_session_still_tells_all(stage: Stage) -> None:
    stage.backend.play = interleaves
    session = await stage.orchestrator.create(ME, PROGRAM, wait_seconds=9)
    await written(stage)
    await stage.ports.journals.remove(session.id)

    entries = await all_of(stage.another(), session.id, limit=1)

    assert [(one.channel, one.text) for one in entries] == [("stdout", "13"), ("stderr", "024")]


async def test_a_journal_that_the_result_does_not_bear_out_is_not_told(stage: Stage) -> None:
    stage.backend.play = interleaves
    session = await stage.orchestrator.create(ME, PROGRAM, wait_seconds=9)
    await written(stage)
    await stage.ports.journals.remove(session.id)
    forged = (await stage.orchestrator.logs(ME, session.id)).items[0]
    await stage.ports.journals.journal("org_a", session.id).append([Chunk("stdout", 0, "forged", forged.ts)])

    assert "forged" not in "".join(one.text for one in await all_of(stage.another(), session.id))


async def test_what_was_shown_is_kept_by_a_restart(stage: Stage) -> None:
    """The process is gone, and with it what it had in memory; the session ends with what was shown of it."""
    session, puppet = await running(stage)
    puppet.print(b"one")
    puppet.print(b"two", "stderr")
    await shown(stage, session.id, "two")
    whole = await stage.orchestrator.follow(ME, session.id)
    seen = [pair for pair in await whole.take() if pair[1].kind in ("stdout", "stderr")]

    later = stage.another()
    await later.recover()

    found = await later.get(ME, session.id)
    assert (found.phase, found.result and (found.result.stdout, found.result.stderr)) == (Phase.FAILED, ("one", "two"))
    again = [pair async for pair in await later.follow(ME, session.id)]
    assert [pair for pair in again if pair[1].kind in ("stdout", "stderr")] == seen
    rest = [frame.kind async for _, frame in await later.follow(ME, session.id, seen[0][0])]
    assert rest == ["stderr", "phase", "audit", "result", "end"]


async def test_a_short_session_leaves_no_journal(stage: Stage) -> None:
    def says_hi(puppet: Puppet) -> None:
        puppet.print(b"hi")
        puppet.end()

    stage.backend.play = says_hi
    session = await stage.orchestrator.create(ME, PROGRAM, wait_seconds=9)

    assert session.result is not None
    assert session.result.stdout == "hi"
    assert list(await stage.ports.journals.kept()) == []


async def test_teardown_removes_the_journal_and_a_slow_follower_still_gets_all(stage: Stage) -> None:
    session, puppet = await running(stage)
    for _ in range(10):
        puppet.print(b"x" * 32768)
    await shown(stage, session.id, "x")
    slow = await stage.orchestrator.follow(ME, session.id)
    await slow.take(5)

    torn = await stage.orchestrator.teardown(ME, session.id)

    assert list(await stage.ports.journals.kept()) == []
    rest = "".join([frame.chunk async for _, frame in slow if isinstance(frame, StdoutFrame)])
    assert torn.result is not None
    assert len(rest) in range(9 * 32768, 10 * 32768 + 1)
    assert len(torn.result.stdout) == 10 * 32768


async def test_a_tick_removes_journals_of_no_session_but_none_that_is_written(stage: Stage) -> None:
    session, puppet = await running(stage)
    puppet.print(b"one")
    await shown(stage, session.id, "one")
    orphan = "ses_" + "0" * 26
    await stage.ports.journals.journal("org_a", orphan).append([Chunk("stdout", 0, "x", session.created_at)])

    await stage.orchestrator.tick()

    assert [kept.session_id for kept in await stage.ports.journals.kept()] == [session.id]


async def test_journals_are_kept_for_as_long_as_files_but_while_a_session_runs(stage: Stage) -> None:
    impatient = stage.another(file_retention=timedelta(0))
    session = await impatient.create(ME, PROGRAM)
    async for _, frame in await impatient.follow(ME, session.id):
        if isinstance(frame, StdoutFrame):
            break
        if isinstance(frame, PhaseFrame) and frame.phase is Phase.RUNNING:
            stage.backend.all[-1].print(b"one")

    await impatient.tick()
    assert [kept.session_id for kept in await stage.ports.journals.kept()] == [session.id]
    stage.backend.all[-1].end()
    await impatient._runs[session.id].task
    await impatient.tick()
    assert list(await stage.ports.journals.kept()) == []
    assert [one.text for one in await all_of(impatient, session.id)] == ["one"]


async def test_another_orgs_output_is_not_there(stage: Stage) -> None:
    session, _ = await running(stage)
    with pytest.raises(NotFound):
        await stage.orchestrator.logs(member("org_b"), session.id)


@pytest.mark.parametrize("after", ["", "x", log_cursor(1, 0), log_cursor(0, 1)])
async def test_a_cursor_of_no_page_is_refused_by_name(stage: Stage, after: str) -> None:
    session, _ = await running(stage)
    with pytest.raises(InvalidRequest) as refused:
        await stage.orchestrator.logs(ME, session.id, after=after)
    assert [problem.field for problem in refused.value.errors] == ["after"]


async def test_an_idle_session_has_an_empty_page_and_a_cursor_to_ask_with(stage: Stage) -> None:
    session, puppet = await running(stage)
    page = await stage.orchestrator.logs(ME, session.id)
    assert (page.items, page.next_cursor) == ((), log_cursor(0, 0))
    puppet.print(b"x")
    await shown(stage, session.id, "x")
    page = await stage.orchestrator.logs(ME, session.id, after=page.next_cursor)
    assert [one.text for one in page.items] == ["x"]
