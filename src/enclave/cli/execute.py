"""`enclave run`: a program's output as it comes, then what became of it."""

import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, TextIO

import typer

from enclave.cli.say import BROKEN_PIPE, as_json, complain, drop_stdout, printable
from enclave.cli.signals import Interrupted, interruptible
from enclave.cli.verdict import exit_code, verdict
from enclave.contracts.errors import Conflict, EnclaveError, InvalidRequest
from enclave.contracts.frames import StderrFrame, StdoutFrame, StreamFrame
from enclave.contracts.policy import Language
from enclave.contracts.sessions import CreateSessionRequest
from enclave.sdk.client import Enclave
from enclave.sdk.session import SessionHandle

_NODE_SUFFIXES: Final = frozenset({".js", ".mjs", ".cjs"})


def execute(client: Enclave, request: CreateSessionRequest, *, json: bool, out: Path | None = None) -> int:
    """Run a program to its end, and answer with the exit code for what became of it.

    The files that it left are put into `out`, if that is given.
    """
    try:
        with interruptible():
            handle = client.run(request)
            code = _told(handle, json=json)
            if out is not None:
                _fetch(handle, out)
            return code
    except Interrupted as interrupt:
        return interrupt.code
    except BrokenPipeError:
        drop_stdout()
        return BROKEN_PIPE


def relay(frames: Iterable[StreamFrame]) -> bool:
    """Pass on what the program prints, at once and as it is; answers whether its standard output ends within a line."""
    within_line = False
    for frame in frames:
        match frame:
            case StdoutFrame(chunk=chunk):
                _write(sys.stdout, chunk)
                within_line = not chunk.endswith("\n")
            case StderrFrame(chunk=chunk):
                _write(sys.stderr, chunk)
    return within_line


def read(client: Enclave, session_id: str) -> None:
    """Write what a session has printed so far."""
    page = client.logs(session_id)
    while page.items:
        for entry in page.items:
            _write(sys.stdout if entry.channel == "stdout" else sys.stderr, entry.text)
        if page.next_cursor is None:
            return
        page = client.logs(session_id, page.next_cursor)


def source(file: str | None, code: str | None) -> str:
    """The program text: the argument, the file's, or standard input's. Raises a usage error."""
    if (file is None) == (code is None):
        raise typer.BadParameter("give either a FILE or -c CODE")
    if code is not None:
        return code
    try:
        return (sys.stdin.buffer.read() if file == "-" else Path(str(file)).read_bytes()).decode()
    except OSError as error:
        raise typer.BadParameter(f"cannot read {printable(str(file))}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{printable(str(file))} is not UTF-8 text") from None


def git_source(url: str | None, **rest: str | None) -> dict[str, dict[str, str | None]] | None:
    """The source that the options name. Raises a usage error for one without its url."""
    if url is not None:
        return {"git": {"url": url, **rest}}
    if given := [name for name, value in rest.items() if value is not None]:
        raise typer.BadParameter(f"--{given[0]} says something of --git, which is missing")
    return None


def language_of(file: str | None) -> Language:
    """The language a file's name stands for."""
    return Language.NODE if Path(file or "").suffix in _NODE_SUFFIXES else Language.PYTHON


def labels_of(pairs: list[str]) -> dict[str, str]:
    """Labels from `name=value` arguments. Raises a usage error."""
    split = [pair.partition("=") for pair in pairs]
    if bad := [name for name, equals, _ in split if not (name and equals)]:
        raise typer.BadParameter(f"a label looks like name=value, not {printable(bad[0])!r}")
    return {name: value for name, _, value in split}


def files_of(pairs: list[str]) -> dict[str, Path]:
    """Files from `file` and `file=path` arguments, by their paths inside. Raises a usage error."""
    files: dict[str, Path] = {}
    for pair in pairs:
        file, equals, path = pair.partition("=")
        if not file or (equals and not path):
            raise typer.BadParameter(f"a file looks like FILE or FILE=PATH, not {printable(pair)!r}")
        files[path or Path(file).name] = Path(file)
    return files


def _fetch(handle: SessionHandle, out: Path) -> None:
    """Put what the program left below a directory; no link that is there already is followed out of it."""
    result = handle.session.result
    files = () if result is None else result.files
    for file in files:
        place = out / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.parent.resolve().is_relative_to(out.resolve()) or place.is_symlink():
            raise InvalidRequest(f"{place} leads out of {out}")
        handle.download(file.path, to=place)
        complain(f"{place}: {file.bytes} bytes")


def _told(handle: SessionHandle, *, json: bool) -> int:
    try:
        return _documented(handle) if json else _watched(handle)
    except (Interrupted, OSError):
        # There is nobody left to tell.
        _stop(handle)
        raise


def _watched(handle: SessionHandle) -> int:
    with handle.stream() as frames:
        within_line = relay(frames)
    session = handle.refresh()
    if session.result is not None and session.result.result is not None:
        _write(sys.stdout, "\n" * within_line + as_json(session.result.result) + "\n")
    for line in verdict(session):
        complain(line)
    return exit_code(session)


def _documented(handle: SessionHandle) -> int:
    # A session torn down by someone else has no result, and is still the document that was asked for.
    with suppress(Conflict):
        handle.result()
    print(as_json(handle.session.model_dump(mode="json")), flush=True)
    return exit_code(handle.session)


def _write(stream: TextIO, text: str) -> None:
    stream.buffer.write(text.encode(errors="replace"))
    stream.buffer.flush()


def _stop(handle: SessionHandle) -> None:
    with suppress(EnclaveError, KeyboardInterrupt):
        handle.teardown()
