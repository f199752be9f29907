"""`enclave member`: who is in the org, and as what."""

from typing import TYPE_CHECKING, Annotated

import typer

from enclave.cli.say import as_json, complain, printable

if TYPE_CHECKING:
    from enclave.contracts.members import Member, OpenInvitation

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
def invitations(json: Json = False) -> None:
    """List the invitations that wait to be accepted."""
    from enclave.cli import show
    from enclave.sdk.client import Enclave

    with Enclave() as client:
        (show.document if json else show.invitations)(client.members.invitations())


@app.command()
def withdraw(
    invitation_id: Annotated[str, typer.Argument(metavar="ID", help="The invitation's id.")], json: Json = False
) -> None:
    """Take an invitation back that waits; its code passes no more."""
    from enclave.sdk.client import Enclave

    with Enclave() as client:
        _told(client.members.withdraw(invitation_id), json=json)


@app.command()
def join(
    code: Annotated[
        str, typer.Argument(metavar="CODE", help="The code you were given; - is a line of standard input.")
    ],
    url: Annotated[str | None, typer.Argument(metavar="[URL]", help="The server.")] = None,
    json: Json = False,
) -> None:
    """Accept an invitation, and sign in to the org.

    The password is asked for on a terminal, and is else a line of standard input: the one of your account, or what your
    new account gets. Exit codes are those of `enclave login`.
    """
    from enclave.cli.account import warn_of_plain, welcome
    from enclave.cli.prompt import secret
    from enclave.sdk.account import Account

    with Account(url) as account:
        warn_of_plain(account.base_url)
        code = secret("Code") if code == "-" else code
        joined = account.join(code, secret("Password, your account's or a new one", again=True))
    welcome(joined, json=json)


@app.command()
def change(
    member_id: MemberId, role: Annotated[str, typer.Option(help="What they are to be.")], json: Json = False
) -> None:
    """Give a member another role."""
    from enclave.sdk.client import Enclave

    with Enclave() as client:
        _told(client.members.change(member_id, role), json=json)


@app.command()
def remove(member_id: MemberId, json: Json = False) -> None:
    """Remove a member, with their keys and sign-ins."""
    from enclave.sdk.client import Enclave

    with Enclave() as client:
        _told(client.members.remove(member_id), json=json)


def _told(one: "Member | OpenInvitation", *, json: bool) -> None:
    print(as_json(one.model_dump(mode="json")) if json else printable(one.id))
