"""`enclave audit`: what happened, and whether what is told of it is what was written."""

import os
import sys
from base64 import b64decode
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer
from typer.core import TyperGroup

from enclave.cli.say import as_json
from enclave.contracts.errors import InvalidRequest

if TYPE_CHECKING:
    from enclave.config import Settings

_KEY_BYTES = 32
"""Of Ed25519 (RFC 8032)."""

BROKEN = 1
"""The exit code where a trail does not hold."""


class Trail(TyperGroup):
    """Commands, and beside them a session's id, or none, for what is asked for most."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take what names no command for an argument of `show`."""
        if not args or (args[0] not in self.commands and args[0] not in ("--help", "-h")):
            args = ["show", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=Trail, help="Print the audit trail of a session (`enclave audit ID`) or of the org, and prove it."
)

Home = Annotated[Path | None, typer.Option(metavar="DIR", help="A server's home; ~/.enclave by default.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@app.command()
def show(
    session_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="The session's id.")] = None,
    json: Json = False,
) -> None:
    """Print a session's audit trail; without an id the whole org's, for which you need audit:read."""
    from enclave.cli import show
    from enclave.sdk.client import Enclave

    with Enclave() as client:
        events = client.org_audit() if session_id is None else client.audit(session_id)
        (show.document if json else show.trail)(events)


@app.command()
def export(
    home: Home = None,
    org: Annotated[str | None, typer.Option(metavar="ID", help="Only this org's, with --home.")] = None,
) -> None:
    """Print the org's whole trail as JSON Lines; with --home that of every org in a server's home, without a server."""
    write = sys.stdout.buffer.write
    if home is None:
        from enclave.sdk.client import Enclave

        with Enclave() as client:
            for event in client.org_audit():
                write(event.model_dump_json().encode() + b"\n")
        return
    from enclave.cli.reach import server_parts

    with server_parts():
        from enclave.proof import export_audit

        for line in export_audit(_settings(home), org):
            write(line)


@app.command()
def verify(
    home: Home = None,
    file: Annotated[str | None, typer.Option(metavar="EXPORT", help="An export instead; - is standard input.")] = None,
    checkpoints: Annotated[Path | None, typer.Option(metavar="FILE", help="Signed checkpoints to hold it to.")] = None,
    key: Annotated[str | None, typer.Option(metavar="KEY", help="The public key, or a file with it.")] = None,
    json: Json = False,
) -> None:
    """Examine every entry of an audit trail, and name the first of each org that does not hold.

    It needs no server, and may run beside one. With --home, the checkpoints and the key in the home are used; hold it
    to ones that were brought elsewhere, because whoever can write the home can write those.

    Exit codes: 0 if all of it holds; 1 if it does not; 2 for a request that is wrong; 70 if it cannot be read.
    """
    from enclave.cli.reach import server_parts

    if home is not None and file is not None:
        raise InvalidRequest("give --home or --file, not both")
    with server_parts(), nullcontext() if file is None else _opened(file) as opened:
        from enclave.cli import show
        from enclave.proof import verify_audit

        found = list(verify_audit(_settings(home), opened, checkpoints, _key(key)))
    if json:
        print(as_json([show.finding(one) for one in found]))
    else:
        show.findings(found)
    raise typer.Exit(BROKEN if any(one.flaw for one in found) else 0)


def _opened(name: str) -> BinaryIO:
    return sys.stdin.buffer if name == "-" else Path(name).open("rb")


def _key(text: str | None) -> str | None:
    # In base64 a key may have slashes, and none is the name of a file that is there.
    if text is None:
        return None
    path = Path(text)
    found = path.read_text().strip() if path.is_file() else text
    try:
        if len(b64decode(found, validate=True)) == _KEY_BYTES:
            return found
    except ValueError:
        pass
    raise InvalidRequest(f"{text} is neither a public key nor a file with one, which is {_KEY_BYTES} bytes in base64")


def _settings(home: Path | None) -> "Settings":
    from enclave.config import Settings

    return Settings.from_env(os.environ, home=home)
