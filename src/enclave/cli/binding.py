"""`enclave binding`: upstreams that sessions call with a secret they never see."""

import getpass
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from enclave.cli.say import printable

if TYPE_CHECKING:
    from enclave.contracts.bindings import Binding
    from enclave.sdk.bindings import BindingTerms

app = typer.Typer(no_args_is_help=True, help="Upstreams that sessions may call with a secret they never see.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The binding's name.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Repeated = list[str]


@app.command()
def put(  # noqa: PLR0913  every option of a command is a parameter
    name: Name,
    url: Annotated[str, typer.Option(help="The base of all calls: https://host[:port][/path].")],
    from_env: Annotated[
        str | None, typer.Option("--secret-from-env", metavar="VARIABLE", help="Where the secret is.")
    ] = None,
    file: Annotated[
        str | None, typer.Option("--secret-file", metavar="FILE", help="Where the secret is; - is standard input.")
    ] = None,
    basic: Annotated[
        bool, typer.Option("--basic", help="The secret is user:password, for basic authentication.")
    ] = False,
    header: Annotated[str | None, typer.Option(metavar="NAME", help="Put the secret in this header.")] = None,
    template: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The header's value; {secret} in it is replaced.")
    ] = None,
    query: Annotated[str | None, typer.Option(metavar="NAME", help="Put the secret in this query parameter.")] = None,
    method: Annotated[Repeated, typer.Option(help="A method that may be used; repeatable, any without.")] = [],  # noqa: B006  typer copies it
    path: Annotated[Repeated, typer.Option(help="A path prefix that may be called; repeatable.")] = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Make a binding, or replace it, its secret with it.

    The secret comes from a variable, a file or standard input, never from the command line, which every process of the
    machine can read. It is a bearer token unless --basic, --header or --query says otherwise.
    """
    from enclave.sdk.client import Enclave

    way = _way(basic=basic, header=header, query=query)
    secret = _secret(from_env, file)
    terms: dict[str, object] = {"url": url, way: _injected(way, header or query, secret)}
    given = {"template": template, "methods": method, "paths": path}
    terms |= {field: value for field, value in given.items() if value}
    with Enclave() as client:
        _told(client.bindings.put(name, **cast("BindingTerms", terms)), json=json)


@app.command("list")
def show_all(json: Json = False) -> None:
    """List the org's bindings."""
    from enclave.cli import show
    from enclave.sdk.client import Enclave

    with Enclave() as client:
        (show.document if json else show.bindings)(client.bindings.list())


@app.command("show")
def show_one(name: Name, json: Json = False) -> None:
    """Show a binding; its secret is never shown."""
    from enclave.sdk.client import Enclave

    with Enclave() as client:
        _told(client.bindings.get(name), json=json)


@app.command("rm")
def remove(name: Name) -> None:
    """Delete a binding and its secret."""
    from enclave.sdk.client import Enclave

    with Enclave() as client:
        print(printable(client.bindings.delete(name).name))


def _told(binding: "Binding", *, json: bool) -> None:
    from enclave.cli import show
    from enclave.cli.say import as_json

    if json:
        print(as_json(binding.model_dump(mode="json")))
    else:
        show.bindings([binding])


def _way(*, basic: bool, header: str | None, query: str | None) -> str:
    asked: Mapping[str, object] = {"basic": basic, "header": header, "query": query}
    named = [way for way, value in asked.items() if value]
    if len(named) > 1:
        raise typer.BadParameter("give at most one of --basic, --header and --query")
    return named[0] if named else "bearer"


def _injected(way: str, name: str | None, secret: str) -> object:
    if way == "basic":
        return tuple(secret.split(":", 1))
    return secret if way == "bearer" else (name, secret)


def _secret(variable: str | None, file: str | None) -> str:
    """The secret, without the line break that ends a file. Raises a usage error, which never repeats it."""
    if variable is not None and file is not None:
        raise typer.BadParameter("give --secret-from-env or --secret-file, not both")
    if variable is not None:
        return _of_environment(variable)
    if file in (None, "-") and sys.stdin.isatty():
        return getpass.getpass("Secret: ")
    return _of_file(file or "-").removesuffix("\n").removesuffix("\r")


def _of_environment(variable: str) -> str:
    if variable not in os.environ:
        # A secret given here by mistake is not repeated either.
        raise typer.BadParameter("there is no environment variable of the name that --secret-from-env gives")
    return os.environ[variable]


def _of_file(file: str) -> str:
    try:
        return (sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()).decode()
    except OSError as error:
        raise typer.BadParameter(f"the file of the secret cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise typer.BadParameter("the secret is not UTF-8 text") from None
