"""Templates of Node on the real kernel, built by the real npm of packages made on the spot: no registry is asked."""

import asyncio
import json
import os
import select
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from enclave.backends.local import LocalBackend, build, machine, template
from enclave.contracts.errors import InvalidRequest
from enclave.contracts.policy import Language
from tests.backends.running import Run, run_in
from tests.backends.tarballs import script, tarball

pytestmark = [pytest.mark.anyio, pytest.mark.sandbox, pytest.mark.node, pytest.mark.timeout(120)]

BOTH = {"require": "./one.cjs", "import": "./one.mjs"}
DUAL = {
    "one.cjs": "module.exports = {how: 'required'}",
    "one.mjs": "globalThis.imported = true; export const how = 'imported'",
}
DRAWING = """
const crypto = require('crypto');
const draw = () => [crypto.randomUUID(), crypto.randomBytes(8).toString('hex'), Math.random()];
draw();
module.exports = draw;
"""
LOUD = """
console.log('out'); console.error('err'); process.stdout.write('raw', () => {});
process.emitWarning('old', 'DeprecationWarning');
exports.say = console.log;
"""
FAULTS = [
    ("raises", "throw new RangeError('two\\nlines')", "preload: raises: RangeError: two lines"),
    ("leaves", "process.exit(3)", "preload: it ended with code 3"),
    ("dies", "process.kill(process.pid, 'SIGKILL')", "preload: it ended with code 137"),
    ("lasts", "setInterval(() => {}, 60000)", "preload: it keeps a program from ending: Timeout"),
    ("prints", "require('fs').writeSync(1, 'x')", "preload: it prints past console"),
    ("hoards", "const a = []; for (;;) a.push(Buffer.alloc(1 << 24, 1))", "preload: memory_exceeded, with the default"),
    ("lacks", "require('nowhere')", "preload: lacks: Error: Cannot find module 'nowhere'"),
    ("forges", "require('fs').writeSync(5, '\\x02\\0\\0\\0{{'); process.exit()", "preload: it"),
]


def build_one(where: Path, name: str, packages: list[str], preload: list[str]) -> template.Template:
    return build.build(where, build.wanted(name, packages, preload, None, Language.NODE))


