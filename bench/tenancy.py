"""What many orgs cost one: a million sessions of a thousand orgs beside one org's thousand, asked in turn.

The rows are those that the store itself writes for one session, with another id, org, label and place in the chain in
each; every session has its four events, and the chains hold. What is left out: all have the moments of the first, and
everything is in the machine's page cache. `python -m bench.tenancy` runs it alone.
"""

import argparse
import asyncio
import hashlib
import random
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

from bench.caller import Caller
from bench.figure import Figure, Times, rounds, show, timed
from enclave.contracts.audit import GENESIS, AuditEvent
from enclave.contracts.identity import Role
from enclave.contracts.policy import EgressPolicy, Language, SessionLimits
from enclave.contracts.sessions import Phase, Session, SessionResult
from enclave.core.session import Finished, Outcome, Started, advance, created
from enclave.identity.apikey import ApiKey, new_api_key
from enclave.identity.home import private_home, secrets_of
from enclave.identity.service import DATABASE as IDENTITY
from enclave.identity.service import Identity
from enclave.orchestrator.identifier import session_ids
from enclave.proof import DATABASE
from enclave.serve import embedded
from enclave.store.base import Filter
from enclave.store.sqlite import SqliteStore

BAR: Final = 1.5
BAR_MS: Final = 0.3
ORGS: Final = 1000
KEYS_OF_ORG: Final = 100
PAGE: Final = 50
WARM: Final = 50
"""Turns that are not counted."""
TEAMS: Final = 10
FAILING: Final = 20
"""Each session in so many fails."""

_AT: Final = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
_ORG, _ID, _TEAM = "org_placeholder", f"ses_{'z' * 26}", "the-team"


@dataclass(frozen=True)
class Scale:
    """How much there is of everything."""

    orgs: int
    sessions: int
    keys: int


SMALL: Final = Scale(1, 1000, KEYS_OF_ORG)


