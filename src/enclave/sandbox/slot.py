"""One sandbox as the launcher sees it: a process to kill, a group to remove, and descriptors to give away."""

import contextlib
import os
import socket
import time
from dataclasses import dataclass, field
from typing import Final

from enclave.sandbox import cgroup, init, linux, mold

UID_BASE: Final = 0x70000000
"""Host ids of sandboxes start here, above every range that systemd and useradd hand out (systemd: UIDS-GIDS.md)."""
UID_RANGE: Final = 0x100000
"""How many of them are one launcher's, so that no live sandbox has another's, whichever launcher it is of."""
UID_RANGES: Final = 0xFF


@dataclass(frozen=True, slots=True)
class Shape:
    """What has to be known before a sandbox is built.

    `source` is the place of its source among the sources, None for a sandbox without.
    """

    language: str
    disk_bytes: int
    bounds: cgroup.Bounds
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Site:
    """What all sandboxes of a launcher share."""

    hierarchy: cgroup.Hierarchy
    mold: mold.Mold
    own_network: int
    privileged: bool
    first_uid: int = UID_BASE


@dataclass(slots=True)
class Ours:
    """The launcher's ends of a sandbox's descriptors; what was given away or closed is -1."""

    stdout: int
    stderr: int
    go: int
    payload: int
    result: int
    status: int

    def give_away(self) -> tuple[int, int, int]:
        """The descriptors that belong to whoever runs the session: stdout, stderr, result."""
        given = (self.stdout, self.stderr, self.result)
        self.stdout = self.stderr = self.result = -1
        return given

    def start(self, payload: int) -> None:
        """Let the guest have the program in a memory file.

        It is copied by the kernel: no program passes through this process's memory.
        """
        size, sent = os.fstat(payload).st_size, 0
        while sent < size:
            sent += os.sendfile(self.payload, payload, sent, size - sent)
        os.write(self.go, size.to_bytes(8, "little"))
        self._close("go", "payload")

    def close(self) -> None:
        """Close what is left."""
        self._close("stdout", "stderr", "go", "payload", "result", "status")

    def _close(self, *names: str) -> None:
        for name in names:
            if (fd := getattr(self, name)) >= 0:
                os.close(fd)
                setattr(self, name, -1)


@dataclass(slots=True)
class Slot:
    """A sandbox from its fork to its last trace."""

    number: int
    shape: Shape
    group: cgroup.Group
    pid: int
    ours: Ours
    ready: bool = False
    session: int | None = None
    started_at: float = 0.0
    cpu_before: float = 0.0
    cpu_budget: float = 0.0
    deadline: float = 0.0
    kill_reason: str | None = None
    door: bool = False
    alarms: list[int] = field(default_factory=list)
    reported: bool = False
    reaped: bool = False
    removed: bool = False

    def begin(self, session: int, payload: int | None) -> None:
        """Give it its program, if it is to have one; the clock starts. One that has died shows it by its status."""
        self.session = session
        self.cpu_before = self.group.cpu_seconds()
        self.started_at = time.monotonic()
        if payload is not None:
            with contextlib.suppress(BrokenPipeError):
                self.ours.start(payload)

    def openings(self, site: Site) -> list[int]:
        """Copies of what init keeps (listener, resolver, work), and a door if there is to be one. Raises OSError.

        The caller closes them.
        """
        process = linux.pidfd_open(self.pid)
        with contextlib.ExitStack() as left:
            left.callback(os.close, process)
            taken = [_taken(process, place, left) for place in (init.LISTENER, init.RESOLVER, init.WORK)]
            if self.door:
                taken.append(_door(process, site))
            left.pop_all()
        os.close(process)
        return taken

    def kill(self) -> None:
        """End everything in it. The pid cannot be another's: it is this process's child and not yet waited for."""
        if not self.reaped:
            os.kill(self.pid, 9)

    def close(self) -> None:
        """Let go of every descriptor."""
        self.ours.close()
        for alarm in self.alarms:
            os.close(alarm)
        self.alarms.clear()


def build(site: Site, shape: Shape, number: int) -> Slot:
    """Fork a sandbox; it is usable at once and warm when its status says so. Raises OSError, with nothing left."""
    group = site.hierarchy.make(f"s{number}")
    try:
        group.bound(shape.bounds)
        return _fork(site, shape, number, group)
    except OSError:
        group.remove()
        raise


def _fork(site: Site, shape: Shape, number: int, group: cgroup.Group) -> Slot:
    ours, ends = _descriptors()
    entrances = group.entrances()
    uid = site.first_uid + number % UID_RANGE if site.privileged else None
    for stream in (ends.stdout, ends.stderr):
        os.fchown(stream, -1 if uid is None else uid, -1)  # so that /dev/stdout can be opened inside
    cast = mold.Cast(uid, shape.disk_bytes, shape.language, shape.source)
    try:
        pid = site.mold.fork(cast, ends, entrances)
    except OSError:
        ours.close()
        raise
    finally:
        for fd in (*entrances, *ends.in_place()):
            os.close(fd)
    return Slot(number=number, shape=shape, group=group, pid=pid, ours=ours)


def _taken(process: int, place: int, left: contextlib.ExitStack) -> int:
    fd = linux.pidfd_getfd(process, place)
    left.callback(os.close, fd)
    return fd


_DOOR_PORT: Final = 80


def _door(process: int, site: Site) -> int:
    """A listening socket in a sandbox's network, which the process that its pidfd stands for is in."""
    linux.setns(process, linux.CLONE_NEWNET)
    try:
        return _listen(socket.AF_INET6, "::")
    except OSError:
        return _listen(socket.AF_INET, "0.0.0.0")  # noqa: S104  of a network that has nothing but its loopback
    finally:
        linux.setns(site.own_network, linux.CLONE_NEWNET)


def _listen(family: socket.AddressFamily, host: str) -> int:
    with socket.socket(family, socket.SOCK_STREAM) as made:
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind((host, _DOOR_PORT))
        made.listen(1024)
        return made.detach()


def _descriptors() -> tuple[Ours, init.Ends]:
    opened: list[int] = []
    try:
        pipes = [_pipe(opened) for _ in range(5)]
        payload = os.memfd_create("payload", os.MFD_CLOEXEC)
        opened.append(payload)
        inside = os.dup(payload)
        opened.append(inside)
        # Opened anew for each: flags and owners belong to an open file, and would tell one sandbox of another.
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        opened.append(null)
    except OSError:
        for fd in opened:
            os.close(fd)
        raise
    (out_r, out_w), (err_r, err_w), (go_r, go_w), (result_r, result_w), (status_r, status_w) = pipes
    os.set_blocking(status_r, False)
    ours = Ours(stdout=out_r, stderr=err_r, go=go_w, payload=payload, result=result_r, status=status_r)
    ends = init.Ends(null=null, stdout=out_w, stderr=err_w, go=go_r, payload=inside, result=result_w, status=status_w)
    return ours, ends


def _pipe(opened: list[int]) -> tuple[int, int]:
    pair = os.pipe2(os.O_CLOEXEC)
    opened.extend(pair)
    return pair