@pytest.fixture(scope="module")
def kept_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the template `data`: a package that is two things, one that draws, and one that prints."""
    where, made = tmp_path_factory.mktemp("node") / "templates", tmp_path_factory.mktemp("tarballs")
    packages = [
        tarball(made, "dual", DUAL, exports=BOTH),
        tarball(
            made, "modern", {"index.js": "export default 'modern'"}, type="module", exports={"import": "./index.js"}
        ),
        script(made, "drawing", DRAWING),
        script(made, "loud", LOUD),
        script(made, "idle", "module.exports = 'idle'"),
    ]
    build_one(where, "data", packages, ["dual", "modern", "drawing", "loud", "fs"])
    return where


@pytest.fixture(scope="module")
async def backend(
    anyio_backend: str, kept_in: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[LocalBackend]:
    made = LocalBackend(home=tmp_path_factory.mktemp("home"), pool=2, templates=kept_in)
    await made.start()
    yield made
    await made.close()


async def run(backend: LocalBackend, code: str) -> Run:
    return await run_in(backend, code, language="node", template="data")


# -- builds ------------------------------------------------------------------------------------------------------------


def test_a_template_is_found_as_it_was_built(tmp_path: Path) -> None:
    inner = script(tmp_path / "tarballs", "inner", "module.exports = 1")
    outer = tarball(tmp_path / "tarballs", "outer", {}, dependencies={"inner": f"file:{inner}"})

    made = build_one(tmp_path / "templates", "one", [outer], [])

    assert template.templates(tmp_path / "templates") == (made,)
    assert (made.language, made.packages) == (Language.NODE, (outer,))
    assert made.resolved == ("inner@1.0.0", "outer@1.0.0")


def test_a_template_may_have_no_packages(tmp_path: Path) -> None:
    assert build_one(tmp_path, "one", [], ["fs"]).resolved == ()


def test_everyone_can_read_one_whatever_the_mask(tmp_path: Path) -> None:
    package = script(tmp_path / "tarballs", "small", "")
    before = os.umask(0o077)
    try:
        build_one(tmp_path / "templates", "one", [package], ["small"])
    finally:
        os.umask(before)

    paths = [tmp_path / "templates", *(tmp_path / "templates").rglob("*")]
    closed = [path for path in paths if not path.is_symlink() and path.stat().st_mode & 0o444 != 0o444]
    assert [path for path in closed if path.name != template.ABOUT] == []


@pytest.mark.parametrize(("name", "source", "why"), FAULTS, ids=[fault[0] for fault in FAULTS])
def test_a_module_that_cannot_be_preloaded_is_a_clear_error(tmp_path: Path, name: str, source: str, why: str) -> None:
    package = script(tmp_path, name, source)

    with pytest.raises(InvalidRequest) as refused:
        build_one(tmp_path / "templates", "one", [package], [name])

    assert refused.value.detail.startswith(why)
    assert "\n" not in refused.value.detail
    assert list((tmp_path / "templates").iterdir()) == []


def test_a_package_that_does_not_resolve_is_told_in_npms_words(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"^npm: .*ENOENT.*missing-1\.0\.0\.tgz"):
        build_one(tmp_path / "templates", "one", [str(tmp_path / "missing-1.0.0.tgz")], [])

    assert list((tmp_path / "templates").iterdir()) == []


def test_an_option_is_no_package(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"^npm: "):
        build_one(tmp_path, "one", ["--global"], [])


@pytest.mark.parametrize("module", ["", "-r", "./x", "../x", "a/../b", "/etc/x", "a b", "@/a", "a\n", "file:x"])
def test_a_module_is_checked(module: str) -> None:
    with pytest.raises(InvalidRequest, match="not the name of a module"):
        build.wanted("one", [], [module], None, Language.NODE)


@pytest.mark.parametrize("module", ["lodash", "lodash/fp", "@scope/name", "@scope/name/sub.js", "a.b-c_d"])
def test_what_npm_calls_a_package_is_a_module(module: str) -> None:
    assert build.wanted("one", [], [module], None, Language.NODE).preload == (module,)


def test_an_interpreter_is_checked() -> None:
    with pytest.raises(InvalidRequest, match="/bin/true is not a Node"):
        build.wanted("one", [], [], "/bin/true", Language.NODE)


def test_a_node_that_is_in_a_home_does_not_show_the_home(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    copied = shutil.copy(machine.node().path, str(tmp_path / "bin" / "node"))  # type: ignore[union-attr]

    found = build.wanted("one", [], [], copied, Language.NODE)

    assert (found.interpreter, found.prefix) == (copied, str(tmp_path / "bin"))


@pytest.mark.parametrize("event", ["preinstall", "install", "postinstall", "prepare"])
def test_install_scripts_do_not_run(tmp_path: Path, event: str) -> None:
    package = tarball(tmp_path, "hostile", {"index.js": ""}, scripts={event: f"touch {tmp_path}/ran"})

    build_one(tmp_path / "templates", "one", [package], ["hostile"])

    assert not (tmp_path / "ran").exists()


def test_what_is_preloaded_for_the_proof_runs_in_a_sandbox(tmp_path: Path) -> None:
    source = f"require('fs').writeFileSync({json.dumps(str(tmp_path / 'ran'))}, '')"

    with pytest.raises(InvalidRequest, match="preload: reaching: Error: ENOENT"):
        build_one(tmp_path / "templates", "one", [script(tmp_path, "reaching", source)], ["reaching"])

    assert not (tmp_path / "ran").exists()


def test_a_directory_is_copied(tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "package.json").write_text('{"name": "local", "version": "1.0.0"}')
    (tmp_path / "local" / "index.js").write_text("module.exports = 1")

    build_one(tmp_path / "templates", "one", [str(tmp_path / "local")], ["local"])

    assert not (tmp_path / "templates/one/npm/node_modules/local").is_symlink()


@pytest.mark.slow
def test_a_package_of_the_registry(tmp_path: Path) -> None:
    try:
        made = build_one(tmp_path / "templates", "one", ["lodash@4"], ["lodash", "lodash/fp"])
    except InvalidRequest as error:
        if not error.detail.startswith("npm: "):
            raise
        pytest.skip(f"the registry of npm cannot be reached: {error.detail}")

    assert [each.split(".")[0] for each in made.resolved] == ["lodash@4"]


# -- sessions ----------------------------------------------------------------------------------------------------------

FACES = [
    ("console.log(require('dual').how)", b"required\n"),
    ("import {how} from 'dual'; console.log(how)", b"imported\n"),
    ("console.log((await import('dual')).how, (await import('idle')).default)", b"imported idle\n"),
    ("import idle from 'idle'; console.log(idle)", b"idle\n"),
    ("import modern from 'modern'; console.log(modern)", b"modern\n"),
    ("process.chdir('/tmp'); console.log(require('idle'))", b"idle\n"),
    (
        "console.log(require('child_process').execFileSync(process.execPath, ['-p', 'require(`idle`)']) + '')",
        b"idle\n\n",
    ),
    ("new (require('worker_threads').Worker)('console.log(require(`idle`))', {eval: true})", b"idle\n"),
]


@pytest.mark.parametrize(("code", "printed"), FACES, ids=[code[:40] for code, _ in FACES])
async def test_packages_are_found_from_every_kind_of_program(backend: LocalBackend, code: str, printed: bytes) -> None:
    done = await run(backend, code)

    assert (done.stdout, done.exit.code) == (printed, 0), done.stderr


async def test_what_is_preloaded_is_loaded_already(backend: LocalBackend) -> None:
    code = "enclave.result([...Object.keys(require.cache), globalThis.imported && 'imported'])"

    loaded = json.loads((await run(backend, code)).exit.value or b"[]")

    below = "/opt/template/node_modules"
    assert set(loaded) >= {f"{below}/dual/one.cjs", f"{below}/drawing/index.js", f"{below}/loud/index.js", "imported"}
    assert f"{below}/idle/index.js" not in loaded
    assert backend.templates() == {"data": Language.NODE}


async def test_without_the_template_there_are_no_packages(backend: LocalBackend) -> None:
    done = await run_in(backend, "require('idle')", language="node")

    assert b"Cannot find module 'idle'" in done.stderr


async def test_packages_cannot_be_written_to(backend: LocalBackend) -> None:
    code = """
