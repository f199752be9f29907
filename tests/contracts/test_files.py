"""Files on the wire: where they may be put, and what their content looks like."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from enclave.contracts.files import MAX_FILES, Binary, SessionFile, path_problem
from enclave.contracts.sessions import CreateSessionRequest, SessionResult

GOOD = [
    "a",
    "a/b",
    "a b",
    ".hidden",
    "..a",
    "a..",
    "...",
    "é/ü.txt",
    "a\\b",
    "x" * 255,
    "/".join(["y" * 255] * 4),
    "main.pyc",
]
BAD = [
    "",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "a/../b",
    "../a",
    "a/.",
    "a\0b",
    "a\nb",
    "a\x7f",
    "a\x85",
    "x" * 256,
    "é" * 128,
    "/".join(["y" * 255] * 4) + "/z",
]


def refused(files: object) -> list[tuple[str, str]]:
    with pytest.raises(ValidationError) as error:
        CreateSessionRequest.model_validate_json(json.dumps({"code": "x", "files": files}))
    return [(".".join(map(str, one["loc"])), one["msg"]) for one in error.value.errors()]


@pytest.mark.parametrize("path", GOOD)
def test_a_place_below_the_directory_is_taken(path: str) -> None:
    assert CreateSessionRequest(code="x", files={path: "text"}).files == {path: "text"}


@pytest.mark.parametrize("path", BAD)
def test_any_other_place_is_refused_by_its_name(path: str) -> None:
    ((where, message),) = refused({path: "x"})

    assert where == f"files.{path}.[key]"
    assert message.startswith("must ")


@pytest.mark.parametrize("path", ["main.py", "main.js", "main.mjs", "main.py/x"])
def test_the_program_is_not_overwritten(path: str) -> None:
    assert refused({path: "x"}) == [(f"files.{path}.[key]", "is where the program itself is put")]
    assert CreateSessionRequest(code="x", files={f"lib/{path}": ""}).files
    assert SessionFile(path=path, bytes=0, sha256="").path == path


@pytest.mark.parametrize(
    "content", [1, None, [], {}, {"base64": 1}, {"base64": "a"}, {"base64": "AA==\n"}, {"base64": "%%"}]
)
def test_a_content_is_text_or_base64(content: object) -> None:
    assert all(where.startswith("files.a") for where, _ in refused({"a": content}))


def test_there_is_an_end_to_how_many() -> None:
    many = {str(number): "" for number in range(MAX_FILES + 1)}

    assert [where for where, _ in refused(many)] == ["files"]


@given(st.binary(max_size=50))
def test_bytes_come_back_from_json_as_they_were(content: bytes) -> None:
    request = CreateSessionRequest(code="x", files={"a": Binary(base64=content), "b": "text"})

    assert CreateSessionRequest.model_validate_json(request.model_dump_json()) == request


@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_a_path_that_is_good_leads_nowhere_else(path: str) -> None:
    if path_problem(path) is None:
        assert not path.startswith("/")
        assert {"", ".", ".."}.isdisjoint(path.split("/"))
        assert path.isprintable() or not any(ord(one) < 32 for one in path)


def test_a_result_from_before_there_were_files_reads_and_writes_as_it_did() -> None:
    old = (
        '{"exitCode":0,"signal":null,"result":null,"resultError":null,"stdout":"","stderr":"","stdoutTruncated":false,'
        '"stderrTruncated":false,"durationMs":0.0,"usage":{"cpuSeconds":null,"peakMemoryBytes":null,"peakPids":null},'
        '"error":null}'
    )

    assert SessionResult.model_validate_json(old).model_dump_json() == old
