"""Sessions that start from a repository, over HTTP."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from enclave import Enclave
from enclave.contracts.errors import InvalidRequest
from enclave.contracts.sessions import SessionResult
from enclave.serve import embedded
from tests.source.serving import LEAVE, Site, repository, serving

pytestmark = pytest.mark.sandbox

MAIN = """
import json, os, sys
import pkg.x
enclave.result([sys.path[0], os.getcwd(), sys.argv, __file__, __name__, pkg.x.V, sorted(os.listdir("/work/src"))])
"""
NODE = """
const near = require('./near');
enclave.result([__filename, process.cwd(), process.argv[1], near, require.main === module]);
"""
READING = """
import errno, os
def attempt(act):
    try: act()
    except OSError as error: return errno.errorcode[error.errno]
    return "done"
enclave.result([attempt(act) for act in (
    lambda: open("/work/src/new", "w"), lambda: open("/work/src/main.py", "a"), lambda: os.unlink("/work/src/main.py"),
    lambda: os.chmod("/work/src/main.py", 0o777), lambda: os.rename("/work/src", "/work/other"),
    lambda: os.rmdir("/tmp/.work/src"))])
"""
FILES = {
    "main.py": MAIN,
    "pkg/x.py": "V = 2\n",
    "deep/main.py": "import near; enclave.result(near.V)",
    "deep/near.py": "V = 3\n",
    "app/main.js": NODE,
    "app/near.js": "module.exports = 7;\n",
    "app/main.mjs": "import near from './near.js'; enclave.result([import.meta.url, near]);\n",
    "latin.py": "enclave.result('x')  # caf\xe9\n",
    "fails.py": "def f():\n    raise ValueError('no')\nf()\n",
    "reading.py": READING,
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serving(Site(tmp_path_factory.mktemp("served"))) as made:
        repository(made.root, "a", FILES)
        yield made


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def enclave(home: Path) -> Iterator[Enclave]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENCLAVE_EGRESS_PRIVATE", ",".join(map(str, LEAVE)))
        with embedded(home) as credential, Enclave(credential.base_url, api_key=credential.api_key) as client:
            yield client


def source(site: Site, entrypoint: str | None = None, name: str = "a") -> dict[str, dict[str, str | None]]:
    return {"git": {"url": site.url(name), "entrypoint": entrypoint}}


def run(enclave: Enclave, site: Site, entrypoint: str, language: str = "python") -> SessionResult:
    handle = enclave.run(source=source(site, entrypoint), language=language, wait=30)  # type: ignore[arg-type]
    assert handle.session.result is not None
    return handle.session.result


def test_an_entry_point_runs_as_if_from_its_place_in_the_tree(enclave: Enclave, site: Site) -> None:
    result = run(enclave, site, "main.py")

    place = "/work/src/main.py"
    names = sorted({path.split("/")[0] for path in FILES})
    assert result.result == ["/work/src", "/work", [place], place, "__main__", 2, names], result.stderr
    assert run(enclave, site, "deep/main.py").result == 3
    assert run(enclave, site, "latin.py").result == "x"


@pytest.mark.node
def test_an_entry_point_of_node_requires_what_is_beside_it(enclave: Enclave, site: Site) -> None:
    place = "/work/src/app/main.js"

    result = run(enclave, site, "app/main.js", "node")

    assert result.result == [place, "/work", place, 7, True], result.stderr
    assert run(enclave, site, "app/main.mjs", "node").result == ["file:///work/src/app/main.mjs", 7]


def test_a_traceback_shows_the_lines_of_the_tree_and_none_of_ours(enclave: Enclave, site: Site) -> None:
    result = run(enclave, site, "fails.py")

    assert result.exit_code == 1
    assert result.stderr == (
        'Traceback (most recent call last):\n  File "/work/src/fails.py", line 3, in <module>\n    f()\n'
        "  File \"/work/src/fails.py\", line 2, in f\n    raise ValueError('no')\nValueError: no\n"
    )


def test_an_entry_point_that_is_not_there_is_the_programs_failure(enclave: Enclave, site: Site) -> None:
    result = run(enclave, site, "nope.py")

    assert result.exit_code == 1
    assert result.stderr == "FileNotFoundError: [Errno 2] No such file or directory: '/work/src/nope.py'\n"


def test_code_can_import_from_the_tree(enclave: Enclave, site: Site) -> None:
    handle = enclave.run("import pkg.x; enclave.result([pkg.x.V, __file__])", source=source(site), wait=30)

    assert handle.session.result is not None
    assert handle.session.result.result == [2, "/work/main.py"]


def test_the_tree_is_read_only(enclave: Enclave, site: Site) -> None:
    assert run(enclave, site, "reading.py").result == ["EROFS", "EACCES", "EROFS", "EROFS", "EBUSY", "EBUSY"]


def test_nothing_is_left_of_a_source(enclave: Enclave, site: Site, home: Path) -> None:
    handle = enclave.run(source=source(site, "main.py"), wait=30)

    handle.teardown()

    assert list((home / "sources").iterdir()) == []


def test_a_url_with_credentials_is_refused(enclave: Enclave) -> None:
    with pytest.raises(InvalidRequest) as refused:
        enclave.run("1", source={"git": {"url": "https://user:hunter2@example.org/a"}})

    assert "hunter2" not in str(refused.value)


TOKEN = "token-of-the-repository-7f3a"


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server that wants a token."""
    with serving(Site(tmp_path_factory.mktemp("closed"), authorization=f"Bearer {TOKEN}")) as made:
        repository(
            made.root,
            "a",
            {"main.py": "import os; enclave.result([[n for n in os.environ if 'SVC' in n], os.listdir('/work/src')])"},
        )
        yield made


def test_a_binding_fetches_a_private_repository_and_its_token_is_left_nowhere(
    enclave: Enclave, closed: Site, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    enclave.bindings.put("git", url=closed.url(""), bearer=TOKEN)

    handle = enclave.run(source={"git": {**source(closed, "main.py")["git"], "binding": "git"}}, wait=30)

    assert handle.session.result is not None
    given: Any = handle.session.result.result
    assert given == [[], ["main.py"]], handle.session.result
    assert {sent for _, sent in closed.asked} == {f"Bearer {TOKEN}"}
    told = [handle.session.model_dump_json(), *(event.model_dump_json() for event in handle.audit())]
    assert not any(TOKEN in text for text in (*told, *capfd.readouterr()))
    kept = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert TOKEN.encode() not in kept
    enclave.bindings.delete("git")


def test_a_binding_that_there_is_not_is_refused_by_name(enclave: Enclave, closed: Site) -> None:
    with pytest.raises(InvalidRequest) as refused:
        enclave.run("1", source={"git": {"url": closed.url("a"), "binding": "nobodys"}})

    assert [problem.field for problem in refused.value.errors] == ["source.git.binding"]


def test_files_lie_beside_a_source_and_what_is_left_is_kept(enclave: Enclave, site: Site) -> None:
    code = "import os, pkg.x; os.mkdir('out'); open('out/a', 'w').write(open('in').read() + str(pkg.x.V))"

    handle = enclave.run(code, source=source(site), files={"in": "V="}, wait=30)

    assert handle.download("a") == b"V=2", handle.session.result


def test_a_file_in_the_place_of_the_source_is_refused(enclave: Enclave, site: Site) -> None:
    with pytest.raises(InvalidRequest) as refused:
        enclave.run("1", source=source(site), files={"src/a": ""})

    assert [problem.field for problem in refused.value.errors] == ["files.src/a"]
