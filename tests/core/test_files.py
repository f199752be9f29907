"""What files of a request come to."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from enclave.contracts.errors import InvalidRequest
from enclave.contracts.files import MAX_FILES_BYTES
from enclave.contracts.policy import SessionLimits
from enclave.core.files import check_files, digest, listed

FILES = {"b": b"1", "a/c": b"22", "a!": b""}


def named(files: dict[str, bytes], **limits: int) -> list[str]:
    with pytest.raises(InvalidRequest) as refused:
        check_files(files, SessionLimits().model_copy(update=limits))
    return [problem.field for problem in refused.value.errors]


@pytest.mark.parametrize(
    ("paths", "clashing"),
    [
        (["a", "a/b"], ["files.a"]),
        (["a/b/c", "a/b", "a"], ["files.a", "files.a/b"]),
        (["a/b", "a/b/c/d"], ["files.a/b"]),
    ],
)
def test_a_file_is_no_directory(paths: list[str], clashing: list[str]) -> None:
    assert named(dict.fromkeys(paths, b"")) == clashing


def test_what_only_begins_alike_does_not_clash() -> None:
    check_files(dict.fromkeys(["a", "ab/c", "a.b/c"], b""), SessionLimits())


def test_more_than_is_taken_is_refused() -> None:
    check_files({"a": bytes(MAX_FILES_BYTES)}, SessionLimits())
    assert named({"a": bytes(MAX_FILES_BYTES), "b": b"x"}) == ["files"]


def test_what_does_not_fit_on_the_disk_is_refused_before_anything_runs() -> None:
    page = 4096
    check_files({str(n): b"x" for n in range(255)}, SessionLimits().model_copy(update={"disk_mib": 1}))
    assert named({str(n): b"x" for n in range(256)}, disk_mib=1) == ["files"]
    assert named({"a": bytes(255 * page + 1)}, disk_mib=1) == ["files"]


def test_the_digest_is_that_of_what_sha256sum_prints(tmp_path: Path) -> None:
    for path, content in FILES.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)
    printed = subprocess.run(["sha256sum", *sorted(FILES)], cwd=tmp_path, capture_output=True, check=True).stdout

    told = digest(listed(FILES))

    assert told is not None
    assert (told.count, told.bytes, told.sha256) == (3, 3, hashlib.sha256(printed).hexdigest())


def test_no_files_have_no_digest() -> None:
    assert digest(()) is None
