"""What runs first in a sandbox: it puts up the walls, starts the guest, and outlives it by one message.

The guest cannot reach init: it is not dumpable, it waits without any memory of its own (`vigil`), signals from inside
do not touch the first process of a namespace (pid_namespaces(7)), and its death takes everything along. A guest may
report its own end before it is gone; whatever it says there, it is killed for it, and an exit code is the program's own
to choose. Limits are judged by the launcher.
"""

import contextlib
import fcntl
import os
import select
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from enclave.guest import python
from enclave.sandbox import isolate, linux, vigil

FAILED: Final = b"E"
_ABOVE_PLACES: Final = 16
LISTENER, RESOLVER, WORK = 7, 8, 9
"""Where init keeps what `isolate.Openings` names; the launcher takes copies of them, the guest has none."""
_EXIT_BYTES: Final = 5


@dataclass(frozen=True, slots=True)
class Ends:
    """The descriptors on the inside of one sandbox, before they get their places."""

    null: int
    stdout: int
    stderr: int
    go: int
    payload: int
    result: int
    status: int

    def in_place(self) -> tuple[int, ...]:
        """In the order of the places they get in the guest, 0 to 6."""
        return (self.null, self.stdout, self.stderr, self.go, self.payload, self.result, self.status)


@dataclass(frozen=True, slots=True)
class Status:
    """What a sandbox's status bytes say; whatever is not understood says nothing, and ends it."""

    ready: bool = False
    ended: int | None = None
    failure: str | None = None

    @property
    def over(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self != Status(ready=True)


def read_status(message: bytes) -> Status:
    """The status in bytes that the hostile side may have written. Never raises."""
    ready = message.startswith(python.READY)
    rest = message.removeprefix(python.READY)
    if rest.startswith(python.EXITED) and len(rest) >= _EXIT_BYTES:
        return Status(ready, int.from_bytes(rest[1:_EXIT_BYTES], "little") & 0xFFFF)
    if rest.startswith(FAILED):
        return Status(ready, failure=rest[1:].decode(errors="replace"))
    return Status(ready and not rest)


def run(walls: isolate.Walls, ends: Ends, command: Sequence[str] | None) -> NoReturn:
    """Be init. `command` None is the Python guest, forked from this interpreter; else it is executed as the guest."""
    try:
        # Before descriptors are moved: the entrances are among those that must not be overwritten.
        isolate.join(walls.entrances)
        _place(ends)
        _keep(isolate.put_up(walls))
        _stop_if_orphaned()
        guest = os.fork()
        if guest == 0:
            _be_guest(command)
        _release()
        vigil.keep(guest, python.STATUS)
        _await(guest)
    except BaseException as error:  # noqa: BLE001  whatever failed, no code may run: say why and end
        with contextlib.suppress(OSError):
            os.write(python.STATUS, FAILED + repr(error).encode()[:500])
    os._exit(1)


def _place(ends: Ends) -> None:
    # First aside, above every place, so that no move overwrites a descriptor that is still to be moved.
    aside = [fcntl.fcntl(fd, fcntl.F_DUPFD, _ABOVE_PLACES) for fd in ends.in_place()]
    for place, fd in enumerate(aside):
        os.dup2(fd, place, inheritable=True)
    linux.close_all_but(set(range(len(aside))))


def _keep(openings: isolate.Openings) -> None:
    held = (openings.listener, openings.resolver, openings.work)
    aside = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE_PLACES) for fd in held]
    for place, fd in zip((LISTENER, RESOLVER, WORK), aside, strict=True):
        os.dup2(fd, place, inheritable=False)
    linux.close_range(WORK + 1, 0xFFFFFFFF)


def _stop_if_orphaned() -> None:
    # The launcher may have died before the death signal was set; then nobody reads the status any more.
    poll = select.poll()
    poll.register(python.STATUS, 0)
    if poll.poll(0):
        os._exit(1)


def _be_guest(command: Sequence[str] | None) -> NoReturn:
    linux.close_range(LISTENER, 0xFFFFFFFF)
    os.setsid()
    linux.prctl(linux.PR_SET_DUMPABLE, 1)
    linux.prctl(linux.PR_SET_NAME, b"guest")
    _volunteer_for_oom()
    if command is not None:
        os.execve(command[0], list(command), dict(GUEST_ENVIRONMENT))  # noqa: S606  the guest, by its path
    for place in (python.RESULT, python.STATUS):
        os.set_inheritable(place, False)
    python.wait_and_become()


GUEST_ENVIRONMENT: Final[Mapping[str, str]] = {
    "HOME": isolate.HOME,
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "TMPDIR": "/tmp",  # noqa: S108
    "USER": "sandbox",
}


def _volunteer_for_oom() -> None:
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _release() -> None:
    # Init keeps only what it needs to report an end: the streams must close with the guest.
    for place in range(python.STATUS):
        os.close(place)


def _await(guest: int) -> NoReturn:
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == guest:
            os.write(python.STATUS, python.EXITED + status.to_bytes(4, "little"))
            break
    # To be killed for it, and not to end: what it keeps must be there for as long as it takes to fetch it.
    while True:
        signal.pause()
