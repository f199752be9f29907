"""A server in this process, or in a child of it.

`python -m enclave.serve` is the child's entry: it writes the credential as one line of JSON when it is ready, and it
ends when its standard input closes, so that it never outlives whoever started it.
"""

import argparse
import asyncio
import contextlib
import fcntl
import gc
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import IO, Any, Final

import uvicorn

from enclave.config import VARIABLES, IdentitySettings, Settings
from enclave.contracts.errors import EnclaveError, Unavailable
from enclave.contracts.identity import Credential
from enclave.contracts.wire import build_types
from enclave.server.protocol import BoundedProtocol
from enclave.system import IdentitySystem, System, base_url, open_identity, open_system
from enclave.telemetry.log import open_log

GRACE_SECONDS: Final = 1
"""How long an answer that is being written may take when the server ends."""

_SWITCH_SECONDS: Final = 0.0002
_START_SECONDS: Final = 60
_STOP_SECONDS: Final = 5
_BACKLOG: Final = 2048

Ready = Callable[[str, Credential | None], None]
"""Told where the server is, and the credential that it left in its home, if it leaves one."""
End = Callable[[], Coroutine[None, None, None]]


class Server(uvicorn.Server):
    """Uvicorn's server, which ends first what would hold its answers open, such as sessions."""

    def __init__(self, config: uvicorn.Config, end: End, ready: Callable[["Server"], None]) -> None:
        super().__init__(config)
        self._end = end
        self._ready = ready
        self._loop = asyncio.get_running_loop()
        self._ending: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections, and say so."""
        await super().startup(sockets)
        _settle_interpreter()
        self._ready(self)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End, by a signal."""
        super().handle_exit(sig, frame)
        # Uvicorn would raise the signal again when all is over, and die of it.
        self._captured_signals.clear()
        self._loop.call_soon_threadsafe(self._begin_end)

    def stop(self) -> None:
        """End, by a call from any thread."""
        self.should_exit = True
        self._loop.call_soon_threadsafe(self._begin_end)

    def _begin_end(self) -> None:
        if self._ending is None:
            self._ending = self._loop.create_task(self._end())