const fs = require('fs'), refused = [];
const below = '/opt/template/node_modules';
const attempts = [
  () => fs.writeFileSync(below + '/idle/index.js', ''), () => fs.writeFileSync(below + '/new', ''),
  () => fs.unlinkSync(below + '/idle/index.js'), () => fs.unlinkSync('/node_modules'), () => fs.mkdirSync('/opt/x'),
];
for (const attempt of attempts) try { attempt(); } catch (error) { refused.push(error.code); }
enclave.result(refused);
"""
    refused = json.loads((await run(backend, code)).exit.value or b"[]")

    assert len(refused) == 5
    assert set(refused) <= {"EROFS", "EACCES"}


async def test_packages_do_not_say_where_they_came_from_on_the_host(backend: LocalBackend) -> None:
    done = await run(
        backend, "process.stdout.write(require('child_process').execSync('grep -rl tarballs /opt || true'))"
    )

    assert (done.stdout, done.exit.code) == (b"", 0), done.stderr


async def test_no_two_sandboxes_draw_the_same(backend: LocalBackend) -> None:
    code = "const draw = require('drawing'); enclave.result([...draw(), ...draw(), Math.random()])"

    rows = [
        json.loads(done.exit.value or b"[]") for done in await asyncio.gather(*[run(backend, code) for _ in range(6)])
    ]

    assert [len(row) for row in rows] == [7] * 6
    assert len({str(value) for row in rows for value in row}) == 6 * 7


async def test_what_a_module_prints_when_it_is_preloaded_is_no_sessions_output(backend: LocalBackend) -> None:
    quiet = await run(backend, "process.exitCode = 4")
    later = await run(backend, "require('loud').say('later'); process.emitWarning('new')")

    assert (quiet.stdout, quiet.stderr, quiet.exit.code) == (b"", b"", 4)
    assert later.stdout == b"later\n"
    assert b"Warning: new" in later.stderr


ORDER = """
setTimeout(() => console.log('timeout'), 0);
setImmediate(() => { console.log('immediate'); Promise.resolve().then(() => console.log('last')); });
Promise.resolve().then(() => { console.log('promise'); process.nextTick(() => console.log('tick of a promise')); });
process.nextTick(() => console.log('tick'));
queueMicrotask(() => console.log('microtask'));
const until = Date.now() + 20; while (Date.now() < until);
console.log('main');
"""


async def test_a_program_runs_in_the_order_it_has_without_a_template(backend: LocalBackend) -> None:
    bare, under = await run_in(backend, ORDER, language="node"), await run(backend, ORDER)

    assert bare.stdout.split(b"\n")[:3] == [b"main", b"tick", b"promise"]
    assert under.stdout == bare.stdout


async def test_a_program_does_not_see_how_its_process_was_started(backend: LocalBackend) -> None:
    seen = (
        "enclave.result([process.argv, process.execArgv, require.main === module, __filename, process.env.NODE_PATH])"
    )

    assert (await run(backend, seen)).exit.value == (await run_in(backend, seen, language="node")).exit.value


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def test_a_process_that_died_as_it_waited_is_replaced(backend: LocalBackend) -> None:
    await run(backend, "0")
    (launcher,) = children((await backend.station("data")).pid)
    waiting = {init: guests for init in children(launcher) if (guests := children(init))}
    assert waiting

    for init, guests in waiting.items():
        ended = select.poll()
        ended.register(pidfd := os.pidfd_open(init), select.POLLIN)
        os.kill(guests[0], signal.SIGKILL)
        await asyncio.to_thread(ended.poll)
        os.close(pidfd)

    assert [(await run(backend, f"console.log({number})")).stdout for number in range(4)] == [
        b"0\n",
        b"1\n",
        b"2\n",
        b"3\n",
    ]
    assert waiting.keys() & set(children(launcher)) == set()
