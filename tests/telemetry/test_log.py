"""A line of the log is a line, and says what it was about."""

import json
import logging

import pytest

from enclave.core.trace import REQUEST_ID, SESSION_ID
from enclave.telemetry.log import Json, Text, open_log


def record(message: str) -> logging.LogRecord:
    return logging.LogRecord("enclave.x", logging.ERROR, "f", 1, "%s", (message,), None)


def test_json_is_one_line_whatever_was_logged() -> None:
    hostile = 'a\nb\u2028{"level": "error"}\x1b[31m'
    request, session = REQUEST_ID.set("r1"), SESSION_ID.set("ses_1")
    line = Json().format(record(hostile))
    REQUEST_ID.reset(request)
    SESSION_ID.reset(session)
    told = json.loads(line)
    assert (line.count("\n"), line.isascii()) == (0, True)
    assert (told["message"], told["level"], told["logger"]) == (hostile, "error", "enclave.x")
    assert (told["request_id"], told["session_id"]) == ("r1", "ses_1")


def test_text_says_what_it_was_about() -> None:
    token = SESSION_ID.set("ses_1")
    line = Text().format(record("it broke"))
    SESSION_ID.reset(token)
    assert line.endswith("ERROR it broke session_id=ses_1")
    assert "session_id" not in Json().format(record("it broke"))


def test_a_trace_is_part_of_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        open_log("json")
        try:
            raise ValueError("inside")
        except ValueError:
            logging.getLogger("enclave").exception("it broke")
        (line,) = capsys.readouterr().err.splitlines()
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    assert "ValueError: inside" in json.loads(line)["trace"]
