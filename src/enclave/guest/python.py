"""The Python guest: waits in a warm interpreter for a program, and becomes it.

From the moment a program runs, hostile code shares this process. Nothing it could take from here is worth taking: the
descriptors are its own output, its own result channel, and where its own end is told.
"""

import atexit
import builtins
import contextlib
import gc
import io
import json
import os
import signal
import sys
import threading
import types
from collections.abc import Callable
from typing import Any, Final, NoReturn

GO: Final = 3
"""Where eight bytes, the payload's length (little-endian), arrive when there is a program to run."""
PAYLOAD: Final = 4
"""The memory file that then holds it: a line of JSON with `code`, `env`, whether there is a `source`, and its
`entrypoint`, and if there are any, `files` as pairs of a path and a size, whose contents follow the line.

Without code (null) the program is the entry point, a path in the source.
"""
RESULT: Final = 5
"""Where values go: a length of four bytes (little-endian), then that much JSON."""
STATUS: Final = 6
"""Where the guest says that it is ready, and then how it ended."""
READY: Final = b"R"
EXITED: Final = b"X"
"""Followed by a wait status (wait(2)) of four bytes, little-endian."""

MAX_RESULT_BYTES: Final = 1024 * 1024
HOME: Final = "/work"
FILE: Final = "/work/main.py"
SOURCE: Final = "/work/src"
"""Where a session's source is."""


def wait_and_become() -> NoReturn:
    """Get ready, say so, wait for a program and become it; leave quietly if none will come."""
    main = _prepare()
    _rehearse(main)
    os.write(STATUS, READY)
    header = os.read(GO, 8)
    if len(header) < 8:
        os._exit(0)
    taken, contents = _split(os.pread(PAYLOAD, int.from_bytes(header, "little"), 0))
    os.close(GO)
    os.close(PAYLOAD)
    guest = os.getpid()
    # Without one of its files the program must not run.
    placed = _place(taken.get("files", []), contents)
    del contents
    _finish(_execute(_take_in(taken, main), main) if placed else 1, reports=os.getpid() == guest)


def _prepare() -> types.ModuleType:
    """Make everything of the program's world that does not depend on the program; its main module, still empty."""
    _fresh_signals()
    _fresh_streams()
    _fresh_randomness()
    gc.enable()
    sys.argv[:] = [FILE]
    sys.orig_argv[:] = [sys.executable, FILE]
    sys.path.insert(0, HOME)
    return _main_module()


def _split(payload: bytes) -> tuple[dict[str, Any], memoryview]:
    """The two parts of a payload: what its line says, and what follows that."""
    end = payload.index(b"\n") + 1
    return json.loads(payload[:end]), memoryview(payload)[end:]


def _place(files: list[tuple[str, int]], contents: memoryview) -> bool:
    """Put files where they belong; False if one cannot be: standard error says why."""
    try:
        _unpack(files, contents)
    except OSError as error:
        reason = error.strerror
        _quietly(lambda: print(f"the files cannot be put in place: {reason}", file=sys.stderr))
        return False
    return True


def _take_in(taken: dict[str, Any], main: types.ModuleType) -> str | None:
    """Take over the environment, and put the program where it will say that it is; None if it is there."""
    os.environ.clear()
    os.environ.update(taken["env"])
    if (code := taken["code"]) is None:
        _enter_at(f"{SOURCE}/{taken['entrypoint']}", main)
        return None
    if taken.get("source"):
        sys.path.insert(1, SOURCE)
    with open(FILE, "w", encoding="utf-8", errors="surrogatepass") as file:
        file.write(code)
    return str(code)


def _enter_at(file: str, main: types.ModuleType) -> None:
    # As `python FILE` does: its directory is where it imports from.
    sys.path[0] = os.path.dirname(os.path.realpath(file))
    sys.argv[:] = [file]
    sys.orig_argv[1:] = [file]
    vars(main)["__file__"] = file


def _unpack(files: list[tuple[str, int]], contents: memoryview) -> None:
    for path, size in files:
        place = os.path.join(HOME, path)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "xb", buffering=0) as file:
            _write_all(file.fileno(), contents[:size])
        contents = contents[size:]


def _fresh_signals() -> None:
    # All others are as the system has them.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)


def _fresh_streams() -> None:
    # Unbuffered, as `python -u`: what is printed is on its way before the next statement runs.
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stdout = sys.__stdout__ = _writer(1, "strict")  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _writer(2, "backslashreplace")  # type: ignore[misc]


