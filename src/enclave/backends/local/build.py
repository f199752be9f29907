"""How a template is made: by venv and pip beside its final place, proved, and only then given its name."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from enclave.backends.local import connection, machine
from enclave.backends.local.template import ABOUT, VENV, Template, check_name, site_packages, sweep
from enclave.contracts.errors import InvalidRequest, Unavailable
from enclave.contracts.policy import Language
from enclave.sandbox import template as inside

_PROVE: Final = (
    "import sys;sys.path.insert(0,sys.argv[1]);from enclave.sandbox.template import prove;sys.path.pop(0);"
    "prove(sys.argv[2],sys.argv[3:])"
)
_PROOF_SECONDS: Final = 25.0
"""Less than a launcher is given to start."""
_OPEN_MASK: Final = 0o022
_MODULE: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def wanted(name: str, packages: Sequence[str], preload: Sequence[str], python: str | None) -> Template:
    """The template that is asked for. Raises InvalidRequest."""
    check_name(name)
    for module in preload:
        if not _MODULE.fullmatch(module):
            raise InvalidRequest(f"{module!r} is not the name of a module")
    interpreter = machine.python() if python is None else _interpreter(python)
    return Template(
        name=name,
        language=Language.PYTHON,
        python=interpreter.path,
        prefix=interpreter.prefix,
        packages=tuple(packages),
        preload=tuple(preload),
    )


def build(where: Path, asked: Template) -> Template:
    """Make a template in a directory; what pip says of its progress goes to standard error.

    Raises InvalidRequest, and leaves nothing behind, if a package does not resolve or a module cannot be preloaded.
    """
    final = where / asked.name
    if final.exists():
        raise InvalidRequest(f"there is a template {asked.name!r} already; remove it first")
    sweep(where)
    with _scaffold(final) as place:
        _make_venv(asked, place)
        _install(asked, place)
        _compile(asked, place)
        _prove(asked, site_packages(place))
        made = replace(asked, resolved=_resolved(asked, place))
        _write(place / ABOUT, made.to_json())
        _finish(place, final)
    return made


def _interpreter(path: str) -> machine.Interpreter:
    found = shutil.which(path)
    interpreter = machine.interpreter(found) if found else None
    if interpreter is None:
        raise InvalidRequest(f"{path} is not a Python of {machine.OLDEST_PYTHON} or newer")
    return interpreter


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


def _make_venv(asked: Template, place: Path) -> None:
    _run([asked.python, "-I", "-m", "venv", "--without-pip", str(place / VENV)], "the virtual environment")


def _install(asked: Template, place: Path) -> None:
    if asked.packages:
        # Not compiled by pip, which would write where the packages are on the host into each file.
        _run([*_pip(place), "install", "--no-input", "--no-compile", "--", *asked.packages], "pip", live=True)


def _compile(asked: Template, place: Path) -> None:
    packages = str(site_packages(place))
    command = [asked.python, "-I", "-m", "compileall", "-q", "-j", "0", "-s", packages, "-p", inside.PLACE, packages]
    # A package may carry files for other versions of Python, which do not compile, and which nobody imports.
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, umask=_OPEN_MASK, check=False)  # noqa: S603


def _prove(asked: Template, packages: Path) -> None:
    command = [asked.python, "-I", "-S", "-c", _PROVE, connection.code_directory(), str(packages), *asked.preload]
    _run(command, "preload", environment=connection.environment_with(inside.SINGLE_THREADED))


def _resolved(asked: Template, place: Path) -> tuple[str, ...]:
    return tuple(_run([*_pip(place), "freeze", "--all"], "pip").splitlines()) if asked.packages else ()


def _pip(place: Path) -> list[str]:
    return [
        sys.executable,
        "-I",
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--python",
        str(place / VENV / "bin/python"),
    ]


def _run(command: Sequence[str], what: str, *, live: bool = False, environment: Mapping[str, str] | None = None) -> str:
    """What a step of a build prints, if it is not `live`. Raises InvalidRequest with the last line of its errors."""
    env = {**os.environ, "PIP_ROOT_USER_ACTION": "ignore"} if environment is None else environment
    try:
        done = subprocess.run(  # noqa: S603  venv and pip, and the modules that the operator chose
            command,
            stdin=subprocess.DEVNULL,
            stdout=2 if live else subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            cwd=None if environment is None else "/",
            umask=_OPEN_MASK,
            timeout=None if environment is None else _PROOF_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InvalidRequest(f"{what}: it takes more than {_PROOF_SECONDS:g} seconds") from None
    if done.returncode != 0:
        raise InvalidRequest(f"{what}: {_last_line(done.stderr) or _death(done.returncode)}")
    return (done.stdout or b"").decode(errors="replace")


def _last_line(said: bytes) -> str:
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("ERROR: ") if lines else ""


def _death(code: int) -> str:
    return f"it was ended by signal {-code}" if code < 0 else f"it ended with code {code}"


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
