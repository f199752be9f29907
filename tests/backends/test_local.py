"""The local backend on the real kernel: what a program sees, how it ends, and what is left."""

import asyncio
import json
import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from enclave.backends.base import Output, SandboxLost
from enclave.backends.local import LocalBackend, machine, station
from enclave.contracts.sessions import KillReason
from enclave.sandbox import linux
from tests.backends.running import Run, RunProgram, run_in, spec

pytestmark = [pytest.mark.anyio, pytest.mark.sandbox]


def outcome(run: Run) -> tuple[int | None, int | None, KillReason | None]:
    return run.exit.code, run.exit.signal, run.exit.kill_reason


async def test_a_clean_program_prints_and_returns(run: RunProgram) -> None:
    done = await run("print('hi'); enclave.result({'ok': True})")

    assert (done.stdout, done.stderr, done.exit.value) == (b"hi\n", b"", b'{"ok":true}')
    assert outcome(done) == (0, None, None)


@pytest.mark.node
async def test_a_clean_node_program_prints_and_returns(run: RunProgram) -> None:
    done = await run("console.log('hi'); enclave.result({ok: true})", language="node")

    assert (done.stdout, done.stderr, done.exit.value) == (b"hi\n", b"", b'{"ok":true}')
    assert outcome(done) == (0, None, None)


@pytest.mark.node
async def test_node_takes_modules_as_well_as_scripts(run: RunProgram) -> None:
    module = await run(
        "import fs from 'fs'; console.log(await Promise.resolve(typeof fs.readFileSync))", language="node"
    )
    script = await run("const fs = require('fs'); console.log(require.main === module)", language="node")

    assert (module.stdout, script.stdout) == (b"function\n", b"true\n")


ENDINGS = [
    ("import sys; sys.exit(137)", (137, None, None)),
    ("import sys; sys.exit('no')", (1, None, None)),
    ("exit_code = 1 / 0", (1, None, None)),
    ("this is not python", (1, None, None)),
    ("import os; os.kill(os.getpid(), 9)", (137, 9, None)),
    ("import os; os.kill(os.getpid(), 15)", (143, 15, None)),
    ("import os; os.abort()", (134, 6, None)),
    ("import ctypes; ctypes.string_at(0)", (139, 11, None)),
    ("import os; os.closerange(0, 4096)", (0, None, None)),
    ("import os, time\nif os.fork(): os._exit(3)\ntime.sleep(60)", (3, None, None)),
    ("import os, signal\nsignal.signal(15, signal.SIG_IGN)\nos.kill(os.getpid(), 15)", (0, None, None)),
    (
        "import threading, time\nthreading.Thread(target=lambda: (time.sleep(.05), print('late'))).start()",
        (0, None, None),
    ),
]


@pytest.mark.parametrize(("code", "expected"), ENDINGS, ids=[code[:40] for code, _ in ENDINGS])
async def test_every_ending_has_its_own_exit(run: RunProgram, code: str, expected: tuple[object, ...]) -> None:
    assert outcome(await run(code)) == expected