def _writer(fd: int, errors: str) -> io.TextIOWrapper:
    raw = io.FileIO(fd, "wb", closefd=False)
    return io.TextIOWrapper(raw, encoding="utf-8", errors=errors, newline="\n", write_through=True)


def _main_module() -> types.ModuleType:
    enclave = types.ModuleType("enclave", "What a program can tell the platform that runs it.")
    enclave.result = _result_writer()  # type: ignore[attr-defined]
    main = types.ModuleType("__main__")
    vars(main).update(__builtins__=builtins, __file__=FILE, __annotations__={}, enclave=enclave)
    sys.modules["enclave"], sys.modules["__main__"] = enclave, main
    return main


def _result_writer() -> Callable[[Any], None]:
    lock = threading.Lock()

    def result(value: Any) -> None:
        """Hand a JSON value of at most 1 MiB to whoever started this program; the last one handed over counts."""
        data = json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
        if len(data) > MAX_RESULT_BYTES:
            raise ValueError(f"the result is {len(data)} bytes of JSON; at most {MAX_RESULT_BYTES} are taken")
        with lock:
            _write_all(RESULT, len(data).to_bytes(4, "little") + data)

    # It shows in the program's tracebacks, where our path on the host has no business.
    result.__code__ = result.__code__.replace(co_filename="<enclave>")
    return result


def _write_all(fd: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _execute(code: str | None, main: types.ModuleType) -> int:
    file = vars(main)["__file__"]
    try:
        text = _read(file) if code is None else code
        exec(compile(text, file, "exec", dont_inherit=True), vars(main))  # noqa: S102  this is what we are for
    except SystemExit as leaving:
        return _exit_code(leaving.code)
    except BaseException as error:  # noqa: BLE001  whatever the program raises is reported as the interpreter would
        _report(error)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _read(file: str) -> bytes:
    with open(file, "rb") as opened:
        return opened.read()


def _exit_code(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    _quietly(lambda: print(code, file=sys.stderr))
    return 1


def _report(error: BaseException) -> None:
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    _quietly(lambda: sys.excepthook(type(error), error.with_traceback(trace), trace))


def _finish(code: int, *, reports: bool) -> NoReturn:
    _quietly(threading._shutdown)  # type: ignore[attr-defined]
    _quietly(atexit._run_exitfuncs)
    _quietly(lambda: sys.stdout.flush())
    _quietly(lambda: sys.stderr.flush())
    if reports:
        # Init would say the same once this process is taken apart; that takes longer than many a program.
        _quietly(lambda: os.write(STATUS, EXITED + (code << 8).to_bytes(4, "little")))
    os._exit(code)


def _quietly(step: Callable[[], object]) -> None:
    # The program is over; what it broke must not change how it ended.
    with contextlib.suppress(BaseException):
        step()


_REHEARSAL: Final = (
    json.dumps(
        {
            "code": "import json\nprint(json.dumps({'a': [1, 2.5]}), file=sink)\n",
            "env": dict.fromkeys(("HOME", "LANG", "PATH", "TMPDIR", "USER", "ENCLAVE_SESSION_ID"), "rehearsal"),
        }
    ).encode()
    + b"\n"
)

_SETTLED: Final = 32


def _rehearse(main: types.ModuleType) -> None:
    # Touch the pages that running a program touches, so that they are this process's own before anyone waits for it.
    with open(os.devnull, "w", encoding="utf-8") as sink:
        scene = {"__name__": "rehearsal", "sink": sink}
        exec(compile(str(_take_in(_split(_REHEARSAL)[0], main)), "rehearsal", "exec"), scene)  # noqa: S102  our own text


def rehearse_ahead() -> None:
    """Do what every program needs often enough that the interpreter has made up its mind, before a guest is forked.

    A function that has not run often yet is rewritten as it runs (PEP 659), in pages that each fork would then copy.
    """
    for _ in range(_SETTLED):
        scene = {"__name__": "rehearsal", "sink": io.StringIO()}
        exec(compile(json.loads(_REHEARSAL)["code"], "rehearsal", "exec"), scene)  # noqa: S102  our own text


def _fresh_randomness() -> None:
    # `random` is seeded anew by every fork; what numpy keeps for all its users is not.
    if (shared := sys.modules.get("numpy.random")) is not None:
        shared.seed()
