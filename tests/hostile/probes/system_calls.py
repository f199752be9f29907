"""System calls that are refused, each made raw.

The arguments are such that the kernel itself, were it asked, would refuse with another error or none: EPERM is then the
filter's word. `_PRIVILEGED` ask for a capability first; behind them is a second wall, and the mutation removes both.
"""

import platform
from typing import Final

from tests.hostile.probe import Probe, blocked, ended, harmless
from tests.hostile.probes.shapes import exploit, number, raw

_F: Final = "system_calls"
_PLAIN: Final[dict[str, tuple[int, int]]] = {
    "mount": (165, 40),
    "quotactl_fd": (443, 443),
    "settimeofday": (164, 170),
    "adjtimex": (159, 171),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "perf_event_open": (298, 241),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "name_to_handle_at": (303, 264),
    "inotify_init1": (294, 26),
    "inotify_add_watch": (254, 27),
    "inotify_rm_watch": (255, 28),
    "fanotify_mark": (301, 263),
    "remap_file_pages": (216, 234),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "get_mempolicy": (239, 236),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    "vmsplice": (278, 75),
    "ioprio_set": (251, 30),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "seccomp": (317, 277),
    "memfd_secret": (447, 447),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "mq_timedsend": (242, 182),
    "io_setup": (206, 0),
    "io_submit": (209, 2),
    "landlock_create_ruleset": (444, 444),
}
_PRIVILEGED: Final[dict[str, tuple[int, int]]] = {
    "syslog": (103, 116),
    "fanotify_init": (300, 262),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "open_tree_clone": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "fsconfig": (431, 431),
    "mount_setattr": (442, 442),
    "lookup_dcookie": (212, 18),
}
_EXPLOITS: Final[dict[str, tuple[int, int]]] = {
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "open_by_handle_at": (304, 265),
}
_EXPLOITS_X86: Final = {"iopl": 172, "ioperm": 173}
_X86: Final[dict[str, tuple[int, str]]] = {
    "modify_ldt": (154, "0, 0, 0"),
    "ustat": (136, "-1, -1"),
    "sysfs": (139, "99, 0, 0"),
    "uselib": (134, "-1"),
}
_ABSENT: Final = {
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "statmount": 457,
    "listmount": 458,
    "lsm_get_self_attr": 459,
    "lsm_set_self_attr": 460,
    "setxattrat": 463,
    "open_tree_attr": 467,
}
_HUGE: Final = {
    "huge_map": f"{number(9, 222)}, 0, 4096, 3, 0x40022, -1, 0",
    "huge_memory_file": f"{number(319, 279)}, b'x', 4",
    "lease": f"{number(72, 25)}, -1, 1024, 0",
    "directory_notice": f"{number(72, 25)}, -1, 1026, 1",
}
_PRCTL: Final[dict[str, str]] = {
    "set_tsc": "26, 1, 0, 0, 0",
    "set_mm": "35, 0, 0, 0, 1",
    "speculation": "53, 99, 0, 0, 0",
    "ptracer": "0x59616D61, -1, 0, 0, 0",
    "timer_slack": "29, 1, 0, 0, 0",
    "thp_disable": "41, 1, 0, 0, 0",
    "syscall_dispatch": "59, 0, 0, 0, 0",
    "core_scheduling": "62, 99, 0, 0, 0",
    "perf_disable": "31, 0, 0, 0, 0",
    "mce_kill": "33, 99, 0, 0, 0",
    "fp_mode": "45, 99, 0, 0, 0",
    "securebits_read": "27, 0, 0, 0, 0",
    "machine_merge": "67, 0, 0, 0, 0",
}
_IOCTL: Final[dict[str, str]] = {
    "TIOCSTI": "0x5412, b'x'",
    "TIOCLINUX": "0x541C, b'\\x02'",
    "TIOCSTI_high_bits": "(1 << 32) | 0x5412, b'x'",
    "TIOCSCTTY": "0x540E, 1",
    "TIOCNOTTY": "0x5422, 0",
    "TCSETS": "0x5402, 0",
    "FIBMAP": "1, 0",
    "FS_IOC_SETFLAGS": "0x40086602, -1",
    "BLKDISCARD": "0x1277, -1",
    "LOOP_CTL_ADD": "0x4C80, 0",
}
_IOCTL_NUMBER: Final = number(16, 29)
_PRCTL_NUMBER: Final = number(157, 167)
_ROOT: Final = "seccomp+real_root+capabilities"
_CODE: Final = (
    "import mmap\nm = mmap.mmap(-1, 4096, prot=7)\nm.write(bytes.fromhex('{0}'))\n"
    "f = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(m)))\n"
    "enclave.result('leaked: ' + str(f()))"
)
_MACHINE_CODE: Final = {
    "int80": "b814000000cd80c3",
    "int80_exec": "b80b00000031dbcd80c3",
    "x32_getpid": "b8270000400f05c3",
    "x32_execve": "b8080200400f05c3",
    "x32_ptrace": "b8090200400f05c3",
}


