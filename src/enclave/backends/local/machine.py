"""What this machine has: interpreters to offer, and the controls the kernel gives."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from enclave.backends.base import Check
from enclave.egress import raw
from enclave.sandbox import cgroup, landlock, seccomp

NODE_GUEST: Final = "/opt/enclave/node.js"
NODE_AHEAD: Final = "/opt/enclave/ahead.js"
_MOST_READY: Final = 128
_SWEEP_SECONDS: Final = 0.1
_OLDEST_KERNEL: Final = (5, 12)
OLDEST_PYTHON: Final = "3.11"


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A program that runs code, and the directory it is installed under."""

    path: str
    prefix: str


def python() -> Interpreter:
    """The interpreter of the sandboxes: the system's if it is recent enough, else the one this process runs on."""
    for candidate in ("/usr/bin/python3", getattr(sys, "_base_executable", sys.executable)):
        if (prefix := _recent_prefix(candidate)) is not None:
            return Interpreter(candidate, prefix)
    return Interpreter(sys.executable, sys.base_prefix)


def interpreter(path: str) -> Interpreter | None:
    """The Python that a path leads to, through links and shims, if it is recent enough."""
    real = _say([path, *_BARE, "import os, sys; print(os.path.realpath(sys.executable))"])
    prefix = _recent_prefix(real) if real is not None else None
    return Interpreter(real, prefix) if real is not None and prefix is not None else None


_BARE: Final = ("-I", "-S", "-c")
_ASK: Final = f"import sys; print(sys.base_prefix if sys.version_info >= ({OLDEST_PYTHON.replace('.', ',')}) else '')"


def _recent_prefix(path: str) -> str | None:
    return _say([path, *_BARE, _ASK])


def _say(command: Sequence[str]) -> str | None:
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout.strip() or None


def node() -> Interpreter | None:
    """Node.js, if it is installed."""
    found = shutil.which("node", path=os.environ.get("PATH", "") + ":/usr/local/bin:/usr/bin")
    if found is None:
        return None
    return _node_of(Path(found).resolve())


def node_at(path: str) -> Interpreter | None:
    """The Node.js that a path leads to, through links and shims."""
    found = shutil.which(path)
    real = _say([found, "-p", "process.versions.v8 && process.execPath"]) if found else None
    return _node_of(Path(real)) if real is not None else None


def _node_of(path: Path) -> Interpreter:
    # Node needs its binary alone. What is above `bin` may be anything, a home above all, unless it is Node's own.
    above = path.parent.parent
    own = above == Path("/usr") or (above / "include/node").is_dir() or (above / "lib/node_modules").is_dir()
    return Interpreter(str(path), str(above if own else path.parent))


def node_files() -> Mapping[str, str]:
    """The guest of Node, and what it does ahead of a program, by their path inside."""
    texts = {path: resources.files("enclave.guest").joinpath(Path(path).name) for path in (NODE_GUEST, NODE_AHEAD)}
    return {path: text.read_text() for path, text in texts.items()}


def most_ready(idle_bytes: int) -> int:
    """How many sandboxes of that size may wait when they are much in demand: a twentieth of the memory free now."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(_MOST_READY, free // 20 // idle_bytes)


def cgroup_mounts() -> cgroup.Mounts:
    """Where this machine's cgroup file systems are."""
    return cgroup.read_mounts(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())


def instance_name() -> str:
    """A name for what one launcher of this process makes in the cgroup file systems; it says which process that is."""
    return f"{os.getpid()}-{_born(str(os.getpid()))}-{os.urandom(4).hex()}"


def remove_instances(*, named: Collection[str] = ()) -> bool:
    """Remove the cgroups that launchers left: those `named`, and those of processes that are no more.

    False if some stay yet, because the kernel is still ending what is in them.
    """

    return cgroup.remove_instances(cgroup_mounts(), unless=lambda one: one not in named and has_owner(one))


def has_owner(instance: str) -> bool:
    """Whether the process that an instance's name tells of is alive."""
    owner, *rest = instance.split("-")
    # A name of two parts is an older Enclave's, which may run beside this one, and tells the number alone.
    return _born(owner) != "" and (len(rest) < 2 or _born(owner) == rest[0])


