"""The commands that only ask and show."""

import json

import pytest

from enclave import __version__
from enclave.contracts.sessions import Phase, Session
from enclave.contracts.wire import Page
from tests.cli.conftest import Command
from tests.sdk.samples import DONE, ID, STARTED, TORN_DOWN, session
from tests.sdk.scripted import ok, problem, raw, scripted

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


def test_rm_tears_down_what_it_can_and_says_what_it_cannot(enclave: Command) -> None:
    with scripted(problem(404, "not_found", "No such session."), ok(session(phase=Phase.TORN_DOWN))) as server:
        ran = enclave(server.base_url, "rm", "ses_other", ID)

    assert (ran.code, ran.out, ran.err) == (70, f"{ID}\n", "error: No such session.\n")
    assert [asked.method for asked in server.asked] == ["DELETE", "DELETE"]


def test_without_a_key_it_says_what_to_do(enclave: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENCLAVE_API_KEY")
    ran = enclave(None, "sessions")

    assert ran.code == 70
    assert ran.err.startswith("error: there is no API key")
    assert ran.err.count("\n") == 1


def test_the_version_is_told(enclave: Command) -> None:
    assert enclave(None, "--version").out == f"enclave {__version__}\n"


def test_help_documents_the_exit_codes(enclave: Command) -> None:
    out = enclave(None, "run", "--help").out

    assert all(code in out for code in ("124", "137", "130", "141", "70"))
