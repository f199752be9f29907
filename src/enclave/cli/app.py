"""The commands. Each is a few lines, and imports what it needs when it runs."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from enclave import __version__
from enclave.cli import account, audit, binding, key, member, operator, org, policy, template, webhook
from enclave.cli.say import PLATFORM, complain, fail, printable, refuse
from enclave.contracts.errors import EnclaveError
from enclave.contracts.policy import Language
from enclave.contracts.sessions import Phase

app = typer.Typer(
    name="enclave",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(audit.app, name="audit")
serving = typer.Typer()
app.add_typer(serving, name="serve")
app.add_typer(template.app, name="template")
app.add_typer(binding.app, name="binding")
app.add_typer(key.app, name="key")
app.add_typer(member.app, name="member")
app.add_typer(org.app, name="org")
app.add_typer(policy.app, name="policy")
app.add_typer(operator.app, name="operator")
for command in (account.login, account.logout, account.password):
    app.command()(command)
app.add_typer(webhook.app, name="webhook")

Id = Annotated[str, typer.Argument(metavar="ID", help="The session's id.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
LabelPairs = Annotated[list[str], typer.Option("--label", metavar="NAME=VALUE", help="A label; repeatable.")]


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line, and exit with its code."""
    _demand_stdout()
    _make_encodable()
    try:
        with _flushed():
            app(args=args, prog_name="enclave")
    except EnclaveError as error:
        sys.exit(refuse(error))
    except OSError as error:
        sys.exit(fail(error))


def _demand_stdout() -> None:
    # The next file that is opened would take the place of a closed standard output, and get what is printed.
    if sys.stdout is None:
        complain("error: standard output is closed")
        sys.exit(PLATFORM)


@contextmanager
def _flushed() -> Iterator[None]:
    # At the interpreter's own end nobody is left to tell that it failed.
    try:
        yield
    finally:
        sys.stdout.flush()


def _make_encodable() -> None:
    # A terminal that cannot show a letter gets its number, not a traceback.
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")


