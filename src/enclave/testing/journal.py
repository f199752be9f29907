"""The examination of a keeper of journals: `await check_journals(make)` passes if every promise of
`enclave.store.base.Journals` holds."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Final

from enclave.store.base import Channel, Chunk, Journal, Journals, Kept
from enclave.testing.promise import expect

Make = Callable[[str], Awaitable[Journals]]
"""Opens the journals of a name: empty for a new name, with what they held for one that was open before."""

AT: Final = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
ONE: Final = f"ses_{1:026d}"
TWO: Final = f"ses_{2:026d}"


async def check_journals(make: Make) -> None:
    """Hold them against every promise; raises AssertionError, which names the first that is broken."""
    for name, promise in PROMISES.items():
        async with _opened(make, name) as journals:
            await promise(journals)
    await _keeps_what_was_answered(make)


async def _reads_what_was_added(journals: Journals) -> None:
    journal = journals.journal("org_a", ONE)
    expect([], await _all(journal), "a journal begins empty")
    first, second = some("stdout", 0, "a é\0\n"), some("stderr", 0, "🙂" * 32768)
    place = await journal.append([first])
    expect([first], await _all(journal), "what was added is read as it was")
    await journal.append([second, third := some("stdout", first.stop, "b")])
    expect([first, second, third], await _all(journal), "channels keep their order")
    expect([second, third], await _all(journal, place), "it is read from a place on")
    expect([first, second, third], await _all(journals.journal("org_a", ONE)), "another sees it too")


async def _adds_in_the_order_of_calls(journals: Journals) -> None:
    journal = journals.journal("org_a", ONE)
    chunks: list[Chunk] = []
    for number in range(50):
        chunks.append(some("stdout", number, "x"))
        await journal.append(chunks[-1:])
    expect(chunks, await _all(journal), "chunks are kept in the order in which they came")


async def _keeps_sessions_apart(journals: Journals) -> None:
    one, two = journals.journal("org_a", ONE), journals.journal("org_b", TWO)
    await one.append([some("stdout", 0, "one")])
    await two.append([some("stdout", 0, "two")])
    expect(["one"], [chunk.text for chunk in await _all(one)], "a journal is one session's")
    expect(["two"], [chunk.text for chunk in await _all(two)], "a journal is one session's")


async def _tells_what_it_keeps_and_removes(journals: Journals) -> None:
    expect([], list(await journals.kept()), "nothing is kept of nothing")
    journals.journal("org_a", ONE)
    expect([], list(await journals.kept()), "an empty journal costs nothing")
    for org_id, session_id in (("org_a", ONE), ("org_b", TWO)):
        await journals.journal(org_id, session_id).append([some("stdout", 0, "x")])
    found = sorted(await journals.kept(), key=lambda one: one.session_id)
    expect([Kept("org_a", ONE), Kept("org_b", TWO)], found, "what is kept is told, and whose it is")
    expect([], list(await journals.kept(datetime.now(UTC) - timedelta(hours=1))), "none of it is old")
    await journals.remove(ONE)
    await journals.remove(ONE)
    expect([Kept("org_b", TWO)], list(await journals.kept()), "what is removed is gone")
    expect([], await _all(journals.journal("org_a", ONE)), "what is removed reads as empty")


async def _keeps_what_was_answered(make: Make) -> None:
    chunk = some("stderr", 0, "last words")
    journals = await make("reopened")
    await journals.journal("org_a", ONE).append([chunk])
    async with _opened(make, "reopened") as again:
        expect([chunk], await _all(again.journal("org_a", ONE)), "what was answered is there without a close")
    await journals.close()


PROMISES: Final[dict[str, Callable[[Journals], Awaitable[None]]]] = {
    promise.__name__.strip("_"): promise
    for promise in (
        _reads_what_was_added,
        _adds_in_the_order_of_calls,
        _keeps_sessions_apart,
        _tells_what_it_keeps_and_removes,
    )
}


def some(channel: Channel, start: int, text: str) -> Chunk:
    """A chunk, as good as any."""
    return Chunk(channel, start, text, AT)


@asynccontextmanager
async def _opened(make: Make, name: str) -> AsyncIterator[Journals]:
    journals = await make(name)
    try:
        yield journals
    finally:
        await journals.close()


async def _all(journal: Journal, place: int = 0) -> Sequence[Chunk]:
    chunks: list[Chunk] = []
    while (part := await journal.read(place))[0]:
        chunks += part[0]
        place = part[1]
    return chunks
