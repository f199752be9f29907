"""Sessions under templates, on the real kernel with real packages: what is shared, and what must never be."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from enclave.backends.base import SandboxLost
from enclave.backends.local import LocalBackend, build, connection, template
from enclave.backends.local.connection import Program
from enclave.contracts.errors import InvalidRequest, Unavailable
from enclave.contracts.policy import Language
from tests.backends.running import Run, run_in, spec
from tests.backends.wheels import wheel

pytestmark = [pytest.mark.anyio, pytest.mark.sandbox, pytest.mark.timeout(180)]

DRAW = """
import os, random, ssl, tempfile, uuid
import numpy, numpy.random
def draw():
    return [
        random.random(), numpy.random.random(), numpy.random.default_rng().random(), numpy.random.standard_normal(),
        str(uuid.uuid4()), os.urandom(8).hex(), ssl.RAND_bytes(8).hex(), next(tempfile._get_candidate_names()),
    ]
draw()
"""


@pytest.fixture(scope="session")
def kept_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the template `data`: numpy and pandas, and every source of chance drawn from once already."""
    where = tmp_path_factory.mktemp("shared") / "templates"
    drawing = wheel(tmp_path_factory.mktemp("wheels"), "drawing", DRAW)
    try:
        build.build(where, build.wanted("data", ["numpy", "pandas", drawing], ["pandas", "ssl", "drawing"], None))
    except InvalidRequest as error:
        if not error.detail.startswith("pip: "):
            raise
        pytest.skip(f"numpy and pandas cannot be installed: {error.detail}")
    return where


