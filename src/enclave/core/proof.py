"""Whether an audit trail is what was written: every entry, in its place, up to where somebody signed for it.

An entry is examined as it is stored, so that this needs none of the types of its events, nor the Enclave that wrote it.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from pydantic_core import from_json

from enclave.contracts.audit import GENESIS
from enclave.contracts.checkpoint import Checkpoint

_TAIL: Final = re.compile(rb',"digest":"([0-9a-f]{64})"\}\Z')


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: the text that was digested, its digest, and what is stored beside them that the text says too."""

    body: bytes
    digest: str
    beside: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Flaw:
    """The first entry of an org that does not hold, and why."""

    org_id: str
    seq: int
    what: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one org: how many entries, from when to when, up to where it is signed for, and its flaw."""

    org_id: str
    entries: int
    since: str
    until: str
    signed: int
    flaw: Flaw | None


def signed(checkpoint: Checkpoint) -> bytes:
    """The bytes that a checkpoint's signature is of."""
    said = checkpoint.model_dump(mode="json", by_alias=True, exclude={"signature"})
    return b"enclave audit checkpoint\n" + _text(said)


def line(body: bytes, digest: str) -> bytes:
    """An entry as a line of an export: JSON whose text without `digest` is the text that was digested."""
    return b'%b,"digest":"%b"}\n' % (body[:-1], digest.encode())


def entry(line: bytes) -> Entry:
    """The entry of a line. Another tool may have written it anew: then its text is made once more from what it says.
    Of a line that makes no sense it is an entry that does not hold."""
    if (tail := _TAIL.search(line)) and line.startswith(b"{"):
        body = line[: tail.start()] + b"}"
        if _digest(body) == tail[1].decode():
            return Entry(body, tail[1].decode())
    said = dict(_said(line))
    digest = said.pop("digest", None)
    return Entry(line, "") if digest is None else Entry(_text(said), str(digest))


def examine(
    entries: Iterable[Entry], checkpoints: Iterable[Checkpoint] = (), known: Iterable[Flaw] = ()
) -> Iterator[Finding]:
    """What is found of each org, in the order in which they end. The entries of an org come one after another.

    Checkpoints are believed: check their signatures before. `known` is what was found of orgs before, one flaw each.
    """
    told, flaws = _by_org(checkpoints), {flaw.org_id: flaw for flaw in known}
    chain: _Chain | None = None
    for one in entries:
        said = _said(one.body)
        # What cannot be read at all breaks the chain that it is found in.
        name = str(one.beside.get("orgId") or said.get("orgId") or (chain.org_id if chain else ""))
        if chain is None or chain.org_id != name:
            yield from () if chain is None else (chain.finding(),)
            chain = _Chain(name, told.pop(name, ()), flaws.get(name))
            # Should there be more of it later, that is a second chain, which no checkpoint would be held against.
            flaws[name] = Flaw(name, 1, "the entries of the org are not in one piece")
        chain.take(one, said)
    yield from () if chain is None else (chain.finding(),)
    yield from (_Chain(org_id, those, flaws.get(org_id)).finding() for org_id, those in told.items())


class _Chain:
    """The entries of one org as they go by."""

    def __init__(self, org_id: str, checkpoints: Sequence[Checkpoint], flaw: Flaw | None) -> None:
        self.org_id = org_id
        self._signed: dict[int, list[Checkpoint]] = {}
        for one in checkpoints:
            self._signed.setdefault(one.seq, []).append(one)
        self._last = max(checkpoints, key=_seq, default=None)
        self._buried = max((one for one in checkpoints if one.kind == "tombstone"), key=_seq, default=None)
        self._previous, self._expected = GENESIS, 1
        self._entries = 0
        self._since = self._until = ""
        self._reached = 0
        self._flaw = flaw

    def take(self, one: Entry, said: Mapping[str, Any]) -> None:
        """The entry that comes next."""
        if self._flaw is not None:
            return
        # What a tombstone was signed for may not have been removed yet.
        if self._entries == 0 and said.get("seq") != 1:
            self._begin_after_tombstone()
        if (what := self._wrong(one, said)) is not None:
            self._flaw = Flaw(self.org_id, self._expected, what)
            return
        self._until = str(said.get("ts", ""))
        self._since = self._since or self._until
        self._entries += 1
        self._previous, self._expected = one.digest, self._expected + 1

    def finding(self) -> Finding:
        """What was found, now that there is no more."""
        if self._entries == 0 and self._flaw is None:
            self._begin_after_tombstone()
        if self._flaw is None and (what := self._missing(self._last)) is not None:
            self._flaw = Flaw(self.org_id, self._expected, what)
        return Finding(self.org_id, self._entries, self._since, self._until, self._reached, self._flaw)

    def _missing(self, last: Checkpoint | None) -> str | None:
        if last is not None and last.seq >= self._expected:
            return f"it is missing: there were {last.seq} entries on {last.ts.isoformat()}"
        # The last entry is never removed for its age.
        return "it is missing: there is none after a tombstone" if self._buried and not self._entries else None

    def _begin_after_tombstone(self) -> None:
        if self._buried is not None:
            self._previous, self._expected = self._buried.digest, self._buried.seq + 1
            self._reached = self._buried.seq

    def _wrong(self, one: Entry, said: Mapping[str, Any]) -> str | None:
        if _digest(one.body) != one.digest:
            return "its text is not the one that its digest was taken of"
        if (found := said.get("seq")) != self._expected:
            return f"entry {found} stands in its place"
        if said.get("previous") != self._previous:
            return "it does not follow the entry before it"
        if differing := [name for name, value in one.beside.items() if not _same(name, said.get(name), value)]:
            return f"it is stored under another {', '.join(differing)} than it tells of"
        return self._unsigned(one)

    def _unsigned(self, one: Entry) -> str | None:
        for checkpoint in self._signed.get(self._expected, ()):
            if checkpoint.digest != one.digest:
                return f"it is not the one that was signed for on {checkpoint.ts.isoformat()}"
            self._reached = self._expected
        return None


def _seq(checkpoint: Checkpoint) -> int:
    return checkpoint.seq


def _by_org(checkpoints: Iterable[Checkpoint]) -> dict[str, list[Checkpoint]]:
    told: dict[str, list[Checkpoint]] = {}
    for one in checkpoints:
        told.setdefault(one.org_id, []).append(one)
    return told


def _said(body: bytes) -> Mapping[str, Any]:
    try:
        said = from_json(body)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _same(name: str, said: object, stored: object) -> bool:
    if name != "ts":
        return type(said) is type(stored) and said == stored
    try:
        return datetime.fromisoformat(str(said)) == datetime.fromisoformat(str(stored))
    except (ValueError, TypeError):
        return False


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _text(said: Mapping[str, object]) -> bytes:
    return json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
