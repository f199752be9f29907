"""What is to be known of the thread that makes a call, while it waits: its memory, its sockets, its files.

Everything here may change between two looks; what a decision rests on is copied once, and the copy is what is used.
"""

import functools
import os
import socket
import stat
import struct
from typing import Final

from enclave.egress.address import MAX_ADDRESS, Address, parse, parse_message
from enclave.egress.apart import Shared
from enclave.egress.notification import Call, read_memory
from enclave.sandbox import linux

_MSGHDR_BYTES: Final = 56
_MMSGHDR_BYTES: Final = 64
_MOST_MESSAGES: Final = 64
_SO_COOKIE, _SO_NETNS_COOKIE = 57, 71
_PIDFD_THREAD: Final = os.O_EXCL
_SYS_PIDFD_OPEN: Final = 434
_SYS_OPENAT2: Final = 437
_RESOLVE_BENEATH, _RESOLVE_IN_ROOT = 0x08, 0x10


def address_at(call: Call, pointer: int, length: int) -> Address:
    """The address at a place of the caller's memory. Raises OSError."""
    return parse(read_memory(call.thread, pointer, min(length, MAX_ADDRESS)) if 0 < length <= MAX_ADDRESS else b"")


def message_addresses(call: Call, pointer: int, count: int | None) -> list[Address]:
    """The addresses that one message names (`count` None), or the first of several. Raises OSError."""
    size, number = (_MSGHDR_BYTES, 1) if count is None else (_MMSGHDR_BYTES, min(count, _MOST_MESSAGES))
    headers = read_memory(call.thread, pointer, size * number)
    named = [parse_message(headers[at : at + 16]) for at in range(0, len(headers) - 15, size)]
    return [address_at(call, where, length) for where, length in named if where]


def copy_of(call: Call, fd: int) -> socket.socket:
    """The caller's socket behind a descriptor, as one of ours. Raises OSError."""
    process = _process_of(call.thread)
    try:
        copy = linux.pidfd_getfd(process, fd)
    finally:
        os.close(process)
    try:
        return Shared(fileno=copy)
    except OSError:
        os.close(copy)
        raise


def cookie_of(sock: socket.socket) -> int:
    """The kernel's own number of a socket, which no other has (SO_COOKIE of socket(7))."""
    return int(struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8))[0])


def is_of_this_machine(sock: socket.socket) -> bool:
    """Whether it is of the network that this process is in, and not of the sandbox's own.

    Before Linux 5.14 that cannot be told, and the answer is no.
    """
    try:
        return sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8) == _own_network()
    except OSError:
        return False


@functools.cache
def _own_network() -> bytes:
    with socket.socket(socket.AF_UNIX) as own:
        return own.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)


def has_peer(sock: socket.socket) -> bool:
    """Whether it is connected already."""
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def closes_on_exec(call: Call, fd: int) -> bool:
    """Whether the caller's descriptor is closed when it executes a program (proc_pid_fdinfo(5))."""
    with open(f"/proc/{call.thread}/fdinfo/{fd}") as info:
        flags = next((line.split()[1] for line in info if line.startswith("flags:")), "0")
    return bool(int(flags, 8) & os.O_CLOEXEC)


def socket_file(call: Call, path: bytes) -> int:
    """The socket file that a path means to the caller, held without being opened. Raises OSError."""
    if path.startswith(b"/"):
        fd = _open_beneath(f"/proc/{call.thread}/root", path, _RESOLVE_IN_ROOT)
    else:
        fd = _open_beneath(f"/proc/{call.thread}/cwd", path, _RESOLVE_BENEATH)
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        os.close(fd)
        raise ConnectionRefusedError
    return fd


def _open_beneath(base: str, path: bytes, resolve: int) -> int:
    directory = os.open(base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        how = struct.pack("=QQQ", os.O_PATH | os.O_CLOEXEC, 0, resolve)
        return linux.syscall(_SYS_OPENAT2, directory, path, how, len(how))
    finally:
        os.close(directory)


def _process_of(thread: int) -> int:
    try:
        return linux.syscall(_SYS_PIDFD_OPEN, thread, _PIDFD_THREAD)
    except OSError:
        # Before Linux 6.9 only the first thread has one; the others share its descriptors.
        return linux.pidfd_open(_first_of(thread))


def _first_of(thread: int) -> int:
    with open(f"/proc/{thread}/status") as status:
        return next((int(line.split()[1]) for line in status if line.startswith("Tgid:")), thread)
