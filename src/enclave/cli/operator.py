"""`enclave operator`: what only whoever runs the installation may, in no org and on all."""

from typing import TYPE_CHECKING, Annotated

import typer

from enclave.cli.policy import document
from enclave.cli.say import as_json, complain, printable
from enclave.contracts.tenancy import OrgTerms

if TYPE_CHECKING:
    from enclave.contracts.wire import Wire
    from enclave.sdk.operator import Operator

app = typer.Typer(
    no_args_is_help=True,
    help="What only the operator may, by ENCLAVE_OPERATOR_KEY or the operator.json that `enclave serve` left.",
)
terms = typer.Typer(no_args_is_help=True, help="What orgs are granted: a floor that they can only narrow, and quotas.")
app.add_typer(terms, name="terms")

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
OrgId = Annotated[str, typer.Argument(metavar="ORG", help="The org's id.")]
TermsOf = Annotated[str, typer.Argument(metavar="ORG", help="The org's id; `default` is all that were given none.")]


@app.command()
def orgs(json: Json = False) -> None:
    """List all orgs."""
    from enclave.cli import show

    with _operator() as operator:
        (show.document if json else show.org_states)(operator.orgs())


@app.command()
def found(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it.")],
    email: Annotated[str, typer.Argument(metavar="EMAIL", help="Who is to own it.")],
    json: Json = False,
) -> None:
    """Make an org, and print the code that lets its owner in: it is shown this once."""
    with _operator() as operator:
        made = operator.found(name, email)
    if json:
        print(as_json(made.model_dump(mode="json")))
    else:
        print(printable(made.invitation.code))
        complain(f"the org is {made.org.id}; hand the code to {made.invitation.email}, who runs `enclave member join`")


@app.command()
def disable(org_id: OrgId, json: Json = False) -> None:
    """Refuse an org's callers from now on, and tear down what it runs."""
    with _operator() as operator:
        _told(operator.disable(org_id), org_id, json=json)


@app.command()
def enable(org_id: OrgId, json: Json = False) -> None:
    """Let an org's callers in again."""
    with _operator() as operator:
        _told(operator.enable(org_id), org_id, json=json)


@app.command()
def revoke_key(key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id.")], json: Json = False) -> None:
    """Refuse an API key of any org from now on."""
    with _operator() as operator:
        _told(operator.revoke_key(key_id), key_id, json=json)


@app.command()
def reset_password(
    email: Annotated[str, typer.Argument(metavar="EMAIL", help="Whose password.")], json: Json = False
) -> None:
    """Print a code with which a user sets their password anew: it is shown this once."""
    with _operator() as operator:
        made = operator.reset_password(email)
    if json:
        print(as_json(made.model_dump(mode="json")))
    else:
        print(printable(made.code))
        complain(f"hand the code to {made.email}, who runs `enclave password --reset`")


@app.command()
def usage(org_id: OrgId, json: Json = False) -> None:
    """Show what an org uses of each quota at the moment."""
    from enclave.cli import show

    with _operator() as operator:
        used = operator.usage(org_id)
    if json:
        print(as_json(used.model_dump(mode="json")))
    else:
        show.usage(used)


@terms.command("show")
def show_terms(org_id: TermsOf = "default", json: Json = False) -> None:
    """Show an org's floor and quotas."""
    with _operator() as operator:
        _granted(operator.terms(org_id), json=json)


@terms.command("set")
def put_terms(
    org_id: TermsOf,
    file: Annotated[str, typer.Argument(metavar="FILE", help="The terms as JSON; - is standard input.")],
    json: Json = False,
) -> None:
    """Set an org's floor and quotas, whole: the JSON is what `terms show --json` prints."""
    wanted = document(file, OrgTerms)
    with _operator() as operator:
        _granted(operator.put_terms(org_id, wanted), json=json)


def _operator() -> "Operator":
    from enclave.sdk.operator import Operator

    return Operator()


def _told(value: "Wire", name: str, *, json: bool) -> None:
    print(as_json(value.model_dump(mode="json")) if json else printable(name))


def _granted(found: OrgTerms, *, json: bool) -> None:
    from enclave.cli import show

    if json:
        print(as_json(found.model_dump(mode="json")))
    else:
        show.terms(found)
