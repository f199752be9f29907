"""The connections that read, past the one thread that writes."""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Final, TypeVar

from pydantic import ValidationError

from enclave.contracts.errors import Unavailable

READERS: Final = 2

T = TypeVar("T")


class Readers:
    """Read-only connections, lent one at a time to a few threads."""

    def __init__(self, path: Path) -> None:
        self._threads = ThreadPoolExecutor(READERS, "enclave-store-reader")
        self._free: SimpleQueue[sqlite3.Connection] = SimpleQueue()
        for _ in range(READERS):
            self._free.put(_readable(path))

    async def run(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """What a query finds. Raises Unavailable."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._lend, query)

    def close(self) -> None:
        """Release the connections."""
        self._threads.shutdown()
        while not self._free.empty():
            self._free.get().close()

    def _lend(self, query: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._free.get()
        try:
            return query(connection)
        except sqlite3.Error as error:
            raise Unavailable("the database cannot be read") from error
        except ValidationError as error:
            # Not by us: what is written was valid. What it said is not repeated.
            raise Unavailable(f"the database has a damaged {error.title}") from error
        finally:
            self._free.put(connection)


def _readable(path: Path) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA busy_timeout = 5000")
    return connection
