"""`enclave serve` and `enclave doctor`, with the server's side played; `test_real.py` has the real one."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from enclave.backends.base import Check
from enclave.config import Settings
from enclave.contracts.errors import Unavailable
from enclave.contracts.identity import Credential
from tests.cli.conftest import Command
from tests.sdk.samples import DONE, END, session
from tests.sdk.scripted import event, events, ok, scripted

GOOD = Check("kernel", True, "Linux 6", "never shown")
NO_NODE = Check("node", False, "not installed", "apt-get install nodejs", essential=False)
NO_CGROUPS = Check("cgroups", False, "[red]read-only\x1b[2J", "run as root")


@dataclass
class Played:
    """What the other side answers, and the settings it was given."""

    checks: tuple[Check, ...] = ()
    refusal: Unavailable | None = None
    settings: Settings | None = None
    embedded_url: str = ""

    def diagnose(self, settings: Settings) -> tuple[Check, ...]:
        return self.checks

    def serve(self, settings: Settings, *, ready: Callable[[str, Credential], None]) -> None:
        self.settings = settings
        if self.refusal is not None:
            raise self.refusal
        url = f"http://{settings.host}:{settings.port}"
        ready(url, Credential(base_url=url, api_key="ek_1_secret"))

    @contextmanager
    def embedded(self, home: Path | None) -> Iterator[Credential]:
        yield Credential(base_url=self.embedded_url, api_key="ek_embedded")


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    """The server's modules, played."""
    played = Played()
    for name, given in (("serve", ("serve", "embedded")), ("system", ("diagnose",))):
        module = ModuleType(f"enclave.{name}")
        for one in given:
            setattr(module, one, getattr(played, one))
        monkeypatch.setitem(sys.modules, f"enclave.{name}", module)
    return played


def test_serve_says_where_it_is_and_what_to_do_next(enclave: Command, played: Played, environment: Path) -> None:
    ran = enclave(None, "serve", "--host", "127.0.0.2", "--port", "9")

    assert played.settings == Settings(home=environment, host="127.0.0.2", port=9)
    assert ran.out.splitlines() == [
        "Enclave serves at http://127.0.0.2:9",
        f"Its key is in     {environment}/credentials.json",
        "Try               enclave run -c \"print('hello')\"",
    ]
    assert "secret" not in ran.out


def test_another_home_is_named_in_the_next_command(enclave: Command, played: Played, tmp_path: Path) -> None:
    out = enclave(None, "serve", "--home", str(tmp_path / "other")).out

    assert f"ENCLAVE_HOME={tmp_path}/other enclave run" in out


def test_a_server_that_cannot_start_says_so_in_one_line(enclave: Command, played: Played) -> None:
    played.refusal = Unavailable("cannot listen on 127.0.0.1:1: Permission denied")
    ran = enclave(None, "serve")

    assert (ran.code, ran.err) == (70, "error: cannot listen on 127.0.0.1:1: Permission denied\n")


def test_a_setting_that_makes_no_sense_is_told(
    enclave: Command, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENCLAVE_PORT", "many")
    ran = enclave(None, "serve")

    assert (ran.code, ran.err) == (2, "error: ENCLAVE_PORT must be a whole number\n")


@pytest.mark.parametrize("command", [("serve",), ("run", "-c", "x")])
def test_without_the_server_extra_it_says_what_to_install(
    enclave: Command, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ENCLAVE_API_KEY")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    for module in ("enclave.serve", "enclave.system"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    ran = enclave(None, *command)

    assert (ran.code, ran.err) == (70, "error: this needs the server's packages: pip install 'enclave[server]'\n")


@pytest.mark.parametrize(("missing", "code"), [((), 0), ((NO_NODE,), 0), ((NO_NODE, NO_CGROUPS), 1)])
def test_doctor_fails_if_nothing_can_run(
    enclave: Command, played: Played, missing: tuple[Check, ...], code: int
) -> None:
    played.checks = (GOOD, *missing)

    assert enclave(None, "doctor").code == code


def test_doctor_tells_how_to_mend_what_is_missing_and_obeys_nothing(enclave: Command, played: Played) -> None:
    played.checks = (GOOD, NO_NODE, NO_CGROUPS)
    lines = enclave(None, "doctor").out.splitlines()

    assert [line.split()[0] for line in lines[1:]] == ["ok", "no", "no"]
    assert "apt-get install nodejs" in lines[2]
    assert "[red]read-only\\x1b[2J" in lines[3]
    assert "never shown" not in "".join(lines)


def test_doctor_as_json_is_a_list(enclave: Command, played: Played) -> None:
    played.checks = (NO_NODE,)
    ran = enclave(None, "doctor", "--json")

    mend = "apt-get install nodejs"
    expected = {"name": "node", "holds": False, "detail": "not installed", "mend": mend, "essential": False}
    assert json.loads(ran.out) == [expected]


def test_without_any_server_one_is_started_for_the_program(
    enclave: Command, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ENCLAVE_API_KEY")
    with scripted(ok(session(), 201), events(event(END, "1")), ok(DONE)) as server:
        played.embedded_url = server.base_url
        ran = enclave(None, "run", "-c", "x")

    assert (ran.code, ran.out) == (0, '{"ok": true}\n')
    assert server.asked[0].headers["authorization"] == "Bearer ek_embedded"


def test_a_stored_server_that_is_gone_is_replaced_for_the_program(
    enclave: Command, played: Played, environment: Path
) -> None:
    with scripted() as gone:
        pass
    (environment / "credentials.json").write_text(json.dumps({"baseUrl": gone.base_url, "apiKey": "ek_stored"}))
    with scripted(ok(session(), 201), events(event(END, "1")), ok(DONE)) as server:
        played.embedded_url = server.base_url

        assert enclave(None, "run", "-c", "x").code == 0


def test_a_useless_credential_file_is_told_rather_than_passed_over(
    enclave: Command, played: Played, environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ENCLAVE_API_KEY")
    (environment / "credentials.json").write_text("{")
    ran = enclave(None, "run", "-c", "x")

    assert ran.code == 70
    assert "credentials.json" in ran.err
