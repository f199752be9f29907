"""The filter, run instruction by instruction against the table it was made from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.sandbox import linux, seccomp
from enclave.sandbox.syscalls import NUMBERS

ALLOW, KILL = 0x7FFF0000, 0x80000000
MACHINES = ("x86_64", "aarch64")


def judge(machine: str, number: int, arguments: tuple[int, ...] = (0,) * 6, arch: int | None = None) -> int:
    """What the kernel would do: an interpreter of the classic BPF that seccomp uses."""
    words = {0: number, 4: seccomp.ARCHITECTURES[machine] if arch is None else arch}
    words |= {16 + 8 * index: value & 0xFFFFFFFF for index, value in enumerate(arguments)}
    words |= {20 + 8 * index: value >> 32 & 0xFFFFFFFF for index, value in enumerate(arguments)}
    program = seccomp.program(machine)
    accumulator, at = 0, 0
    while True:
        code, yes, no, value = program[at]
        at += 1
        if code == 0x20:
            accumulator = words[value]
        elif code == 0x06:
            return value
        elif code == 0x05:
            at += value
        else:
            holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[code]
            at += yes if holds else no


def number_of(machine: str, name: str) -> int | None:
    return NUMBERS[name][MACHINES.index(machine)]


@pytest.mark.parametrize("machine", MACHINES)
def test_every_number_gets_the_verdict_of_its_table(machine: str) -> None:
    conditional = {number_of(machine, name) for name in seccomp.CONDITIONAL.keys() | seccomp.ASKED.keys()}
    expected = {n: seccomp.EPERM if n < seccomp.FIRST_UNKNOWN else seccomp.ENOSYS for n in range(600)}
    expected |= {n: ALLOW for name in seccomp.ALLOWED if (n := number_of(machine, name)) is not None}
    expected |= {n: seccomp.RET_ASK for name in seccomp.EXPLOITS if (n := number_of(machine, name)) is not None}
    expected |= {n: seccomp.ENOSYS for name in seccomp.ABSENT if (n := number_of(machine, name)) is not None}

    actual = {number: judge(machine, number) for number in range(600) if number not in conditional}

    assert {n: v for n, v in expected.items() if n not in conditional} == actual


@pytest.mark.parametrize("machine", MACHINES)
def test_a_foreign_architecture_is_killed(machine: str) -> None:
    assert judge(machine, 0, arch=0x40000003) == KILL


def test_an_x32_call_is_killed() -> None:
    assert judge("x86_64", 0x40000000) == KILL
    assert judge("x86_64", 0x40000000 | 520) == KILL


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("family", range(64))
def test_only_unix_and_internet_sockets_are_made(machine: str, family: int) -> None:
    number = number_of(machine, "socket")
    assert number is not None

    verdict = judge(machine, number, (family, 1, 0, 0, 0, 0))

    assert verdict == (ALLOW if family in (1, 2, 10, 16) else seccomp.EPERM)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("family", [2, 10, 16])
def test_only_the_plain_protocols_of_a_family_are_made(machine: str, family: int) -> None:
    number = number_of(machine, "socket")
    assert number is not None

    allowed = {p for p in range(300) if judge(machine, number, (family, 1, p, 0, 0, 0)) == ALLOW}

    assert allowed == ({0} if family == 16 else {0, 6, 17})


FASTOPEN = 0x20000000
SOMEWHERE = 0x7F00_0000_0000


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("name", "arguments", "verdict"),
    [
        ("connect", (3, SOMEWHERE, 16), seccomp.RET_ASK),
        ("connect", (3, 0, 0), seccomp.RET_ASK),
        ("sendto", (3, SOMEWHERE, 1, 0, 0, 0), ALLOW),
        ("sendto", (3, SOMEWHERE, 1, 0, SOMEWHERE, 16), seccomp.RET_ASK),
        ("sendto", (3, SOMEWHERE, 1, 0, 16, 16), seccomp.RET_ASK),
        ("sendto", (3, SOMEWHERE, 1, FASTOPEN, 0, 0), seccomp.EPERM),
        ("sendto", (3, SOMEWHERE, 1, FASTOPEN | 1, SOMEWHERE, 16), seccomp.EPERM),
        ("sendmsg", (3, SOMEWHERE, 0), seccomp.RET_ASK),
        ("sendmsg", (3, SOMEWHERE, FASTOPEN), seccomp.EPERM),
        ("sendmmsg", (3, SOMEWHERE, 1, 0), seccomp.RET_ASK),
        ("sendmmsg", (3, SOMEWHERE, 1, FASTOPEN), seccomp.EPERM),
    ],
)
def test_what_may_name_an_address_is_asked(machine: str, name: str, arguments: tuple[int, ...], verdict: int) -> None:
    number = number_of(machine, name)
    assert number is not None

    assert judge(machine, number, (*arguments, 0, 0, 0, 0)[:6]) == verdict


@pytest.mark.parametrize(
    "option", [(1, 26), (1, 27), (1, 44), (1, 50), (1, 51), (1, 52), (6, 19), (6, 23), (6, 30), (6, 31), (6, 34)]
)
def test_options_that_would_change_what_a_socket_is_are_refused(option: tuple[int, int]) -> None:
    number = number_of("x86_64", "setsockopt")
    assert number is not None

    assert judge("x86_64", number, (3, *option, 0, 0, 0)) == seccomp.EPERM
    assert judge("x86_64", number, (3, option[0], 1, 0, 0, 0)) == ALLOW
    assert judge("x86_64", number, (3, 0, option[1], 0, 0, 0)) == ALLOW


HUGE = [("mmap", 3, 0x40000), ("memfd_create", 1, 4), ("shmget", 2, 0x800), ("fcntl", 1, 1026), ("fcntl", 1, 1024)]


@pytest.mark.parametrize(("name", "argument", "value"), HUGE)
def test_one_argument_is_refused_and_the_rest_go_through(name: str, argument: int, value: int) -> None:
    number = number_of("x86_64", name)
    assert number is not None

    assert judge("x86_64", number, tuple(value if index == argument else 0 for index in range(6))) == seccomp.EPERM
    assert judge("x86_64", number) == ALLOW


NAMESPACE_FLAGS = [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000]


@given(st.sampled_from(NAMESPACE_FLAGS), st.integers(0, 0xFFFFFFFF))
def test_no_clone_makes_a_namespace(flag: int, other: int) -> None:
    number = number_of("x86_64", "clone")
    assert number is not None

    assert judge("x86_64", number, (other | flag, 0, 0, 0, 0, 0)) == seccomp.EPERM


def test_threads_and_processes_are_cloned() -> None:
    number = number_of("x86_64", "clone")
    assert number is not None

    assert judge("x86_64", number, (0x3D0F00, 0, 0, 0, 0, 0)) == ALLOW
    assert judge("x86_64", number, (17, 0, 0, 0, 0, 0)) == ALLOW


def test_no_real_time_is_asked_for() -> None:
    number = number_of("x86_64", "sched_setscheduler")
    assert number is not None

    allowed = {policy for policy in range(16) if judge("x86_64", number, (0, policy, 0, 0, 0, 0)) == ALLOW}

    assert allowed == {0, 3, 5}


REFUSED = """
    unshare setns mount umount2 pivot_root chroot bpf perf_event_open ptrace process_vm_readv process_vm_writev
    keyctl add_key request_key userfaultfd kexec_load init_module finit_module delete_module open_by_handle_at
    swapon reboot open_tree move_mount fsopen fsmount fspick mount_setattr quotactl acct syslog settimeofday
    clock_settime iopl ioperm
""".split()


@pytest.mark.parametrize("name", REFUSED)
def test_what_only_an_exploit_needs_is_in_no_table(name: str) -> None:
    assert name not in seccomp.ALLOWED | seccomp.CONDITIONAL.keys()


def test_the_assembled_filter_fits_the_kernel() -> None:
    assert len(seccomp.assemble(linux.MACHINE)) // 8 <= 4096
