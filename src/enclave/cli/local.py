"""What the command line does to this machine itself: serve on it, and examine it."""

import os
from dataclasses import asdict
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from enclave.cli import show
from enclave.cli.say import as_json, printable
from enclave.contracts.identity import Credential
from enclave.sdk.credential import stored_path

if TYPE_CHECKING:
    from enclave.config import Settings
    from enclave.system import IdentitySystem


def serve_until_stopped(*, host: str | None, port: int | None, home: Path | None) -> None:
    """Serve until a signal, and say where as soon as it is so."""
    from enclave.config import Settings
    from enclave.serve import serve

    settings = Settings.from_env(os.environ, host=host, port=port, home=home)
    serve(settings, ready=partial(_announce, settings))


def serve_identity_until_stopped(**asked: str | int | Path | None) -> None:
    """Serve identity alone until a signal, and say where as soon as it is so."""
    from enclave.config import IdentitySettings
    from enclave.serve import serve_identity

    serve_identity(IdentitySettings.from_env(os.environ, **asked), ready=_announce_identity)


def examine(*, json: bool) -> int:
    """Print what this machine can enforce; answers with 1 if an essential control is missing."""
    from enclave.config import Settings
    from enclave.system import diagnose

    checks = diagnose(Settings.from_env(os.environ))
    if json:
        print(as_json([asdict(check) for check in checks]))
    else:
        show.checks(checks)
    return int(any(not check.holds and check.essential for check in checks))


def _announce(settings: "Settings", base_url: str, credential: Credential | None) -> None:
    print(f"Enclave serves at {printable(base_url)}")
    if credential is None:
        print(f"Its callers are known by {printable(settings.identity_url or '')}", flush=True)
    else:
        _announce_key(settings.home)


def _announce_identity(system: "IdentitySystem") -> None:
    from enclave.config import DEFAULT_IDENTITY_HOME, SERVICE_FILE
    from enclave.system import identity_url

    settings = system.settings
    print(f"Identity serves at {printable(identity_url(settings))}, and control planes at {system.service.base_url}")
    told = f"ENCLAVE_IDENTITY_URL={quote(system.service.base_url)}"
    if settings.home != Path.home() / DEFAULT_IDENTITY_HOME:
        told += f" ENCLAVE_IDENTITY_KEY_FILE={quote(str(settings.home / SERVICE_FILE))}"
    print(f"Start one with     {printable(told)} enclave serve")
    _announce_key(settings.home)


def _announce_key(home: Path) -> None:
    key = home / stored_path().name
    # A client looks for the key where its environment says; elsewhere it has to be told.
    told = "" if key == stored_path() else f"ENCLAVE_HOME={quote(str(home))} "
    print(f"Its key is in     {printable(str(key))}")
    print(f"Try               {printable(told)}enclave run -c \"print('hello')\"", flush=True)
