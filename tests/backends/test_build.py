"""How templates are built, listed and removed; and that one that cannot be built leaves nothing behind."""

import os
from pathlib import Path

import pytest

from enclave.backends.local import build, machine, template
from enclave.contracts.errors import InvalidRequest, Unavailable
from enclave.contracts.policy import Language
from tests.backends.wheels import wheel

pytestmark = pytest.mark.timeout(120)

THREAD = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
FAULTS = [
    ("raises", "raise ValueError('two\\nlines')", "preload: raises: ValueError: two lines"),
    ("leaves", "import sys; sys.exit('no')", "preload: leaves: SystemExit: no"),
    ("threads", THREAD, "preload: threads: it starts 1 thread"),
    ("dies", "import os; os.kill(os.getpid(), 9)", "preload: it was ended by signal 9"),
]


def build_one(where: Path, name: str, packages: list[str], preload: list[str]) -> template.Template:
    return build.build(where, build.wanted(name, packages, preload, None))


def test_a_template_is_found_as_it_was_built(tmp_path: Path) -> None:
    package = wheel(tmp_path / "wheels", "small", "x = 1")

    made = build_one(tmp_path, "one", [package], ["small"])

    assert template.templates(tmp_path) == (made,)
    assert template.offered(tmp_path) == {"one": Language.PYTHON}
    assert (made.packages, made.preload) == ((package,), ("small",))
    assert [line.partition(" @")[0] for line in made.resolved] == ["small"]
    assert (made.interpreter, made.prefix) == (machine.python().path, machine.python().prefix)


def test_everyone_can_read_one_whatever_the_mask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        build_one(tmp_path / "templates", "one", [wheel(tmp_path, "small", "x = 1")], [])
    finally:
        os.umask(before)

    paths = [tmp_path / "templates", *(tmp_path / "templates").rglob("*")]
    closed = [path for path in paths if not path.is_symlink() and path.stat().st_mode & 0o444 != 0o444]
    assert [path for path in closed if path.name != template.ABOUT] == []


@pytest.mark.parametrize(("name", "source", "why"), FAULTS, ids=lambda value: value if value.isalpha() else "")
def test_a_module_that_cannot_be_preloaded_is_a_clear_error(tmp_path: Path, name: str, source: str, why: str) -> None:
    package = wheel(tmp_path, name, source)

    with pytest.raises(InvalidRequest) as refused:
        build_one(tmp_path / "templates", "one", [package], [name])

    assert refused.value.detail.startswith(why)
    assert "\n" not in refused.value.detail
    assert list((tmp_path / "templates").iterdir()) == []


def test_a_thread_for_the_import_alone_is_allowed(tmp_path: Path) -> None:
    source = "import threading\ntimer = threading.Timer(60, print)\ntimer.start()\ntimer.cancel()"

    assert build_one(tmp_path, "one", [wheel(tmp_path / "wheels", "brief", source)], ["brief"]).preload == ("brief",)


def test_a_package_that_does_not_resolve_is_told_in_pips_words(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing-1-py3-none-any.whl")

    with pytest.raises(InvalidRequest, match=r"^pip: .*missing-1-py3-none-any\.whl"):
        build_one(tmp_path / "templates", "one", [missing], [])

    assert list((tmp_path / "templates").iterdir()) == []


def test_an_option_is_no_package(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"^pip: "):
        build_one(tmp_path, "one", ["--target=/nowhere"], [])


@pytest.mark.parametrize("name", ["", "A", "-a", ".a", "a/b", "..", "a b", "a" * 64, "ä", "a\n"])
def test_a_name_is_checked(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequest, match="no name for a template"):
        build.wanted(name, [], [], None)
    with pytest.raises(InvalidRequest, match="no name for a template"):
        template.remove(tmp_path, name)


@pytest.mark.parametrize("module", ["", "-c", "os;x", "a..b", "a-b", "1a"])
def test_a_module_is_checked(module: str) -> None:
    with pytest.raises(InvalidRequest, match="not the name of a module"):
        build.wanted("one", [], [module], None)


def test_an_interpreter_is_checked() -> None:
    with pytest.raises(InvalidRequest, match="/bin/true is not a Python"):
        build.wanted("one", [], [], "/bin/true")

    assert build.wanted("one", [], [], machine.python().path).prefix == machine.python().prefix


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    build_one(tmp_path, "one", [], [])

    with pytest.raises(InvalidRequest, match="already"):
        build_one(tmp_path, "one", [], [])

    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_one_that_is_removed_is_gone(tmp_path: Path) -> None:
    build_one(tmp_path, "one", [], [])

    template.remove(tmp_path, "one")

    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InvalidRequest, match="no template 'one'"):
        template.remove(tmp_path, "one")


def test_what_a_killed_build_left_is_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".left.999999999" / "venv").mkdir(parents=True)
    (tmp_path / f".going-on.{os.getppid()}").mkdir()

    build_one(tmp_path, "one", [], [])

    assert {path.name for path in tmp_path.iterdir()} == {"one", f".going-on.{os.getppid()}"}


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"name": 1}'])
def test_what_is_damaged_is_not_offered(tmp_path: Path, text: str) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / template.ABOUT).write_text(text)

    assert template.templates(tmp_path) == ()


def test_a_place_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(Unavailable, match="file"):
        build_one(tmp_path / "file", "one", [], [])
