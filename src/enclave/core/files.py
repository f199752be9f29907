"""What files of a request come to, and whether they may."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final

from enclave.contracts.errors import FieldProblem, InvalidRequest
from enclave.contracts.files import MAX_FILES_BYTES, MIB, Binary, FilesDigest, SessionFile
from enclave.contracts.policy import SessionLimits

_PAGE_BYTES: Final = 4096
"""What a file takes at least, and a multiple of what it takes, where it is put (tmpfs(5))."""


def contents(files: Mapping[str, str | Binary]) -> dict[str, bytes]:
    """The files as bytes. Raises InvalidRequest, naming it, for text that is none."""
    return {path: _content(path, given) for path, given in files.items()}


def check_files(files: Mapping[str, bytes], limits: SessionLimits, *, beside_source: bool = False) -> None:
    """Raise InvalidRequest, naming the field, if files are in each other's way, too much, or do not fit on the disk."""
    directories = {path[:place] for path in files for place, one in enumerate(path) if one == "/"}
    if clashes := sorted(directories.intersection(files)):
        problems = tuple(_problem(path, "cannot be a file and a directory of another one") for path in clashes)
        raise InvalidRequest("a file is in another one's way", errors=problems)
    if beside_source and (clashes := sorted(path for path in files if path.partition("/")[0] == "src")):
        problems = tuple(_problem(path, "is where the source is") for path in clashes)
        raise InvalidRequest("a file is in the source's way", errors=problems)
    if (size := sum(map(len, files.values()))) > MAX_FILES_BYTES:
        raise _too_much(f"come to {size} bytes; at most {MAX_FILES_BYTES} are taken")
    pages = sum(-(-len(content) // _PAGE_BYTES) for content in files.values())
    if pages * _PAGE_BYTES >= limits.disk_mib * MIB:
        raise _too_much(f"take {pages * _PAGE_BYTES} bytes of disk; limits.diskMiB is {limits.disk_mib}")


def digest(files: Iterable[SessionFile]) -> FilesDigest | None:
    """What an event tells of files; None if there are none."""
    listed = sorted(files, key=lambda file: file.path.encode())
    if not listed:
        return None
    lines = "".join(f"{file.sha256}  {file.path}\n" for file in listed)
    size = sum(file.bytes for file in listed)
    return FilesDigest(count=len(listed), bytes=size, sha256=hashlib.sha256(lines.encode()).hexdigest())


def listed(files: Mapping[str, bytes]) -> tuple[SessionFile, ...]:
    """The files without their content."""
    return tuple(
        SessionFile(path=path, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        for path, content in files.items()
    )


def _content(path: str, given: str | Binary) -> bytes:
    try:
        return given.encode() if isinstance(given, str) else given.base64
    except UnicodeEncodeError:
        problem = _problem(path, "must be Unicode text, or base64")
        raise InvalidRequest("a file is not text", errors=(problem,)) from None


def _problem(path: str, message: str) -> FieldProblem:
    return FieldProblem(field=f"files.{path}", message=message)


def _too_much(message: str) -> InvalidRequest:
    return InvalidRequest("the files are too large", errors=(FieldProblem(field="files", message=message),))
