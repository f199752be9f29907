"""`enclave member`: who is in the org, and as what."""

from typing import Annotated

import typer

from enclave.cli.say import as_json, complain, printable

app = typer.Typer(no_args_is_help=True, help="Members of the org: who they are, and what they may.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
MemberId = Annotated[str, typer.Argument(metavar="ID", help="The member's id.")]


@app.command("list")
def show_all(json: Json = False) -> None:
    """List the org's members."""
    from enclave.cli import show
    from enclave.sdk.client import Enclave

    with Enclave() as client:
        (show.document if json else show.members)(client.members.list())


@app.command()
def invite(
    email: Annotated[str, typer.Argument(metavar="EMAIL", help="Whose account it is for.")],
    role: Annotated[str, typer.Option(help="What they are to be.")],
    hours: Annotated[int, typer.Option(min=1, max=720, help="How long the code holds.")] = 72,
    json: Json = False,
) -> None:
    """Ask somebody in, and print the code that lets them in: it is shown this once."""
    from enclave.sdk.client import Enclave

    with Enclave() as client:
        made = client.members.invite(email, role, hours=hours)
    if json:
        print(as_json(made.model_dump(mode="json")))
    else:
        print(printable(made.code))
        complain(f"hand the code to {made.email}; it holds for {hours} hours")


@app.command()
def change(member_id: MemberId, role: Annotated[str, typer.Option(help="What they are to be.")]) -> None:
    """Give a member another role."""
    from enclave.sdk.client import Enclave

    with Enclave() as client:
        print(printable(client.members.change(member_id, role).id))


@app.command()
def remove(member_id: MemberId) -> None:
    """Remove a member, with their keys and sign-ins."""
    from enclave.sdk.client import Enclave

    with Enclave() as client:
        print(printable(client.members.remove(member_id).id))
