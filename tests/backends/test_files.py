"""Files into and out of real sandboxes; what is in the way out is hostile."""

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from enclave.backends.base import Collected, Egress, Exit, Output
from enclave.backends.local import LocalBackend, outbox
from enclave.contracts.files import Omission, SessionFile
from enclave.contracts.policy import SessionLimits
from enclave.contracts.sessions import KillReason
from tests.backends.running import spec

pytestmark = [pytest.mark.anyio, pytest.mark.sandbox]


@dataclass(frozen=True)
class Done:
    """How a program went, and what it left."""

    exit: Exit
    stdout: str
    stderr: str
    left: Collected
    content: Mapping[str, bytes]


async def done(
    backend: LocalBackend,
    into: Path,
    code: str,
    files: Mapping[str, bytes] | None = None,
    *,
    language: str = "python",
    limits: Mapping[str, float] = MappingProxyType({}),
) -> Done:
    asked = replace(spec(language=language), limits=SessionLimits().model_copy(update=limits), files=files or {})
    sandbox = await backend.launch(asked)
    workload = await sandbox.run(code)
    written = {"stdout": b"", "stderr": b""}
    async for output in workload.output():
        assert isinstance(output, Output)
        written[output.stream] += output.data
    end = await workload.wait()
    left = await sandbox.collect(into) if end.left_files else Collected()  # type: ignore[attr-defined]
    await sandbox.teardown()
    content = {file.path: (into / str(place)).read_bytes() for place, file in enumerate(left.files)}
    assert {file.path: file.sha256 for file in left.files} == {
        path: hashlib.sha256(data).hexdigest() for path, data in content.items()
    }
    assert sorted(os.listdir(into)) == sorted(str(place) for place in range(len(left.files)))
    return Done(end, written["stdout"].decode(), written["stderr"].decode(), left, content)


def paths(left: Collected) -> list[str]:
    return [file.path for file in left.files]


# -- in ----------------------------------------------------------------------------------------------------------------

FILES = {"a.txt": b"text", "deep/er/b.bin": bytes(range(256)), "empty": b"", "é\\ü": b"x", "lib.py": b"answer = 42\n"}


async def test_files_are_there_when_a_program_starts(backend: LocalBackend, tmp_path: Path) -> None:
    code = (
        "import lib, os\n"
        "assert lib.answer == 42\n"
        "for root, _, names in os.walk('.'):\n"
        "    for name in names:\n"
        "        path = os.path.relpath(os.path.join(root, name), '.')\n"
        "        if path == 'main.py' or '__pycache__' in path: continue\n"
        "        print(path, open(path, 'rb').read().hex())\n"
        "open('a.txt', 'a').write('more')"
    )
    ran = await done(backend, tmp_path, code, FILES)

    assert ran.stderr == ""
    assert sorted(ran.stdout.splitlines()) == sorted(f"{path} {content.hex()}" for path, content in FILES.items())


@pytest.mark.node
async def test_files_are_there_when_a_node_program_starts(backend: LocalBackend, tmp_path: Path) -> None:
    files = {**FILES, "lib.js": b"exports.answer = 42"}
    code = (
        f"const names = {[*files]!r}, fs = require('fs')\n"
        "if (require('./lib.js').answer !== 42) throw 1\n"
        "for (const one of names) console.log(one + ' ' + fs.readFileSync(one).toString('hex'))"
    )
    ran = await done(backend, tmp_path, code, files, language="node")

    assert ran.stdout.splitlines() == [f"{path} {content.hex()}" for path, content in files.items()]


@pytest.mark.parametrize("language", ["python", pytest.param("node", marks=pytest.mark.node)])
async def test_a_program_does_not_run_without_all_of_its_files(
    backend: LocalBackend, tmp_path: Path, language: str
) -> None:
    code = {"python": "print('ran')", "node": "console.log('ran')"}[language]
    ran = await done(
        backend, tmp_path, code, {"a": b"x", "big": bytes(2 << 20)}, language=language, limits={"disk_mib": 1}
    )

    assert (ran.exit.code, ran.stdout) == (1, "")
    assert ran.stderr.startswith("the files cannot be put in place: ")
    assert any(one in ran.stderr for one in ("No space left on device", "ENOSPC"))


