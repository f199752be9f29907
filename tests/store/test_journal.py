"""Journals on the disk: every promise, and what damage makes of them."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.contracts.errors import Unavailable
from enclave.store import record
from enclave.store.base import Chunk
from enclave.store.journal import DirectoryJournals, FileJournal
from enclave.testing.journal import ONE, TWO, check_journals, some

pytestmark = pytest.mark.anyio

CHUNKS = [some("stdout", 0, "abc"), some("stderr", 0, "é\n"), some("stdout", 3, "def")]


@pytest.fixture
async def journals(tmp_path: Path) -> AsyncIterator[DirectoryJournals]:
    opened = DirectoryJournals.open(tmp_path / "journals")
    yield opened
    await opened.close()


async def read(journal: FileJournal) -> list[Chunk]:
    chunks: list[Chunk] = []
    place = 0
    while (part := await journal.read(place))[0]:
        chunks += part[0]
        place = part[1]
    return chunks


async def test_every_promise_of_a_keeper_of_journals_holds(tmp_path: Path) -> None:
    async def make(name: str) -> DirectoryJournals:
        return DirectoryJournals.open(tmp_path / name)

    await check_journals(make)


@given(st.lists(st.text(min_size=1, max_size=20), max_size=6), st.data())
def test_a_journal_cut_anywhere_reads_as_the_records_that_are_whole(texts: list[str], data: st.DataObject) -> None:
    chunks = [some("stdout", 7, text) for text in texts]
    whole = record.opening("org_a") + record.encode(chunks)
    sizes = [len(record.opening("org_a") + record.encode(chunks[:n])) for n in range(len(chunks) + 1)]
    cut = data.draw(st.integers(0, len(whole)))

    found, stop = record.decode(whole[:cut])

    assert found == chunks[: sum(size <= cut for size in sizes[1:])]
    assert stop == max((size for size in sizes if size <= cut), default=0)


@given(st.data())
def test_a_flipped_bit_ends_a_journal_in_front_of_its_record(data: st.DataObject) -> None:
    raw = bytearray(record.opening("org_a") + record.encode(CHUNKS))
    place = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[place // 8] ^= 1 << place % 8

    found, _ = record.decode(bytes(raw))

    assert found == CHUNKS[: len(found)]
    assert len(found) < len(CHUNKS)


@given(st.binary(max_size=300))
def test_whatever_is_in_a_file_it_is_read(raw: bytes) -> None:
    record.decode(raw)
    assert record.owner(raw) == ""


async def test_half_a_record_at_the_end_is_dropped(journals: DirectoryJournals, tmp_path: Path) -> None:
    await journals.journal("org_a", ONE).append(CHUNKS)
    file = tmp_path / "journals" / ONE
    os.truncate(file, file.stat().st_size - 1)

    assert await read(journals.journal("org_a", ONE)) == CHUNKS[:2]


async def test_what_a_failed_write_left_is_written_over(journals: DirectoryJournals, tmp_path: Path) -> None:
    journal = journals.journal("org_a", ONE)
    await journal.append(CHUNKS[:1])
    with (tmp_path / "journals" / ONE).open("ab") as file:
        file.write(record.encode(CHUNKS)[:-3])

    assert await read(journal) == CHUNKS[:1]
    await journal.append(CHUNKS[1:])

    assert await read(journal) == CHUNKS
    assert await read(journals.journal("org_a", ONE)) == CHUNKS


async def test_a_write_that_fails_is_told_and_may_be_tried_again(journals: DirectoryJournals, tmp_path: Path) -> None:
    (tmp_path / "journals").rename(tmp_path / "gone")
    journal = journals.journal("org_a", ONE)
    with pytest.raises(Unavailable):
        await journal.append(CHUNKS)
    (tmp_path / "gone").rename(tmp_path / "journals")

    await journal.append(CHUNKS)

    assert await read(journal) == CHUNKS


async def test_a_journal_removed_under_its_session_is_told_from_one_that_ended(journals: DirectoryJournals) -> None:
    journal = journals.journal("org_a", ONE)
    await journal.append(CHUNKS)
    await journals.remove(ONE)

    with pytest.raises(Unavailable):
        await journal.read()
    with pytest.raises(Unavailable):
        await journal.append(CHUNKS)


async def test_what_is_no_file_is_neither_followed_nor_waited_for(journals: DirectoryJournals, tmp_path: Path) -> None:
    place = tmp_path / "journals"
    await journals.journal("org_a", ONE).append(CHUNKS)
    os.symlink(place / ONE, place / TWO)
    os.mkfifo(place / ("ses_" + "2" * 26))
    os.mkdir(place / ("ses_" + "3" * 26))
    assert [kept.session_id for kept in await journals.kept()] == [ONE]
    for name in (TWO, "ses_" + "2" * 26, "ses_" + "3" * 26):
        with pytest.raises(Unavailable):
            await journals.journal("org_a", name).read()
        with pytest.raises(Unavailable):
            await journals.journal("org_a", name).append(CHUNKS)


async def test_nobody_else_can_read_a_journal(journals: DirectoryJournals, tmp_path: Path) -> None:
    await journals.journal("org_a", TWO).append(CHUNKS)

    assert (tmp_path / "journals").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "journals" / TWO).stat().st_mode & 0o777 == 0o600
