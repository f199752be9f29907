"""The launcher as the control plane holds it: one process, one socket, and reports by session."""

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import enclave
from enclave.contracts.errors import Unavailable
from enclave.sandbox import wire

_BOOT: Final = (
    "import socket,sys;s=socket.socket(fileno=3);sys.path.insert(0,s.recv(4096).decode());"
    "from enclave.sandbox.boot import main;sys.path.pop(0);main(s)"
)
"""What the interpreter is started with. Where our code is comes by the socket: an argument would show in /proc."""

_ENVIRONMENT: Final = {"LANG": "C.UTF-8", "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/work"}
_START_SECONDS: Final = 30.0
_END_SECONDS: Final = 5.0

log = logging.getLogger(__name__)

Report = Mapping[str, Any]
OnReport = Callable[[Report, list[int]], None]


@dataclass(frozen=True, slots=True)
class Order:
    """A message to the launcher, and the memory file that goes with it."""

    data: bytes
    memory: int | None

    def send(self, sock: socket.socket) -> None:
        """Send it, whole or not at all. Raises BlockingIOError when there is no room."""
        socket.send_fds(sock, [self.data], [] if self.memory is None else [self.memory])

    def close(self) -> None:
        """Let go of the memory file."""
        if self.memory is not None:
            os.close(self.memory)


def _memory_file(content: bytes) -> int:
    memory = os.memfd_create("payload", os.MFD_CLOEXEC)
    try:
        while content:
            content = content[os.write(memory, content) :]
    except OSError:
        os.close(memory)
        raise
    return memory


class Connection:
    """A launcher that runs."""

    def __init__(self, process: "subprocess.Popen[bytes]", sock: socket.socket) -> None:
        self._process = process
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._waiting: deque[Order] = deque()

    @property
    def pid(self) -> int:
        """The launcher's process, the one outside its own PID namespace."""
        return self._process.pid

    def listen(self, on_report: OnReport, on_end: Callable[[], None]) -> None:
        """Call `on_report` for each report, and `on_end` once when the launcher is gone."""
        self._sock.setblocking(False)
        self._loop.add_reader(self._sock, self._read, on_report, on_end)

    def send(self, message: wire.Run | wire.Kill, payload: bytes | None = None) -> None:
        """Give an order; it waits its turn while the launcher is busy. Raises Unavailable when the launcher is gone."""
        try:
            self._waiting.append(Order(wire.encode(message), _memory_file(payload) if payload is not None else None))
            self._flush()
        except OSError as error:
            raise Unavailable("the sandbox launcher is not answering; retry shortly") from error

    async def close(self) -> None:
        """End it, and wait until it and all its sandboxes are gone."""
        self._stop_listening()
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            log.error("the sandbox launcher does not end by itself; it is killed")
            self._process.kill()
            self._process.wait()

    def _flush(self) -> None:
        while self._waiting:
            try:
                self._waiting[0].send(self._sock)
            except BlockingIOError:
                self._loop.add_writer(self._sock, self._flush_later)
                return
            self._waiting.popleft().close()
        self._loop.remove_writer(self._sock)

    def _flush_later(self) -> None:
        # An end of the launcher is told by its reader, to every session.
        with contextlib.suppress(OSError):
            self._flush()

    def _read(self, on_report: OnReport, on_end: Callable[[], None]) -> None:
        while not self._closed:
            try:
                data, fds = wire.receive(self._sock, 3)
            except BlockingIOError:
                return
            except OSError:
                data, fds = b"", []
            if not data:
                self._stop_listening()
                on_end()
                return
            on_report(wire.read_report(data), fds)

    def _stop_listening(self) -> None:
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
            self._sock.close()
            while self._waiting:
                self._waiting.popleft().close()


async def start(interpreter: str, order: wire.Configure, environment: Mapping[str, str]) -> Connection:
    """Start a launcher and wait until it stands. Raises Unavailable, saying why, if it cannot."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with theirs:
            process = _spawn(interpreter, theirs, environment_with(environment))
    except OSError as error:
        ours.close()
        raise Unavailable(f"{interpreter} cannot be started: {error.strerror}") from error
    try:
        report = await _configured(ours, order)
    except BaseException:
        _abandon(process, ours)
        raise
    if report["ev"] != "up":
        _abandon(process, ours)
        raise Unavailable(report["why"])
    return Connection(process, ours)


async def _configured(ours: socket.socket, order: wire.Configure) -> Report:
    try:
        for _ in range(2):  # it starts over once, from a place where it can write nothing
            ours.send(code_directory().encode())
        ours.send(wire.encode(order))
        return await asyncio.wait_for(asyncio.to_thread(_first_report, ours), _START_SECONDS)
    except (OSError, TimeoutError) as error:
        return {"ev": "down", "why": f"the launcher did not start: {str(error) or 'it took too long'}"}


def _abandon(process: "subprocess.Popen[bytes]", ours: socket.socket) -> None:
    ours.close()
    process.kill()
    process.wait()


def code_directory() -> str:
    """Where our own modules are, for an interpreter that is started without them."""
    return str(Path(enclave.__file__).parent.parent)


def environment_with(more: Mapping[str, str]) -> dict[str, str]:
    """The environment that a launcher is started in."""
    return {**_ENVIRONMENT, **more}


def _spawn(interpreter: str, theirs: socket.socket, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    descriptor = theirs.fileno()
    return subprocess.Popen(  # noqa: S603  our own interpreter, our own text
        [interpreter, "-I", "-S", "-c", _BOOT.replace("fileno=3", f"fileno={descriptor}")],
        pass_fds=[descriptor],
        env=environment,
        cwd="/",
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


def _first_report(sock: socket.socket) -> Report:
    data, _ = wire.receive(sock, 0)
    if not data:
        raise ConnectionError("it ended at once")
    return wire.read_report(data)


def close_all(fds: list[int]) -> None:
    """Close descriptors nobody wants."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