async def test_files_as_large_as_can_be_are_taken(backend: LocalBackend, tmp_path: Path) -> None:
    ran = await done(
        backend,
        tmp_path,
        "import os; print(os.stat('big').st_size)",
        {"big": os.urandom(8 << 20)},
        limits={"disk_mib": 16},
    )

    assert ran.stdout == f"{8 << 20}\n"


async def test_a_session_does_not_see_the_files_of_the_one_before(backend: LocalBackend, tmp_path: Path) -> None:
    await done(backend, tmp_path, "pass", {"secret": b"x"})
    ran = await done(backend, tmp_path, "import os; print(sorted(os.listdir('.')))")

    assert ran.stdout == "['main.py']\n"


# -- out ---------------------------------------------------------------------------------------------------------------


async def test_what_is_left_in_out_comes_out(backend: LocalBackend, tmp_path: Path) -> None:
    code = (
        "import os\nos.makedirs('out/a')\nopen('out/a/b', 'w').write('x' * 300000)\nopen('elsewhere', 'w').write('no')"
    )
    ran = await done(backend, tmp_path, code)

    assert ran.content == {"a/b": b"x" * 300000}
    assert ran.left.files == (SessionFile(path="a/b", bytes=300000, sha256=hashlib.sha256(b"x" * 300000).hexdigest()),)
    assert ran.left.omitted == {}


@pytest.mark.node
async def test_it_comes_out_of_node_too(backend: LocalBackend, tmp_path: Path) -> None:
    code = "const fs = require('fs'); fs.mkdirSync('out'); fs.writeFileSync('out/a', 'x')"

    assert (await done(backend, tmp_path, code, language="node")).content == {"a": b"x"}


async def test_nothing_left_is_nothing_to_collect(backend: LocalBackend, tmp_path: Path) -> None:
    assert not (await done(backend, tmp_path, "open('a', 'w').write('x')")).exit.left_files


KILLS = [
    ("import time; time.sleep(60)", {"wall_clock_seconds": 0.5}, KillReason.WALL_CLOCK_EXCEEDED),
    ("x = []\nwhile True: x.append(bytearray(1 << 20))", {"memory_mib": 64}, KillReason.MEMORY_EXCEEDED),
    ("import os\nwhile True: os.fork()", {}, KillReason.PIDS_EXCEEDED),
    ("while True: pass", {"cpu_seconds": 0.3}, KillReason.CPU_EXCEEDED),
]


@pytest.mark.parametrize(("code", "limits", "reason"), KILLS, ids=[kill[2] for kill in KILLS])
async def test_a_program_that_is_killed_leaves_its_files_too(
    backend: LocalBackend, tmp_path: Path, code: str, limits: dict[str, float], reason: KillReason
) -> None:
    before = "import os\nos.mkdir('out')\nopen('out/a', 'w').write('so far')\n"
    ran = await done(backend, tmp_path, before + code, limits=limits)

    assert (ran.exit.kill_reason, ran.content) == (reason, {"a": b"so far"})


