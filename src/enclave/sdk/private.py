"""Files that hold a secret: read only if nobody else can read them, and replaced whole."""

import os
import stat
import tempfile
from pathlib import Path
from typing import Final

from enclave.contracts.errors import Unauthenticated, Unavailable

_MAX_BYTES: Final = 65536


def home() -> Path:
    """Where this user's Enclave keeps what is its own."""
    return Path(os.environ.get("ENCLAVE_HOME") or Path.home() / ".enclave").expanduser()


def read_private(path: Path) -> bytes | None:
    """What is in a file, None if there is none. Raises Unauthenticated if it is another user's, or others can read it:
    what is in it is then no secret, or no credential of ours."""
    try:
        # A pipe would be waited for.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            _check(path, os.fstat(file.fileno()))
            return file.read(_MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unauthenticated(f"{path} cannot be read: {error.strerror}") from None


def write_private(path: Path, text: str) -> None:
    """Put a file there whole, on the disk, or leave what was there; nobody else can read it. Raises Unavailable."""
    try:
        _replace(path, text)
    except OSError as error:
        raise Unavailable(f"{path} cannot be written: {error.strerror}") from None


def private_folder(path: Path) -> None:
    """Make the folder if there is none. Raises Unavailable if others could put their own files in place of ours."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except OSError as error:
        raise Unavailable(f"{path} cannot be used: {error.strerror}") from None
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise Unavailable(
            f"{path} is not yours alone to write: run `chmod go-w {path}`, or name another in ENCLAVE_HOME"
        )


def _check(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise Unauthenticated(f"{path} is not a file")
    if status.st_uid != os.geteuid():
        raise Unauthenticated(f"{path} is not yours, so the credential in it is not used")
    if status.st_mode & 0o077:
        raise Unauthenticated(
            f"others can read {path}, so it is no secret: run `enclave logout`, or `chmod 600 {path}`"
        )


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
    _sync(path.parent)


def _sync(folder: Path) -> None:
    # A rename is on the disk once the folder is.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