KILLS = [
    ("x = []\nwhile True: x.append(bytearray(1 << 20))", {"memory_mib": 64}, KillReason.MEMORY_EXCEEDED),
    ("f = open('/tmp/f', 'wb')\nwhile True: f.write(b'x' * 65536)", {"memory_mib": 32}, KillReason.MEMORY_EXCEEDED),
    (
        "import os, time\nif not os.fork():\n x = []\n while True: x.append(bytearray(1 << 20))\ntime.sleep(60)",
        {"memory_mib": 64},
        KillReason.MEMORY_EXCEEDED,
    ),
    ("import os\nwhile True: os.fork()", {}, KillReason.PIDS_EXCEEDED),
    ("import os\ntry:\n while True: os.fork()\nexcept OSError: os._exit(0)", {"pids": 8}, KillReason.PIDS_EXCEEDED),
    ("import os\nwhile True:\n try: os.fork()\n except OSError: pass", {"pids": 8}, KillReason.PIDS_EXCEEDED),
    (
        "import os, time\ntry:\n while True: os.fork()\nexcept OSError: time.sleep(60)",
        {"pids": 8, "wall_clock_seconds": 30},
        KillReason.PIDS_EXCEEDED,
    ),
    ("while True: pass", {"cpu_seconds": 0.3}, KillReason.CPU_EXCEEDED),
    ("import os\nfor _ in range(3): os.fork()\nwhile True: pass", {"cpu_seconds": 0.5}, KillReason.CPU_EXCEEDED),
    ("import time; time.sleep(60)", {"wall_clock_seconds": 0.3}, KillReason.WALL_CLOCK_EXCEEDED),
    ("import os; os.kill(os.getpid(), 19)", {"wall_clock_seconds": 0.3}, KillReason.WALL_CLOCK_EXCEEDED),
    (
        "import os, signal, time\nfor s in {*range(1, 32)} - {9, 19}: signal.signal(s, signal.SIG_IGN)\n"
        "os.setsid() if os.fork() == 0 else None\ntime.sleep(60)",
        {"wall_clock_seconds": 0.3},
        KillReason.WALL_CLOCK_EXCEEDED,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("code", "limits", "reason"), KILLS, ids=[f"{k[2]}-{i}" for i, k in enumerate(KILLS)])
async def test_every_limit_kills_with_its_own_reason(
    run: RunProgram, code: str, limits: dict[str, float], reason: KillReason
) -> None:
    assert outcome(await run(code, **limits)) == (None, None, reason)


@pytest.mark.parametrize("forged", ["R", "RR", "E" * 100, "X", "nonsense", "R" * 9000])
async def test_a_forged_status_ends_the_session_and_nothing_else(run: RunProgram, forged: str) -> None:
    with pytest.raises(SandboxLost):
        await run(f"import os, time\nos.write(6, b'{forged}')\ntime.sleep(60)")

    assert (await run("print('well')")).stdout == b"well\n"


@pytest.mark.node
async def test_an_interpreter_that_needs_more_memory_than_there_is_runs_into_the_limit(run: RunProgram) -> None:
    assert outcome(await run("1", language="node", memory_mib=2)) == (None, None, KillReason.MEMORY_EXCEEDED)


async def test_output_is_kept_up_to_the_limit_and_the_program_goes_on(run: RunProgram) -> None:
    code = "import sys\nfor _ in range(300): sys.stdout.write('x' * 65536)\nprint('still here', file=sys.stderr)"

    done = await run(code, output_kib=64)

    assert (len(done.stdout), done.stderr, done.exit.code) == (64 * 1024, b"still here\n", 0)
    assert done.exit.output_dropped == {"stdout"}


async def test_a_disk_limit_is_an_ordinary_error_inside(run: RunProgram) -> None:
    done = await run("try: open('f', 'wb').write(b'x' * (9 << 20))\nexcept OSError as e: print(e.errno)", disk_mib=8)

    assert done.stdout == b"28\n"


async def test_a_byte_printed_is_seen_before_the_program_ends(backend: LocalBackend) -> None:
    sandbox = await backend.launch(spec())
    workload = await sandbox.run("import time\nprint('x', end='')\ntime.sleep(60)")

    first = await anext(aiter(workload.output()))
    await sandbox.teardown()

    assert isinstance(first, Output)
    assert first.data == b"x"


async def test_a_hundred_megabyte_result_is_refused_inside_and_out(run: RunProgram) -> None:
    polite = await run("enclave.result('x' * (100 << 20))", memory_mib=512)
    rude = await run("import os\nos.write(5, (100 << 20).to_bytes(4, 'little'))\nos.write(5, b'x' * 50000)")

    assert (polite.exit.value, polite.exit.code) == (None, 1)
    assert (rude.exit.value, rude.exit.value_error) == (
        None,
        f"the value is {100 << 20} bytes of JSON; at most {1 << 20} are taken",
    )


LOOK_AROUND = """
import os, json, socket
def is_open(fd):
    try: return bool(os.fstat(fd))
    except OSError: return False
enclave.result({
    "environment": sorted(os.environ), "descriptors": [fd for fd in range(64) if is_open(fd)],
    "pid": os.getpid(), "ids": os.getresuid() + os.getresgid(), "root": sorted(os.listdir("/")), "cwd": os.getcwd(),
    "host": socket.gethostname(),
    "processes": sorted(p for p in os.listdir("/proc") if p.isdigit()),
    "capabilities": [line for line in open("/proc/self/status") if line.startswith("Cap")],
    "groups": os.getgroups(), "files": os.listdir("/work"),
})
"""


ROOT = {*".proc bin dev etc lib lib64 opt proc sbin sys tmp usr var work".split()}


async def test_nothing_of_the_host_is_inside(run: RunProgram) -> None:
    seen = json.loads((await run(LOOK_AROUND)).exit.value or b"null")

    assert seen == {
        "environment": ["ENCLAVE_SESSION_ID", "HOME", "LANG", "PATH", "TMPDIR", "USER"],
        "descriptors": [0, 1, 2, 5, 6],
        "pid": 2,
        "ids": [1000] * 6,
        "root": sorted(ROOT & set(seen["root"])),
        "cwd": "/work",
        "host": "sandbox",
        "processes": ["1", "2"],
        "capabilities": [f"Cap{kind}:\t{'0' * 16}\n" for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")],
        # Without root a process keeps the groups it came with (user_namespaces(7)); inside, all are one.
        "groups": [] if os.geteuid() == 0 else [1000] * len(seen["groups"]),
        "files": ["main.py"],
    }  # fmt: skip


async def test_two_sandboxes_draw_different_numbers(run: RunProgram) -> None:
    code = "import random, uuid, os\nenclave.result([random.random(), str(uuid.uuid4()), os.urandom(8).hex()])"

    drawn = [json.loads((await run(code)).exit.value or b"[]") for _ in range(4)]

    assert len({value for row in drawn for value in row}) == 12


async def test_a_teardown_stops_what_runs_and_is_idempotent(backend: LocalBackend) -> None:
    sandbox = await backend.launch(spec())
    workload = await sandbox.run("import time\ntime.sleep(60)")

    await sandbox.teardown()
    await sandbox.teardown()

    assert outcome(Run(await workload.wait(), b"", b"")) == (None, None, None)
    assert await backend.live() == frozenset()


def groups(backend: LocalBackend) -> set[str]:
    return {path.name for path in Path("/sys/fs/cgroup").glob(f"**/enclave/{backend.bare.instance}/*") if path.is_dir()}


async def test_orders_wait_their_turn_while_the_launcher_is_busy(backend: LocalBackend) -> None:
    outer = backend.bare.pid
    launcher = int(Path(f"/proc/{outer}/task/{outer}/children").read_text())  # noqa: ASYNC240
    os.kill(launcher, signal.SIGSTOP)
    runs = [asyncio.create_task(run_in(backend, f"print({n})")) for n in range(400)]
    await asyncio.sleep(0)
    assert len(await backend.live()) == 400
    os.kill(launcher, signal.SIGCONT)

    assert [(await run).stdout for run in runs] == [f"{n}\n".encode() for n in range(400)]


async def test_nothing_is_left_of_many_sessions(backend: LocalBackend) -> None:
    before = len(os.listdir("/proc/self/fd"))
    programs = ["print(1)", "import os\nwhile True: os.fork()", "import time; time.sleep(60)", "1/0"]

    await asyncio.gather(*[run_in(backend, code, wall_clock_seconds=0.5) for code in programs * 5])

    assert await backend.live() == frozenset()
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(groups(backend)) <= 4, "only those of sandboxes that wait, and none that has run"


async def left(backend: LocalBackend) -> None:
    """Return when the launcher is through with every sandbox, which it tells nobody but the backend."""
    while await backend.live():  # noqa: ASYNC110
        await asyncio.sleep(0)


async def test_teardown_of_what_has_left_by_itself_waits_until_it_is_let_go_of(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_close, closing = threading.Event(), threading.Event()

    def close(descriptor: int) -> None:
        closing.set()
        may_close.wait(30)
        os.close(descriptor)

    sandbox = await backend.launch(spec(wall_clock_seconds=0.2))
    workload = await sandbox.run("import time; time.sleep(60)")
    with monkeypatch.context() as patch:
        # What is freed with the last hold on it is closed by a thread.
        patch.setattr(station, "os", SimpleNamespace(close=close))
        assert (await workload.wait()).kill_reason is KillReason.WALL_CLOCK_EXCEEDED
        await asyncio.to_thread(closing.wait, 30)
        await left(backend)
        tearing = asyncio.create_task(sandbox.teardown())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not tearing.done()
        may_close.set()
        await tearing


async def test_a_launcher_that_is_killed_loses_its_sessions_loudly_and_is_replaced(backend: LocalBackend) -> None:
    sandbox = await backend.launch(spec())
    workload = await sandbox.run("import time\ntime.sleep(60)")

    os.kill(backend.bare.pid, signal.SIGKILL)

    with pytest.raises(SandboxLost):
        await workload.wait()
    await sandbox.teardown()
    await backend.bare.settled()
    assert (await run_in(backend, "print('again')")).stdout == b"again\n"


async def test_a_session_that_comes_when_a_launcher_has_died_is_taken_by_its_successor(backend: LocalBackend) -> None:
    os.kill(backend.bare.pid, signal.SIGKILL)
    while backend.bare.stands:  # noqa: ASYNC110  it tells nobody
        await asyncio.sleep(0)

    assert (await run_in(backend, "print('at once')")).stdout == b"at once\n"


async def test_nothing_is_left_of_a_launcher_that_was_killed(backend: LocalBackend) -> None:
    """Its cgroups go when what was in them has gone, however long that takes, and those of its successor stay."""
    sandboxes = [await backend.launch(spec()) for _ in range(5)]
    for sandbox in sandboxes:
        await sandbox.run("import time\ntime.sleep(60)")
    dead = backend.bare.instance
    lingers = await lingering_in(dead)

    os.kill(backend.bare.pid, signal.SIGKILL)
    while backend.bare.stands:  # noqa: ASYNC110  it tells nobody
        await asyncio.sleep(0)
    assert (await run_in(backend, "print('at once')")).stdout == b"at once\n"
    assert dead in instances()
    lingers.kill()
    await lingers.wait()
    await backend.bare.settled()

    assert dead not in instances()
    assert backend.bare.instance in instances()


async def lingering_in(instance: str) -> asyncio.subprocess.Process:
    """A process in a launcher's own cgroup, as one is that the kernel is long in ending."""
    child = await asyncio.create_subprocess_exec("sleep", "60")
    pids = machine.cgroup_mounts().v1.get("pids")
    if pids is None:
        child.kill()
        pytest.skip("of cgroup v2 only the leaves may have processes")
    with open(f"{pids}/enclave/{instance}/cgroup.procs", "w") as file:  # noqa: ASYNC230
        file.write(str(child.pid))
    return child


def instances() -> set[str]:
    """The launchers of this process that have a directory among the cgroups."""
    mounts = machine.cgroup_mounts()
    roots = {*mounts.v1.values(), *([mounts.v2] if mounts.v2 else [])}
    return {path.name for root in roots for path in Path(root).glob(f"enclave/{os.getpid()}-*")}


async def test_a_mold_that_is_killed_takes_its_launcher_along_and_both_are_replaced(backend: LocalBackend) -> None:
    sandbox = await backend.launch(spec())
    workload = await sandbox.run("import time\ntime.sleep(60)")

    os.kill(mold(backend), signal.SIGKILL)

    with pytest.raises(SandboxLost):
        await workload.wait()
    await sandbox.teardown()
    await backend.bare.settled()
    assert (await run_in(backend, "print('again')")).stdout == b"again\n"


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def mold(backend: LocalBackend) -> int:
    """The launcher's child that is in the launcher's own PID namespace."""
    (launcher,) = children(backend.bare.pid)
    (found,) = (pid for pid in children(launcher) if depth(pid) == depth(launcher))
    return found


def depth(pid: int) -> int:
    """In how many PID namespaces a process is."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("NSpid:"))
    return len(line.split()) - 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can see the memory of an init")
@pytest.mark.skipif(linux.MACHINE != "x86_64", reason="init waits in Python on other machines")
async def test_init_has_nothing_in_its_memory_while_a_program_runs(backend: LocalBackend) -> None:
    sandbox = await backend.launch(spec())
    workload = await sandbox.run("import time\nprint('up')\ntime.sleep(60)")
    await anext(aiter(workload.output()))

    pages = settled_pages_of_inits(backend)

    await sandbox.teardown()
    assert pages == {2}


def settled_pages_of_inits(backend: LocalBackend) -> set[int]:
    """How large each init is, once none is still on its way."""
    while len(pages := pages_of_inits(backend)) > 1:
        os.sched_yield()
    return pages


def pages_of_inits(backend: LocalBackend) -> set[int]:
    (launcher,) = children(backend.bare.pid)
    inits = [pid for pid in children(launcher) if depth(pid) > depth(launcher)]
    return {int(Path(f"/proc/{pid}/statm").read_text().split()[0]) for pid in inits}


SCAN = """
head, reversed_tail = "{head}".encode(), "{reversed_tail}".encode()  # never whole, or the scan would find itself
found = 0
with open("/proc/self/mem", "rb") as memory, open("/proc/self/maps") as maps:
    for span, access, *rest in [line.split() for line in maps]:
        if "r" not in access or rest[-1].startswith("[v"):
            continue
        first, last = (int(end, 16) for end in span.split("-"))
        memory.seek(first)
        held, at = memory.read(last - first), -1
        while (at := held.find(head, at + 1)) >= 0:
            tail = held[at + len(head) : at + len(head) + len(reversed_tail)]
            found += tail[::-1] == reversed_tail
enclave.result(found)
"""


async def test_no_earlier_program_is_in_the_memory_of_a_later_one(run: RunProgram) -> None:
    marker = os.urandom(16).hex()
    scan = SCAN.format(head=marker[:16], reversed_tail=marker[:15:-1])
    assert int((await run(f"kept = '{marker}'\n{scan}")).exit.value or b"0") > 0

    for _ in range(8):
        await run(f"secret = '{marker}'")

    assert [(await run(scan)).exit.value for _ in range(8)] == [b"0"] * 8


HOARD = """
import array, os, socket
def cycle(*fds):
    a, b = socket.socketpair()
    a.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [*fds, a.fileno(), b.fileno()]))])
    return a, b