HOSTILE = {
    "links": (
        "for n, to in enumerate(['/etc/passwd', '/etc/shadow', '/proc/self/environ', '../main.py', '/', '..', 'b']):\n"
        "    os.symlink(to, f'out/{n}')",
        {Omission.NOT_A_FILE: 7},
    ),
    "pipes and sockets": (
        "import socket\nos.mkfifo('out/p')\nsocket.socket(socket.AF_UNIX).bind('out/s')",
        {Omission.NOT_A_FILE: 2},
    ),
    "devices": (
        "try: os.mknod('out/d', 0o20666, os.makedev(1, 3))\nexcept PermissionError: os.symlink('/dev/zero', 'out/d')",
        {Omission.NOT_A_FILE: 1},
    ),
    "names": (
        "for name in (b'new\\nline', b'\\xff\\xfe', b'\\x1b[2J', b'\\x7f'): open(b'out/' + name, 'w').close()",
        {Omission.BAD_NAME: 4},
    ),
    "a sparse file": (
        "open('out/s', 'w').truncate(1 << 40)",
        {Omission.TOO_LARGE: 1},
    ),
    "too much": (
        "for n in range(3): open(f'out/{n}', 'w').truncate(16 << 20 if n else (16 << 20) + 1)\n"
        "open('out/3', 'w').truncate(1)",
        {Omission.TOO_LARGE: 1, Omission.TOO_MUCH: 1},
    ),
    "a deep tree": (
        "os.chdir('out')\nname = 'd' * 200\nfor _ in range(300):\n    os.mkdir(name)\n    os.chdir(name)\n",
        {Omission.TOO_DEEP: 1},
    ),
    "many files": (
        "for n in range(16000): open(f'out/{n}', 'w').close()",
        {Omission.TOO_MANY: 4096 - 256 + 1},
    ),
}  # fmt: skip
KEPT = {"too much": ["1", "2"], "many files": None}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_tree_harms_nobody(backend: LocalBackend, tmp_path: Path, name: str) -> None:
    code, omitted = HOSTILE[name]
    ran = await done(backend, tmp_path, f"import os\nos.mkdir('out')\n{code}")

    assert ran.stderr == ""
    if name == "many files":
        assert len(ran.left.files) == 256
    else:
        assert paths(ran.left) == (KEPT.get(name) or [])
    assert ran.left.omitted == omitted


@pytest.mark.parametrize(
    "code",
    [
        "os.symlink('/etc', 'out')",
        "os.symlink('/', 'out')",
        "os.symlink('/work', 'out')",
        "os.symlink('out', 'out')",
        "open('out', 'w').write('x')",
        "os.mkfifo('out')",
    ],
)
async def test_an_out_that_is_no_directory_is_told(backend: LocalBackend, tmp_path: Path, code: str) -> None:
    ran = await done(backend, tmp_path, f"import os\n{code}")

    assert ran.left == Collected(omitted={Omission.NOT_A_FILE: 1})


@pytest.mark.root
async def test_modes_neither_keep_us_out_nor_come_along(backend: LocalBackend, tmp_path: Path) -> None:
    code = (
        "import os\nos.makedirs('out/shut')\nopen('out/shut/a', 'w').write('1')\nopen('out/b', 'w').write('2')\n"
        "open('out/s', 'w').write('3')\nos.chmod('out/s', 0o6777)\nos.chmod('out/b', 0)\nos.chmod('out/shut', 0)\n"
        "os.chmod('out', 0)\nos.chmod('.', 0)"
    )
    ran = await done(backend, tmp_path, code)

    assert ran.content == {"b": b"2", "s": b"3", "shut/a": b"1"}
    about = [entry.stat() for entry in os.scandir(tmp_path)]
    assert {(oct(one.st_mode), one.st_uid) for one in about} == {("0o100600", os.geteuid())}


async def test_hard_links_are_files_and_count_each(backend: LocalBackend, tmp_path: Path) -> None:
    code = (
        "import os\nos.mkdir('out')\nopen('out/a', 'w').write('x')\n"
        "os.link('out/a', 'out/b')\nos.link('main.py', 'out/c')"
    )
    ran = await done(backend, tmp_path, code)

    assert (ran.content["a"], ran.content["b"], ran.content["c"]) == (b"x", b"x", code.encode())


async def test_nothing_is_alive_that_could_change_a_file_while_it_is_copied(
    backend: LocalBackend, tmp_path: Path
) -> None:
    """Children that outlive the program rewrite the file, and swap it for a link, as fast as they can."""
    code = (
        "import os, time\nos.mkdir('out')\nopen('out/a', 'w').write('0' * (1 << 20))\nr, w = os.pipe()\n"
        "for turn in range(3):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        os.write(w, b'x')\n"
        "        while True:\n"
        "            try:\n"
        "                open('out/b', 'w').write(str(turn) * (1 << 20)); os.replace('out/b', 'out/a')\n"
        "                os.symlink('/etc/passwd', 'out/c'); os.replace('out/c', 'out/a')\n"
        "            except OSError: pass\n"
        "for _ in range(3): os.read(r, 1)\n"
        "os._exit(0)"
    )
    for turn in range(5):
        into = tmp_path / str(turn)
        into.mkdir()
        ran = await done(backend, into, code)
        entries = len(ran.left.files) + sum(ran.left.omitted.values())

        assert ran.exit.left_files
        assert entries <= 3
        assert not any(b"root:" in content for content in ran.content.values())


