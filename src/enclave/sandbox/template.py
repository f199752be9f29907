"""What a template adds to an interpreter: packages at the end of its path, and modules imported ahead.

A build of Python proves it with `prove`, in an interpreter started as a launcher is; the launcher then does the same.
"""

import contextlib
import ctypes
import importlib
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

PLACE: Final = "/opt/template"
"""Where the packages are inside."""

NODE_LINKS: Final[Mapping[str, str]] = {"/node_modules": f"{PLACE}/node_modules"}
"""How Node finds them, as CommonJS and as ES modules, from wherever a program is: it looks in every directory above,
and of a link it goes on from where that leads (Node.js, "Loading from node_modules folders"). ES modules know no
NODE_PATH."""

SINGLE_THREADED: Final[Mapping[str, str]] = {
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
"""Environment in which numeric libraries start no threads, which a fork would not take along."""

ENVIRONMENT: Final[Mapping[str, str]] = {**SINGLE_THREADED, "PYTHONPATH": PLACE}
"""What a session under a template finds in its environment; the path is for interpreters that it starts itself."""

_TASKS: Final = "/proc/self/task"
_ENDING_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 0.005


@contextlib.contextmanager
def own_tasks() -> Iterator[int]:
    """The directory of this process's threads, as a descriptor, which outlives a change of root."""
    fd = os.open(_TASKS, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def preload(packages: str, modules: Sequence[str], tasks: int) -> None:
    """Import modules from `packages`. Raises OSError, in one line, if one does not let itself be imported or forked."""
    sys.path.append(packages)
    for name in modules:
        try:
            importlib.import_module(name)
        except BaseException as error:
            raise OSError(f"{name}: {_in_one_line(error)}") from error
        if (threads := _threads_left(tasks)) > 1:
            raise OSError(f"{name}: it starts {threads - 1} thread(s), which a sandbox would not have")
    _flush()


def prove(packages: str, modules: Sequence[str]) -> None:
    """Preload as a launcher does, and exit: with 0, or with the reason as the last line of standard error."""
    try:
        with own_tasks() as tasks:
            preload(packages, modules, tasks)
    except OSError as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def _threads_left(tasks: int) -> int:
    # One that was for the import alone may take a moment to be gone.
    until = time.monotonic() + _ENDING_SECONDS
    while (left := len(os.listdir(tasks))) > 1 and time.monotonic() < until:
        time.sleep(_LOOK_SECONDS)
    return left


def _flush() -> None:
    # What is left in a buffer would be printed by every sandbox.
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    ctypes.CDLL(None).fflush(None)


def _in_one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]
