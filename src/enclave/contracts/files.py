"""Files that go into a session with its program, and files that come out of it."""

import base64
import binascii
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

from enclave.contracts.wire import Wire

MIB: Final = 1024 * 1024
MAX_FILES: Final = 256
"""The most files of one session, in either direction."""
MAX_FILES_BYTES: Final = 8 * MIB
"""The most that the files of one request come to, decoded."""
MAX_KEPT_FILE_BYTES: Final = 16 * MIB
MAX_KEPT_BYTES: Final = 32 * MIB
"""The most that the files a program left come to."""
MAX_PATH_BYTES: Final = 1024
MAX_SEGMENT_BYTES: Final = 255
"""The most of one name (NAME_MAX in limits.h)."""
PROGRAMS: Final = frozenset({"main.py", "main.js", "main.mjs"})
"""What the program itself is called in its directory."""


def path_problem(path: str) -> str | None:
    """What is wrong with a path as a place below a directory; None if nothing is."""
    try:
        segments = path.encode().split(b"/")
    except UnicodeEncodeError:
        return "must be Unicode text"
    if any(ord(one) < 0x20 or 0x7F <= ord(one) < 0xA0 for one in path):
        return "must have no control characters"
    if not set(segments).isdisjoint((b"", b".", b"..")):
        return "must be relative, and have no empty, '.' or '..' segment"
    if sum(map(len, segments)) + len(segments) - 1 > MAX_PATH_BYTES or max(map(len, segments)) > MAX_SEGMENT_BYTES:
        return f"must have at most {MAX_PATH_BYTES} bytes, and {MAX_SEGMENT_BYTES} in a segment"
    return None


def _checked(path: str) -> str:
    if problem := path_problem(path):
        raise PydanticCustomError("file_path", "{problem}", {"problem": problem})
    return path


def _not_the_program(path: str) -> str:
    if path.partition("/")[0] in PROGRAMS:
        raise PydanticCustomError("file_path", "is where the program itself is put")
    return path


def _decoded(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise PydanticCustomError("base64", "must be base64 (RFC 4648, section 4), padded") from None


def _encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()


FilePath = Annotated[str, AfterValidator(_checked), Field(json_schema_extra={"minLength": 1})]
"""A place below a directory: relative, `/` between segments, none of them empty, `.` or `..`."""

Base64 = Annotated[
    bytes,
    BeforeValidator(_decoded),
    PlainSerializer(_encoded, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]
"""Bytes; on the wire, base64."""


class Binary(Wire):
    """The content of a file that is not text."""

    base64: Base64


Files = Annotated[
    dict[Annotated[FilePath, AfterValidator(_not_the_program)], str | Binary], Field(max_length=MAX_FILES)
]
"""Files by their path: text is a string, kept as UTF-8; anything else is `{"base64": …}`."""


class SessionFile(Wire):
    """A file that a program left; `path` is relative to its `out` directory."""

    path: FilePath
    bytes: int
    sha256: str


class Omission(StrEnum):
    """Why something that a program left was not kept."""

    NOT_A_FILE = "not_a_file"
    BAD_NAME = "bad_name"
    TOO_LARGE = "too_large"
    TOO_MUCH = "too_much"
    TOO_MANY = "too_many"
    TOO_DEEP = "too_deep"
    UNREADABLE = "unreadable"
    NOT_KEPT = "not_kept"


Omissions = dict[Omission, int]
"""How many entries of a program's `out` were not kept, by reason.

`not_a_file` are links, pipes, sockets and devices; `bad_name` has control characters or is not UTF-8; `too_large` is
one file over 16 MiB; `too_much` would have made all of them more than 32 MiB; `too_many` is more than 256 files or 4096
entries, `too_deep` more than 16 directories or 1024 bytes of path, and both count a directory that was not looked into
as one; `not_kept` means that the platform could not store them.
"""


class FilesDigest(Wire):
    """A set of files as an audit event tells of it.

    `sha256` is that of a line for each file, in the order of their paths' bytes: its own SHA-256 in hexadecimal, two
    spaces, the path, a line feed; as `sha256sum` prints it.
    """

    count: int
    bytes: int
    sha256: str
