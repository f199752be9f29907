"""The folder in which a control plane keeps what is its own: secrets, and the key it leaves for clients here."""

import os
import stat
import tempfile
from pathlib import Path
from secrets import token_bytes, token_hex
from typing import Final

from pydantic import Field, ValidationError

from enclave.contracts.errors import Unavailable
from enclave.contracts.wire import Wire
from enclave.core import key

SECRETS_FILE: Final = "secrets.json"
KEY_FILE: Final = "secrets.key"
SIGNING_FILE: Final = "audit.key"


class Secrets(Wire):
    """What the control plane alone knows."""

    api_key_pepper: str = Field(min_length=32, repr=False)
    jwt_secret: str = Field(min_length=32, repr=False)


def private_home(home: Path) -> None:
    """Make the folder if there is none, and close it to all others. Raises Unavailable."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        _close_to_others(home)
    except OSError as error:
        raise Unavailable(f"{home} cannot be used: {error.strerror}") from error


def secrets_of(home: Path) -> Secrets:
    """The secrets in `home`, made on the first call. Raises Unavailable if others can read them or they are damaged."""
    path = home / SECRETS_FILE
    if not path.exists():
        made = Secrets(api_key_pepper=token_hex(32), jwt_secret=token_hex(32))
        write_private(path, made.model_dump_json())
    try:
        return Secrets.model_validate_json(read_private(path))
    except ValidationError:
        # Without the details: they would show the secrets.
        raise Unavailable(f"{path} is damaged: restore it, or remove it and lose every API key") from None


def secret_key_of(home: Path) -> bytes:
    """The key that stored secrets are sealed with, made on the first call.

    Raises Unavailable if others can read it or it is damaged: a new one would open nothing that is stored.
    """
    return _key_in(home / KEY_FILE, "or remove it and put every service binding again")


def signing_key_of(home: Path) -> bytes:
    """The seed of the Ed25519 key that audit trails are signed with, made on the first call. Raises Unavailable."""
    return _key_in(home / SIGNING_FILE, "or remove it and sign with another from now on")


def _key_in(path: Path, otherwise: str) -> bytes:
    if not path.exists():
        write_private(path, f"{key.written(token_bytes(key.KEY_BYTES))}\n")
    found = key.read(read_private(path).decode(errors="replace"))
    if found is None:
        raise Unavailable(f"{path} is damaged: restore it, {otherwise}")
    return found


def write_private(path: Path, text: str) -> None:
    """Put a file there whole, or leave what was there; at no time can others read it. Raises Unavailable."""
    try:
        _replace(path, text)
    except OSError as error:
        raise Unavailable(f"{path} cannot be written: {error.strerror}") from error


def read_private(path: Path) -> bytes:
    """What is in a file. Raises Unavailable if others can read it, or we cannot."""
    try:
        with path.open("rb") as file:
            _check_private(path, os.fstat(file.fileno()))
            return file.read()
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}") from error


def _close_to_others(home: Path) -> None:
    mode = home.stat().st_mode
    if mode & stat.S_ISVTX:
        raise Unavailable(f"{home} is a folder that many share; choose another one")
    if mode & 0o077:
        home.chmod(0o700)


def _check_private(path: Path, status: os.stat_result) -> None:
    if status.st_mode & 0o077:
        raise Unavailable(f"others can read {path}, so it is no secret: run `chmod 600 {path}`, and consider a new one")


def _replace(path: Path, text: str) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # of mode 0600
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    # A rename is on the disk once the folder is.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