@pytest.fixture(scope="module")
async def backend(
    anyio_backend: str, kept_in: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[LocalBackend]:
    made = LocalBackend(home=tmp_path_factory.mktemp("home"), pool=2, templates=kept_in)
    await made.start()
    yield made
    await made.close()


async def run(backend: LocalBackend, code: str, name: str = "data") -> Run:
    return await run_in(backend, code, template=name)


async def test_what_is_preloaded_is_imported_already(backend: LocalBackend) -> None:
    done = await run(backend, "import sys; enclave.result([name in sys.modules for name in ('pandas', 'numpy')])")

    assert done.exit.value == b"[true,true]"
    assert backend.templates() == {"data": Language.PYTHON}


async def test_a_groupby_works(backend: LocalBackend) -> None:
    code = "import pandas as pd\nprint(pd.DataFrame({'k': [1, 1, 2], 'v': [3, 4, 5]}).groupby('k').v.sum().to_dict())"

    assert (await run(backend, code)).stdout == b"{1: 7, 2: 5}\n"


async def test_an_interpreter_that_a_program_starts_has_the_packages_too(backend: LocalBackend) -> None:
    code = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import numpy; print(numpy.__file__)'])"

    assert (await run(backend, code)).stdout == b"/opt/template/numpy/__init__.py\n"


async def test_without_the_template_there_are_no_packages(backend: LocalBackend) -> None:
    done = await run_in(backend, "import numpy")

    assert b"No module named 'numpy'" in done.stderr


async def test_no_two_sandboxes_draw_the_same(backend: LocalBackend) -> None:
    code = "import drawing\nenclave.result(drawing.draw() + drawing.draw())"

    rows = [
        json.loads(done.exit.value or b"[]") for done in await asyncio.gather(*[run(backend, code) for _ in range(8)])
    ]

    assert [len(row) for row in rows] == [16] * 8
    assert len({str(value) for row in rows for value in row}) == 8 * 16


async def test_what_the_launcher_drew_ahead_is_not_what_a_sandbox_continues(backend: LocalBackend) -> None:
    code = "import numpy.random\nenclave.result(numpy.random.get_state()[1].tobytes().hex())"

    states = [(await run(backend, code)).exit.value for _ in range(4)]

    assert len(set(states)) == 4


async def test_numbers_are_crunched_in_one_thread(backend: LocalBackend) -> None:
    code = "import os, numpy\na = numpy.ones((300, 300))\na @ a\nenclave.result(len(os.listdir('/proc/self/task')))"

    assert (await run(backend, code)).exit.value == b"1"


async def test_packages_cannot_be_written_to(backend: LocalBackend) -> None:
    done = await run(backend, "open('/opt/template/numpy/__init__.py', 'a')")

    assert b"Read-only file system" in done.stderr or b"Permission denied" in done.stderr


async def test_packages_do_not_say_where_they_are_on_the_host(backend: LocalBackend, kept_in: Path) -> None:
    code = f"""
import os
found = []
for folder, _, files in os.walk('/opt/template'):
    for name in files:
        with open(os.path.join(folder, name), 'rb') as file:
            if {str(kept_in.parent)!r}.encode() in file.read():
                found.append(os.path.join(folder, name))
enclave.result(found)
"""
    done = await run(backend, code)

    assert (done.exit.value, done.exit.code) == (b"[]", 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give user ids away")
async def test_sandboxes_of_two_launchers_have_host_user_ids_of_their_own(backend: LocalBackend) -> None:
    running = [await backend.launch(spec(template=name)) for name in ("data", None)]
    for sandbox in running:
        await anext(aiter((await sandbox.run("import time\nprint('up')\ntime.sleep(60)")).output()))

    stations = (await backend.station("data"), backend.bare)
    ids = [{owner(pid) for pid in sandboxes(each.pid)} for each in stations]

    for sandbox in running:
        await sandbox.teardown()
    assert all(ids)
    assert ids[0] & ids[1] == set()


def owner(pid: int) -> int:
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("Uid:"))
    return int(line.split()[1])


def sandboxes(launcher: int) -> list[int]:
    """The sandboxes of a launcher that have put their walls up."""
    inner = int(Path(f"/proc/{launcher}/task/{launcher}/children").read_text())
    inits = map(int, Path(f"/proc/{inner}/task/{inner}/children").read_text().split())
    return [pid for pid in inits if Path(f"/proc/{pid}/task/{pid}/children").read_text()]


async def test_a_launcher_that_is_killed_is_replaced_at_the_next_use(backend: LocalBackend) -> None:
    station = await backend.station("data")
    sandbox = await backend.launch(spec(template="data"))
    workload = await sandbox.run("import time\ntime.sleep(60)")

    os.kill(station.pid, signal.SIGKILL)

    with pytest.raises(SandboxLost):
        await workload.wait()
    await sandbox.teardown()
    await station.settled()
    assert (await run(backend, "print('again')")).stdout == b"again\n"
    assert backend.healthy()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The interpreters of the launchers that were started."""
    interpreters: list[str] = []
    real = connection.start

    async def start(program: Program, order: bytes) -> connection.Connection:
        interpreters.append(program.interpreter)
        return await real(program, order)

    monkeypatch.setattr(connection, "start", start)
    return interpreters


async def test_many_first_uses_start_one_launcher(kept_in: Path, tmp_path: Path, started: list[str]) -> None:
    made = LocalBackend(home=tmp_path, pool=2, templates=kept_in)
    await made.start()
    before = len(os.listdir("/proc/self/fd"))
    started.clear()
    try:
        done = await asyncio.gather(*[run(made, "print(1)") for _ in range(6)])
        station = await made.station("data")
    finally:
        await made.close()

    assert {one.stdout for one in done} == {b"1\n"}
    assert len(started) == 1
    assert not station.stands
    assert len(os.listdir("/proc/self/fd")) < before


async def test_a_template_that_cannot_be_used_says_why_and_harms_no_other_session(
    backend: LocalBackend, kept_in: Path, tmp_path: Path, started: list[str]
) -> None:
    package = wheel(tmp_path, "fleeting", "")
    build.build(kept_in, build.wanted("broken", [package], ["fleeting"], None))
    kept = template.find(kept_in, "broken")
    assert kept is not None
    (kept.packages / "fleeting.py").unlink()
    (kept.packages / "fleeting.pyc").unlink(missing_ok=True)

    launches = [backend.launch(spec(template="broken")) for _ in range(5)]
    refusals = await asyncio.gather(*launches, return_exceptions=True)

    assert {type(refusal) for refusal in refusals} == {Unavailable}
    (why,) = {str(refusal) for refusal in refusals}
    assert why == "template 'broken' cannot be used: fleeting: ModuleNotFoundError: No module named 'fleeting'"
    assert len(started) == 1
    template.remove(kept_in, "broken")
    with pytest.raises(Unavailable, match="no template 'broken'"):
        await backend.launch(spec(template="broken"))

    assert (await run_in(backend, "print('well')")).stdout == b"well\n"
    assert backend.healthy()


async def test_an_interpreter_that_is_gone_is_told(backend: LocalBackend, kept_in: Path, tmp_path: Path) -> None:
    made = build.build(kept_in, build.wanted("orphan", [], [], None))
    (kept_in / "orphan" / template.ABOUT).write_text(replace(made, interpreter="/gone/python3").to_json())
    before = len(os.listdir("/proc/self/fd"))

    with pytest.raises(Unavailable, match="'orphan' cannot be used: /gone/python3 cannot be started: No such file"):
        await backend.launch(spec(template="orphan"))

    template.remove(kept_in, "orphan")
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_template_that_is_built_anew_is_what_sessions_get(
    backend: LocalBackend, kept_in: Path, tmp_path: Path
) -> None:
    seen = []
    for version in ("1", "2"):
        package = wheel(tmp_path, "versioned", f"version = {version}", version)
        build.build(kept_in, build.wanted("twice", [package], ["versioned"], None))
        seen.append((await run(backend, "import versioned; print(versioned.version)", "twice")).stdout)
        template.remove(kept_in, "twice")

    assert seen == [b"1\n", b"2\n"]


async def test_a_module_may_write_temporary_files_as_it_is_preloaded_and_no_session_sees_them(
    backend: LocalBackend, kept_in: Path, tmp_path: Path
) -> None:
    source = "import tempfile\nmade = tempfile.mkdtemp()\nopen(made + '/x', 'w').write('x')"
    build.build(kept_in, build.wanted("temp", [wheel(tmp_path, "temporary", source)], ["temporary"], None))

    done = await run(backend, "import os, temporary\nprint(os.path.exists(temporary.made), os.listdir('/tmp'))", "temp")

    template.remove(kept_in, "temp")
    assert done.stdout == b"False ['.work']\n"


async def test_what_a_module_prints_when_it_is_preloaded_is_no_sessions_output(
    backend: LocalBackend, kept_in: Path, tmp_path: Path
) -> None:
    build.build(kept_in, build.wanted("loud", [wheel(tmp_path, "loud", "print('hello')")], ["loud"], None))

    done = await run(backend, "import loud", "loud")

    template.remove(kept_in, "loud")
    assert (done.stdout, done.stderr, done.exit.code) == (b"", b"", 0)
