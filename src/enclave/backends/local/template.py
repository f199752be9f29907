"""Templates as they are kept: a directory each, named for the template, that says of itself what it is.

    <templates>/NAME/template.json     what was asked for, and what that came to
                     venv/             of Python: the packages, in a virtual environment of the interpreter
                     npm/              of Node: the packages, in `node_modules`

A directory has its name only once it is whole; what is still being made, or removed, has one that begins with a dot.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

from enclave.contracts.errors import InvalidRequest
from enclave.contracts.policy import Language
from enclave.contracts.sessions import TEMPLATE_NAME

ABOUT: Final = "template.json"
VENV: Final = "venv"
NPM: Final = "npm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A named environment: an interpreter, packages, and the modules that are imported before a session begins.

    `packages` are as they were asked for, `resolved` what was installed, with versions.
    """

    name: str
    language: Language
    interpreter: str
    prefix: str
    packages: tuple[str, ...]
    preload: tuple[str, ...]
    resolved: tuple[str, ...] = ()

    def to_json(self) -> str:
        """As text, to be read by `from_json`."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """A template from its text. Raises ValueError, KeyError or TypeError for anything else."""
        fields: dict[str, Any] = json.loads(text)
        lists = {name: tuple(fields[name]) for name in ("packages", "preload", "resolved")}
        return cls(**{**fields, **lists, "language": Language(fields["language"])})


@dataclass(frozen=True, slots=True)
class Kept:
    """A template on the disk. `edition` differs from that of one that had the name before."""

    template: Template
    packages: Path
    edition: int


def check_name(name: str) -> None:
    """Raise InvalidRequest, saying what a name looks like, if this is none."""
    if not re.fullmatch(TEMPLATE_NAME, name):
        raise InvalidRequest(
            f"{name!r} is no name for a template: use at most 63 of a-z 0-9 _ -, a letter or digit first"
        )


def packages_in(directory: Path, language: Language) -> Path:
    """Where the packages of the template in a directory are. Raises FileNotFoundError."""
    pattern = f"{VENV}/lib/python3*/site-packages" if language is Language.PYTHON else NPM
    for found in sorted(directory.glob(pattern)):
        return found
    raise FileNotFoundError(f"{directory} has no {pattern}")


def offered(where: Path) -> Mapping[str, Language]:
    """The templates of a directory by name."""
    return {template.name: template.language for template in templates(where)}


def templates(where: Path) -> tuple[Template, ...]:
    """The templates of a directory, by name; what is damaged is none."""
    try:
        names = sorted(os.listdir(where))
    except OSError:
        return ()
    return tuple(_readable(find(where, name) for name in names if re.fullmatch(TEMPLATE_NAME, name)))


def find(where: Path, name: str) -> Kept | None:
    """The template of that name, if there is one."""
    directory = where / name
    try:
        with (directory / ABOUT).open(encoding="utf-8") as file:
            edition = os.fstat(file.fileno()).st_mtime_ns
            kept = Template.from_json(file.read())
            return Kept(kept, packages_in(directory, kept.language), edition)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remove(where: Path, name: str) -> None:
    """Remove a template. Raises InvalidRequest if there is none of that name."""
    check_name(name)
    gone = where / f".{name}.{os.getpid()}.removed"
    try:
        (where / name).rename(gone)
    except FileNotFoundError:
        raise InvalidRequest(f"there is no template {name!r}") from None
    shutil.rmtree(gone)


def sweep(where: Path) -> None:
    """Remove what builds and removals left that were killed."""
    for path in where.glob(".*.*"):
        owner = path.name.split(".")[2]
        if not os.path.exists(f"/proc/{owner}"):
            with contextlib.suppress(OSError):
                shutil.rmtree(path)


def _readable(found: Iterable[Kept | None]) -> Iterable[Template]:
    return (kept.template for kept in found if kept is not None)
