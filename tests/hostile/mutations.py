"""One weakened control each: a few lines that a test puts into the launcher's boot text. Nothing in `src` knows of it.

They run in the launcher once `enclave.sandbox` is imported and before anything stands, and can be put one after the
other. What they replace is found by name, so that one which no longer bites leaves its probes unharmed and fails
`test_mutations.py`.

None may hurt the host: a sandbox without its mount namespace is still in the launcher's, hostnames are not set without
the UTS namespace, probes of privileged calls pass arguments that no kernel takes, and no packet leaves the machine.
What `writable_devices` lets through sets the times of /dev/null; what `ipc_ns` lets through is removed by the test.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from enclave.backends.local import channel, connection, machine, workload

_NAMES: Final = (
    "import dataclasses, os, random, re, sys, types\n"
    "from enclave.guest import python\n"
    "from enclave.sandbox import boot, cgroup, host, init, isolate, landlock, launcher, linux, mold\n"
    "from enclave.sandbox import root, seccomp, slot, vigil\n"
)


@dataclass(frozen=True, slots=True)
class Mutation:
    """What to put into the launcher, and what to change on this side of its socket."""

    text: str = ""
    here: Callable[[pytest.MonkeyPatch], None] | None = None


def _without(flag: str) -> Mutation:
    return Mutation(f"isolate._OWN_NAMESPACES &= ~linux.CLONE_{flag}\n")


def _unwritten(condition: str) -> Mutation:
    return Mutation(
        "def write(self, controller, file, value, was=cgroup.Group._write):\n"
        f"    if not ({condition}): was(self, controller, file, value)\n"
        "cgroup.Group._write = write\n"
    )


def _mounting(change: str) -> str:
    return (
        "def mount(source, target, kind, flags, data=None, was=linux.mount):\n"
        f"    {change}\n"
        "    was(source, target, kind, flags, data)\n"
        "linux.mount = mount\n"
    )


_HOST_ROOT: Final = """
def enter(plan, *, keep_proc):
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    linux.mount("tmpfs", "/mnt", "tmpfs", 0, "size=1m")
    for path in ("/mnt/node.js", "/mnt/ahead.js"):
        with open(path, "wb") as guest:
            guest.write(plan.files[path])
root.enter = enter
"""


def _guests_in_mnt(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(machine, "NODE_GUEST", "/mnt/node.js")
    patch.setattr(machine, "NODE_AHEAD", "/mnt/ahead.js")


_USER_NS: Final = """
def drop_identity(uid):
    for capability in range(linux.last_capability() + 1):
        linux.prctl(linux.PR_CAPBSET_DROP, capability)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
isolate._drop_identity = drop_identity
linux.drop_capabilities = lambda: None
"""

_REAL_ROOT: Final = """
def put_up(walls, was=isolate.put_up):
    return was(dataclasses.replace(walls, uid=None))
isolate.put_up = put_up
isolate._drop_identity = lambda uid: None
"""

_ROUTE: Final = """
def routed(was=isolate._start_loopback):
    import ctypes, fcntl, socket, struct
    was()
    name, none = ctypes.create_string_buffer(b"lo"), struct.pack("=H14x", 2)
    four = struct.pack("@L16s16s16sHhLPhPLLH", 0, none, none, none, 1, 0, 0, 0, 0, ctypes.addressof(name), 0, 0, 0)
    six = struct.pack("@16s16s16sIHHILIi", b"", b"", b"", 0, 0, 0, 1, 0, 1, 1)
    for family, entry in ((socket.AF_INET, four), (socket.AF_INET6, six)):
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            fcntl.ioctl(probe, 0x890B, entry)
isolate._start_loopback = routed
"""

_SHARED_TMP: Final = """
def enter(plan, *, keep_proc, was=root.enter):
    was(plan, keep_proc=keep_proc)
    linux.mount("tmpfs", "/tmp", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "size=64m,mode=777")
    os.umask(0)
    os.mkdir("/tmp/.work")
root.enter = enter
nothing = {"mkdir": lambda path, mode: None, "chown": lambda path, uid, gid: None}
isolate.os = types.SimpleNamespace(**{**vars(os), **nothing})
""" + _mounting("if kind == 'tmpfs' and target == '/tmp' and 'uid=' in (data or ''): return")

_PAYLOAD: Final = """
seen = []
def start(self, payload):
    data = os.pread(payload, 1 << 20, 0)
    seen.append(data)
    os.pwrite(self.payload, data, 0)
    os.write(self.go, len(data).to_bytes(8, "little"))
    self._close("go", "payload")
slot.Ours.start = start
"""

_MOLD: Final = """
class Launcher(mold.Mold):
    def __init__(self, form):
        self.form, self.pid = form, 0
        vigil.place()
    def fork(self, cast, ends, entrances):
        walls = isolate.Walls(cast.uid, cast.disk_bytes, entrances, self.form.filter, self.form.masked, False)
        linux.unshare(linux.CLONE_NEWPID)
        pid = os.fork()
        if pid == 0:
            boot.signal.set_wakeup_fd(-1)
            init.run(walls, ends, self.form.commands[cast.language])
        linux.setns(self.form.own_pid_namespace, linux.CLONE_NEWPID)
        return pid
