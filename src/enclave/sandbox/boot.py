"""How a launcher comes to stand: it takes hold of its cgroups, leaves the host's root, and only then serves."""

import gc
import importlib
import os
import resource
import signal
import site
import socket
import sys
import time
from collections.abc import Sequence
from typing import Final

from enclave.sandbox import cgroup, host, isolate, landlock, linux, mold, root, seccomp, template, wire
from enclave.sandbox.launcher import INIT_TASKS, Launcher
from enclave.sandbox.pool import Bounds, Pool
from enclave.sandbox.slot import UID_BASE, UID_RANGE, UID_RANGES, Shape, Site

SHARED_MODULES: Final = tuple(
    "bisect collections contextlib copy dataclasses datetime enum functools heapq itertools json linecache math"
    " operator random re string struct threading time traceback typing".split()
)
"""What most programs import: done once here, shared by every fork.

Each costs every fork the pages and mappings it has; those that bring a library of their own (hashlib, decimal, shutil,
zlib) make a fork half as dear again, and are left to who wants them.
"""


_TMP: Final = "/tmp"  # noqa: S108  in the launcher's own root


def main(control: socket.socket) -> None:
    """Be a launcher for whoever holds the other end of a SEQPACKET socket."""
    if sys.argv[-1] != host.STANDING:
        _start_over(control)
    linux.prctl(linux.PR_SET_NAME, b"enclave-launch")
    # The control plane's end is told by its socket; should this process hang, the kernel tells it in its own way.
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in (signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    control.set_inheritable(False)
    importlib.invalidate_caches()
    for name in SHARED_MODULES:
        importlib.import_module(name)
    site.setquit()
    site.setcopyright()
    site.sethelper()
    order = wire.decode(wire.receive(control, 0)[0])
    if not isinstance(order, wire.Configure):
        raise TypeError("a launcher is configured first")
    try:
        launcher = _settle(control, order)
    except OSError as error:
        wire.send_report(control, {"ev": "down", "why": str(error)})
        return
    try:
        launcher.run()
    except ConnectionError:
        # Killed with something unread, the control plane resets the connection rather than ending it (unix(7)).
        launcher.end_all()


def _start_over(control: socket.socket) -> None:
    try:
        host.start_over_read_only()
    except OSError as error:
        wire.send_report(control, {"ev": "down", "why": str(error)})
        os._exit(1)


def _settle(control: socket.socket, order: wire.Configure) -> Launcher:
    privileged = linux.is_real_root()
    hierarchy = cgroup.open_hierarchy(host.own_mounts(), order.instance)
    _become_first_of_own()
    linux.last_capability()
    landlock.domain()
    if not privileged:
        # It visits the networks of sandboxes, and only to one of its own user namespace may it return (setns(2)).
        linux.unshare(linux.CLONE_NEWNET)
    own_network = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    form = _form(order, privileged=privileged)
    _move_in(order, privileged=privileged)
    # Only now: a process that is not dumpable does not own its files in /proc, and moving in writes some.
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    gc.collect()
    gc.freeze()
    first_uid = UID_BASE + order.uids % UID_RANGES * UID_RANGE
    site = Site(hierarchy, mold.Mold(form), own_network, privileged, first_uid)
    bounds = cgroup.Bounds(order.memory_bytes, order.tasks + INIT_TASKS, order.cpus)
    pools = {
        language: Pool(Shape(language, order.disk_bytes, bounds), Bounds(*order.warm[language]), time.monotonic())
        for language in order.commands
    }
    return Launcher(control, site, pools)


def _form(order: wire.Configure, *, privileged: bool) -> mold.Form:
    return mold.Form(
        own_pid_namespace=os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC),
        filter=seccomp.assemble(),
        masked=isolate.existing(isolate.MASKED),
        keep_proc=not privileged,
        commands={language: tuple(command) or None for language, command in order.commands.items()},
        sources=order.sources is not None,
    )


def _move_in(order: wire.Configure, *, privileged: bool) -> None:
    files = {path: text.encode() for path, text in order.files.items()}
    plan = root.plan(order.prefixes, files, root.Extras(order.packages, order.sources, order.links))
    with template.own_tasks() as tasks:
        root.enter(plan, keep_proc=not privileged)
        if order.preload is not None:
            _preload(order.preload, tasks)


def _preload(modules: Sequence[str], tasks: int) -> None:
    # What a module prints as it is imported is for the log: standard output may be somebody's.
    os.dup2(2, 1)
    linux.mount("tmpfs", _TMP, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "size=64m,mode=1777")
    template.preload(template.PLACE, modules, tasks)
    linux.umount(_TMP)


def _become_first_of_own() -> None:
    """Go on as the first process of a PID namespace, so that the kernel ends every sandbox when the launcher ends.

    Also, without real root, only a process of a namespace of its own may return to it after each fork (setns(2)).
    """
    linux.unshare(linux.CLONE_NEWPID)
    launcher = os.fork()
    if launcher:
        linux.close_all_but({2})
        os._exit(os.waitstatus_to_exitcode(os.waitpid(launcher, 0)[1]) & 0xFF)
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
