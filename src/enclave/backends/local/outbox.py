"""The files a program left, taken over from its sandbox in a thread."""

import os
from pathlib import Path
from typing import Final

from enclave.backends.base import Collected
from enclave.contracts.files import (
    MAX_FILES,
    MAX_KEPT_BYTES,
    MAX_KEPT_FILE_BYTES,
    MAX_PATH_BYTES,
    Omission,
    SessionFile,
)
from enclave.sandbox import outbox

BOUNDS: Final = outbox.Bounds(
    files=MAX_FILES, file_bytes=MAX_KEPT_FILE_BYTES, total_bytes=MAX_KEPT_BYTES, path_bytes=MAX_PATH_BYTES
)


def empty(work: int, into: Path) -> Collected:
    """Copy what is below `out` in the directory behind `work`, which is closed. Raises OSError."""
    try:
        target = os.open(into, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            harvest = outbox.collect(work, target, BOUNDS)
        finally:
            os.close(target)
    finally:
        os.close(work)
    files = tuple(SessionFile(path=one.path, bytes=one.size, sha256=one.sha256) for one in harvest.found)
    return Collected(files, {Omission(reason): number for reason, number in harvest.omitted.items()})
