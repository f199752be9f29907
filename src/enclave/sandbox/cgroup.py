"""Limits and accounts of one sandbox, kept by the kernel: cgroup v2, or v1 where that is what the machine has.

Files and their meaning: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/{memory,pids,cpuacct}.rst in the kernel
tree. What to write where is data (`V1`, `V2`); the rest opens, reads and removes. Directories are held as descriptors,
so that nothing depends on a path once the launcher has left the host's root.
"""

import contextlib
import errno
import os
import select
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

MIB: Final = 1024 * 1024
_PERIOD_MICROSECONDS: Final = 100_000
CONTROLLERS: Final = ("memory", "pids", "cpu", "cpuacct")
OURS: Final = "enclave"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a group may use: bytes, tasks (threads included) and processors."""

    memory_bytes: int
    tasks: int
    cpus: float


@dataclass(frozen=True, slots=True)
class Account:
    """What a group has used and which of its bounds it ran into, as the kernel counted."""

    cpu_seconds: float
    peak_memory_bytes: int
    peak_tasks: int | None
    out_of_memory: bool
    out_of_tasks: bool


@dataclass(frozen=True, slots=True)
class Flavour:
    """One version of the interface: what to write, and where each figure is read.

    `limits` turns bounds into (controller, file, value); a file that may be absent ends in `?`. The readers name a
    controller and a file.
    """

    version: int
    entrance: str
    limits: Callable[[Bounds], tuple[tuple[str, str, str], ...]]
    cpu: tuple[str, str]
    peak_memory: tuple[str, str]
    memory_events: tuple[str, str]
    pids_events: tuple[str, str]
    peak_tasks: tuple[str, str]


def _v1_limits(bounds: Bounds) -> tuple[tuple[str, str, str], ...]:
    memory, quota = str(bounds.memory_bytes), str(int(bounds.cpus * _PERIOD_MICROSECONDS))
    return (
        ("memory", "memory.limit_in_bytes", memory),
        ("memory", "memory.memsw.limit_in_bytes?", memory),
        # Without a limit of its own v1 does not count what lies in the buffers of internet sockets at all.
        ("memory", "memory.kmem.tcp.limit_in_bytes?", str(bounds.memory_bytes // 4)),
        ("pids", "pids.max", str(bounds.tasks)),
        ("cpu", "cpu.cfs_quota_us", quota),
    )


def _v2_limits(bounds: Bounds) -> tuple[tuple[str, str, str], ...]:
    return (
        ("memory", "memory.max", str(bounds.memory_bytes)),
        ("memory", "memory.swap.max?", "0"),
        ("memory", "memory.oom.group", "1"),
        ("pids", "pids.max", str(bounds.tasks)),
        ("cpu", "cpu.max", f"{int(bounds.cpus * _PERIOD_MICROSECONDS)} {_PERIOD_MICROSECONDS}"),
    )


V1: Final = Flavour(
    version=1,
    # Not cgroup.procs: a thread that moves itself takes no lock that every fork and exit of the machine waits for, and
    # that takes an RCU grace period, often tens of milliseconds, to take (cgroup_procs_write_start in kernel/cgroup).
    entrance="tasks",
    limits=_v1_limits,
    cpu=("cpuacct", "cpuacct.usage"),
    peak_memory=("memory", "memory.max_usage_in_bytes"),
    memory_events=("memory", "memory.oom_control"),
    pids_events=("pids", "pids.events"),
    peak_tasks=("pids", "pids.peak"),
)
V2: Final = Flavour(
    version=2,
    entrance="cgroup.procs",
    limits=_v2_limits,
    cpu=("cpu", "cpu.stat"),
    peak_memory=("memory", "memory.peak"),
    memory_events=("memory", "memory.events"),
    pids_events=("pids", "pids.events"),
    peak_tasks=("pids", "pids.peak"),
)


def parse_fields(text: str) -> dict[str, int]:
    """The `name value` lines of a flat-keyed file."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def cpu_seconds(flavour: Flavour, text: str) -> float:
    """Processor time from `cpuacct.usage` (nanoseconds) or `cpu.stat` (`usage_usec`)."""
    return int(text) / 1e9 if flavour.version == 1 else parse_fields(text)["usage_usec"] / 1e6


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """Where groups are made: one directory a controller (in v2 all the same one), held open."""

    flavour: Flavour
    roots: Mapping[str, int]
    instance: str

    def distinct(self) -> set[int]:
        """The descriptors of the directories, each once."""
        return set(self.roots.values())

    def make(self, name: str) -> "Group":
        """A new group called `name`, without bounds yet. Raises OSError, with nothing left."""
        made: list[int] = []
        try:
            for root in self.distinct():
                os.mkdir(name, 0o755, dir_fd=root)
                made.append(root)
            return Group(self, name)
        except OSError:
            for root in made:
                os.rmdir(name, dir_fd=root)
            raise

    def remove(self) -> None:
        """Remove the directories themselves, once every group in them is gone."""
        for root in self.distinct():
            with contextlib.suppress(OSError):
                os.rmdir(f"../{self.instance}", dir_fd=root)

    def close(self) -> None:
        """Let go of the directories."""
        for root in self.distinct():
            os.close(root)


