"""What the command line does to this machine itself: serve on it, and examine it."""

import os
from dataclasses import asdict
from functools import partial
from pathlib import Path
from shlex import quote

from enclave.cli import show
from enclave.cli.say import as_json, printable
from enclave.contracts.identity import Credential
from enclave.sdk.credential import stored_path


def serve_until_stopped(*, host: str | None, port: int | None, home: Path | None) -> None:
    """Serve until a signal, and say where as soon as it is so."""
    from enclave.config import Settings
    from enclave.serve import serve

    settings = Settings.from_env(os.environ, host=host, port=port, home=home)
    serve(settings, ready=partial(_announce, settings.home))


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


def _announce(home: Path, credential: Credential) -> None:
    key = home / stored_path().name
    # A client looks for the key where its environment says; elsewhere it has to be told.
    told = "" if key == stored_path() else f"ENCLAVE_HOME={quote(str(home))} "
    print(f"Enclave serves at {printable(credential.base_url)}")
    print(f"Its key is in     {printable(str(key))}")
    print(f"Try               {printable(told)}enclave run -c \"print('hello')\"", flush=True)
