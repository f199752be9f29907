"""How fast an audit trail is proved without a server."""

import asyncio
import io
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from bench.figure import Figure
from enclave.contracts.audit import GENESIS, EgressDenied
from enclave.core.audit import link
from enclave.core.proof import Finding
from enclave.store.examination import export, exported, stored, verify
from enclave.store.sqlite import SqliteStore

_BAR = 100_000


def measure(entries: int) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as home:
        database = Path(home) / "enclave.db"
        asyncio.run(_empty(database))
        _fill(database, entries)
        lines = b"".join(export(stored(database)))
        yield _rate("entries verified in a database", entries, lambda: list(verify(stored(database), None, None)))
        yield _rate(
            "entries verified in an export", entries, lambda: list(verify(exported(io.BytesIO(lines)), None, None))
        )


async def _empty(database: Path) -> None:
    await SqliteStore.open(database).close()


def _fill(database: Path, entries: int) -> None:
    """One org's chain, as the store's writer makes it."""
    event = EgressDenied(
        ts=datetime.now(UTC),
        org_id="org_a",
        session_id=None,
        actor="platform",
        target="198.51.100.7:443",
        protocol="tcp",
        name=None,
        rule=None,
        reason="no rule allows it",
        count=1,
    )
    rows, previous = [], GENESIS
    for seq in range(1, entries + 1):
        placed, body = link(event, seq=seq, previous=previous)
        rows.append(
            (placed.org_id, seq, None, placed.type, placed.ts.isoformat(), body.decode(), previous, placed.digest)
        )
        previous = placed.digest
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.executemany("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)


def _rate(what: str, entries: int, act: Callable[[], list[Finding]]) -> Figure:
    began = time.perf_counter()
    (found,) = act()
    rate = entries / (time.perf_counter() - began)
    if found.flaw is not None or found.entries != entries:
        raise AssertionError(found)
    return Figure(what, f"{rate:,.0f}/s", bar=f"{_BAR:,}/s", holds=rate >= _BAR)
