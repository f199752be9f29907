"""How a template is made: installed and proved beside its final place, and only then given its name."""

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from enclave.backends.local import machine, npm, pip
from enclave.backends.local.template import ABOUT, Template, check_name, sweep
from enclave.contracts.errors import InvalidRequest, Unavailable
from enclave.contracts.policy import Language

_MODULE: Final[Mapping[Language, re.Pattern[str]]] = {
    Language.PYTHON: re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*"),
    Language.NODE: re.compile(r"(@[\w~-][\w.~-]*/)?[\w~][\w.~-]*(/[\w~][\w.~-]*)*", re.ASCII),
}
_MAKERS: Final[Mapping[Language, Callable[[Template, Path], tuple[str, ...]]]] = {
    Language.PYTHON: pip.make,
    Language.NODE: npm.make,
}


def wanted(
    name: str,
    packages: Sequence[str],
    preload: Sequence[str],
    interpreter: str | None,
    language: Language = Language.PYTHON,
) -> Template:
    """The template that is asked for, of the sandboxes' own interpreter if none is named. Raises InvalidRequest."""
    check_name(name)
    for module in preload:
        if not _MODULE[language].fullmatch(module):
            raise InvalidRequest(f"{module!r} is not the name of a module")
    chosen = _interpreter(language, interpreter)
    return Template(
        name=name,
        language=language,
        interpreter=chosen.path,
        prefix=chosen.prefix,
        packages=tuple(packages),
        preload=tuple(preload),
    )


def build(where: Path, asked: Template) -> Template:
    """Make a template in a directory; what pip and npm say of their progress goes to standard error.

    Raises InvalidRequest if a package does not resolve or a module cannot be preloaded, and Unavailable if this machine
    has not what it takes; then nothing is left behind.
    """
    final = where / asked.name
    if final.exists():
        raise InvalidRequest(f"there is a template {asked.name!r} already; remove it first")
    sweep(where)
    with _scaffold(final) as place:
        made = replace(asked, resolved=_MAKERS[asked.language](asked, place))
        _write(place / ABOUT, made.to_json())
        _finish(place, final)
    return made


def _interpreter(language: Language, path: str | None) -> machine.Interpreter:
    if language is Language.NODE:
        return _node(path)
    if path is None:
        return machine.python()
    found = shutil.which(path)
    interpreter = machine.interpreter(found) if found else None
    if interpreter is None:
        raise InvalidRequest(f"{path} is not a Python of {machine.OLDEST_PYTHON} or newer")
    return interpreter


def _node(path: str | None) -> machine.Interpreter:
    found = machine.node() if path is None else machine.node_at(path)
    if found is None:
        raise InvalidRequest("Node.js is not installed" if path is None else f"{path} is not a Node.js")
    return found


@contextlib.contextmanager
def _scaffold(final: Path) -> Iterator[Path]:
    place = final.parent / f".{final.name}.{os.getpid()}"
    try:
        final.parent.mkdir(exist_ok=True)
        place.mkdir()
        for directory in (final.parent, place):
            directory.chmod(0o755)
        yield place
    except OSError as error:
        raise Unavailable(f"{error.filename or final}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _finish(place: Path, final: Path) -> None:
    try:
        place.rename(final)
    except OSError:
        raise InvalidRequest(f"there is a template {final.name!r} already; remove it first") from None
    directory = os.open(final.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
