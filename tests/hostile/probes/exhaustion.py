"""Exhaustion: every limit ends the session for its own reason. Each program bounds itself, for when it is let."""

from collections.abc import Mapping
from typing import Final

from tests.hostile.probe import Expect, Probe, Verdict, blocked, contained, harmless, killed
from tests.hostile.probes.shapes import node

_F: Final = "exhaustion"
_SMALL: Final[Mapping[str, float]] = {"memory_mib": 48, "disk_mib": 256}
_MEMORY: Final = {
    "heap": "hold = [b'x' * (1 << 20) for _ in range(160)]",
    "anonymous_map": "import mmap\nm = mmap.mmap(-1, 160 << 20)\nfor i in range(0, 160 << 20, 4096): m[i] = 1",
    "tmpfs": "with open('/tmp/f', 'wb') as f:\n for _ in range(160): f.write(b'x' * (1 << 20))",
    "dev_shm": "with open('/dev/shm/f', 'wb') as f:\n for _ in range(160): f.write(b'x' * (1 << 20))",
    "memfd": "fd = os.memfd_create('m')\nfor _ in range(160): os.write(fd, b'x' * (1 << 20))",
    "shared_map": "import mmap\nfd = os.memfd_create('m')\nos.ftruncate(fd, 160 << 20)\nm = mmap.mmap(fd, 160 << 20)\n"
    "for i in range(0, 160 << 20, 4096): m[i] = 1",
    "system_v": "_libc.shmat.restype = ctypes.c_void_p\nfor _ in range(10):\n"
    " a = _libc.shmat(_libc.shmget(0, 16 << 20, 0o1600), None, 0)\n ctypes.memset(ctypes.c_void_p(a), 1, 16 << 20)",
    "children": "for _ in range(8):\n if os.fork() == 0:\n  hold = b'x' * (20 << 20)\n  time.sleep(1)\n  os._exit(0)\n"
    "for _ in range(8): os.wait()",
    "pipes": "import fcntl\nhold = []\nfor _ in range(120):\n r, w = os.pipe()\n os.set_blocking(w, False)\n"
    " try: fcntl.fcntl(w, 1031, 1 << 20)\n except OSError: pass\n hold.append((r, w))\n"
    " try:\n  while True: os.write(w, b'x' * 65536)\n except BlockingIOError: pass",
    "socket_buffers": "import socket\nhold = []\nfor _ in range(400):\n a, b = socket.socketpair()\n"
    " a.setblocking(False)\n hold.append((a, b))\n try:\n  while True: a.send(b'x' * 65536)\n"
    " except BlockingIOError: pass",
    "page_tables": "import mmap\nm = mmap.mmap(-1, 1 << 36, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)\n"
    "for i in range(0, 30000 << 21, 1 << 21): m[i]",
    "many_small_files": "for i in range(200000): os.close(os.open(f'/tmp/{i}', os.O_CREAT | os.O_WRONLY))",
}
_TIMERS: Final = (
    "n = 0\nt = ctypes.c_void_p()\nwhile n < 400000 and _libc.timer_create(1, None, ctypes.byref(t)) == 0: n += 1"
)
_PIDS: Final = {
    "fork": "for _ in range(120):\n if os.fork() == 0:\n  time.sleep(1)\n  os._exit(0)",
    "fork_ignoring_errors": "for _ in range(120):\n try:\n  if os.fork() == 0:\n   time.sleep(1)\n   os._exit(0)\n"
    " except OSError: pass",
    "fork_doubling": "for _ in range(6): os.fork()\ntime.sleep(0.5)\nif os.getpid() != 2: os._exit(0)",
    "threads": "import threading\nfor _ in range(120):\n"
    " threading.Thread(target=time.sleep, args=(1,), daemon=True).start()",
    "vfork": "import subprocess\nhold = [subprocess.Popen(['sleep', '1']) for _ in range(60)]",
    "zombies": "for _ in range(120):\n if os.fork() == 0: os._exit(0)",
    "zombies_double_fork": "for _ in range(120):\n if os.fork() == 0:\n"
    "  if os.fork() == 0: time.sleep(1)\n  os._exit(0)",
}
_WALL: Final = {
    "sleep": "time.sleep(1.2)",
    "stopped": "child = os.fork()\nif child == 0:\n time.sleep(1.2)\n os.kill(2, 18)\n os._exit(0)\nos.kill(2, 19)",
    "setsid": "if os.fork() == 0:\n os.setsid()\n time.sleep(1.2)\n os._exit(0)\nos.wait()",
    "double_fork": "r, w = os.pipe()\nif os.fork() == 0:\n if os.fork() == 0:\n  os.setsid()\n  time.sleep(1.2)\n"
    "  os.write(w, b'x')\n os._exit(0)\nos.wait()\nos.read(r, 1)",
    "ignored_signals": "import signal\nfor s in {*range(1, 65)} - {9, 19, 32, 33}: signal.signal(s, signal.SIG_IGN)\n"
    "time.sleep(1.2)",
    "blocked_signals": "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n"
    "time.sleep(1.2)",
    "thread_outlives_main": "import threading\nthreading.Thread(target=lambda: (time.sleep(1.2), "
    "enclave.result('leaked: outlived its limit'))).start()\nsys.exit()",
    "exit_handler": "import atexit\n"
    "atexit.register(lambda: (time.sleep(1.2), enclave.result('leaked: outlived its limit')))\nsys.exit()",
}
_CPU: Final = {
    "one": "end = time.time() + 4\nwhile time.time() < end: pass",
    "four_processes": "for _ in range(2): os.fork()\nend = time.time() + 4\nwhile time.time() < end: pass\n"
    "if os.getpid() != 2: os._exit(0)",
    "short_lived_children": "end = time.time() + 4\nwhile time.time() < end:\n if os.fork() == 0: os._exit(0)\n"
    " os.wait()",
    "threads": "import threading, hashlib\nend = time.time() + 4\ndef burn():\n while time.time() < end: "
    "hashlib.sha256(b'x' * 100000)\nts = [threading.Thread(target=burn) for _ in range(4)]\n[t.start() for t in ts]\n"
    "[t.join() for t in ts]",
    "daemon": "if os.fork() == 0:\n os.setsid()\n end = time.time() + 4\n while time.time() < end: pass\n os._exit(0)\n"
    "time.sleep(4.3)",
    "in_the_kernel": "end = time.time() + 4\nz, n = os.open('/dev/zero', 0), os.open('/dev/null', 1)\n"
    "while time.time() < end: os.sendfile(n, z, None, 1 << 24)",
}
_KERNEL: Final = "fixed: a limit of the kernel's own"


