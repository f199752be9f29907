"""Secrets that are asked for: on a terminal without showing them, else from standard input, one a line; never from the
command line, which every process of the machine can read."""

import getpass
import sys
from typing import Final

import typer

from enclave.cli.say import complain, printable
from enclave.cli.signals import INTERRUPTED

_MAX_LINE: Final = 4096


def secret(what: str, *, again: bool = False) -> str:
    """What is typed or read; `again` asks twice on a terminal, for what nobody could correct later.

    Raises a usage error if it is empty or the two differ, and exits with 130 on Ctrl-C.
    """
    if not sys.stdin.isatty():
        return _demanded(what, _line())
    try:
        given = _demanded(what, getpass.getpass(f"{what}: "))
        if again and getpass.getpass("The same again: ") != given:
            raise typer.BadParameter("the two are not the same; nothing was sent")
    except KeyboardInterrupt:
        complain("")
        complain("stopped; nothing was sent")
        raise typer.Exit(INTERRUPTED) from None
    except EOFError:
        raise typer.BadParameter(f"{what}: nothing was given") from None
    return given


def line(what: str) -> str:
    """Something that may be seen, asked for on a terminal. Raises a usage error elsewhere."""
    if not sys.stdin.isatty():
        raise typer.BadParameter(f"{what} is needed")
    try:
        print(f"{what}: ", end="", file=sys.stderr, flush=True)
        return _demanded(what, _line())
    except KeyboardInterrupt:
        complain("")
        complain("stopped; nothing was sent")
        raise typer.Exit(INTERRUPTED) from None


def _line() -> str:
    try:
        return sys.stdin.buffer.readline(_MAX_LINE).decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise typer.BadParameter("what is on standard input is not UTF-8 text") from None


def _demanded(what: str, given: str) -> str:
    if not given:
        raise typer.BadParameter(f"{printable(what)}: nothing was given")
    return given