async def test_nothing_of_a_sandbox_is_alive_when_its_files_are_looked_at(
    backend: LocalBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[set[str], frozenset[str]]] = []
    real = outbox.empty

    def look(work: int, into: Path) -> Collected:
        seen.append(({name for name in _process_names() if name == "straggler"}, backend.bare.live()))
        return real(work, into)

    monkeypatch.setattr(outbox, "empty", look)
    code = (
        "import os, time\nos.mkdir('out')\nr, w = os.pipe()\n"
        "for _ in range(30):\n"
        "    if os.fork() == 0:\n"
        "        open('/proc/self/comm', 'w').write('straggler')\n"
        "        hoard = bytearray(2 << 20)\n"
        "        os.write(w, b'x')\n"
        "        time.sleep(60)\n"
        "for _ in range(30): os.read(r, 1)\n"
        "os._exit(0)"
    )
    await done(backend, tmp_path, code)

    assert seen == [(set(), frozenset())]


def _process_names() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            yield path.read_text().strip()


async def test_a_name_is_never_more_than_a_name(backend: LocalBackend, tmp_path: Path) -> None:
    names = ["..a", ".hid", "a..", "a\\..\\b", "%2e%2e", ".../x"]
    code = f"import os\nos.makedirs('out/...')\nfor name in {names}: open('out/' + name, 'w').close()"
    ran = await done(backend, tmp_path, code)

    assert sorted(paths(ran.left)) == sorted(names)


@pytest.mark.slow
async def test_a_hundred_thousand_files_cost_no_more_than_those_that_are_looked_at(
    backend: LocalBackend, tmp_path: Path
) -> None:
    code = "import os\nos.mkdir('out')\nfor n in range(100_000): os.mknod(f'out/{n}')"
    ran = await done(backend, tmp_path, code, limits={"disk_mib": 512, "memory_mib": 1024})

    assert (len(ran.left.files), ran.left.omitted) == (256, {Omission.TOO_MANY: 4096 - 256 + 1})


async def test_a_program_that_is_over_at_once_leaves_its_files_too(backend: LocalBackend, tmp_path: Path) -> None:
    """It may end before the launcher has looked: what it left must not depend on who is quicker."""

    async def quick(into: Path) -> Done:
        os.mkdir(into)
        return await done(backend, into, "import os; os.mkdir('out'); open('out/a', 'w').close(); os._exit(0)")

    for turn in range(5):
        ran = await asyncio.gather(*(quick(tmp_path / f"{turn}.{number}") for number in range(8)))
        assert [paths(one.left) for one in ran] == [["a"]] * 8


async def test_what_it_attempted_is_told_before_its_end_and_its_files_are_taken_after(
    backend: LocalBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker looks after such a session, and the end waits for it; the files must still be there then."""
    sandbox: Any = await backend.launch(spec())
    closing, may_close, close = asyncio.Event(), asyncio.Event(), sandbox.gate.close

    async def held() -> None:
        closing.set()
        await may_close.wait()
        await close()

    monkeypatch.setattr(sandbox.gate, "close", held)
    workload = await sandbox.run(
        "import os, socket\nos.mkdir('out')\nopen('out/a', 'w').write('x')\n"
        "socket.socket().connect_ex(('10.1.2.3', 80))"
    )
    await closing.wait()
    assert not workload._exit.done()
    may_close.set()
    told = [each async for each in workload.output()]
    end = await workload.wait()
    left = await sandbox.collect(tmp_path)
    await sandbox.teardown()

    assert [(each.verdict, each.target) for each in told if isinstance(each, Egress)] == [("denied", "10.1.2.3")]
    assert (end.code, end.left_files) == (0, True)
    assert [file.path for file in left.files] == ["a"]
