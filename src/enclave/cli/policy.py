"""`enclave policy`: what the org's sessions may ask for."""

import sys
from pathlib import Path
from typing import Annotated, Final, TypeVar

import typer
from pydantic import ValidationError

from enclave.cli.say import as_json, printable
from enclave.contracts.tenancy import OrgPolicy
from enclave.contracts.wire import Wire

app = typer.Typer(no_args_is_help=True, help="What the org's sessions may ask for.")

W = TypeVar("W", bound=Wire)

_MAX_BYTES: Final = 2**20

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@app.command("show")
def show_one(json: Json = False) -> None:
    """Show the operator's floor, the org's own policy, and what the two come to."""
    from enclave.cli import show
    from enclave.sdk.client import Enclave

    with Enclave() as client:
        found = client.policy.get()
    if json:
        print(as_json(found.model_dump(mode="json")))
    else:
        show.policy(found)


@app.command("set")
def put(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The policy as JSON; - is standard input.")],
    json: Json = False,
) -> None:
    """Set the org's own policy, whole; it may only narrow the operator's floor.

    The JSON is what `enclave policy show --json` has as `own`: `{}` narrows nothing, `{"egress": []}` is no egress at
    all, `{"limits": {"memoryMiB": 512}}` the most memory.
    """
    from enclave.cli import show
    from enclave.sdk.client import Enclave

    wanted = document(file, OrgPolicy)
    with Enclave() as client:
        found = client.policy.put(wanted)
    if json:
        print(as_json(found.model_dump(mode="json")))
    else:
        show.policy(found)


def document(file: str, kind: type[W]) -> W:
    """What a file of JSON says. Raises a usage error, and InvalidRequest that names the fields."""
    from enclave.sdk.request import invalid

    try:
        text = sys.stdin.buffer.read(_MAX_BYTES) if file == "-" else _read(Path(file))
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise invalid(error) from None


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(_MAX_BYTES)
    except OSError as error:
        raise typer.BadParameter(f"cannot read {printable(str(file))}: {error.strerror}") from None
