"""The calls that wait for a word, as the kernel tells them (seccomp_unotify(2), linux/seccomp.h)."""

import ctypes
import errno
import fcntl
import select
import struct
from dataclasses import dataclass
from typing import Final

_DATA: Final = struct.Struct("=QIIiIQ6Q")
_ANSWER: Final = struct.Struct("=QqiI")
_PLANT: Final = struct.Struct("=QIIII")


def _request(direction: int, number: int, size: int) -> int:
    # _IOC of asm-generic/ioctl.h, with the type '!' of seccomp.
    return direction << 30 | size << 16 | ord("!") << 8 | number


_RECV: Final = _request(3, 0, _DATA.size)
_SEND: Final = _request(3, 1, _ANSWER.size)
_ID_VALID: Final = _request(1, 2, 8)
_ADDFD: Final = _request(1, 3, _PLANT.size)
_FLAG_CONTINUE: Final = 1
_ADDFD_SETFD: Final = 1


@dataclass(frozen=True, slots=True)
class Call:
    """One call that waits: its id, the thread that makes it (in this process's PID namespace), number and arguments."""

    id: int
    thread: int
    number: int
    arguments: tuple[int, ...]


class Gone(Exception):
    """The thread that made the call is gone, or makes it no more."""


class Over(Exception):
    """No program is left that could make a call."""


def waits(fd: int) -> bool:
    """Whether there is something to read of a descriptor. Raises Over if there will be nothing any more.

    A listener whose last program is gone is readable to select(2) and epoll(7), but there is nothing to take, and
    before Linux 6.11 the kernel waits for it without end.
    """
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    events = sum(events for _, events in poll.poll(0))
    if events & select.POLLHUP and not events & select.POLLIN:
        raise Over
    return bool(events & select.POLLIN)


class Listener:
    """The calls of one sandbox. It owns its descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def take(self) -> Call | None:
        """The next call, None if it is gone already. Raises Over."""
        if not waits(self.fd):
            return None
        buffer = bytearray(_DATA.size)
        try:
            fcntl.ioctl(self.fd, _RECV, buffer)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):
                return None
            raise
        id, thread, _, number, _, _, *arguments = _DATA.unpack(buffer)
        return Call(id, thread, number, tuple(arguments))

    def waits(self, call: Call) -> bool:
        """Whether the call still waits: what was read of its thread since it was taken is then that thread's."""
        try:
            fcntl.ioctl(self.fd, _ID_VALID, struct.pack("=Q", call.id))
        except OSError:
            return False
        return True

    def answer(self, call: Call, error: int = 0) -> None:
        """Have the call return 0, or fail with `error`."""
        self._send(_ANSWER.pack(call.id, 0, -error, 0))

    def go_on(self, call: Call) -> None:
        """Let the kernel make the call, with whatever its arguments have become by then."""
        self._send(_ANSWER.pack(call.id, 0, 0, _FLAG_CONTINUE))

    def plant(self, call: Call, fd: int, place: int, *, close_on_exec: bool) -> None:
        """Put a copy of our `fd` in the place of one of the caller's. Raises Gone, or OSError."""
        flags = 0o2000000 if close_on_exec else 0
        try:
            fcntl.ioctl(self.fd, _ADDFD, _PLANT.pack(call.id, _ADDFD_SETFD, fd, place, flags))
        except OSError as error:
            if error.errno == errno.ENOENT:
                raise Gone from error
            raise

    def _send(self, answer: bytes) -> None:
        try:
            fcntl.ioctl(self.fd, _SEND, answer)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise


_libc: Final = ctypes.CDLL(None, use_errno=True)


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def read_memory(thread: int, address: int, length: int) -> bytes:
    """At most `length` bytes of a thread's memory (process_vm_readv(2)). Raises OSError."""
    buffer = ctypes.create_string_buffer(length)
    ours = _Vector(ctypes.cast(buffer, ctypes.c_void_p), length)
    theirs = _Vector(address, length)
    got = _libc.process_vm_readv(thread, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0)
    if got < 0:
        raise OSError(ctypes.get_errno(), "process_vm_readv")
    return buffer.raw[:got]
