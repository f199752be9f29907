"""What a driver does for whoever renews the sign-in: hold the lock, and let nothing cut the renewal short."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from enclave.sdk.sign_in import Held, SignIn, SignInFile

T = TypeVar("T")


class Claimed:
    """What one flow holds of the sign-in that is kept here."""

    def __init__(self, file: SignInFile) -> None:
        self._file = file
        self._lock: int | None = None

    def claim(self) -> Held | None:
        """Take it, and say what is kept; None while another has it."""
        self._lock = self._file.claim()
        return None if self._lock is None else self._file.held()

    def keep(self, sign_in: SignIn | None) -> None:
        """Replace it."""
        self._file.keep(sign_in)

    def release(self) -> None:
        """Let others have it."""
        if self._lock is not None:
            self._file.release(self._lock)
        self._lock = None


def unbroken(work: Callable[[], T]) -> T:
    """Do it in a thread of its own, so that no Ctrl-C ends it half-way; it is waited for even then."""
    with ThreadPoolExecutor(1, "enclave-sign-in") as thread:
        return thread.submit(work).result()


async def unbroken_task(work: Coroutine[Any, Any, T]) -> T:
    """The same on the event loop, where it is a cancellation that ends things half-way."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        raise
