"""Which server a command talks to, and what it says when a part of Enclave is not installed."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from enclave.cli.say import PLATFORM, complain
from enclave.contracts.errors import ConnectionFailed, Unauthenticated
from enclave.contracts.identity import Credential
from enclave.sdk.client import Enclave
from enclave.sdk.credential import is_chosen, stored_path


@contextmanager
def server_parts() -> Iterator[None]:
    """Where packages of the server are imported: says what to install if there are none."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "enclave").partition(".")[0] == "enclave":
            raise
        complain("error: this needs the server's packages: pip install 'enclave[server]'")
        raise typer.Exit(PLATFORM) from None


@contextmanager
def anywhere() -> Iterator[Enclave]:
    """A client of the server there is; if there is none, and none was chosen, of one that ends with the command."""
    client = Enclave() if is_chosen() else _running()
    if client is not None:
        with client:
            yield client
        return
    with _embedded() as credential, Enclave(credential.base_url, api_key=credential.api_key) as client:
        yield client


def _running() -> Enclave | None:
    """A client of the server on this machine, if it answers."""
    try:
        with Enclave(retry=False, timeout=5.0) as client:
            client.health()
    except ConnectionFailed:
        return None
    except Unauthenticated:
        # With no key stored, no server was ever started here; a file that is there and useless is another matter.
        if stored_path().exists():
            raise
        return None
    return Enclave()


@contextmanager
def _embedded() -> Iterator[Credential]:
    with server_parts():
        from enclave.serve import embedded
    with embedded(None) as credential:
        yield credential
