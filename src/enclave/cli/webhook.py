"""`enclave webhook`: what is posted when sessions are over, what it is signed with, and what became of it."""

from typing import Annotated

import typer

from enclave.cli.say import as_json, complain, printable

app = typer.Typer(no_args_is_help=True, help="What is posted when sessions are over, and what became of it.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@app.command()
def rotate(json: Json = False) -> None:
    """Sign with a new secret, and print it: it is shown this once. The one before signs beside it for 24 hours."""
    from enclave.sdk.client import Enclave

    with Enclave() as client:
        made = client.webhooks.rotate_secret()
    if json:
        print(as_json(made.model_dump(mode="json")))
    else:
        print(printable(made.secret))
        complain("nobody can show the secret again")


@app.command()
def deliveries(
    session: Annotated[str | None, typer.Option(metavar="ID", help="Only of this session.")] = None, json: Json = False
) -> None:
    """List webhooks of sessions that are over, newest session first, and what became of each."""
    from enclave.cli import show
    from enclave.sdk.client import Enclave

    with Enclave() as client:
        (show.document if json else show.deliveries)(client.webhooks.deliveries(session))


@app.command()
def redeliver(delivery_id: Annotated[str, typer.Argument(metavar="ID", help="The webhook's id.")]) -> None:
    """Send a webhook again, at once and with all its retries."""
    from enclave.sdk.client import Enclave

    with Enclave() as client:
        print(printable(client.webhooks.redeliver(delivery_id).id))
