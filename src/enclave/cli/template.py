"""`enclave template`: the environments of packages that this machine offers."""

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from enclave.cli.say import as_json, printable
from enclave.contracts.policy import Language

if TYPE_CHECKING:
    from enclave.config import Settings

app = typer.Typer(no_args_is_help=True, help="Environments of packages, built ahead, that sessions run in.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The template's name.")]


@app.command()
def build(
    name: Name,
    package: Annotated[list[str], typer.Option(help="What pip or npm is to install; repeatable.")] = [],  # noqa: B006
    preload: Annotated[
        list[str], typer.Option(metavar="MODULE", help="A module to load before sessions begin; repeatable.")
    ] = [],  # noqa: B006  typer copies it
    language: Annotated[Language, typer.Option(help="What it is an environment of.")] = Language.PYTHON,
    interpreter: Annotated[
        str | None, typer.Option(metavar="PATH", help="Its Python or Node; the sandboxes' own else.")
    ] = None,
) -> None:
    """Build a template. Packages of Python run with your rights as they are installed and preloaded."""
    from enclave.cli.reach import server_parts

    with server_parts():
        from enclave.system import build_template, wanted_template

        made = build_template(_settings(), wanted_template(name, package, preload, interpreter, language))
    print(f"{printable(made.name)}: {printable(' '.join(made.resolved)) or 'no packages'}")


@app.command("list")
def show_all(json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False) -> None:
    """List the templates."""
    from enclave.cli import show
    from enclave.cli.reach import server_parts

    with server_parts():
        from enclave.system import list_templates

        found = list_templates(_settings())
    if json:
        print(as_json([asdict(template) for template in found]))
    else:
        show.templates(found)


@app.command("rm")
def remove(name: Name) -> None:
    """Remove a template; no new session can name it."""
    from enclave.cli.reach import server_parts

    with server_parts():
        from enclave.system import remove_template

        remove_template(_settings(), name)
    print(printable(name))


def _settings() -> "Settings":
    from enclave.config import Settings

    return Settings.from_env(os.environ)
