"""A process of ours as the control plane holds it: one process, one socket, orders one way and reports the other."""

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import enclave
from enclave.contracts.errors import Unavailable
from enclave.sandbox import wire

_BOOT: Final = (
    "import socket,sys;s=socket.socket(fileno=FD);sys.path.insert(0,s.recv(4096).decode());"
    "from MODULE import main;sys.path.pop(0);main(s)"
)
"""What the interpreter is started with. Where our code is comes by the socket: an argument would show in /proc."""

_ENVIRONMENT: Final = {"LANG": "C.UTF-8", "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/work"}
_START_SECONDS: Final = 30.0
_END_SECONDS: Final = 5.0
_MOST_FDS: Final = 4

log = logging.getLogger(__name__)

Report = Mapping[str, Any]
OnReport = Callable[[Report, list[int]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to start: a module of ours with a `main`, on an interpreter with these options.

    `name` is what it is called to people; `starts` how often it begins anew, and asks anew where our code is.
    """

    name: str
    module: str
    interpreter: str
    options: tuple[str, ...] = ("-I", "-S")
    environment: Mapping[str, str] = field(default_factory=dict)
    starts: int = 1


@dataclass(frozen=True, slots=True)
class Order:
    """A message, and the descriptors that go with it, which it owns."""

    data: bytes
    fds: tuple[int, ...]

    def send(self, sock: socket.socket) -> None:
        """Send it, whole or not at all. Raises BlockingIOError when there is no room."""
        socket.send_fds(sock, [self.data], self.fds)

    def close(self) -> None:
        """Let go of the descriptors."""
        close_all(self.fds)


def memory_file(content: bytes) -> int:
    """A memory file with that content, as a descriptor. Raises OSError."""
    memory = os.memfd_create("payload", os.MFD_CLOEXEC)
    try:
        while content:
            content = content[os.write(memory, content) :]
    except OSError:
        os.close(memory)
        raise
    return memory


class Connection:
    """A process of ours that runs."""

    def __init__(self, name: str, process: "subprocess.Popen[bytes]", sock: socket.socket) -> None:
        self._name = name
        self._process = process
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._waiting: deque[Order] = deque()

    @property
    def pid(self) -> int:
        """The process, of a launcher the one outside its own PID namespace."""
        return self._process.pid

    def listen(self, on_report: OnReport, on_end: Callable[[], None]) -> None:
        """Call `on_report` for each report, and `on_end` once when it is gone."""
        self._sock.setblocking(False)
        self._loop.add_reader(self._sock, self._read, on_report, on_end)

    def send(self, data: bytes, payload: bytes | None = None, fds: Sequence[int] = ()) -> None:
        """Give an order; it waits its turn while the other side is busy. It takes the descriptors over in any case.

        Raises Unavailable when the other side is gone.
        """
        try:
            memory = () if payload is None else (memory_file(payload),)
        except OSError as error:
            close_all(fds)
            raise Unavailable(f"the {self._name} cannot be told: {error.strerror}") from error
        self._waiting.append(Order(data, (*memory, *fds)))
        try:
            self._flush()
        except OSError as error:
            raise Unavailable(f"the {self._name} is not answering; retry shortly") from error

    def kill(self) -> None:
        """End it as it stands; its end is told as any other."""
        self._process.kill()

    async def close(self) -> None:
        """End it, and wait until it and all its sandboxes are gone."""
        self._stop_listening()
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            log.error("the %s does not end by itself; it is killed", self._name)
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
        # An end of the other side is told by its reader, to every session.
        with contextlib.suppress(OSError):
            self._flush()

    def _read(self, on_report: OnReport, on_end: Callable[[], None]) -> None:
        while not self._closed:
            try:
                data, fds = wire.receive(self._sock, _MOST_FDS)
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


async def start(program: Program, order: bytes) -> Connection:
    """Start a process, give it its first order, and wait until it stands. Raises Unavailable, saying why."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with theirs:
            process = _spawn(program, theirs)
    except OSError as error:
        ours.close()
        raise Unavailable(f"{program.interpreter} cannot be started: {error.strerror}") from error
    try:
        report = await _configured(program, ours, order)
    except BaseException:
        _abandon(process, ours)
        raise
    if report["ev"] != "up":
        _abandon(process, ours)
        raise Unavailable(report["why"])
    return Connection(program.name, process, ours)


async def _configured(program: Program, ours: socket.socket, order: bytes) -> Report:
    try:
        for _ in range(program.starts):
            ours.send(code_directory().encode())
        ours.send(order)
        return await asyncio.wait_for(asyncio.to_thread(_first_report, ours), _START_SECONDS)
    except (OSError, TimeoutError) as error:
        return {"ev": "down", "why": f"the {program.name} did not start: {str(error) or 'it took too long'}"}


def _abandon(process: "subprocess.Popen[bytes]", ours: socket.socket) -> None:
    ours.close()
    process.kill()
    process.wait()


def code_directory() -> str:
    """Where our own modules are, for an interpreter that is started without them."""
    return str(Path(enclave.__file__).parent.parent)


def environment_with(more: Mapping[str, str]) -> dict[str, str]:
    """The environment that such a process is started in."""
    return {**_ENVIRONMENT, **more}


def _spawn(program: Program, theirs: socket.socket) -> "subprocess.Popen[bytes]":
    text = _BOOT.replace("FD", str(theirs.fileno()), 1).replace("MODULE", program.module, 1)
    return subprocess.Popen(  # noqa: S603  our own interpreter, our own text
        [program.interpreter, *program.options, "-c", text],
        pass_fds=[theirs.fileno()],
        env=environment_with(program.environment),
        cwd="/",
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


def _first_report(sock: socket.socket) -> Report:
    data, _ = wire.receive(sock, 0)
    if not data:
        raise ConnectionError("it ended at once")
    return wire.read_report(data)


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors nobody wants."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
