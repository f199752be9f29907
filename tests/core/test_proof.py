"""Whatever is done to a trail is found, and named by the first entry that it was done to."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.contracts.audit import GENESIS, Event, SandboxStarted
from enclave.contracts.checkpoint import Checkpoint
from enclave.core.audit import link
from enclave.core.proof import Entry, Finding, Flaw, entry, examine, line

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def chain(length: int, org_id: str = "org_a", backend: str = "lo\u2028cal \U0001f512") -> list[Entry]:
    entries, previous = [], GENESIS
    for seq in range(1, length + 1):
        event: Event = SandboxStarted(ts=AT, org_id=org_id, session_id=None, actor="ada", backend=backend)
        event, body = link(event, seq=seq, previous=previous)
        previous = event.digest
        entries.append(Entry(body, event.digest))
    return entries


def checkpoint(at: Entry, seq: int, kind: str = "checkpoint") -> Checkpoint:
    told = {"kind": kind, "org_id": "org_a", "seq": seq, "digest": at.digest, "ts": AT, "public_key": ""}
    return Checkpoint.model_validate(told)


def flaw(entries: Sequence[Entry], *checkpoints: Checkpoint) -> Flaw | None:
    (found,) = examine(entries, checkpoints)
    return found.flaw


def test_a_chain_that_was_left_alone_holds() -> None:
    ts = "2026-01-02T03:04:05.678901Z"
    assert list(examine(chain(3))) == [Finding("org_a", 3, ts, ts, 0, None)]


def test_orgs_are_told_apart() -> None:
    broken = chain(4, "org_b")
    del broken[2]
    found = list(examine([*chain(2), *broken, *chain(1, "org_c")]))
    assert [(one.org_id, one.entries, one.flaw and one.flaw.seq) for one in found] == [
        ("org_a", 2, None),
        ("org_b", 2, 3),
        ("org_c", 1, None),
    ]


@given(st.data())
def test_no_byte_can_be_another(data: st.DataObject) -> None:
    entries = chain(5)
    at = data.draw(st.integers(0, 4))
    place = data.draw(st.integers(0, len(entries[at].body) - 1))
    body = bytearray(entries[at].body)
    body[place] ^= data.draw(st.integers(1, 255))
    entries[at] = Entry(bytes(body), entries[at].digest)
    found = [one.flaw for one in examine(entries) if one.flaw]
    assert found[0].seq in (at + 1, 1)  # in an org of another name it is the first


@pytest.mark.parametrize(
    ("done", "seq"),
    [
        (lambda entries: entries[:2] + entries[3:], 3),
        (lambda entries: [entries[1], entries[0], *entries[2:]], 1),
        (lambda entries: [*entries[:3], entries[2], *entries[3:]], 4),
        (lambda entries: entries[1:], 1),
        (lambda entries: [*entries, Entry(b"{}", "")], 6),
        (lambda entries: [*entries, Entry(b"[" * 100_000, "")], 6),
        (lambda entries: [*entries[:4], *chain(5, backend="another")[4:]], 5),
    ],
    ids=["removed", "reordered", "doubled", "beheaded", "nonsense", "deep nonsense", "another's"],
)
def test_no_entry_can_be_missing_elsewhere_or_another(done: Callable[[list[Entry]], list[Entry]], seq: int) -> None:
    found = flaw(done(chain(5)))
    assert found is not None
    assert found.seq == seq


def test_an_end_that_was_cut_off_is_found_by_a_checkpoint() -> None:
    entries = chain(5)
    assert flaw(entries[:3]) is None
    found = flaw(entries[:3], checkpoint(entries[4], 5))
    assert found is not None
    assert (found.seq, "there were 5 entries" in found.what) == (4, True)


def test_a_trail_that_is_all_gone_is_found_by_a_checkpoint() -> None:
    assert flaw([], checkpoint(chain(5)[4], 5)) == Flaw(
        "org_a", 1, f"it is missing: there were 5 entries on {AT.isoformat()}"
    )


def test_a_chain_that_was_written_anew_is_found_by_a_checkpoint() -> None:
    another = chain(5, backend="another")
    assert flaw(another) is None
    found = flaw(another, checkpoint(chain(5)[3], 4))
    assert found is not None
    assert (found.seq, "signed for" in found.what) == (4, True)


def test_how_far_it_is_signed_for_is_told() -> None:
    entries = chain(5)
    (found,) = examine(entries, [checkpoint(entries[2], 3)])
    assert (found.signed, found.flaw) == (3, None)


def test_what_was_removed_for_its_age_is_attested_by_a_tombstone() -> None:
    entries = chain(5)
    assert flaw(entries[2:], checkpoint(entries[1], 2, "tombstone")) is None
    found = flaw(entries[3:], checkpoint(entries[1], 2, "tombstone"))
    assert found is not None
    assert found.seq == 3
    found = flaw([], checkpoint(entries[1], 2, "tombstone"))
    assert found is not None
    assert (found.seq, "none after a tombstone" in found.what) == (3, True)


def test_what_is_stored_beside_an_entry_is_held_to_it() -> None:
    (one,) = chain(1)
    others: list[dict[str, object]] = [
        {"type": "session_created"}, {"seq": True}, {"ts": "2026-01-02T03:04:05Z"}, {"ts": None},
    ]  # fmt: skip
    for beside in others:
        found = flaw([Entry(one.body, one.digest, {"orgId": "org_a", **beside})])
        assert found is not None, beside
    right = {"orgId": "org_a", "seq": 1, "type": "sandbox_started", "ts": "2026-01-02T03:04:05.678901+00:00"}
    assert flaw([Entry(one.body, one.digest, right)]) is None


def test_an_export_is_json_and_holds_when_it_is_written_anew() -> None:
    lines = [line(one.body, one.digest) for one in chain(3)]
    assert [json.loads(one)["seq"] for one in lines] == [1, 2, 3]
    assert flaw([entry(one.strip()) for one in lines]) is None
    anew = [json.dumps(dict(reversed(json.loads(one).items())), indent=1).encode() for one in lines]
    assert flaw([entry(one) for one in anew]) is None


@given(st.binary(max_size=200))
def test_any_line_makes_an_entry(text: bytes) -> None:
    found = list(examine([entry(text)]))
    assert [one.flaw is None for one in found] == [False]