def _machine_code(name: str, code: str) -> Probe:
    return Probe(name=name, family=_F, code=_CODE.format(code), expect=ended(159), control="seccomp")


_ALL_MINUS_ONE: Final = "-1, -1, -1, -1, -1, -1"
_ON_X86: Final = (
    *[raw(_F, name, f"{value}, {args}", "EPERM", "seccomp") for name, (value, args) in _X86.items()],
    *[exploit(_F, name, f"{value}, {_ALL_MINUS_ONE}") for name, value in _EXPLOITS_X86.items()],
    *[_machine_code(name, code) for name, code in _MACHINE_CODE.items()],
)

PROBES: Final = (
    *[raw(_F, name, f"{number(*pair)}, {_ALL_MINUS_ONE}", "EPERM", "seccomp") for name, pair in _PLAIN.items()],
    *[raw(_F, name, f"{number(*pair)}, {_ALL_MINUS_ONE}", "EPERM", _ROOT) for name, pair in _PRIVILEGED.items()],
    *[exploit(_F, name, f"{number(*pair)}, {_ALL_MINUS_ONE}") for name, pair in _EXPLOITS.items()],
    *[raw(_F, name, f"{value}, {_ALL_MINUS_ONE}", "ENOSYS", "seccomp") for name, value in _ABSENT.items()],
    *[raw(_F, name, call, "EPERM", "seccomp") for name, call in _HUGE.items()],
    *[raw(_F, f"prctl_{k}", f"{_PRCTL_NUMBER}, {args}", "EPERM", "seccomp") for k, args in _PRCTL.items()],
    *[raw(_F, f"ioctl_{k}", f"{_IOCTL_NUMBER}, 0, {args}", "EPERM", "seccomp") for k, args in _IOCTL.items()],
    *(_ON_X86 if platform.machine() == "x86_64" else ()),
    raw(_F, "huge_segment", f"{number(29, 194)}, 0, 4096, 0o4600", "EPERM", _ROOT),
    raw(_F, "unknown_number", "4095, 0", "ENOSYS", "fixed: the kernel knows it no more than the filter does"),
    raw(_F, "personality_without_aslr", f"{number(135, 92)}, 0x40000", "EPERM", "seccomp"),
    raw(_F, "personality_read_implies_exec", f"{number(135, 92)}, 0x400000", "EPERM", "seccomp"),
    raw(_F, "filter_of_own", f"{number(157, 167)}, 22, 2, -1, 0, 0", "EFAULT", "fixed: a filter may only be narrowed"),
    raw(_F, "ptrace_traceme", f"{number(101, 117)}, 0, 0, 0, 0", "EPERM", "seccomp"),
    Probe(
        name="ptrace_own_child",
        family=_F,
        code="child = os.fork()\nif child == 0: time.sleep(5)\n"
        f"got = call({number(101, 117)}, 0x4206, child, 0, 0)\nos.kill(child, 9)\nenclave.result(named(got))",
        expect=blocked("EPERM"),
        control="seccomp",
    ),
    raw(_F, "ptrace_init", f"{number(101, 117)}, 0x4206, 1, 0, 0", "EPERM", "seccomp+init_dumpable"),
    Probe(
        name="read_own_child_memory",
        family=_F,
        code="b = ctypes.create_string_buffer(8)\nv = (ctypes.c_uint64 * 2)(ctypes.addressof(b), 8)\n"
        f"enclave.result(named(call({number(310, 270)}, os.getpid(), v, 1, v, 1, 0)))",
        expect=blocked("EPERM"),
        control="seccomp",
    ),
    Probe(
        name="writable_executable_memory",
        family=_F,
        code="import mmap\nmmap.mmap(-1, 4096, prot=7)\nenclave.result('harmless: mapped')",
        expect=harmless("mapped"),
        control="fixed: interpreters compile at run time; memory is not a wall",
    ),
)