class Group:
    """The group of one sandbox.

    A figure is opened when it is first read and kept: then reading it is one call, and a group that only waits holds no
    descriptor, of which every fork would make a copy.
    """

    __slots__ = ("_bounds", "_figures", "_hierarchy", "name")

    def __init__(self, hierarchy: Hierarchy, name: str) -> None:
        self.name = name
        self._hierarchy = hierarchy
        self._bounds: Bounds | None = None
        self._figures: dict[tuple[str, str], int] = {}

    def bound(self, bounds: Bounds) -> bool:
        """Put bounds in force; those already in force are not written again. False if more memory is in use already.

        Raises OSError.
        """
        if bounds == self._bounds:
            return True
        before = self._hierarchy.flavour.limits(self._bounds) if self._bounds else ()
        changed = [write for write in self._hierarchy.flavour.limits(bounds) if write not in before]
        if self._bounds is not None and bounds.memory_bytes > self._bounds.memory_bytes:
            # v1: memory must never be above memory plus swap, not even for a moment.
            changed.reverse()
        try:
            for controller, file, value in changed:
                self._write(controller, file, value)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        self._bounds = bounds
        return True

    def entrances(self) -> list[int]:
        """Descriptors of the files through which a process joins, by writing `0`; the caller closes them."""
        path = f"{self.name}/{self._hierarchy.flavour.entrance}"
        return [os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=root) for root in self._hierarchy.distinct()]

    def account(self) -> Account:
        """What it has used so far."""
        flavour = self._hierarchy.flavour
        return Account(
            cpu_seconds=self.cpu_seconds(),
            peak_memory_bytes=int(self._read(flavour.peak_memory)),
            peak_tasks=self._peak_tasks(),
            out_of_memory=parse_fields(self._read(flavour.memory_events)).get("oom_kill", 0) > 0,
            out_of_tasks=self.out_of_tasks(),
        )

    def out_of_tasks(self) -> bool:
        """Whether a task was refused because of the bound on them."""
        return parse_fields(self._read(self._hierarchy.flavour.pids_events)).get("max", 0) > 0

    def cpu_seconds(self) -> float:
        """Processor time used by all that ever ran in it."""
        return cpu_seconds(self._hierarchy.flavour, self._read(self._hierarchy.flavour.cpu))

    def tasks_alarm(self) -> tuple[int, int]:
        """A descriptor, and the epoll event on it that tells that the bound on tasks was run into."""
        self._read(self._hierarchy.flavour.pids_events)
        return os.dup(self._figure(self._hierarchy.flavour.pids_events)), select.EPOLLPRI

    def memory_alarm(self) -> tuple[int, int]:
        """A descriptor, and the epoll event on it that tells that memory ran out."""
        flavour = self._hierarchy.flavour
        events = self._figure(flavour.memory_events)
        if flavour.version == 2:
            self._read(flavour.memory_events)
            return os.dup(events), select.EPOLLPRI
        alarm = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._write("memory", "cgroup.event_control", f"{alarm} {events}")
        return alarm, select.EPOLLIN

    def remove(self) -> bool:
        """Remove the group; False while a process is still leaving it, and then it is to be tried again."""
        try:
            for root in self._hierarchy.distinct():
                with contextlib.suppress(FileNotFoundError):
                    os.rmdir(self.name, dir_fd=root)
        except OSError:
            return False
        self._close()
        return True

    def _peak_tasks(self) -> int | None:
        try:
            return int(self._read(self._hierarchy.flavour.peak_tasks))
        except FileNotFoundError:  # it came with Linux 6.1
            return None

    def _figure(self, figure: tuple[str, str]) -> int:
        if figure not in self._figures:
            self._figures[figure] = self._open(*figure, os.O_RDONLY)
        return self._figures[figure]

    def _close(self) -> None:
        for fd in self._figures.values():
            os.close(fd)

    def _read(self, figure: tuple[str, str]) -> str:
        return os.pread(self._figure(figure), 4096, 0).decode()

    def _open(self, controller: str, file: str, flags: int) -> int:
        return os.open(f"{self.name}/{file}", flags | os.O_CLOEXEC, dir_fd=self._hierarchy.roots[controller])

    def _write(self, controller: str, file: str, value: str) -> None:
        optional = file.endswith("?")
        try:
            fd = self._open(controller, file.rstrip("?"), os.O_WRONLY)
        except FileNotFoundError:
            if optional:
                return
            raise
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)