async def sweep(named: Collection[str] = ()) -> None:
    """Remove such cgroups, and return when there are none; a process that is being ended may take its time."""
    while not remove_instances(named=named):  # noqa: ASYNC110  the kernel tells nobody
        await asyncio.sleep(_SWEEP_SECONDS)


def _born(pid: str) -> str:
    """When a process began (proc_pid_stat(5)), so that its number, used again, is not taken for it; empty for none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def checks() -> tuple[Check, ...]:
    """Each control by name: whether this machine gives it, and the mend where it does not."""
    return tuple(examine() for examine in _EXAMINATIONS)


def _kernel() -> Check:
    release = os.uname().release
    parts = release.split("-")[0].split(".")
    recent = tuple(int(part) for part in parts[:2]) >= _OLDEST_KERNEL
    return Check("kernel", recent, f"Linux {release}", "Linux 5.12 or newer is needed (mount_setattr)")


def _namespaces() -> Check:
    privileged = os.geteuid() == 0
    code = "import ctypes,sys; sys.exit(ctypes.CDLL(None).unshare(int(sys.argv[1])) != 0)"
    flags = str(0x6E020000 if privileged else 0x7E020000)
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, flags], check=False)  # noqa: S603
    mend = "run as root, or: sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000"
    detail = "user, pid, mount, net, ipc, uts, cgroup" + ("" if privileged else " (without root)")
    return Check("namespaces", done.returncode == 0, detail, mend)


_DELEGATE_V1: Final = (
    "run as root, or once, as root: for c in memory pids cpu cpuacct; do"
    " mkdir -p /sys/fs/cgroup/$c/enclave && chown USER /sys/fs/cgroup/$c/enclave; done"
)


def _cgroups() -> Check:
    name = instance_name()
    mounts = cgroup_mounts()
    mend = _DELEGATE_V1 if mounts.v1 else "run as root, or: systemd-run --user --scope -p Delegate=yes enclave serve"
    try:
        hierarchy = cgroup.open_hierarchy(mounts, name)
    except OSError as error:
        return Check("cgroups", False, str(error), mend)
    version = hierarchy.flavour.version
    hierarchy.close()
    remove_instances(named=[name])
    return Check("cgroups", True, f"v{version}: memory, pids, cpu", mend)


def lacks_cgroups() -> bool:
    """Whether it is for want of a cgroup that no sandbox can be made."""
    return not _cgroups().holds


def _seccomp() -> Check:
    filters = "Seccomp_filters" in Path("/proc/self/status").read_text()
    known = os.uname().machine in seccomp.ARCHITECTURES
    return Check(
        "seccomp", filters and known, f"allowlist for {os.uname().machine}", "a kernel with CONFIG_SECCOMP_FILTER"
    )


def _landlock() -> Check:
    version = landlock.abi()
    holds = version >= landlock.OLDEST
    detail = f"ABI {version}: " + ("a second wall around files" if holds else "read-only mounts alone keep files")
    mend = "Linux 5.19 or newer with CONFIG_SECURITY_LANDLOCK, and landlock among what its lsm= parameter names"
    return Check("landlock", holds, detail, mend, essential=False)


def _distinct_ids() -> Check:
    root = os.geteuid() == 0
    detail = "each sandbox has a host user id of its own" if root else "sandboxes share the host user id of the server"
    return Check("distinct user ids", root, detail, "run as root", essential=False)


def _python() -> Check:
    found = python()
    return Check("python", True, found.path, "")


def _node() -> Check:
    found = node()
    detail = found.path if found else "not installed"
    return Check("node", found is not None, detail, "apt-get install nodejs", essential=False)


def _egress() -> Check:
    known = Path("/proc/sys/kernel/seccomp/actions_avail").read_text().split()
    detail = "connections are decided outside the sandbox (seccomp user notification)"
    mend = "a kernel with seccomp user notification (Linux 5.14 or newer)"
    return Check("egress broker", "user_notif" in known, detail, mend)


def _egress_addresses() -> Check:
    detail = "rules on addresses: a socket that is handed over is held to its peer by a filter"
    mend = "run as root; rules on names and service bindings do without"
    return Check("egress by address", raw.available(), detail, mend, essential=False)


_EXAMINATIONS: Final[tuple[Callable[[], Check], ...]] = (
    _kernel,
    _namespaces,
    _cgroups,
    _seccomp,
    _landlock,
    _distinct_ids,
    _python,
    _node,
    _egress,
    _egress_addresses,
)
