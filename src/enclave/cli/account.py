"""`enclave login`, `logout` and `password`: who one is, until one is it no more."""

from typing import TYPE_CHECKING, Annotated

import typer

from enclave.cli.prompt import line, secret
from enclave.cli.say import as_json, complain, printable

if TYPE_CHECKING:
    from enclave.sdk.sign_in import SignIn

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Site = Annotated[str | None, typer.Argument(metavar="[URL]", help="The server; the one last signed in to without.")]


def login(
    url: Site = None,
    email: Annotated[str | None, typer.Option(help="Whose account; asked for without.")] = None,
    org: Annotated[
        str | None, typer.Option(metavar="ID", help="Which of your orgs; the first you joined without.")
    ] = None,
    json: Json = False,
) -> None:
    """Sign in with a password, which is asked for on a terminal, and is else a line of standard input.

    From then on commands and the SDK act as you, for 30 days or until `enclave logout`; ENCLAVE_API_KEY still comes
    first. Exit codes: 0 if you are signed in, 2 for a request that is wrong, 70 if the server refused or is not there,
    130 after Ctrl-C.
    """
    from enclave.sdk.account import Account

    with Account(url) as account:
        warn_of_plain(account.base_url)
        email = email or line("Email")
        begun = account.login(email, secret(f"Password of {email} at {account.base_url}"), org)
    welcome(begun, json=json)


def logout(json: Json = False) -> None:
    """End the sign-in, and forget it; whoever is not signed in stays so. What a server here left counts again."""
    from enclave.contracts.errors import EnclaveError
    from enclave.sdk.account import Account
    from enclave.sdk.sign_in import SignInFile

    kept = SignInFile().held().sign_in
    with Account(kept.base_url if kept else None) as account:
        try:
            ended = account.logout()
        except EnclaveError:
            complain("it is forgotten here, but the server was not told, and keeps it for 30 days:")
            raise
    if json:
        print(as_json({"ended": ended, "baseUrl": account.base_url}))
    else:
        complain(f"signed out of {account.base_url}" if ended else "nobody was signed in")


def password(
    url: Site = None,
    reset: Annotated[bool, typer.Option("--reset", help="By a code that the operator gave you.")] = False,
    json: Json = False,
) -> None:
    """Change your password, or set it anew by a code. All other sign-ins of yours end.

    What is asked for on a terminal is else lines of standard input: the password or the code, then the new password.
    """
    from enclave.sdk.account import Account
    from enclave.sdk.sign_in import SignInFile

    if reset:
        with Account(url) as account:
            warn_of_plain(account.base_url)
            account.reset_password(secret("Code"), secret("New password", again=True))
        complain("the password is set; now run `enclave login`")
    else:
        kept = SignInFile().read()
        with Account(url or (kept.base_url if kept else None)) as account:
            account.change_password(secret("Password"), secret("New password", again=True))
        complain("the password is changed; all other sign-ins have ended")
    if json:
        print(as_json({"ok": True}))


def welcome(begun: "SignIn", *, json: bool) -> None:
    """Say who one is now; the tokens are shown nowhere."""
    told = begun.model_dump(mode="json", include={"base_url", "email", "org_id", "role"})
    if json:
        print(as_json(told))
        return
    print(printable(f"signed in to {begun.base_url}: org {begun.org_id}, {begun.role}"))
    if overruled := _overruled():
        complain(f"but {overruled} is set, and comes first")


def warn_of_plain(site: str) -> None:
    """Say so where a password would cross a network that others can read."""
    from enclave.sdk.credential import Target

    if site.startswith("http:") and not Target(site).local:
        complain(f"warning: {site} is not https, and whoever is on the way can read what you send")


def _overruled() -> str | None:
    import os

    return "ENCLAVE_API_KEY" if os.environ.get("ENCLAVE_API_KEY") else None
