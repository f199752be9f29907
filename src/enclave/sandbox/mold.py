"""The still process that sandboxes are forked from: a fork of the launcher from before its first session.

What the launcher comes to know is in no sandbox. And a page that one process writes to is no longer shared: the
launcher writes to some three hundred for each session, which every sandbox that waits would have to itself.
"""

import errno
import os
import signal
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Final, NoReturn

from enclave.guest import python
from enclave.sandbox import init, isolate, linux, vigil

_ORDER: Final = struct.Struct("=qqB32p256p")
_MOST_SOURCE_BYTES: Final = 255
_ANSWER: Final = struct.Struct("=i")
_ENDS: Final = len(fields(init.Ends))
_MOST_ENTRANCES: Final = 4


@dataclass(frozen=True, slots=True)
class Form:
    """What all sandboxes of a launcher have in common. A command of None is the Python guest."""

    own_pid_namespace: int
    filter: bytes
    masked: tuple[str, ...]
    keep_proc: bool
    commands: Mapping[str, tuple[str, ...] | None]
    sources: bool = False


@dataclass(frozen=True, slots=True)
class Cast:
    """What one sandbox has of its own; `uid` None keeps the launcher's own id."""

    uid: int | None
    disk_bytes: int
    language: str
    source: str | None = None


class Mold:
    """The launcher's side of it."""

    def __init__(self, form: Form) -> None:
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            _serve(theirs, form)
        theirs.close()

    def fork(self, cast: Cast, ends: init.Ends, entrances: Sequence[int]) -> int:
        """The pid of a new sandbox's init, a child of the calling process, with its own copies of the descriptors.

        Raises OSError.
        """
        uid = -1 if cast.uid is None else cast.uid
        source = (cast.source or "").encode()
        if len(source) > _MOST_SOURCE_BYTES:
            raise OSError(errno.ENAMETOOLONG, "a source is at too long a path")
        order = _ORDER.pack(uid, cast.disk_bytes, len(entrances), cast.language.encode(), source)
        socket.send_fds(self._orders, [order], [*ends.in_place(), *entrances])
        answer = self._orders.recv(_ANSWER.size)
        if not answer:
            raise BrokenPipeError("the process that sandboxes are forked from is gone")
        pid: int = _ANSWER.unpack(answer)[0]
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid), "a sandbox could not be forked")
        return pid


def _serve(orders: socket.socket, form: Form) -> NoReturn:
    try:
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        linux.close_all_but({2, orders.fileno(), form.own_pid_namespace})
        vigil.place()
        python.rehearse_ahead()
        filling = _fill_holes()
        while _fork_one(orders, form):
            pass
        del filling
    finally:
        os._exit(1)


_POOL: Final = 16 * 1024
_FIRST_IN_POOL: Final = 48
_BLOCKS: Final = range(48, 512 + 1, 16)
_EMPTY: Final = sys.getsizeof(b"")
_MOST_HOLES: Final = 2000


def _fill_holes() -> list[object]:
    """What fills the holes that imports have left in the interpreter's heap.

    What a fork then allocates lies together, in few pages. Blocks of a size come from pools, and from a new one, whose
    first is then taken, when all others are full (Objects/obmalloc.c).
    """
    filling: list[object] = []
    for size in _BLOCKS:
        for _ in range(_MOST_HOLES):
            filling.append(bytes(size - _EMPTY))
            if id(filling[-1]) % _POOL == _FIRST_IN_POOL:
                break
    return filling


def _fork_one(orders: socket.socket, form: Form) -> bool:
    order, fds, _, _ = socket.recv_fds(orders, _ORDER.size, _ENDS + _MOST_ENTRANCES, socket.MSG_CMSG_CLOEXEC)
    if not order:
        return False
    try:
        pid = _fork(order, fds, form)
    except OSError as error:
        pid = -(error.errno or errno.EIO)
    orders.send(_ANSWER.pack(pid))
    for fd in fds:
        os.close(fd)
    return True


def _fork(order: bytes, fds: Sequence[int], form: Form) -> int:
    uid, disk_bytes, entrances, language, source = _ORDER.unpack(order)
    if len(fds) != _ENDS + entrances:
        raise OSError(errno.EMFILE, "the descriptors did not all arrive")
    walls = isolate.Walls(
        uid=None if uid < 0 else uid,
        disk_bytes=disk_bytes,
        entrances=fds[_ENDS:],
        filter=form.filter,
        masked=form.masked,
        keep_proc=form.keep_proc,
        sources=form.sources,
        source=source.decode() or None,
    )
    inside, command = init.Ends(*fds[:_ENDS]), form.commands[language.decode()]
    # A process that unshares its PID namespace makes its next child the first one in it; going back to the own
    # namespace allows the same again (pid_namespaces(7)). The launcher waits for init: it is the launcher's own child.
    linux.unshare(linux.CLONE_NEWPID)
    try:
        pid = linux.fork_sibling()
        if pid == 0:
            init.run(walls, inside, command)
    finally:
        linux.setns(form.own_pid_namespace, linux.CLONE_NEWPID)
    return pid
