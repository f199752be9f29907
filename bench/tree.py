"""The processes of the server that is measured, as /proc shows them."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

from enclave.backends.local import machine

WARM = 16
"""How many Python sandboxes a server keeps ready by default."""


@dataclass(frozen=True)
class Warm:
    """A Python sandbox that waits: its init and its guest."""

    init: int
    guest: int


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]


def server() -> int:
    """The server, which is the child of this process."""
    return next(pid for pid in children(os.getpid()) if b"enclave.serve" in Path(f"/proc/{pid}/cmdline").read_bytes())


def launcher() -> int:
    """The launcher of the bare interpreters: the first process of its own PID namespace."""
    # The broker is a child of the server too, and has none of its own.
    return next(below[0] for child in children(server()) if (below := children(child)))


def descendants(pid: int) -> Iterator[int]:
    for child in children(pid):
        yield child
        yield from descendants(child)


def sandboxes() -> list[Warm]:
    """The Python sandboxes that there are."""
    pairs = [Warm(init, guest) for init in children(launcher()) for guest in children(init)]
    return [pair for pair in pairs if Path(f"/proc/{pair.guest}/comm").read_text() == "guest\n"]


def pss_kib(pid: int) -> int:
    """Proportional set size (proc_pid_smaps(5)): what is shared is divided by those who share it."""
    return field(Path(f"/proc/{pid}/smaps_rollup"), "Pss")


def rss_kib(pid: int) -> int:
    return field(Path(f"/proc/{pid}/status"), "VmRSS")


def field(file: Path, name: str) -> int:
    return next((int(line.split()[1]) for line in file.read_text().splitlines() if line.startswith(f"{name}:")), 0)


@dataclass(frozen=True)
class Holdings:
    """What a server and all below it hold; of mounts the launcher's, since the server's are the machine's."""

    descriptors: int
    processes: int
    mounts: int
    cgroups: int
    server_kib: int
    launcher_kib: int


def holdings() -> Holdings:
    top, below = server(), launcher()
    mounts = machine.cgroup_mounts()
    roots = {*mounts.v1.values(), *([mounts.v2] if mounts.v2 else [])}
    return Holdings(
        descriptors=sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in (top, below)),
        processes=len(list(descendants(top))),
        mounts=len(Path(f"/proc/{below}/mountinfo").read_text().splitlines()),
        cgroups=sum(1 for root in roots for path in Path(root).glob(f"**/enclave/{top}-*/*") if path.is_dir()),
        server_kib=rss_kib(top),
        launcher_kib=rss_kib(below),
    )


def until(true: Callable[[], bool], seconds: float) -> None:
    """Wait until something is so, or give it up."""
    end = monotonic() + seconds
    while monotonic() < end and not _quietly(true):
        sleep(0.05)


def _quietly(true: Callable[[], bool]) -> bool:
    try:
        return true()
    except OSError:  # of a process that has just ended
        return False