@dataclass(frozen=True, slots=True)
class Mounts:
    """Where the kernel's cgroup file systems are, as /proc/self/mountinfo tells; `own` is this process's v2 group."""

    v1: Mapping[str, str]
    v2: str | None
    own: str


def read_mounts(mountinfo: str, self_cgroup: str) -> Mounts:
    """Parse /proc/self/mountinfo and /proc/self/cgroup (proc_pid_mountinfo(5), cgroups(7))."""
    v1: dict[str, str] = {}
    v2: str | None = None
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        point, kind, options = left.split()[4], right.split()[0], right.split()[-1].split(",")
        if kind == "cgroup":
            v1.update({controller: point for controller in CONTROLLERS if controller in options})
        elif kind == "cgroup2":
            v2 = v2 or point
    own = next((line[3:] for line in self_cgroup.splitlines() if line.startswith("0::")), "/")
    return Mounts(v1, v2, own)


def open_hierarchy(mounts: Mounts, instance: str) -> Hierarchy:
    """The directory `enclave/<instance>` in each hierarchy, made if need be. Raises OSError where that is refused."""
    if all(controller in mounts.v1 for controller in CONTROLLERS):
        paths = {controller: f"{mounts.v1[controller]}/{OURS}/{instance}" for controller in CONTROLLERS}
        return Hierarchy(V1, _open_each(paths), instance)
    if mounts.v2 is None:
        raise FileNotFoundError("no cgroup file system with the memory, pids and cpu controllers is mounted")
    path = _delegate(mounts, instance)
    return Hierarchy(V2, _open_each(dict.fromkeys(("memory", "pids", "cpu"), path)), instance)


def _delegate(mounts: Mounts, instance: str) -> str:
    errors: list[str] = []
    for parent in _v2_parents(mounts):
        path = f"{parent}/{OURS}/{instance}"
        try:
            _enable_even_if_lived_in(parent)
            os.makedirs(path, exist_ok=True)
            _enable(f"{parent}/{OURS}")
            _enable(path)
        except OSError as error:
            errors.append(f"{parent}: {error.strerror}")
            continue
        return path
    raise PermissionError(f"no cgroup was delegated to this user ({'; '.join(errors)})")


def _v2_parents(mounts: Mounts) -> list[str]:
    if mounts.v2 is None:
        return []
    own = os.path.normpath(mounts.v2 + mounts.own)
    return list(dict.fromkeys((mounts.v2, own, os.path.dirname(own))))


def _enable_even_if_lived_in(directory: str) -> None:
    # v2 gives controllers to the groups below only when no process is in the group itself, but for the topmost.
    try:
        _enable(directory)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        vacate(directory)
        _enable(directory)


def vacate(directory: str) -> None:
    """Move every process of a delegated group into a leaf of its own, `enclave-server`. Raises OSError."""
    leaf = f"{directory}/{OURS}-server"
    os.makedirs(leaf, exist_ok=True)
    with open(f"{directory}/cgroup.procs") as procs:
        pids = procs.read().split()
    for pid in pids:
        with open(f"{leaf}/cgroup.procs", "a") as target:
            target.write(f"{pid}\n")


def _enable(directory: str) -> None:
    with open(f"{directory}/cgroup.subtree_control", "r+") as file:
        missing = {"memory", "pids", "cpu"} - set(file.read().split())
        if missing:
            file.write(" ".join(f"+{controller}" for controller in sorted(missing)))


def _open_each(paths: Mapping[str, str]) -> dict[str, int]:
    opened: dict[str, int] = {}
    for path in dict.fromkeys(paths.values()):
        os.makedirs(path, exist_ok=True)
        opened[path] = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    return {controller: opened[path] for controller, path in paths.items()}


def remove_instances(mounts: Mounts, *, unless: Callable[[str], bool]) -> bool:
    """Remove what launchers that are gone have left: every `enclave/<instance>` but those for which `unless` holds.

    A group that still has a process in it stays, and then the answer is False; `enclave` itself goes when that leaves
    it empty.
    """
    left = False
    for base in {*mounts.v1.values(), *_v2_parents(mounts)}:
        ours = f"{base}/{OURS}"
        for instance in _directories(ours):
            if not unless(instance):
                _remove_tree(f"{ours}/{instance}")
                left |= os.path.exists(f"{ours}/{instance}")
        with contextlib.suppress(OSError):
            if os.stat(ours).st_uid == os.geteuid():  # else it was given to someone, who still wants it
                os.rmdir(ours)
    return not left


def _remove_tree(path: str) -> None:
    for name in _directories(path):
        with contextlib.suppress(OSError):
            os.rmdir(f"{path}/{name}")
    with contextlib.suppress(OSError):
        os.rmdir(path)


def _directories(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
