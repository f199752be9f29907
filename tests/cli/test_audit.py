"""`enclave audit verify` and `export`, on a real server's home."""

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from enclave.cli import main
from enclave.serve import embedded
from tests.cli.conftest import Command

ENTRIES = 6


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a server that ran a program, and ended."""
    home = tmp_path_factory.mktemp("home")
    with embedded(home) as credential:
        command = [sys.executable, "-m", "enclave", "run", "-c", "print(1)"]
        key = {"ENCLAVE_BASE_URL": credential.base_url, "ENCLAVE_API_KEY": credential.api_key, "PATH": "/usr/bin:/bin"}
        subprocess.run(command, env=key, check=True, capture_output=True)
        exported = subprocess.run(
            [sys.executable, "-m", "enclave", "audit", "export"], env=key, check=True, capture_output=True
        )
    (home / "by-api.jsonl").write_bytes(exported.stdout)
    return home


@pytest.fixture
def home(used: Path, tmp_path: Path) -> Path:
    """A copy that may be harmed."""
    target = tmp_path / "copy"
    subprocess.run(["cp", "-a", used, target], check=True)
    return target


def edit(home: Path, statement: str) -> None:
    with closing(sqlite3.connect(home / "enclave.db")) as connection:
        connection.execute("DROP TRIGGER audit_is_not_rewritten")
        connection.execute("DROP TRIGGER audit_is_not_erased")
        connection.execute(statement)
        connection.commit()


def test_a_home_that_was_left_alone_holds(enclave: Command, home: Path) -> None:
    ran = enclave(None, "audit", "verify", "--home", str(home), "--json")
    (found,) = json.loads(ran.out)
    assert (ran.code, found["holds"], found["entries"], found["signedUpTo"]) == (0, True, ENTRIES, ENTRIES)
    assert "holds" in enclave(None, "audit", "verify", "--home", str(home)).out


def test_the_first_broken_entry_is_named(enclave: Command, home: Path) -> None:
    edit(home, "UPDATE audit SET body = replace(body, '\"exitCode\":0', '\"exitCode\":1') WHERE seq = 5")
    ran = enclave(None, "audit", "verify", "--home", str(home), "--json")
    assert (ran.code, json.loads(ran.out)[0]["firstBroken"]["seq"]) == (1, 5)
    assert "entry 5 is broken" in enclave(None, "audit", "verify", "--home", str(home)).out


def test_an_end_that_is_missing_is_named(enclave: Command, home: Path) -> None:
    edit(home, "DELETE FROM audit WHERE seq > 3")
    ran = enclave(None, "audit", "verify", "--home", str(home), "--json")
    assert (ran.code, json.loads(ran.out)[0]["firstBroken"]["seq"]) == (1, 4)


def test_exports_by_api_and_of_a_home_say_the_same(home: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with pytest.raises(SystemExit):
        main(("audit", "export", "--home", str(home)))
    offline = capfdbinary.readouterr().out
    (home / "offline.jsonl").write_bytes(offline)
    by_api = (home / "by-api.jsonl").read_bytes()
    assert list(map(json.loads, offline.splitlines())) == list(map(json.loads, by_api.splitlines()))


def test_an_export_is_verified(enclave: Command, home: Path) -> None:
    file = home / "by-api.jsonl"
    held = ("--checkpoints", str(home / "audit-checkpoints.jsonl"), "--key", str(home / "audit.pub"), "--json")
    ran = enclave(None, "audit", "verify", "--file", str(file), *held)
    assert (ran.code, json.loads(ran.out)[0]["signedUpTo"]) == (0, ENTRIES)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:2] + lines[3:]))
    ran = enclave(None, "audit", "verify", "--file", str(file), "--json")
    assert (ran.code, json.loads(ran.out)[0]["firstBroken"]["seq"]) == (1, 3)


def test_what_cannot_be_read_is_told_in_a_line(enclave: Command, home: Path, tmp_path: Path) -> None:
    for arguments, code in (
        (("--home", str(tmp_path / "none")), 70),
        (("--file", str(tmp_path / "none")), 70),
        (("--home", str(home), "--checkpoints", str(tmp_path / "none")), 70),
        (("--home", str(home), "--file", "-"), 2),
        (("--home", str(home), "--key", "AAAA"), 2),
        (("--home", str(home), "--key", str(tmp_path / "none.pub")), 2),
    ):
        ran = enclave(None, "audit", "verify", *arguments)
        assert (ran.code, ran.err.count("\n"), ran.err[:7]) == (code, 1, "error: "), arguments
