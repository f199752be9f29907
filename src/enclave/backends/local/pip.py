"""Templates of Python: a virtual environment that pip fills, its modules imported once as a launcher will."""

import subprocess
import sys
from pathlib import Path
from typing import Final

from enclave.backends.local import connection, step
from enclave.backends.local.template import VENV, Template, packages_in
from enclave.sandbox import template as inside

_PROVE: Final = (
    "import sys;sys.path.insert(0,sys.argv[1]);from enclave.sandbox.template import prove;sys.path.pop(0);"
    "prove(sys.argv[2],sys.argv[3:])"
)


def make(asked: Template, place: Path) -> tuple[str, ...]:
    """Install and prove in a directory what is asked for; answers with what that came to. Raises InvalidRequest."""
    _make_venv(asked, place)
    _install(asked, place)
    packages = str(packages_in(place, asked.language))
    _compile(asked, packages)
    _prove(asked, packages)
    return _resolved(asked, place)


def _make_venv(asked: Template, place: Path) -> None:
    step.run([asked.interpreter, "-I", "-m", "venv", "--without-pip", str(place / VENV)], "the virtual environment")


def _install(asked: Template, place: Path) -> None:
    if asked.packages:
        # Not compiled by pip, which would write where the packages are on the host into each file.
        step.run([*_pip(place), "install", "--no-input", "--no-compile", "--", *asked.packages], "pip", live=True)


def _compile(asked: Template, packages: str) -> None:
    command = [
        asked.interpreter,
        "-I",
        "-m",
        "compileall",
        "-q",
        "-j",
        "0",
        "-s",
        packages,
        "-p",
        inside.PLACE,
        packages,
    ]
    # A package may carry files for other versions of Python, which do not compile, and which nobody imports.
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, umask=step.OPEN_MASK, check=False)  # noqa: S603


def _prove(asked: Template, packages: str) -> None:
    command = [asked.interpreter, "-I", "-S", "-c", _PROVE, connection.code_directory(), packages, *asked.preload]
    step.run(command, "preload", environment=connection.environment_with(inside.SINGLE_THREADED))


def _resolved(asked: Template, place: Path) -> tuple[str, ...]:
    return tuple(step.run([*_pip(place), "freeze", "--all"], "pip").splitlines()) if asked.packages else ()


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
