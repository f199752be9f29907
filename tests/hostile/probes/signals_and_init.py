"""Signals and init: init cannot be hurt from inside, and nothing outlives it."""

from typing import Final

from tests.hostile.probe import LOST, Probe, blocked, contained, ended, harmless, killed
from tests.hostile.probes.shapes import node, number, told

_F: Final = "signals_and_init"
_NAMESPACE: Final = "pid_ns"
_KERNEL: Final = "fixed: the kernel's rule for the first process of a namespace, tested by pid_ns elsewhere"


def _lives(name: str, code: str, control: str) -> Probe:
    after = "time.sleep(.02)\ncheck(os.path.exists('/proc/1'), 'harmless: init lives', 'init is gone')"
    return Probe(name=name, family=_F, code=f"{code}\n{after}", expect=harmless("init lives"), control=control)


_ATTACKS: Final = {
    "kill_init": "os.kill(1, 9)",
    "stop_init": "os.kill(1, 19)",
    "every_signal_to_init": "for s in range(1, 65): os.kill(1, s)",
    "tgkill_init": f"assert call({number(234, 131)}, 1, 1, 9) == 0",
    "tkill_init": f"assert call({number(200, 130)}, 1, 9) == 0",
    "pidfd_kill_init": "import signal\nsignal.pidfd_send_signal(os.pidfd_open(1), 9)",
    "kill_parent": "os.kill(os.getppid(), 9)",
    "kill_group_of_init": "try: os.killpg(1, 9)\nexcept ProcessLookupError: pass\nelse: assert os.getpgid(1) == 1",
    "queue_to_init": f"b = (ctypes.c_int * 32)(9, 0, -1)\nassert call({number(129, 138)}, 1, 9, b) == 0",
    "kill_everything_but_oneself": "child = os.fork()\nif child == 0: time.sleep(5)\nos.kill(-1, 9)\nos.wait()",
    "kill_everything_again_and_again": "for _ in range(50):\n"
    " if os.fork() == 0: time.sleep(5)\n os.kill(-1, 9)\n os.wait()",
}

PROBES: Final = (
    *[_lives(name, code, _NAMESPACE) for name, code in _ATTACKS.items()],
    _lives("stop_init_by_prlimit", "import resource\nresource.prlimit(1, resource.RLIMIT_NOFILE, (0, 0))", _NAMESPACE),
    _lives("reniced_init", "try: os.setpriority(os.PRIO_PROCESS, 1, 19)\nexcept OSError: pass", _KERNEL),
    _lives("subreaper", "_libc.prctl(36, 1, 0, 0, 0)\nif os.fork() == 0:\n if os.fork() == 0:\n  time.sleep(.01)\n"
           "  os._exit(0 if os.getppid() == 2 else 1)\n os._exit(0)\nos.wait(); os.wait()", _KERNEL),
    _lives("death_signal_cleared", "_libc.prctl(1, 0, 0, 0, 0)", _KERNEL),
    _lives("orphans", "for _ in range(20):\n if os.fork() == 0:\n  if os.fork() == 0: os._exit(0)\n  os._exit(0)\n"
           " os.wait()", _KERNEL),
    told(_F, "signal_to_the_control_plane", "os.kill(HOST['pid'], 0)", "ESRCH", "pid_ns+launcher_ns"),
    told(_F, "priority_of_the_control_plane", "os.getpriority(os.PRIO_PROCESS, HOST['pid'])", "ESRCH",
         "pid_ns+launcher_ns"),
    told(_F, "affinity_of_the_control_plane", "os.sched_getaffinity(HOST['pid'])", "ESRCH", "pid_ns+launcher_ns"),
    told(_F, "write_init_memory", "open('/proc/1/mem', 'r+b')", "EACCES", "init_dumpable"),
    told(_F, "init_command_name", "open('/proc/1/comm', 'w')", "EACCES", "init_dumpable"),
    Probe(
        name="limit_of_init_cpu",
        family=_F,
        code="import resource\nresource.prlimit(1, resource.RLIMIT_CPU, (0, 0))\n"
        "enclave.result('contained: only its own init')",
        expect=contained("only its own init"),
        control="fixed: init has the program's own user id, and the kernel asks no more for its limits",
    ),
    Probe(
        name="pids_start_anew",
        family=_F,
        before="for _ in range(50):\n if os.fork() == 0: os._exit(0)\n os.wait()\nenclave.result('done')",
        code="check(os.getpid() == 2, 'blocked: two', os.getpid())",
        expect=blocked("two"),
        control=_NAMESPACE,
    ),
    Probe(
        name="pid_wrap_by_setting",
        family=_F,
        code="tell(lambda: open('/proc/sys/kernel/ns_last_pid', 'w').write('1'))",
        expect=blocked("EROFS"),
        control="read_only_proc",
    ),
    Probe(
        name="wait_for_the_wrong_one",
        family=_F,
        code="tell(lambda: os.waitpid(1, 0))",
        expect=blocked("ECHILD"),
        control="fixed: nobody waits for another's child",
    ),
    Probe(
        name="stack_overflow",
        family=_F,
        code="import threading\nthreading.stack_size(65536)\nsys.setrecursionlimit(10**9)\n"
        "def f(n): return sorted([n], key=f)\nt = threading.Thread(target=f, args=(1,))\nt.start()\nt.join()",
        expect=ended(139),
        control="fixed: the program's own fault",
    ),
    Probe(
        name="signals_blocked_at_exit",
        family=_F,
        code="import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\nos._exit(5)",
        expect=ended(5),
        control=_KERNEL,
    ),
    Probe(
        name="leader_exits_thread_stays",
        family=_F,
        code="import threading\nthreading.Thread(target=lambda: (time.sleep(.1), os._exit(6))).start()\n"
        f"call({number(60, 93)}, 0)",
        expect=ended(6),
        control=_KERNEL,
    ),
    Probe(
        name="exit_while_stopped_child",
        family=_F,
        code="child = os.fork()\nif child == 0: os.kill(os.getpid(), 19)\ntime.sleep(.05)\nos._exit(8)",
        expect=ended(8),
        control=_KERNEL,
    ),
    Probe(
        name="kill_own_group",
        family=_F,
        code="os.kill(0, 9)\nenclave.result('leaked: lived')",
        expect=ended(137),
        control=_KERNEL,
    ),
    Probe(
        name="status_pipe_to_init_broken",
        family=_F,
        code="os.write(6, b'E')\ntime.sleep(5)",
        expect=LOST,
        control="fixed: as every forged status",
    ),
    node(_F, "node_kills_init", "check(process.kill(1, 'SIGKILL') && fs.existsSync('/proc/1'), 'harmless: init lives', "
         "'gone')", harmless("init lives"), _NAMESPACE),
    node(_F, "node_signals_host", "tell(() => process.kill(HOST.pid, 0))", blocked("ESRCH"), "pid_ns+launcher_ns"),
    node(_F, "node_stops_itself", "process.kill(process.pid, 'SIGSTOP'); enclave.result('leaked')",
         killed("wall_clock_exceeded"),
         "fixed: as wall_stopped, where a child wakes it again", wall_clock_seconds=1),
)  # fmt: skip
