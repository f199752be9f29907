"""`enclave template`, with real builds of packages made on the spot."""

import json
from pathlib import Path

import pytest

from tests.backends.tarballs import script
from tests.backends.wheels import wheel
from tests.cli.conftest import Command

pytest.importorskip("enclave.system", reason="the server's packages are not installed")


def test_what_is_built_is_listed_until_it_is_removed(enclave: Command, environment: Path, tmp_path: Path) -> None:
    package = wheel(tmp_path / "wheels", "small", "x = 1")
    built = enclave(None, "template", "build", "one", "--package", package, "--preload", "small")
    table = enclave(None, "template", "list")
    (listed,) = json.loads(enclave(None, "template", "list", "--json").out)
    removed = enclave(None, "template", "rm", "one")

    assert (built.code, built.out.split()[:2]) == (0, ["one:", "small"])
    assert "Successfully installed small" in built.err
    assert table.out.splitlines()[1].split() == ["one", "python", package, "small"]
    assert (listed["name"], listed["language"], listed["preload"]) == ("one", "python", ["small"])
    assert (removed.code, removed.out) == (0, "one\n")
    assert enclave(None, "template", "list", "--json").out == "[]\n"
    assert list((environment / "templates").iterdir()) == []


def test_what_cannot_be_built_is_one_clear_line(enclave: Command, environment: Path, tmp_path: Path) -> None:
    package = wheel(tmp_path / "wheels", "small", "x = 1 / 0")
    ran = enclave(None, "template", "build", "one", "--package", package, "--preload", "small")

    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines()[-1] == "error: preload: small: ZeroDivisionError: division by zero"
    assert list((environment / "templates").iterdir()) == []


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (("rm", "none"), "there is no template 'none'"),
        (("rm", "../up"), "'../up' is no name for a template"),
        (("build", "A"), "'A' is no name for a template"),
        (("build", "a", "--preload", "x;y"), "'x;y' is not the name of a module"),
        (("build", "a", "--interpreter", "/none"), "/none is not a Python of 3.11 or newer"),
    ],
)
def test_what_makes_no_sense_is_told(enclave: Command, args: tuple[str, ...], why: str) -> None:
    ran = enclave(None, "template", *args)

    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"error: {why}")


@pytest.mark.node
@pytest.mark.sandbox
def test_one_of_node_is_built_too(enclave: Command, environment: Path, tmp_path: Path) -> None:
    package = script(tmp_path / "tarballs", "small", "exports.x = 1")
    built = enclave(None, "template", "build", "one", "--language", "node", "--package", package, "--preload", "small")
    table = enclave(None, "template", "list")

    assert (built.code, built.out) == (0, "one: small@1.0.0\n")
    assert table.out.splitlines()[1].split() == ["one", "node", package, "small"]


@pytest.mark.slow
@pytest.mark.sandbox
def test_a_server_of_ones_own_offers_what_was_built(
    enclave: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ENCLAVE_API_KEY")
    package = wheel(tmp_path / "wheels", "small", "x = 'it is small'")
    enclave(None, "template", "build", "one", "--package", package, "--preload", "small")

    ran = enclave(None, "run", "--template", "one", "-c", "import small; print(small.x)")
    refused = enclave(None, "run", "--template", "two", "-c", "pass")

    assert (ran.code, ran.out) == (0, "it is small\n")
    assert (refused.code, refused.err.splitlines()[1:]) == (
        2,
        ["  template: two does not exist; templates for python: one"],
    )