def large(sessions: int) -> Scale:
    """As many orgs as give each a thousand sessions, and a thousand at most."""
    orgs = max(1, min(ORGS, sessions // SMALL.sessions))
    return Scale(orgs, sessions, orgs * KEYS_OF_ORG)


@dataclass(frozen=True)
class Rows:
    """What the store wrote of one session."""

    session: tuple[str | None, ...]
    labels: list[tuple[str, ...]]
    events: list[tuple[str, str, str, str]]


@dataclass(frozen=True)
class Full:
    """A home that is full: its orgs, the sessions of each, and the keys, of all orgs in turn."""

    home: Path
    orgs: list[str]
    sessions: dict[str, list[str]]
    keys: list[str]


@dataclass(frozen=True)
class Parts:
    """What is asked of a full home, in this process."""

    full: Full
    store: SqliteStore
    identity: Identity


async def written(path: Path, code: int) -> Rows:
    """The rows of a session that ends with this exit code, as the store writes them."""
    store = SqliteStore.open(path)
    session = Session(
        id=_ID, org_id=_ORG, created_by="usr_0123456789abcdef", phase=Phase.PENDING, language=Language.PYTHON,
        limits=SessionLimits(
            memory_mib=256, wall_clock_seconds=30, cpu_seconds=30, cpus=1, pids=64, disk_mib=64, output_kib=1024
        ),
        egress=EgressPolicy(), backend="local", labels={"team": _TEAM, "job": "nightly"}, created_at=_AT,
    )  # fmt: skip
    await store.commit(created(session, "print('hi')"))
    outcomes: tuple[Outcome, ...] = (
        Started("local"),
        Finished(SessionResult(exit_code=code, stdout="hi\n", result={"n": 1}, duration_ms=3.2), None, b'{"n":1}'),
    )
    for outcome in outcomes:
        change = advance(session, outcome, at=_AT, actor="platform")
        await store.commit(change)
        session = change.session
    await store.close()
    with closing(sqlite3.connect(path)) as database:
        (row,) = database.execute("SELECT * FROM sessions")
        labels = database.execute("SELECT org_id, name, value, session_id FROM labels").fetchall()
        events = database.execute("SELECT type, ts, body, previous FROM audit ORDER BY seq").fetchall()
    return Rows(row, labels, events)


class Chain:
    """The end of an org's chain."""

    def __init__(self) -> None:
        self.seq, self.digest = 0, GENESIS

    def add(self, kind: str, ts: str, body: str, session: str) -> tuple[Any, ...]:
        """The row of the next event."""
        self.seq, previous = self.seq + 1, self.digest
        self.digest = hashlib.sha256(body.encode()).hexdigest()
        return (self.seq, session, kind, ts, body, previous, self.digest)


def sessions(scale: Scale) -> Iterator[tuple[int, str, int]]:
    """Each session's org, id and number: of all orgs in turn, as they come."""
    ids = session_ids(lambda: datetime.now(UTC))
    for number, session in enumerate(islice(ids, scale.sessions)):
        yield number % scale.orgs, session, number // scale.orgs


def fill_store(path: Path, scale: Scale, orgs: list[str]) -> dict[str, list[str]]:
    """Put the sessions there; the ids of each org's."""
    kinds = [asyncio.run(written(path.with_name(f"{code}.db"), code)) for code in (0, 1)]
    asyncio.run(SqliteStore.open(path).close())
    made: dict[str, list[str]] = {org: [] for org in orgs}
    chains = [Chain() for _ in orgs]
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA synchronous = OFF")
        every = sessions(scale)
        for _ in rounds(-(-scale.sessions // 5000), f"{scale.sessions} sessions"):
            database.execute("BEGIN")
            for place, session, number in islice(every, 5000):
                made[orgs[place]].append(session)
                rows = kinds[number % FAILING == FAILING - 1]
                put(database, rows, (orgs[place], session, f"team-{number % TEAMS}"), chains[place])
            database.execute("COMMIT")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return made


def put(database: sqlite3.Connection, rows: Rows, names: tuple[str, str, str], chain: Chain) -> None:
    """Write one session."""
    org, session, team = names

    def named(text: str | None) -> str | None:
        return text and text.replace(_ORG, org).replace(_ID, session).replace(_TEAM, team)

    database.execute("INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?)", [named(value) for value in rows.session])
    database.executemany(
        "INSERT INTO labels VALUES (?, ?, ?, ?)", [[named(value) for value in label] for label in rows.labels]
    )
    for first, (kind, ts, body, previous) in enumerate(rows.events, 1):
        placed = str(named(body)).replace(f'"previous":"{previous}"', f'"previous":"{chain.digest}"')
        placed = placed.replace(f'"seq":{first},', f'"seq":{chain.seq + 1},')
        database.execute(
            "INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (org, *chain.add(kind, ts, placed, session))
        )


def fill_identity(home: Path, scale: Scale) -> tuple[list[str], list[str]]:
    """Orgs with an owner each, made by the authority itself, and keys; the orgs and the keys."""
    private_home(home)
    pepper = secrets_of(home).api_key_pepper.encode()
    with closing(Identity.open(home, _nowhere, now=lambda: _AT).authority) as authority:
        owners = [authority.owner(f"owner{number}@example.org") for number in range(scale.orgs)]
    keys: list[ApiKey] = [new_api_key() for _ in range(scale.keys)]
    rows = []
    for number, key in enumerate(keys):
        owner = owners[number % scale.orgs]
        rows.append((key.id, key.hash(pepper), "bench", owner.org_id, owner.user_id, Role.OWNER, _AT.isoformat()))
    with closing(sqlite3.connect(home / IDENTITY)) as database, database:
        database.executemany(
            "INSERT INTO api_keys (id, hash, name, org_id, user_id, role, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
            rows,
        )
    return [owner.org_id for owner in owners], [str(key) for key in keys]


async def _nowhere(key: str, event: AuditEvent) -> None:
    pass


def fill(home: Path, scale: Scale) -> Full:
    """Fill a home."""
    orgs, keys = fill_identity(home, scale)
    return Full(home, orgs, fill_store(home / DATABASE, scale, orgs), keys)


@contextmanager
def opened(full: Full) -> Iterator[Parts]:
    """The parts of a home."""
    identity = Identity.open(full.home, _nowhere, now=lambda: datetime.now(UTC))
    yield Parts(full, SqliteStore.open(full.home / DATABASE), identity)
    identity.close()


Act = Callable[[Parts, random.Random], Awaitable[object]]


def _found(wanted: Filter) -> Act:
    async def find(parts: Parts, dice: random.Random) -> None:
        found = await parts.store.find(dice.choice(parts.full.orgs), wanted, limit=PAGE)
        if len(found) != PAGE:
            raise SystemExit(f"a page of {PAGE} has {len(found)}")

    return find


async def _got(parts: Parts, dice: random.Random) -> None:
    await parts.store.get(*_one(parts.full, dice))


async def _told(parts: Parts, dice: random.Random) -> None:
    if len(await parts.store.trail(*_one(parts.full, dice))) != 4:
        raise SystemExit("a trail is not whole")


async def _authenticated(parts: Parts, dice: random.Random) -> None:
    parts.identity.authority.forget()
    await parts.identity.authority.authenticate(dice.choice(parts.full.keys))


def _one(full: Full, dice: random.Random) -> tuple[str, str]:
    org = dice.choice(full.orgs)
    return org, dice.choice(full.sessions[org])


ACTS: Final[dict[str, Act]] = {
    "list": _found(Filter()),
    "list, those that failed": _found(Filter(phase=Phase.FAILED)),
    "list, those with a label": _found(Filter(labels={"team": "team-3"})),
    "list, with two labels": _found(Filter(labels={"job": "nightly", "team": "team-3"})),
    "get": _got,
    "trail": _told,
    "a key that is not remembered": _authenticated,
}
PATHS: Final[dict[str, str]] = {
    "list, over HTTP": "/sessions",
    "list, those that failed, over HTTP": "/sessions?phase=failed",
    "list, those with a label, over HTTP": "/sessions?label=team:team-3",
    "get, over HTTP": "/sessions/{id}",
}


async def compare(few: Full, many: Full, count: int) -> list[Figure]:
    """What each act costs with many beside what it costs with few."""
    figures = []
    with opened(few) as less, opened(many) as more:
        for what, act in ACTS.items():
            dice, times = random.Random(0), Both()
            for turn in range(count + WARM):
                for place, parts in times.in_turn(turn, less, more):
                    began = time.perf_counter()
                    await act(parts, dice)
                    times.note(turn, place, began)
            figures.append(times.figure(what))
        await less.store.close()
        await more.store.close()
    return figures


def compare_served(few: Full, many: Full, count: int) -> Iterator[Figure]:
    """The same over HTTP, of a server on each home, each request with the key of an org."""
    with embedded(few.home) as one, embedded(many.home) as other:
        callers = Caller(one), Caller(other)
        for what, path in PATHS.items():
            dice, times = random.Random(0), Both()
            for turn in range(count + WARM):
                for place, full in times.in_turn(turn, few, many):
                    number = dice.randrange(len(full.keys))
                    session = dice.choice(full.sessions[full.orgs[number % len(full.orgs)]])
                    asking = callers[place].calling_with(full.keys[number])
                    began = time.perf_counter()
                    answer = asking.send("GET", path.format(id=session))
                    times.note(turn, place, began)
                    if len(answer.get("items", ())) != PAGE and answer.get("id") != session:
                        raise SystemExit(f"{path}: {answer}")
            yield times.figure(what)
        for caller in callers:
            caller.close()


T = TypeVar("T")


class Both:
    """The times of few and of many, taken in turn."""

    def __init__(self) -> None:
        self._times: tuple[list[float], list[float]] = ([], [])

    def in_turn(self, turn: int, few: T, many: T) -> Iterable[tuple[int, T]]:
        """Each with its place, now the one first and now the other."""
        pairs = ((0, few), (1, many))
        return pairs if turn % 2 else pairs[::-1]

    def note(self, turn: int, place: int, began: float) -> None:
        """One took from then to now."""
        if turn >= WARM:
            self._times[place].append((time.perf_counter() - began) * 1000)

    def figure(self, what: str) -> Figure:
        """The line of the table."""
        less, more = Times(self._times[0]), Times(self._times[1])
        ratio = more.p(50) / less.p(50)
        return Figure(what, str(more), f"{SMALL.sessions}: {less}", ratio, f"{BAR} of {SMALL.sessions}", ratio <= BAR)


def credential_cost(count: int) -> Iterator[Figure]:
    """`GET /whoami` with a key that is remembered, beside `GET /healthz`, which asks for none: on one connection, in
    turn. The first also makes a longer answer, so what it takes more is the most that the key can cost."""
    with tempfile.TemporaryDirectory() as home, embedded(Path(home)) as credential:
        caller = Caller(credential)
        times: dict[str, list[float]] = {"/whoami": [], "/healthz": []}
        for turn in range(count + WARM):
            for path, kept in times.items():
                took = timed(partial(caller.send, "GET", path), time.perf_counter)
                kept += [took] if turn >= WARM else []
        caller.close()
    ours, bare = Times(times["/whoami"]), Times(times["/healthz"])
    more = ours.p(50) - bare.p(50)
    bar = f"{BAR_MS} ms more"
    yield Figure("a request with a key", str(ours), f"without: {bare}; {more:+.3f} ms", bar=bar, holds=more <= BAR_MS)


def measure(count: int, turns: int) -> Iterator[Figure]:
    """All of it; `count` sessions, and so many turns of each act."""
    yield from credential_cost(turns)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        few, many = fill(Path(one), SMALL), fill(Path(other), large(count))
        yield from asyncio.run(compare(few, many, turns))
        yield from compare_served(few, many, turns)


def main() -> None:
    """Measure this alone."""
    parser = argparse.ArgumentParser(prog="python -m bench.tenancy", description=__doc__)
    parser.add_argument("--sessions", type=int, default=1_000_000)
    parser.add_argument("--turns", type=int, default=1000)
    asked = parser.parse_args()
    show(measure(asked.sessions, asked.turns))


if __name__ == "__main__":
    main()
