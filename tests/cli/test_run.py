"""`enclave run` and `enclave logs`."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from enclave.cli.signals import Interrupted, interruptible
from enclave.contracts.frames import StdoutFrame
from enclave.contracts.logs import LogEntry
from enclave.contracts.policy import EgressMode, EgressPolicy, Language, RequestedLimits
from enclave.contracts.sessions import (
    CreateSessionRequest,
    GitSource,
    KillReason,
    Phase,
    Session,
    SessionResult,
    Source,
)
from enclave.contracts.wire import Page
from tests.cli.conftest import Command
from tests.sdk.samples import DONE, END, GRUMBLED, HI, ID, NOW, OH, PRINTED, session
from tests.sdk.scripted import Reply, event, events, ok, problem, raw, scripted


def _conversation(ended: Session = DONE, *frames: bytes) -> tuple[Reply, ...]:
    return ok(session(), 201), events(*frames, event(END, "end")), ok(ended)


def test_output_goes_where_the_program_sent_it_and_the_result_follows(enclave: Command) -> None:
    with scripted(*_conversation(DONE, event(HI, "1"), event(OH, "2"))) as server:
        ran = enclave(server.base_url, "run", "-c", "x")

    assert (ran.code, ran.out, ran.err) == (0, 'hi\n{"ok": true}\n', "oh\n")


def test_the_result_has_a_line_of_its_own(enclave: Command) -> None:
    with scripted(*_conversation(DONE, event(StdoutFrame(chunk="no newline", ts=NOW), "1"))) as server:
        assert enclave(server.base_url, "run", "-c", "x").out == 'no newline\n{"ok": true}\n'


def test_the_exit_code_is_the_programs(enclave: Command) -> None:
    failed = session(phase=Phase.FAILED, result=SessionResult(exit_code=7))
    with scripted(*_conversation(failed)) as server:
        ran = enclave(server.base_url, "run", "-c", "x")

    assert (ran.code, ran.out, ran.err) == (7, "", "failed: exit code 7\n")


def test_a_kill_is_told_in_words(enclave: Command) -> None:
    killed = session(phase=Phase.KILLED, kill_reason=KillReason.MEMORY_EXCEEDED, result=SessionResult(exit_code=None))
    with scripted(*_conversation(killed)) as server:
        ran = enclave(server.base_url, "run", "-c", "x")

    assert (ran.code, ran.err) == (137, "killed: it used more than 256 MiB of memory\n")


def test_every_option_is_in_the_request(enclave: Command, tmp_path: Path) -> None:
    program = tmp_path / "program.mjs"
    program.write_text("grüß()")
    options = [
        "--template",
        "data",
        "--memory",
        "64",
        "--wall",
        "2.5",
        "--allow",
        "example.org",
        "--allow",
        "10.0.0.0/8",
        "--label",
        "a=b=c",
        "--label",
        "d=",
    ]
    with scripted(*_conversation()) as server:
        assert enclave(server.base_url, "run", str(program), *options).code == 0

    assert CreateSessionRequest.model_validate_json(server.asked[0].body) == CreateSessionRequest(
        code="grüß()",
        language=Language.NODE,
        template="data",
        limits=RequestedLimits(memory_mib=64, wall_clock_seconds=2.5),
        egress=EgressPolicy(mode=EgressMode.ALLOWLIST, allow=("example.org", "10.0.0.0/8")),
        labels={"a": "b=c", "d": ""},
    )


def test_a_repository_takes_the_place_of_a_file(enclave: Command) -> None:
    options = ["--git", "https://example.org/a", "--ref", "v1", "--entrypoint", "app/main.js", "--binding", "github"]
    with scripted(*_conversation()) as server:
        assert enclave(server.base_url, "run", *options).code == 0

    source = Source(git=GitSource(url="https://example.org/a", ref="v1", entrypoint="app/main.js", binding="github"))
    asked = CreateSessionRequest.model_validate_json(server.asked[0].body)
    assert asked == CreateSessionRequest(source=source, language=Language.NODE)


def test_a_file_runs_beside_a_repository(enclave: Command) -> None:
    with scripted(*_conversation()) as server:
        assert enclave(server.base_url, "run", "-c", "1", "--git", "https://example.org/a").code == 0

    asked = CreateSessionRequest.model_validate_json(server.asked[0].body)
    assert asked == CreateSessionRequest(code="1", source=Source(git=GitSource(url="https://example.org/a")))


def test_json_is_one_document_and_nothing_else(enclave: Command) -> None:
    hostile = session(phase=Phase.FAILED, result=SessionResult(exit_code=1, stdout="\x1b[2J\x9b"), labels={"a": "\x7f"})
    with scripted(ok(session(), 201), events(event(HI, "1"), event(END, "2")), ok(hostile)) as server:
        ran = enclave(server.base_url, "run", "--json", "-c", "x")

    assert ran.code == 1
    assert ran.err == ""
    assert ran.out.removesuffix("\n").isprintable()
    assert Session.model_validate_json(ran.out) == hostile


def test_json_of_a_session_without_result_is_a_document_too(enclave: Command) -> None:
    gone = session(phase=Phase.TORN_DOWN)
    with scripted(ok(gone, 201), ok(gone)) as server:
        ran = enclave(server.base_url, "run", "--json", "-c", "x")

    assert (ran.code, json.loads(ran.out)["phase"]) == (70, "torn_down")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("option", ["--json", "--label=a=b"])
def test_a_signal_to_end_tears_the_session_down(enclave: Command, option: str, number: signal.Signals) -> None:
    def interrupt() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, number)
        gate.wait()

    gate = threading.Event()
    broken_off = events(event(HI, "1"), interrupt)
    with scripted(ok(session(), 201), broken_off, ok(session(phase=Phase.TORN_DOWN))) as server:
        ran = enclave(server.base_url, "run", option, "-c", "x")
        gate.set()

    assert ran.code == 128 + number
    assert "Traceback" not in ran.err
    assert (server.asked[-1].method, server.asked[-1].path) == ("DELETE", f"/sessions/{ID}")


def test_signals_mean_afterwards_what_they_meant_before(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with pytest.raises(Interrupted), interruptible():
        signal.raise_signal(signal.SIGHUP)

    assert {number: signal.getsignal(number) for number in before} == before


def test_a_signal_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
def test_a_reader_that_goes_away_stops_the_program(environment: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    replies = (ok(session(), 201), events(event(HI, "1"), event(END, "2")), ok(session(phase=Phase.TORN_DOWN)))
    with scripted(*replies) as server:
        ran = subprocess.run(
            [sys.executable, "-m", "enclave", "run", "-c", "x"],
            env=os.environ | {"ENCLAVE_BASE_URL": server.base_url},
            stdout=writer,
            stderr=subprocess.PIPE,
        )
    os.close(writer)

    assert (ran.returncode, ran.stderr) == (141, b"")
    assert server.asked[-1].method == "DELETE"


@pytest.mark.slow
def test_standard_input_is_a_program(environment: Path) -> None:
    with scripted(*_conversation()) as server:
        ran = subprocess.run(
            [sys.executable, "-m", "enclave", "run", "-"],
            env=os.environ | {"ENCLAVE_BASE_URL": server.base_url},
            input=b"print()",
            capture_output=True,
        )

    assert (ran.returncode, ran.stdout) == (0, b'{"ok": true}\n')
    assert json.loads(server.asked[0].body)["code"] == "print()"


@pytest.mark.slow
def test_a_named_server_that_is_not_there_is_an_error(enclave: Command) -> None:
    with scripted() as server:
        pass
    ran = enclave(server.base_url, "run", "-c", "x")

    assert ran.code == 70
    assert ran.err.startswith(f"error: no Enclave server at {server.base_url} (Connection refused)")
    assert ran.err.count("\n") == 1


def test_a_stored_server_that_answers_is_used(
    enclave: Command, environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ENCLAVE_API_KEY")
    health = b'{"ok":true,"backend":"local","backendHealthy":true}'
    with scripted(raw(200, health), *_conversation()) as server:
        (environment / "credentials.json").write_text(json.dumps({"baseUrl": server.base_url, "apiKey": "ek_stored"}))
        assert enclave(None, "run", "-c", "x").code == 0

    assert server.asked[1].headers["authorization"] == "Bearer ek_stored"


def test_a_refused_request_names_its_fields_and_obeys_nothing_in_them(enclave: Command) -> None:
    refusal = problem(400, "invalid_request", "bad\x1b[31m", errors=[{"field": "limits.pids", "message": "[red]\nx"}])
    with scripted(refusal) as server:
        ran = enclave(server.base_url, "run", "-c", "x")

    assert (ran.code, ran.err) == (2, "error: bad\\x1b[31m\n  limits.pids: [red]\\nx\n")


@pytest.mark.parametrize(
    "args",
    [
        ("run",),
        ("run", "-c", "x", "file.py"),
        ("run", "/nowhere/at/all.py"),
        ("run", "-c", "x", "--label", "novalue"),
        ("run", "-c", "x", "--label", "=v"),
        ("run", "-c", "x", "--language", "cobol"),
        ("run", "-c", ""),
        ("run", "--git", "https://example.org/a"),
        ("run", "-c", "x", "--ref", "main"),
        ("run", "--entrypoint", "main.py"),
        ("run", "-c", "x", "--git", "https://example.org/a", "--entrypoint", "main.py"),
        ("run", "-c", "x", "--git", "https://example.org/a", "--ref=-x"),
        ("frobnicate",),
    ],
)
def test_usage_errors_ask_nothing_of_the_server(enclave: Command, args: tuple[str, ...]) -> None:
    with scripted() as server:
        ran = enclave(server.base_url, *args)

    assert (ran.code, ran.out, server.asked) == (2, "", [])
    assert "Traceback" not in ran.err


def test_a_file_that_is_no_text_is_a_usage_error(enclave: Command, tmp_path: Path) -> None:
    (tmp_path / "x.py").write_bytes(b"\xff")

    assert enclave("http://127.0.0.1:1", "run", str(tmp_path / "x.py")).code == 2


def test_logs_tell_what_was_printed(enclave: Command) -> None:
    pages = [Page[LogEntry](items=(PRINTED,), next_cursor="c1"), Page[LogEntry](items=(GRUMBLED,), next_cursor=None)]
    with scripted(*map(ok, pages)) as server:
        ran = enclave(server.base_url, "logs", ID)

    assert (ran.code, ran.out, ran.err) == (0, "hi\n", "oh\n")


def test_logs_of_what_still_runs_are_told_up_to_now_or_followed(enclave: Command) -> None:
    pages = [Page[LogEntry](items=(PRINTED,), next_cursor="c1"), Page[LogEntry](items=(), next_cursor="c1")]
    with scripted(*map(ok, pages), events(event(HI, "1"), event(END, "2"))) as server:
        told = enclave(server.base_url, "logs", ID)
        followed = enclave(server.base_url, "logs", "--follow", ID)

    assert (told.code, told.out) == (0, "hi\n")
    assert (followed.code, followed.out) == (0, "hi\n")


def test_a_webhook_is_asked_for_of_a_server_that_goes_on(enclave: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(*_conversation()) as server:
        ran = enclave(server.base_url, "run", "-c", "x", "--webhook", "https://hooks.example.org/in")
    monkeypatch.delenv("ENCLAVE_BASE_URL")
    monkeypatch.delenv("ENCLAVE_API_KEY")
    alone = enclave(None, "run", "-c", "x", "--webhook", "https://hooks.example.org/in")

    assert (ran.code, json.loads(server.asked[0].body)["webhookUrl"]) == (0, "https://hooks.example.org/in")
    assert (alone.code, "enclave serve" in alone.err) == (70, True)