mold.Mold = Launcher
"""


class _Unbounded(workload.Drain):
    def __init__(self, stream: workload.Stream, fd: int, limit: int) -> None:
        super().__init__(stream, fd, limit << 20)


def _secret_environment(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(connection, "_ENVIRONMENT", {**connection._ENVIRONMENT, "CLOUD_SECRET": "of the host"})


def _prctl_without(condition: str) -> str:
    return (
        "linux.prctl = lambda option, value=0, third=0, was=linux.prctl: "
        f"None if {condition} else was(option, value, third)\n"
    )


MUTATIONS: Final[Mapping[str, Mutation]] = {
    "read_only_start": Mutation(
        "host.start_over_read_only = lambda: os.execv(sys.executable, [*sys.orig_argv, host.STANDING])\n"
    ),
    "asked": Mutation("seccomp.ALLOWED |= seccomp.ASKED.keys()\nseccomp.ASKED = {}\n"),
    "exploits": Mutation("seccomp.EXPLOITS = frozenset()\n"),
    "seccomp": Mutation("seccomp.install = lambda assembled: os.eventfd(0)\n"),
    "landlock": Mutation("landlock.enter = lambda chosen, own: None\n"),
    "capabilities": Mutation("linux.drop_capabilities = lambda: None\n"),
    "no_new_privs": Mutation(_prctl_without("option == linux.PR_SET_NO_NEW_PRIVS")),
    "init_dumpable": Mutation(_prctl_without("(option, value) == (linux.PR_SET_DUMPABLE, 0)")),
    "masks": Mutation("isolate.MASKED = ()\n"),
    "read_only_proc": Mutation("isolate.READ_ONLY = ()\n"),
    "mount_ns": _without("NEWNS"),
    # Of one network only one sandbox could have the name server's place.
    "net_ns": Mutation(
        _without("NEWNET").text + "isolate._bind = lambda address, kind: isolate.socket.socket(2, kind).detach()\n"
    ),
    "ipc_ns": _without("NEWIPC"),
    "cgroup_ns": _without("NEWCGROUP"),
    "uts_ns": Mutation(_without("NEWUTS").text + "isolate.socket.sethostname = lambda name: None\n"),
    "pid_ns": Mutation("mold.linux = types.SimpleNamespace(**{**vars(linux), 'unshare': lambda flags: None})\n"),
    "launcher_ns": Mutation("boot._become_first_of_own = lambda: None\n"),
    "user_ns": Mutation(_USER_NS),
    "real_root": Mutation(_REAL_ROOT),
    "groups": Mutation("os.setgroups([4242])\n"),
    "one_user_id": Mutation(
        "isolate.put_up = lambda walls, was=isolate.put_up: was(dataclasses.replace(walls, uid=0x70000000))\n"
    ),
    "host_root": Mutation(_HOST_ROOT, _guests_in_mnt),
    "host_tmp": Mutation("isolate._TMP = '/srv'\n"),
    "host_work": Mutation("isolate.HOME = python.HOME = '/srv'\npython.FILE = '/srv/main.py'\n"),
    "writable_root": Mutation(_mounting("if target == '/' and flags & linux.MS_REMOUNT: return")),
    "writable_runtime": Mutation("linux.mount_setattr = lambda tree, attributes: None\n"),
    "writable_devices": Mutation(
        "linux.mount_setattr = lambda tree, attributes, was=linux.mount_setattr: "
        "was(tree, attributes if attributes & linux.MOUNT_ATTR_NODEV else attributes & ~linux.MOUNT_ATTR_RDONLY)\n"
    ),
    "descriptors": Mutation(
        "linux.close_all_but = lambda kept: None\nlinux.close_range = lambda first, last: None\n"
        "left = [os.open('/', os.O_RDONLY) for _ in range(20)]\n"
    ),
    "cgroup_join": Mutation("isolate.join = lambda entrances: [os.close(entrance) for entrance in entrances]\n"),
    "rlimits": Mutation("isolate.RLIMITS = ()\n"),
    "route": Mutation(_ROUTE),
    "shared_tmp": Mutation(_SHARED_TMP),
    "disk_bound": Mutation(
        _mounting("data = data and re.sub(r'size=\\d+,nr_inodes=\\d+', 'size=512m,nr_inodes=0', data)")
    ),
    "memory_bound": _unwritten("controller == 'memory' and ('limit' in file or '.max' in file)"),
    "tasks_bound": _unwritten("file == 'pids.max'"),
    "cpu_rate": _unwritten("controller == 'cpu'"),
    "cpu_budget": Mutation("launcher.Launcher._cpu_check = lambda self, live, cpus: lambda: None\n"),
    "wall_clock": Mutation("launcher.Launcher._on_deadline = lambda self, live: None\n"),
    "output_bound": Mutation(here=lambda patch: patch.setattr(workload, "Drain", _Unbounded)),
    "result_bound": Mutation(here=lambda patch: patch.setattr(channel, "MAX_TOTAL_BYTES", 1 << 40)),
    "environment": Mutation(here=_secret_environment),
    "boot_names_path": Mutation(f"installed = {str(Path(__file__).parent.parent.parent)!r}\n"),
    "reseeded": Mutation("os.register_at_fork(after_in_child=lambda: random.seed(7))\n"),
    "payload_through_launcher": Mutation(_PAYLOAD),
    "mold": Mutation(_MOLD),
}


def apply(names: Sequence[str], patch: pytest.MonkeyPatch) -> None:
    """Weaken the controls of these names, for launchers that are started while `patch` lasts."""
    for name in names:
        if (here := MUTATIONS[name].here) is not None:
            here(patch)
    text = _NAMES + "".join(MUTATIONS[name].text for name in names)
    weakened = f"main.__module__ == 'enclave.sandbox.boot' and exec({text!r});main(s)"
    patch.setattr(connection, "_BOOT", connection._BOOT.replace("main(s)", weakened))
