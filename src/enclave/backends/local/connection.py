"""The launcher as the control plane holds it: one process, one socket, and reports by session."""

import asyncio
import contextlib
import os
import socket
import subprocess
from collections.abc import Callable, Mapping
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

Report = Mapping[str, Any]
OnReport = Callable[[Report, list[int]], None]


class Connection:
    """A launcher that runs."""

    def __init__(self, process: "subprocess.Popen[bytes]", sock: socket.socket) -> None:
        self._process = process
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._closed = False

    def listen(self, on_report: OnReport, on_end: Callable[[], None]) -> None:
        """Call `on_report` for each report, and `on_end` once when the launcher is gone."""
        self._sock.setblocking(False)
        self._loop.add_reader(self._sock, self._read, on_report, on_end)

    def send(self, message: wire.Run | wire.Kill, payload: bytes | None = None) -> None:
        """Give an order. Raises Unavailable when the launcher cannot take it."""
        try:
            if payload is None:
                self._sock.send(wire.encode(message))
            else:
                self._send_with(wire.encode(message), payload)
        except OSError as error:
            raise Unavailable("the sandbox launcher is not answering; retry shortly") from error

    async def close(self) -> None:
        """End it, and wait until it and all its sandboxes are gone."""
        self._stop_listening()
        await asyncio.to_thread(self._process.wait)

    def _send_with(self, data: bytes, payload: bytes) -> None:
        memory = os.memfd_create("payload", os.MFD_CLOEXEC)
        try:
            while payload:
                payload = payload[os.write(memory, payload) :]
            socket.send_fds(self._sock, [data], [memory])
        finally:
            os.close(memory)

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
            self._sock.close()


async def start(interpreter: str, order: wire.Configure) -> Connection:
    """Start a launcher and wait until it stands. Raises Unavailable, saying why, if it cannot."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = _spawn(interpreter, theirs)
    try:
        ours.send(str(Path(enclave.__file__).parent.parent).encode())
        ours.send(wire.encode(order))
        report = await asyncio.wait_for(asyncio.to_thread(_first_report, ours), _START_SECONDS)
    except (OSError, TimeoutError) as error:
        report = {"ev": "down", "why": f"the launcher did not start: {error}"}
    if report["ev"] != "up":
        ours.close()
        process.kill()
        process.wait()
        raise Unavailable(f"no sandbox can be made on this machine: {report['why']}; see `enclave doctor`")
    return Connection(process, ours)


def _spawn(interpreter: str, theirs: socket.socket) -> "subprocess.Popen[bytes]":
    descriptor = theirs.fileno()
    return subprocess.Popen(  # noqa: S603  our own interpreter, our own text
        [interpreter, "-I", "-S", "-c", _BOOT.replace("fileno=3", f"fileno={descriptor}")],
        pass_fds=[descriptor],
        env=_ENVIRONMENT,
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