"""


async def test_a_status_descriptor_that_outlives_its_sandbox_holds_nobody_up(run: RunProgram) -> None:
    await run(
        f"{HOARD}\nkept = [cycle(6) for _ in range(20)]\nx = [bytearray(1 << 20) for _ in range(999)]", memory_mib=64
    )

    assert (await asyncio.wait_for(run("print('well')"), 10)).stdout == b"well\n"


def shared_memory_mib() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("Shmem:"))


async def test_memory_that_sockets_pass_to_one_another_is_freed_with_the_sandbox(run: RunProgram) -> None:
    before = shared_memory_mib()
    fill = "f = os.memfd_create('x')\nfor _ in range(100): os.write(f, b'x' * (1 << 20))"
    code = f"{HOARD}\n{fill}\n[cycle(f) for _ in range(20)]\nos._exit(0)"

    for _ in range(3):
        await run(code)

    # The kernel frees it in its own time, after a socket is closed: ours is, with every sandbox.
    for _ in range(20):
        await run("pass")
    assert shared_memory_mib() - before < 100


async def test_no_session_id_but_its_own_is_in_a_sandbox(run: RunProgram) -> None:
    scan = SCAN.format(head="ses_te", reversed_tail="ts").replace("found = 0", "found = set()")
    scan = scan.replace(
        "found += tail[::-1] == reversed_tail", "found |= {number(held, at)} if tail[::-1] == reversed_tail else set()"
    )
    scan = (
        f"import re, os\ndef number(held, at): return re.match(rb'[0-9]*', held[at + 8 : at + 20])[0].decode()\n{scan}"
    )
    scan = scan.replace(
        "enclave.result(found)", "enclave.result([sorted(found - {''}), os.environ['ENCLAVE_SESSION_ID'][8:]])"
    )
    for _ in range(6):
        await run("pass")

    found, own = json.loads((await run(scan)).exit.value or b"[]")

    assert found == [own]


async def test_no_open_file_is_shared_between_sandboxes(run: RunProgram) -> None:
    await run("import fcntl\nfor fd in range(3): fcntl.fcntl(fd, fcntl.F_SETFL, 0o6000)")

    flags = "import fcntl\nenclave.result([fcntl.fcntl(fd, fcntl.F_GETFL) & 0o6000 for fd in range(3)])"
    assert (await run(flags)).exit.value == b"[0,0,0]"


async def test_what_lies_in_internet_sockets_is_bounded(run: RunProgram) -> None:
    code = """
