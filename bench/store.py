"""What the stores alone can write: whole lives of sessions, each change durable before the next is made.

`python -m bench.store` measures both side by side; PostgreSQL is a server of its own, with fsync on.
"""

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tests.postgres import Server, binaries

from bench.figure import Figure, Times, show
from enclave.contracts.policy import EgressPolicy, Language, SessionLimits
from enclave.contracts.sessions import Phase, Session, SessionResult
from enclave.core.session import Finished, Outcome, Started, TornDown, advance, created
from enclave.store.base import Store
from enclave.store.postgres.store import PostgresStore
from enclave.store.sqlite import SqliteStore

ORGS: Final = 8
AT_ONCE: Final = 64
BAR: Final = 1000
"""Sessions a second."""

_AT: Final = datetime(2026, 1, 2, tzinfo=UTC)
_LIFE: Final[tuple[Outcome, ...]] = (
    Started("local"),
    Finished(SessionResult(exit_code=0, result=42, stdout="hello\n"), result_json=b"42"),
    TornDown(),
)


async def live(store: Store, number: int) -> None:
    """A session from its creation until it is torn down: 8 rows, 5 of them events, in 4 commits."""
    session = Session(
        id=f"ses_{number:026d}",
        org_id=f"org_{number % ORGS}",
        created_by="bench",
        phase=Phase.PENDING,
        language=Language.PYTHON,
        limits=SessionLimits(),
        egress=EgressPolicy(),
        backend="local",
        labels={"team": "a", "job": "b"},
        created_at=_AT,
    )
    await store.commit(created(session, "print('hello')"))
    for outcome in _LIFE:
        change = advance(session, outcome, at=_AT, actor="bench")
        await store.commit(change)
        session = change.session


async def measured(name: str, store: Store, count: int) -> list[Figure]:
    """One store's figures; closes it."""
    numbers = iter(range(1, 10**9))
    alone = Times([await _timed(store, next(numbers)) for _ in range(count // 20)])
    upto = next(numbers) + count

    async def work() -> None:
        while (number := next(numbers)) < upto:
            await live(store, number)

    began, used = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    seconds, processor = time.perf_counter() - began, time.process_time() - used
    await store.close()
    rate = count / seconds
    beside = f"{processor / count * 1e6:.0f} µs of our processor each"
    return [
        Figure(f"{name}: one session after another", str(alone), "4 durable commits each"),
        Figure(f"{name}: {AT_ONCE} at once", f"{rate:.0f} sessions/s", beside, bar=f"≥ {BAR}/s", holds=rate >= BAR),
    ]


async def _timed(store: Store, number: int) -> float:
    began = time.perf_counter()
    await live(store, number)
    return (time.perf_counter() - began) * 1000


def measure(scale: float = 1.0) -> Iterator[Figure]:
    """Both stores' figures; of PostgreSQL only where it is installed."""
    count = max(200, int(4000 * scale))
    with tempfile.TemporaryDirectory() as folder:
        yield from _run(lambda: _sqlite(Path(folder), count))
    if (programs := binaries()) is not None:
        server = Server(programs, quick=False)
        try:
            server.start()
            yield from _run(lambda: _postgres(server, count))
        finally:
            server.remove()


def _run(make: Callable[[], object]) -> list[Figure]:
    import uvloop

    figures: list[Figure] = uvloop.run(make())  # type: ignore[arg-type]
    return figures


async def _sqlite(folder: Path, count: int) -> list[Figure]:
    return await measured("SQLite", SqliteStore.open(folder / "enclave.db"), count)


async def _postgres(server: Server, count: int) -> list[Figure]:
    return await measured("PostgreSQL", await PostgresStore.open(server.url(), "bench"), count)


if __name__ == "__main__":
    show(measure())
