"""One program in its sandbox, seen from the control plane: descriptors to read and reports to wait for."""

import asyncio
import functools
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from enclave.backends.base import Exit, Output, SandboxLost, Told
from enclave.backends.local.channel import ResultChannel
from enclave.contracts.sessions import KillReason, Usage

_CHUNK: Final = 65536
_NULL: Final = "/dev/null"
_SETTLE_READS: Final = 64
"""How often a pipe is read once its program has ended: more than a pipe holds, so that nothing written is lost, and
bounded, so that a straggler that is being killed cannot keep us here."""

_MOMENT_SECONDS: Final = 0.002

Stream = Literal["stdout", "stderr"]


class Drain:
    """Reads one stream up to its limit and throws away the rest without looking at it."""

    def __init__(self, stream: Stream, fd: int, limit: int) -> None:
        self.stream = stream
        self.fd = fd
        self.dropped = False
        self._left = limit

    def read(self) -> bytes | None:
        """What is there to keep; None at the end of the stream. Raises BlockingIOError when there is nothing."""
        if self._left == 0:
            return self._discard()
        data = os.read(self.fd, _CHUNK)
        if not data:
            return None
        kept, self._left = data[: self._left], max(0, self._left - len(data))
        self.dropped = self.dropped or len(kept) < len(data)
        return kept

    def _discard(self) -> bytes | None:
        if not discard(self.fd):
            return None
        self.dropped = True
        return b""


def discard(fd: int) -> bool:
    """Throw away what is in a pipe, in the kernel, so that a program that floods costs us no copy; False at its end."""
    return os.splice(fd, _null(), _CHUNK, flags=os.SPLICE_F_NONBLOCK) > 0


@functools.cache
def _null() -> int:
    return os.open(_NULL, os.O_WRONLY | os.O_CLOEXEC)


@dataclass(slots=True)
class _Piece:
    stream: Stream
    data: bytearray


class LocalWorkload:
    """A running program."""

    def __init__(self, output_limit: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit = output_limit
        self._drains: list[Drain] = []
        self._channel = ResultChannel()
        self._channel_fd = -1
        self._told: deque[_Piece | Told] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._gathering: asyncio.TimerHandle | None = None
        self._exit: asyncio.Future[Exit] = self._loop.create_future()
        self.left_files = False

    def attach(self, stdout: int, stderr: int, result: int) -> None:
        """Start reading; the descriptors are owned here from now on."""
        self._drains = [Drain("stdout", stdout, self._limit), Drain("stderr", stderr, self._limit)]
        self._channel_fd = result
        for fd in (stdout, stderr, result):
            os.set_blocking(fd, False)
        for drain in self._drains:
            self._loop.add_reader(drain.fd, self._pump, drain)
        self._loop.add_reader(result, self._take_result)

    def end(self, report: Mapping[str, Any], *, left_files: bool = False) -> None:
        """The launcher reported how it ended: take what is left, and close."""
        self.left_files = left_files
        dropped = {drain.stream for drain in self._settle() if drain.dropped}
        value, value_error = self._channel.close()
        self._resolve(replace(_to_exit(report, value, value_error, dropped), left_files=left_files))

    def lose(self, why: str) -> None:
        """Nobody will report any more."""
        self._settle()
        if not self._exit.done():
            self._exit.set_exception(SandboxLost(why))
            self._exit.exception()  # seen here: whoever asks later still gets it
        self._awake()

    def tell(self, told: Told) -> None:
        """It attempted something."""
        self._told.append(told)
        self._awake()

    async def output(self) -> AsyncIterator[Told]:
        """What it prints and attempts, until it is over."""
        while True:
            while self._told:
                piece = self._told.popleft()
                yield Output(piece.stream, bytes(piece.data)) if isinstance(piece, _Piece) else piece
            if self._exit.done():
                return
            self._wake = self._loop.create_future()
            await self._wake

    async def wait(self) -> Exit:
        """How it ended. Raises SandboxLost."""
        return await asyncio.shield(self._exit)

    def _resolve(self, ended: Exit) -> None:
        if not self._exit.done():
            self._exit.set_result(ended)
        self._awake()

    def _awake(self) -> None:
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _pump(self, drain: Drain) -> bool:
        """Take one chunk; False when there is nothing now or nothing more."""
        try:
            data = drain.read()
        except BlockingIOError:
            return False
        if data is None:
            self._loop.remove_reader(drain.fd)
            return False
        if data:
            self._gather(drain.stream, data)
        return True

    def _gather(self, stream: Stream, data: bytes) -> None:
        # `print` writes a line and its end one after the other; what comes within a moment is one piece.
        last = self._told[-1] if self._told else None
        if isinstance(last, _Piece) and last.stream == stream:
            last.data.extend(data)
        else:
            self._told.append(_Piece(stream, bytearray(data)))
        if self._gathering is None:
            self._gathering = self._loop.call_later(_MOMENT_SECONDS, self._awake)

    def _take_result(self) -> bool:
        try:
            if self._channel.closed:
                return discard(self._channel_fd)
            data = os.read(self._channel_fd, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self._loop.remove_reader(self._channel_fd)
            return False
        self._channel.feed(data)
        return True

    def _settle(self) -> list[Drain]:
        settled = self._drains
        for drain in settled:
            drain.dropped |= _repeat(functools.partial(self._pump, drain))
            self._loop.remove_reader(drain.fd)
            os.close(drain.fd)
        if self._channel_fd >= 0:
            _repeat(self._take_result)
            self._loop.remove_reader(self._channel_fd)
            os.close(self._channel_fd)
        self._drains, self._channel_fd = [], -1
        return settled


def _repeat(step: Callable[[], bool]) -> bool:
    """Repeat while there is something, a bounded number of times; True if there was still more."""
    return all(step() for _ in range(_SETTLE_READS))


def _to_exit(report: Mapping[str, Any], value: bytes | None, value_error: str | None, dropped: set[Stream]) -> Exit:
    code, reason = report["code"], report["reason"]
    signal = -code if code is not None and code < 0 else None
    return Exit(
        code=128 + signal if signal is not None else code,
        signal=signal,
        kill_reason=KillReason(reason) if reason else None,
        value=value,
        value_error=value_error,
        duration_seconds=report["seconds"],
        usage=Usage(cpu_seconds=report["cpu"], peak_memory_bytes=report["memory"], peak_pids=report["tasks"]),
        output_dropped=frozenset(dropped),
    )
