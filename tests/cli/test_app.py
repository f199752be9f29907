"""The commands that only ask and show."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from enclave import __version__
from enclave.contracts.audit import AuditEvent, SessionCreated, WorkloadExited
from enclave.contracts.policy import EgressPolicy, Language, SessionLimits
from enclave.contracts.sessions import Phase, Session
from enclave.contracts.wire import Page
from tests.cli.conftest import Command
from tests.sdk.samples import DONE, END, HI, ID, NOW, STARTED, TORN_DOWN, session
from tests.sdk.scripted import event, events, ok, problem, raw, scripted

HOSTILE = session(labels={"a": "[red]\x1b]0;owned\x07\u202e"})


def test_sessions_are_a_table_that_obeys_nothing(enclave: Command) -> None:
    with scripted(ok(Page[Session](items=(DONE, HOSTILE)))) as server:
        ran = enclave(server.base_url, "sessions", "--phase", "failed", "--label", "a=b", "--limit", "7")

    assert server.asked[0].path == "/sessions?limit=7&phase=failed&label=a%3Ab"
    assert ran.out.splitlines()[1].split()[:3] == [ID, "succeeded", "python"]
    assert "a=[red]\\x1b]0;owned\\x07\\u202e" in ran.out
    assert ran.out.replace("\n", "").isprintable()


def test_sessions_as_json_are_a_list(enclave: Command) -> None:
    with scripted(ok(Page[Session](items=(DONE, HOSTILE)))) as server:
        ran = enclave(server.base_url, "sessions", "--json")

    assert [Session.model_validate_json(json.dumps(one)) for one in json.loads(ran.out)] == [DONE, HOSTILE]


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_an_audit_trail_is_told_in_order(enclave: Command, option: list[str]) -> None:
    items = [event.model_dump(mode="json") for event in (STARTED, TORN_DOWN)]
    with scripted(raw(200, json.dumps({"items": items}).encode())) as server:
        ran = enclave(server.base_url, "audit", ID, *option)

    assert ran.code == 0
    assert ran.out.index("sandbox_started") < ran.out.index("session_torn_down")
    assert not option or json.loads(ran.out) == items


def test_the_details_of_an_audit_trail_have_the_names_of_the_wire(enclave: Command) -> None:
    exited = WorkloadExited(
        ts=NOW,
        org_id="org_1",
        session_id=ID,
        actor="system",
        exit_code=3,
        signal=None,
        kill_reason=None,
        duration_ms=1.5,
    )
    created = SessionCreated(
        ts=NOW, org_id="org_1", session_id=ID, actor="key_1", language=Language.PYTHON, limits=SessionLimits(),
        egress=EgressPolicy(), labels={}, code_bytes=7, code_sha256="0",
    )  # fmt: skip
    with scripted(ok(Page[AuditEvent](items=(created, exited)))) as server:
        out = enclave(server.base_url, "audit", ID).out

    assert "exitCode=3 durationMs=1.5" in out
    assert "codeBytes=7" in out
    assert "'memoryMiB': 256" in out
    assert "_mib" not in out


def test_rm_tears_down_what_it_can_and_says_what_it_cannot(enclave: Command) -> None:
    with scripted(problem(404, "not_found", "No such session."), ok(session(phase=Phase.TORN_DOWN))) as server:
        ran = enclave(server.base_url, "rm", "ses_other", ID)

    assert (ran.code, ran.out, ran.err) == (70, f"{ID}\n", "error: ses_other: No such session.\n")
    assert [asked.method for asked in server.asked] == ["DELETE", "DELETE"]


def test_without_a_key_it_says_what_to_do(enclave: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENCLAVE_API_KEY")
    ran = enclave(None, "sessions")

    assert ran.code == 70
    assert ran.err.startswith("error: there is no credential")
    assert all(word in ran.err for word in ("ENCLAVE_API_KEY", "enclave serve"))
    assert "api_key" not in ran.err
    assert ran.err.count("\n") == 1


def test_the_version_is_told(enclave: Command) -> None:
    assert enclave(None, "--version").out == f"enclave {__version__}\n"


def test_help_documents_the_exit_codes(enclave: Command) -> None:
    out = enclave(None, "run", "--help").out

    assert all(code in out for code in ("124", "137", "130", "143", "129", "141", "70"))


UNPRINTABLE = {
    "full": (">/dev/full", "error: No space left on device\n"),
    "closed": (">&-", "error: standard output is closed\n"),
}


def _ran(redirection: str, base_url: str, *args: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"ENCLAVE_BASE_URL": base_url, "PYTHONUNBUFFERED": ""}
    command = ("sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-m", "enclave", *args)
    return subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize(("redirection", "said"), UNPRINTABLE.values(), ids=UNPRINTABLE)
@pytest.mark.parametrize("args", [("sessions",), ("sessions", "--json"), ("--version",), ("--help",)])
def test_output_that_cannot_be_printed_is_one_line(
    environment: Path, redirection: str, said: str, args: tuple[str, ...]
) -> None:
    with scripted(ok(Page[Session](items=(DONE,)))) as server:
        ran = _ran(redirection, server.base_url, *args)

    assert (ran.returncode, ran.stderr) == (70, said)


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--json", "--label=a=b"])
def test_a_program_whose_output_cannot_be_printed_is_stopped(environment: Path, option: str) -> None:
    torn_down = ok(session(phase=Phase.TORN_DOWN))
    replies = (
        (ok(DONE, 201), torn_down)
        if option == "--json"
        else (ok(session(), 201), events(event(HI, "1"), event(END, "2")), torn_down)
    )
    with scripted(*replies) as server:
        ran = _ran(">/dev/full", server.base_url, "run", option, "-c", "x")

    assert (ran.returncode, ran.stderr) == (70, "error: No space left on device\n")
    assert server.asked[-1].method == "DELETE"
