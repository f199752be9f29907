"""A step of a build: a program that is run to its end, and what it says when it fails, in one line."""

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from enclave.contracts.errors import InvalidRequest

PROOF_SECONDS: Final = 25.0
"""How long modules may take to be preloaded: less than a launcher is given to start."""
OPEN_MASK: Final = 0o022


Headline = Callable[[Sequence[str]], str]


def last(lines: Sequence[str]) -> str:
    """Where pip and Python say what was wrong."""
    return lines[-1].removeprefix("ERROR: ")


def run(
    command: Sequence[str],
    what: str,
    *,
    live: bool = False,
    environment: Mapping[str, str] | None = None,
    headline: Headline = last,
) -> str:
    """What a step prints, if it is not `live`. With an environment of its own it is bounded in time.

    Raises InvalidRequest with the headline of its errors.
    """
    env = {**os.environ, "PIP_ROOT_USER_ACTION": "ignore"} if environment is None else environment
    try:
        done = subprocess.run(  # noqa: S603  venv, pip and npm, and the modules that the operator chose
            command,
            stdin=subprocess.DEVNULL,
            stdout=2 if live else subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            cwd=None if environment is None else "/",
            umask=OPEN_MASK,
            timeout=None if environment is None else PROOF_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InvalidRequest(f"{what}: it takes more than {PROOF_SECONDS:g} seconds") from None
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
        raise InvalidRequest(f"{what}: {headline(lines) if lines else _death(done.returncode)}")
    return (done.stdout or b"").decode(errors="replace")


def _death(code: int) -> str:
    return f"it was ended by signal {-code}" if code < 0 else f"it ended with code {code}"