import socket
server, filled = socket.create_server(('127.0.0.1', 0), backlog=500), 0
try:
    kept = []
    for _ in range(60):
        near = socket.socket()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
        near.connect(server.getsockname())
        near.setblocking(False)
        kept += [near, server.accept()[0]]
        try:
            while True: filled += near.send(b'x' * 65536)
        except BlockingIOError: pass
except OSError: pass
enclave.result(filled >> 20)
"""
    done = await run(code, memory_mib=64, wall_clock_seconds=5)

    assert done.exit.kill_reason is not None or int(done.exit.value or b"999") < 64


ORDINARY = [
    "exit(0)",
    "quit()",
    "open('/dev/stdout', 'w').write('x')",
    "import subprocess; subprocess.run('echo x > /dev/stderr; : > /dev/null', shell=True, check=True)",
    "import socket; assert socket.if_nameindex() == [(1, 'lo')]",
    "import multiprocessing as m\nwith m.Pool(2) as p: assert p.map(abs, [-1, 2]) == [1, 2]",
    "import sqlite3, tempfile, ssl, zoneinfo, asyncio, ctypes, email, unittest, concurrent.futures",
]


@pytest.mark.parametrize("code", ORDINARY, ids=[code[:40] for code in ORDINARY])
async def test_ordinary_programs_work(run: RunProgram, code: str) -> None:
    done = await run(code)

    assert (done.exit.code, done.exit.kill_reason) == (0, None), done.stderr


@pytest.mark.node
async def test_node_sees_its_loopback(run: RunProgram) -> None:
    assert (
        await run("enclave.result(Object.keys(require('os').networkInterfaces()))", language="node")
    ).exit.value == b'["lo"]'
