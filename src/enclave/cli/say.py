"""What we print ourselves: plain, on one line, and with nothing in it that a terminal would obey."""

import json
import math
import os
import sys

from pydantic import JsonValue

from enclave.contracts.errors import EnclaveError, InvalidRequest

USAGE = 2
PLATFORM = 70
BROKEN_PIPE = 141


def printable(text: str) -> str:
    """The text with everything that is not a visible character escaped: control codes, line breaks, direction marks."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def as_json(value: JsonValue) -> str:
    """JSON of one line, in ASCII, so that no terminal can take any of it for a command."""
    return json.dumps(value, ensure_ascii=True).replace("\x7f", "\\u007f")


def complain(text: str) -> None:
    """A line on standard error."""
    print(printable(text), file=sys.stderr)


def refuse(error: EnclaveError, about: str = "") -> int:
    """Tell what went wrong, and answer with the exit code for it."""
    complain(f"error: {about}{': ' * bool(about)}{error.detail}{_later(error)}")
    for problem in error.errors:
        complain(f"  {problem.field}: {problem.message}")
    return USAGE if isinstance(error, InvalidRequest) else PLATFORM


def _later(error: EnclaveError) -> str:
    if error.retry_after is None:
        return ""
    minutes, seconds = divmod(math.ceil(error.retry_after), 60)
    parts = ([f"{minutes} min"] if minutes else []) + ([f"{seconds} s"] if seconds else [])
    return f"; try again in {' '.join(parts)}" if parts else ""


def fail(error: OSError) -> int:
    """Tell what the system would not let us do, mostly to print, and answer with the exit code for it."""
    drop_stdout()
    if isinstance(error, BrokenPipeError):
        return BROKEN_PIPE
    complain(f"error: {error.strerror or error}")
    return PLATFORM


def drop_stdout() -> None:
    """Nobody reads our standard output any more: let what is still in its buffer go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
