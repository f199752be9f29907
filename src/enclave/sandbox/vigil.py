"""How init waits for its guest with nothing in its memory: a few instructions that unmap everything but themselves.

An interpreter that waits holds a megabyte that it will not use again, in every sandbox, and all the launcher knew. What
is left here is one page of code, which all sandboxes share, and one for the message. Where the machine's instructions
are not written down, `keep` does nothing, and init waits in Python as it is.
"""

import ctypes
import functools
from typing import Final

from enclave.guest import python
from enclave.sandbox import linux

_PAGE: Final = 4096
_TASK_SIZE: Final = 0x7FFFFFFFF000  # arch/x86/include/asm/page_64_types.h; nothing lies above it unless asked for

LISTING: Final = (
    ("49 89 fc", "mov r12, rdi"),  # the guest's pid
    ("49 89 f5", "mov r13, rsi"),  # this page; the message is in the next one
    ("49 89 ce", "mov r14, rcx"),  # where the message goes
    ("31 ff", "xor edi, edi"),
    ("b8 0b 00 00 00", "mov eax, 11"),  # munmap(0, this page)
    ("0f 05", "syscall"),
    ("49 8d bd 00 20 00 00", "lea rdi, [r13 + 0x2000]"),
    ("48 89 d6", "mov rsi, rdx"),
    ("b8 0b 00 00 00", "mov eax, 11"),  # munmap(behind the next page, the rest)
    ("0f 05", "syscall"),
    ("48 c7 c7 ff ff ff ff", "mov rdi, -1"),  # again:
    ("49 8d b5 01 10 00 00", "lea rsi, [r13 + 0x1001]"),
    ("31 d2", "xor edx, edx"),
    ("45 31 d2", "xor r10d, r10d"),
    ("b8 3d 00 00 00", "mov eax, 61"),  # wait4(-1, message + 1, 0, 0)
    ("0f 05", "syscall"),
    ("4c 39 e0", "cmp rax, r12"),
    ("74 11", "je . + 19"),  # to tell, if it was the guest
    ("48 85 c0", "test rax, rax"),
    ("79 dc", "jns . - 34"),  # to again, if it was another
    ("bf 01 00 00 00", "mov edi, 1"),
    ("b8 e7 00 00 00", "mov eax, 231"),  # exit_group(1): there is nothing to wait for
    ("0f 05", "syscall"),
    ("44 89 f7", "mov edi, r14d"),  # tell:
    ("49 8d b5 00 10 00 00", "lea rsi, [r13 + 0x1000]"),
    ("ba 05 00 00 00", "mov edx, 5"),
    ("b8 01 00 00 00", "mov eax, 1"),  # write(status, message, 5)
    ("0f 05", "syscall"),
    ("b8 22 00 00 00", "mov eax, 34"),  # pause(), until it is killed: what it keeps may still be wanted
    ("0f 05", "syscall"),
    ("eb f7", "jmp . - 7"),
)
"""What init does once its guest runs, for x86-64 (numbers: arch/x86/entry/syscalls/syscall_64.tbl)."""


@functools.cache
def place() -> int | None:
    """The address of the code, followed by a page for the message; None where it cannot be had. Raises OSError.

    Called once before init is forked, the pages are there for it, and its code is shared by all.
    """
    if linux.MACHINE != "x86_64":
        return None
    code = b"".join(bytes.fromhex(octets) for octets, _ in LISTING)
    base = linux.map_private(2 * _PAGE)
    ctypes.memmove(base, code, len(code))
    ctypes.memmove(base + _PAGE, python.EXITED, len(python.EXITED))
    linux.make_executable(base, _PAGE)
    return base


def keep(guest: int, status: int) -> None:
    """Wait for `guest`, write to `status` how it ended, and wait to be killed.

    Returns, with nothing done, where that cannot be.
    """
    base = place()
    if base is None or not linux.leave_rseq():
        return
    wait = ctypes.CFUNCTYPE(None, ctypes.c_long, ctypes.c_long, ctypes.c_long, ctypes.c_long)(base)
    wait(guest, base, _TASK_SIZE - base - 2 * _PAGE, status)