def _limit(kind: str, name: str, code: str, limits: Mapping[str, float], control: str) -> Probe:
    reason = {"memory": "memory", "pids": "pids", "cpu": "cpu", "wall": "wall_clock"}[kind]
    whole = code if "enclave.result('leaked" in code else f"{code}\nenclave.result('leaked: went on')"
    return Probe(
        name=f"{kind}_{name}",
        family=_F,
        code=whole,
        expect=killed(f"{reason}_exceeded"),
        control=control,
        limits=limits,
    )


PROBES: Final = (
    *[_limit("memory", k, code, _SMALL, "memory_bound") for k, code in _MEMORY.items()],
    Probe(
        name="timers",
        family=_F,
        code=f"{_TIMERS}\ncheck(n <= 1024, 'blocked: bounded', f'{{n}} timers')",
        expect=blocked("bounded"),
        control="rlimits",
    ),
    *[_limit("pids", k, f"{code}\ntime.sleep(0.5)", {"pids": 16}, "tasks_bound") for k, code in _PIDS.items()],
    *[_limit("wall", k, code, {"wall_clock_seconds": 0.4}, "wall_clock") for k, code in _WALL.items()],
    *[_limit("cpu", k, code, {"cpu_seconds": 0.3}, "cpu_budget") for k, code in _CPU.items()],
    Probe(
        name="cpu_rate_is_held",
        family=_F,
        code="for _ in range(2): os.fork()\nend = time.time() + 0.6\nwhile time.time() < end: pass\n"
        "if os.getpid() != 2: os._exit(0)\nwhile True:\n try: os.wait()\n except OSError: break\n"
        "t = os.times()\nused = t.user + t.system + t.children_user + t.children_system\n"
        "check(used < 0.45, 'contained: throttled', f'{used} s')",
        expect=contained("throttled"),
        control="cpu_rate",
        limits={"cpus": 0.5},
    ),
    Probe(
        name="inodes",
        family=_F,
        code="n = 0\ntry:\n for n in range(6000): os.mkdir(f'/tmp/{n}')\nexcept OSError as e:\n"
        " enclave.result('contained: ' + errno.errorcode[e.errno])\nelse: enclave.result('leaked: 6000')",
        expect=contained("ENOSPC"),
        control="disk_bound",
        limits={"disk_mib": 4},
    ),
    Probe(
        name="output_flood",
        family=_F,
        code="for _ in range(64): os.write(1, b'x' * 65536)\nenclave.result('contained: dropped')",
        expect=Expect(Verdict.CONTAINED, "contained: dropped", printed=16 * 1024),
        control="output_bound",
        limits={"output_kib": 16},
    ),
    Probe(
        name="output_flood_by_splice",
        family=_F,
        code="z = os.open('/dev/zero', 0)\nfor _ in range(64): os.splice(z, 1, 65536)\n"
        "enclave.result('contained: dropped')",
        expect=Expect(Verdict.CONTAINED, "contained: dropped", printed=16 * 1024),
        control="output_bound",
        limits={"output_kib": 16},
    ),
    Probe(
        name="descriptors",
        family=_F,
        code="import resource\nresource.setrlimit(7, (resource.getrlimit(7)[1],) * 2)\nn = 0\ntry:\n"
        " while n < 6000: os.dup(0); n += 1\nexcept OSError as e: enclave.result('contained: ' + "
        "errno.errorcode[e.errno])\nelse: enclave.result('leaked: 6000')",
        expect=contained("EMFILE"),
        control="rlimits",
    ),
    Probe(
        name="descriptor_limit_raised",
        family=_F,
        code="import resource\ntry: resource.setrlimit(7, (8192, 8192))\n"
        "except ValueError: enclave.result('contained: refused')\nelse: enclave.result('leaked: raised')",
        expect=contained("refused"),
        control="rlimits",
    ),
    Probe(
        name="locked_memory",
        family=_F,
        code="import mmap\nm = mmap.mmap(-1, 1 << 20)\n"
        "a = ctypes.addressof(ctypes.c_char.from_buffer(m))\nctypes.set_errno(0)\n"
        "got = _libc.mlock(ctypes.c_void_p(a), ctypes.c_size_t(1 << 20))\n"
        "enclave.result('leaked: locked' if got == 0 else 'contained: ' + errno.errorcode[ctypes.get_errno()])",
        expect=contained("ENOMEM"),
        control="rlimits",
    ),
    Probe(
        name="no_core_file",
        family=_F,
        code="import resource\nchild = os.fork()\nif child == 0:\n"
        " resource.setrlimit(4, (resource.getrlimit(4)[1],) * 2)\n os.abort()\n"
        "status = os.waitpid(child, 0)[1]\ncheck(not os.WCOREDUMP(status), 'contained: no core', os.listdir('/work'))",
        expect=contained("no core"),
        control="rlimits",
    ),
    Probe(
        name="deep_directories",
        family=_F,
        code="for _ in range(3000):\n os.mkdir('d')\n os.chdir('d')\nenclave.result('harmless: 3000')",
        expect=harmless("3000"),
        control="fixed: nobody outside walks a sandbox's files; the mount goes as a whole",
    ),
    Probe(
        name="tcp_buffers",
        family=_F,
        code="import socket\ns = socket.create_server(('127.0.0.1', 0), backlog=200)\nhold, sent = [], 0\n"
        "while len(hold) < 120 and sent < 64 << 20:\n c = socket.create_connection(s.getsockname())\n"
        " c.setblocking(False)\n hold.append(c)\n try:\n  while sent < 64 << 20: sent += c.send(b'x' * 65536)\n"
        " except BlockingIOError: pass\ncheck(sent < 40 << 20, 'contained: bounded', f'{sent >> 20} MiB')",
        expect=contained("bounded"),
        control="memory_bound",
        limits=_SMALL,
    ),
    Probe(
        name="huge_arguments",
        family=_F,
        code="try: os.execv('/bin/true', ['x' * 100000] * 100)\n"
        "except OSError as e: enclave.result('contained: ' + errno.errorcode[e.errno])",
        expect=contained("E2BIG"),
        control=_KERNEL,
    ),
    Probe(
        name="huge_environment",
        family=_F,
        code="try: os.execve('/bin/true', ['x'], {str(i): 'x' * 100000 for i in range(100)})\n"
        "except OSError as e: enclave.result('contained: ' + errno.errorcode[e.errno])",
        expect=contained("E2BIG"),
        control=_KERNEL,
    ),
    Probe(
        name="endless_recursion",
        family=_F,
        code="sys.setrecursionlimit(1 << 30)\nimport json\ndef f(x): return json.dumps([1], default=f) and "
        "f(sorted([x], key=f))\nf(1)",
        expect=Expect(Verdict.CONTAINED, code=139),
        control="fixed: the stack ends where the kernel says",
    ),
    node(
        _F,
        "node_heap",
        "const hold = []; for (let i = 0; i < 400; i++) hold.push(Buffer.alloc(1 << 20, 1));\n"
        "enclave.result('leaked: 400 MiB');",
        killed("memory_exceeded"),
        "memory_bound",
        memory_mib=128,
    ),
    node(
        _F,
        "node_spins",
        "while (process.cpuUsage().user < 2.5e6); enclave.result('leaked: went on');",
        killed("cpu_exceeded"),
        "cpu_budget",
        cpu_seconds=0.5,
    ),
    node(
        _F,
        "node_sleeps",
        "setTimeout(() => enclave.result('leaked: went on'), 2000);",
        killed("wall_clock_exceeded"),
        "wall_clock",
        wall_clock_seconds=1,
    ),
    node(
        _F,
        "node_children",
        "const { spawn } = require('child_process');\nfor (let i = 0; i < 60; i++) spawn('sleep', ['1']).on('error', "
        "() => {});\nsetTimeout(() => enclave.result('leaked: went on'), 500);",
        killed("pids_exceeded"),
        "tasks_bound",
        pids=24,
    ),
)  # fmt: skip