class SecondServer(uvicorn.Server):
    """Another one in the same process, which leaves the signals to the first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def serve(settings: Settings, *, ready: Ready) -> None:
    """Serve until SIGTERM or SIGINT. Raises Unavailable if the port or the home is in use, in one line."""
    _run(settings, lambda _, system: ready(base_url(system.settings), system.credential))


def serve_identity(settings: IdentitySettings, *, ready: Callable[[IdentitySystem], None]) -> None:
    """Serve identity alone until SIGTERM or SIGINT. Raises Unavailable if a port or the home is in use, in one line."""
    open_log(settings.log)
    with (
        _only_server(settings.home),
        _listening(settings.host, settings.port) as public,
        _listening_inside(settings) as internal,
        asyncio.Runner(loop_factory=_loop_factory()) as runner,
    ):
        runner.run(_serve_identity(settings, public, internal, ready))


def _run(settings: Settings, ready: Callable[[Server, System], None]) -> None:
    open_log(settings.log)
    with _only_server(settings.home), _listening(settings.host, settings.port) as listener:
        located = replace(settings, port=listener.getsockname()[1])
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(located, listener, ready))


async def _serve(settings: Settings, listener: socket.socket, ready: Callable[[Server, System], None]) -> None:
    async with open_system(settings) as system:
        server = Server(_uvicorn(system.app), system.orchestrator.close, lambda server: ready(server, system))
        await server.serve(sockets=[listener])


async def _serve_identity(
    settings: IdentitySettings, public: socket.socket, internal: socket.socket, ready: Callable[[IdentitySystem], None]
) -> None:
    ports = {"port": public.getsockname()[1]}
    if settings.internal_socket is None:
        ports["internal_port"] = internal.getsockname()[1]
    async with open_identity(replace(settings, **ports)) as system:
        inside = SecondServer(_uvicorn(system.internal))

        async def end() -> None:
            inside.should_exit = True
            system.identity.outbox.close()

        server = Server(_uvicorn(system.public), end, lambda _: ready(system))
        serving = asyncio.create_task(inside.serve(sockets=[internal]))
        await server.serve(sockets=[public])
        await serving


def _settle_interpreter() -> None:
    build_types()
    # What there is now stays; looking through it again and again would only cost pauses.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 25, 100)
    # The store's writer and the event loop share the interpreter. At the default of 5 ms a loop that is kept busy by
    # one talkative program lets the writer in a dozen times a second.
    sys.setswitchinterval(_SWITCH_SECONDS)


def _uvicorn(app: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    import uvloop

    return uvloop.new_event_loop


@contextlib.contextmanager
def _only_server(home: Path) -> Iterator[None]:
    with _lock_file(home) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Unavailable(f"another Enclave server uses {home}") from None
        yield


def _lock_file(home: Path) -> IO[str]:
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        return (home / "lock").open("a")
    except OSError as error:
        raise Unavailable(f"{home} cannot be used: {error.strerror}") from None


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        try:
            listener.bind((host, port))
            listener.listen(_BACKLOG)
        except OSError as error:
            reason = error.strerror or str(error)
            raise Unavailable(f"cannot listen on {host}:{port}: {reason}") from None
        yield listener


def _listening_inside(settings: IdentitySettings) -> contextlib.AbstractContextManager[socket.socket]:
    if settings.internal_socket is None:
        return _listening(settings.internal_host, settings.internal_port)
    return _listening_at(settings.internal_socket)


@contextlib.contextmanager
def _listening_at(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.setblocking(False)
        try:
            # What is left of a server that was killed; nobody else's, whose home this is.
            if path.is_socket():
                path.unlink()
            listener.bind(str(path))
            path.chmod(0o600)
            listener.listen(_BACKLOG)
        except OSError as error:
            raise Unavailable(f"cannot listen on {path}: {error.strerror or error}") from None
        yield listener
        path.unlink(missing_ok=True)


# A server of one's own, as a child


@contextlib.contextmanager
def embedded(home: Path | None = None) -> Iterator[Credential]:
    """A server that lives as long as the context; without a home it leaves nothing behind. Raises Unavailable."""
    with _child(home) as child:
        yield _awaited(child)


@contextlib.contextmanager
def _child(home: Path | None) -> Iterator[subprocess.Popen[bytes]]:
    place = ("--ephemeral",) if home is None else ("--home", str(home))
    command = (sys.executable, "-m", "enclave.serve", *place)
    # A session of its own, so that a Ctrl-C is for the parent, which may still have something to ask.
    child = subprocess.Popen(  # noqa: S603  all of it ours
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        yield child
    finally:
        _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    with child:
        if child.stdin is not None:
            child.stdin.close()
        try:
            child.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()


def _awaited(child: subprocess.Popen[bytes]) -> Credential:
    # A child that hangs before it is ready is ended, and then its output ends.
    watchdog = threading.Timer(_START_SECONDS, child.kill)
    watchdog.start()
    try:
        line = child.stdout.readline() if child.stdout is not None else b""
    finally:
        watchdog.cancel()
    if not line:
        raise Unavailable("the server did not start; what it said is above")
    return Credential.model_validate_json(line)


def _obey_parent(server: Server, system: System) -> None:
    threading.Thread(target=_watch_stdin, args=(server,), name="enclave-parent", daemon=True).start()
    # A parent that has died meanwhile has closed our standard input too, and that is what ends us.
    with contextlib.suppress(BrokenPipeError):
        said = system.credential.model_dump_json() if system.credential else ""
        os.write(sys.stdout.fileno(), said.encode() + b"\n")


def _watch_stdin(server: Server) -> None:
    while os.read(0, 4096):
        pass
    server.stop()


@contextlib.contextmanager
def _own_home() -> Iterator[Path]:
    # Made and removed here: the parent may die of a signal that lets it remove nothing.
    with tempfile.TemporaryDirectory(prefix="enclave-") as home:
        yield Path(home)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m enclave.serve", description="A server for the process that asks.")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--home", type=Path)
    place.add_argument("--ephemeral", action="store_true", help="use a home that is removed when the server ends")
    return parser.parse_args()


def main() -> int:
    """The child's entry."""
    chosen = _arguments()
    # A server of one's own knows its caller itself, whatever service others are known by.
    environ = {name: value for name, value in os.environ.items() if name != VARIABLES["identity_url"]}
    try:
        with _own_home() if chosen.ephemeral else contextlib.nullcontext(chosen.home) as home:
            # One that leaves nothing behind still offers what was built on this machine.
            templates = Settings.from_env(environ).template_directory if chosen.ephemeral else None
            asked = Settings.from_env(environ, home=home, host="127.0.0.1", port=0, templates=templates)
            _run(asked, _obey_parent)
    except EnclaveError as error:
        print(f"error: {error.detail}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