def _version(asked: bool) -> None:
    if asked:
        print(f"enclave {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Run code nobody has reviewed, in a sandbox, with nothing on the way out but what you allow."""


@serving.callback(invoke_without_command=True)
def serve(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="The address to listen on; 127.0.0.1 by default.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="The port; 8088 by default.")] = None,
    home: Annotated[Path | None, typer.Option(help="Where data and keys are kept; ~/.enclave by default.")] = None,
) -> None:
    """Run an Enclave server on this machine, until Ctrl-C.

    Where ENCLAVE_IDENTITY_URL names an identity service, that says who its callers are.
    """
    from enclave.cli.reach import server_parts

    if context.invoked_subcommand is not None:
        return
    with server_parts():
        from enclave.cli.local import serve_until_stopped

        serve_until_stopped(host=host, port=port, home=home)


@serving.command("identity")
def serve_identity(  # noqa: PLR0913  every option of a command is a parameter
    host: Annotated[str | None, typer.Option(help="Where callers reach it; 127.0.0.1 by default.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="The port; 8089 by default.")] = None,
    internal_host: Annotated[
        str | None, typer.Option(help="Where control planes reach it; 127.0.0.1 by default.")
    ] = None,
    internal_port: Annotated[int | None, typer.Option(min=0, max=65535, help="The port; 8090 by default.")] = None,
    internal_socket: Annotated[
        Path | None, typer.Option(metavar="PATH", help="A socket for control planes, in place of an address.")
    ] = None,
    home: Annotated[Path | None, typer.Option(help="Where its data are kept; ~/.enclave-identity by default.")] = None,
    control_plane: Annotated[
        str | None, typer.Option(metavar="URL", help="The control plane's; http://127.0.0.1:8088 by default.")
    ] = None,
) -> None:
    """Run identity alone, for a control plane that names it in ENCLAVE_IDENTITY_URL, until Ctrl-C."""
    from enclave.cli.reach import server_parts

    with server_parts():
        from enclave.cli.local import serve_identity_until_stopped

        serve_identity_until_stopped(
            host=host,
            port=port,
            internal_host=internal_host,
            internal_port=internal_port,
            internal_socket=internal_socket,
            home=home,
            control_plane=control_plane,
        )


@app.command()
def run(  # noqa: PLR0913  every option of a command is a parameter
    file: Annotated[str | None, typer.Argument(metavar="FILE", help="The program; - is standard input.")] = None,
    code: Annotated[str | None, typer.Option("-c", "--code", metavar="CODE", help="The program itself.")] = None,
    language: Annotated[
        Language | None, typer.Option(help="By default node for .js, .mjs and .cjs, else python.")
    ] = None,
    template: Annotated[
        str | None, typer.Option(metavar="NAME", help="The environment it runs in; see `enclave template`.")
    ] = None,
    memory: Annotated[int | None, typer.Option(metavar="MIB", help="The most memory.")] = None,
    wall: Annotated[float | None, typer.Option(metavar="SECONDS", help="The most time.")] = None,
    allow: Annotated[
        list[str], typer.Option(metavar="RULE", help="A host, *.host or CIDR it may connect to; repeatable.")
    ] = [],  # noqa: B006  typer copies it
    bind: Annotated[
        list[str], typer.Option(metavar="NAME", help="A service binding it may use; repeatable; see `enclave binding`.")
    ] = [],  # noqa: B006
    git: Annotated[
        str | None, typer.Option(metavar="URL", help="A repository the program is in, or imports from.")
    ] = None,
    ref: Annotated[str | None, typer.Option(help="Its branch, tag or whole commit id.")] = None,
    entrypoint: Annotated[str | None, typer.Option(metavar="PATH", help="The program in it, in place of FILE.")] = None,
    binding: Annotated[str | None, typer.Option(metavar="NAME", help="The binding with its credentials.")] = None,
    label: LabelPairs = [],  # noqa: B006
    put: Annotated[
        list[str],
        typer.Option("--file", metavar="FILE[=PATH]", help="A file to put beside the program; repeatable."),
    ] = [],  # noqa: B006
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to put the files that the program leaves in `out`.")
    ] = None,
    webhook: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where to post the session when it is over; see `enclave webhook`."),
    ] = None,
    json: Json = False,
) -> None:
    """Run a program in a sandbox: its output as it comes, then the value it gave to enclave.result(), as JSON.

    With no server running, and none named by ENCLAVE_BASE_URL, one is started for this program alone.

    Exit codes: the program's own; 124 if it ran out of time; 137 if it was killed for another limit;
    130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP and 141 when nobody reads the output,
    which all stop the program;
    2 for a request that is wrong; 70 when Enclave itself could not do it.
    With --json, standard output is one JSON document, the session.
    """
    from enclave.cli.execute import execute, files_of, git_source, labels_of, language_of, source
    from enclave.cli.reach import anywhere
    from enclave.sdk.client import Enclave
    from enclave.sdk.request import request_of

    request = request_of(
        None if entrypoint is not None and file is code is None else source(file, code),
        {
            "language": language or language_of(file or entrypoint),
            "template": template,
            "source": git_source(git, ref=ref, entrypoint=entrypoint, binding=binding),
            "limits": {
                name: value for name, value in (("memoryMiB", memory), ("wallClockSeconds", wall)) if value is not None
            },
            "allow": allow,
            **({"bindings": bind} if bind else {}),
            "labels": labels_of(label),
            "files": files_of(put),
            **({"webhook_url": webhook} if webhook is not None else {}),
        },
    )
    # A webhook is sent after the program is over, by a server that is still there then.
    with anywhere() if webhook is None else Enclave() as client:
        raise typer.Exit(execute(client, request, json=json, out=out))


@app.command()
def sessions(
    phase: Annotated[Phase | None, typer.Option(help="Only those in this phase.")] = None,
    label: LabelPairs = [],  # noqa: B006  typer copies it
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    json: Json = False,
) -> None:
    """List sessions, newest first."""
    from enclave.cli import show
    from enclave.cli.execute import labels_of
    from enclave.sdk.client import Enclave

    with Enclave() as client:
        found = client.list(phase=phase, labels=labels_of(label), limit=limit)
        (show.document if json else show.sessions)(found)


@app.command()
def logs(
    session_id: Id,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the session is over.")] = False,
) -> None:
    """Print what a session's program printed, up to now if it still runs."""
    from enclave.cli.execute import read, relay
    from enclave.sdk.client import Enclave

    with Enclave() as client:
        if follow:
            relay(client.stream(session_id))
        else:
            read(client, session_id)


@app.command()
def whoami(json: Json = False) -> None:
    """Say who you are to the server, by your sign-in or key: org, role and scopes."""
    from enclave.cli import show
    from enclave.cli.say import as_json
    from enclave.sdk.client import Enclave

    with Enclave() as client:
        caller = client.whoami()
    if json:
        print(as_json(caller.model_dump(mode="json")))
    else:
        show.caller(caller)


@app.command()
def usage(json: Json = False) -> None:
    """Show what the org uses of each quota at the moment."""
    from enclave.cli import show
    from enclave.cli.say import as_json
    from enclave.sdk.client import Enclave

    with Enclave() as client:
        used = client.usage()
    if json:
        print(as_json(used.model_dump(mode="json")))
    else:
        show.usage(used)


@app.command()
def rm(ids: Annotated[list[str], typer.Argument(metavar="ID...", help="The sessions' ids.")]) -> None:
    """Tear sessions down: stop what runs, and reclaim all that belongs to it."""
    from enclave.sdk.client import Enclave

    code = 0
    with Enclave() as client:
        for session_id in ids:
            try:
                print(printable(client.teardown(session_id).id))
            except EnclaveError as error:
                code = refuse(error, session_id)
    raise typer.Exit(code)


@app.command()
def doctor(json: Json = False) -> None:
    """Say what this machine can enforce, and what to do about what it cannot. Exits with 1 if it can run nothing."""
    from enclave.cli.reach import server_parts

    with server_parts():
        from enclave.cli.local import examine

        raise typer.Exit(examine(json=json))
