"""`enclave key`: who else may call, and what they may."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from enclave.cli.say import as_json, complain, printable

if TYPE_CHECKING:
    from enclave.sdk.keys import KeyTerms

app = typer.Typer(no_args_is_help=True, help="API keys: who else may call, and what they may.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@app.command()
def create(
    name: Annotated[str, typer.Option(help="What the key is for.")],
    role: Annotated[str | None, typer.Option(help="Its role; yours without.")] = None,
    scope: Annotated[
        list[str], typer.Option(metavar="SCOPE", help="What it may; repeatable, all of its role without.")
    ] = [],  # noqa: B006  typer copies it
    expires: Annotated[int | None, typer.Option(metavar="DAYS", min=1, max=36500, help="When it ends.")] = None,
    json: Json = False,
) -> None:
    """Make an API key that may no more than yours, and print it: it is shown this once."""
    from enclave.sdk.client import Enclave

    terms: KeyTerms = {}
    if role is not None:
        terms["role"] = role
    if scope:
        terms["scopes"] = scope
    if expires is not None:
        terms["expires_at"] = datetime.now(UTC) + timedelta(days=expires)
    with Enclave() as client:
        made = client.keys.create(name, **terms)
    if json:
        print(as_json(made.model_dump(mode="json")))
    else:
        print(printable(made.api_key))
        complain(f"its id is {made.id}; nobody can show the key again")


@app.command("list")
def show_all(json: Json = False) -> None:
    """List the org's API keys, oldest first, revoked ones too."""
    from enclave.cli import show
    from enclave.sdk.client import Enclave

    with Enclave() as client:
        (show.document if json else show.keys)(client.keys.list())


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id.")], json: Json = False) -> None:
    """Refuse an API key from now on."""
    from enclave.sdk.client import Enclave

    with Enclave() as client:
        revoked = client.keys.revoke(key_id)
    print(as_json(revoked.model_dump(mode="json")) if json else printable(revoked.id))
