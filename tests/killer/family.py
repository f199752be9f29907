"""A server and everything below it, as the kernel shows them, and what of it is left when it is gone."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from enclave.backends.local import machine

PATIENCE_SECONDS = 30.0


@dataclass(frozen=True)
class Process:
    """A process, and the moment it began, so that a number that is used again is not taken for it."""

    pid: int
    began: str

    @property
    def alive(self) -> bool:
        return self.began != "" and born(self.pid) == self.began

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self.alive:
                os.kill(self.pid, signal.SIGKILL)


def born(pid: int) -> str:
    """When a process began (proc_pid_stat(5)); empty if there is none, or only its exit status."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def process(pid: int) -> Process:
    return Process(pid, born(pid))


def children(pid: int) -> list[int]:
    found: list[int] = []
    # A process, or a thread of it, may end while it is looked at.
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found


def descendants(pid: int) -> Iterator[int]:
    for child in children(pid):
        yield child
        yield from descendants(child)


def is_broker(pid: int) -> bool:
    try:
        return b"egress.boot" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@dataclass(frozen=True)
class Family:
    """The processes of a server by what they are for: the launcher's outer and inner, its mold, the broker."""

    server: Process
    launcher: tuple[Process, ...]
    mold: tuple[Process, ...]
    broker: tuple[Process, ...]
    others: tuple[Process, ...]

    @property
    def all(self) -> tuple[Process, ...]:
        return (self.server, *self.launcher, *self.mold, *self.broker, *self.others)


def family(server: int) -> Family:
    direct = children(server)
    brokers = [pid for pid in direct if is_broker(pid)]
    outer = [pid for pid in direct if pid not in brokers]
    inner = [below for pid in outer for below in children(pid)[:1]]
    # The mold is the first that a launcher forks.
    molds = [pid for above in inner for pid in children(above)[:1]]
    named = {*brokers, *outer, *inner, *molds}
    rest = [pid for pid in descendants(server) if pid not in named]
    return Family(
        process(server),
        tuple(map(process, outer + inner)),
        tuple(map(process, molds)),
        tuple(map(process, brokers)),
        tuple(map(process, rest)),
    )


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def living(gone: Family) -> list[str]:
    """The processes of a server that are still there."""
    return [f"process {one.pid} {_comm(one.pid)}: {_state(one.pid)}" for one in gone.all if one.alive]


def _state(pid: int) -> str:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        return " ".join(line for line in status.splitlines() if line.startswith(("State", "PPid", "NSpid", "SigQ")))
    except OSError:
        return ""


def cgroups(server: int) -> list[str]:
    """The cgroups of a server's launchers."""
    mounts = machine.cgroup_mounts()
    roots = {*mounts.v1.values(), *([mounts.v2] if mounts.v2 else [])}
    found: list[str] = []
    for root in roots:
        for path, names, _ in os.walk(root):  # unlike a glob it does not mind what goes as it looks
            if os.path.basename(path) == "enclave":
                found += [f"{path}/{name}" for name in names if name.startswith(f"{server}-")]
                names.clear()
    return found


def mounts(home: Path) -> list[str]:
    """What is mounted on the machine of a server's home, or in it; others may mount what they like."""
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(home) in line]


def vanish(left: Callable[[], list[str]]) -> None:
    """Wait for what the kernel does in its own time; raises AssertionError, saying what is left, if it does not."""
    end = time.monotonic() + PATIENCE_SECONDS
    while found := left():
        assert time.monotonic() < end, found
        time.sleep(0.02)
