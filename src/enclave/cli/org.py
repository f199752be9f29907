"""`enclave org`: the orgs that one is a member of."""

from typing import Annotated

import typer

from enclave.cli.account import welcome
from enclave.cli.say import as_json, complain, printable

app = typer.Typer(no_args_is_help=True, help="Your orgs: list them, make one, act in another.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@app.command("list")
def show_all(json: Json = False) -> None:
    """List the orgs that you are a member of, and what you are in each."""
    from enclave.cli import show
    from enclave.sdk.client import Enclave

    with Enclave() as client:
        (show.document if json else show.orgs)(client.orgs.list())


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it.")],
    json: Json = False,
) -> None:
    """Make an org that you own; you must be signed in."""
    from enclave.sdk.client import Enclave

    with Enclave() as client:
        made = client.orgs.create(name)
    if json:
        print(as_json(made.model_dump(mode="json")))
    else:
        print(printable(made.id))
        complain(f"to act in it: enclave org switch {made.id}")


@app.command()
def switch(
    org_id: Annotated[str, typer.Argument(metavar="ID", help="The org's id.")],
    json: Json = False,
) -> None:
    """Act in another of your orgs from now on; you must be signed in."""
    from enclave.sdk.client import Enclave

    with Enclave() as client:
        welcome(client.orgs.switch(org_id), json=json)
