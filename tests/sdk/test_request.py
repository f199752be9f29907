"""The terms of a run."""

import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from enclave.contracts.errors import InvalidRequest
from enclave.contracts.policy import EgressMode, EgressPolicy, Language, RequestedLimits
from enclave.contracts.sessions import CreateSessionRequest, GitSource, Source
from enclave.core.files import contents
from enclave.sdk.request import Terms, request_of

ALLOWLIST = EgressPolicy(mode=EgressMode.ALLOWLIST, allow=("example.org",))


def test_limits_are_taken_by_either_name() -> None:
    limits = MappingProxyType({"memory_mib": 64, "wallClockSeconds": 2})

    assert request_of("x", {"limits": limits}).limits == RequestedLimits(memory_mib=64, wall_clock_seconds=2.0)
    assert request_of("x", {"limits": RequestedLimits(pids=7)}).limits == RequestedLimits(pids=7)


def test_allow_is_short_for_an_allowlist() -> None:
    assert request_of("x", {"allow": ["example.org"]}).egress == ALLOWLIST
    assert request_of("x", {"allow": "example.org"}).egress == ALLOWLIST
    assert request_of("x", {"allow": []}).egress == EgressPolicy()
    assert request_of("x", {"egress": ALLOWLIST}).egress == ALLOWLIST


def test_terms_go_over_those_of_a_request() -> None:
    base = CreateSessionRequest(code="x", language=Language.NODE, labels={"a": "b"}, webhook_url="https://x")

    assert request_of(base, {}) == base
    assert request_of(base, {"labels": {"c": "d"}}) == base.model_copy(update={"labels": {"c": "d"}})


def test_a_source_is_given_as_it_is_on_the_wire_or_as_a_value() -> None:
    source = Source(git=GitSource(url="https://example.org/a", entrypoint="main.py"))

    assert request_of(None, {"source": source}) == CreateSessionRequest(source=source)
    given: Terms = {"source": {"git": {"url": "https://example.org/a", "entrypoint": "main.py"}}}
    assert request_of(None, given) == CreateSessionRequest(source=source)
    assert request_of(CreateSessionRequest(source=source), {"labels": {"a": "b"}}).source == source


@pytest.mark.parametrize(
    ("terms", "field"),
    [
        ({"language": "cobol"}, "language"),
        ({"limits": {"memory_mib": 1.5}}, "limits.memoryMiB"),
        ({"limits": {"memory": 1}}, "limits.memory"),
        ({"labels": {"a": 1}}, "labels.a"),
        ({"speed": 9}, "speed"),
        ({"allow": ["x"], "egress": ALLOWLIST}, None),
    ],
)
def test_what_is_wrong_is_named_before_anything_is_sent(terms: Any, field: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        request_of("x", terms)

    assert [problem.field for problem in caught.value.errors] == ([field] if field else [])


def test_no_code_is_no_request() -> None:
    with pytest.raises(InvalidRequest, match="code"):
        request_of("", {})


def test_files_are_text_or_bytes_or_files_of_ours(tmp_path: Path) -> None:
    (tmp_path / "local").write_bytes(b"\xff")
    request = request_of("x", {"files": {"a": "text", "b/c": b"\x00", "d": tmp_path / "local"}})

    assert contents(request.files) == {"a": b"text", "b/c": b"\x00", "d": b"\xff"}
    assert json.loads(request.model_dump_json(exclude_unset=True))["files"] == {
        "a": "text",
        "b/c": {"base64": "AA=="},
        "d": {"base64": "/w=="},
    }
    assert request_of(request, {}) == request


@pytest.mark.parametrize(("path", "content"), [("../a", "x"), ("main.py", "x"), ("a", Path("/nonexistent"))])
def test_a_file_that_cannot_be_sent_is_named(path: str, content: str | Path) -> None:
    with pytest.raises(InvalidRequest) as refused:
        request_of("x", {"files": {path: content}})

    assert refused.value.errors[0].field.startswith(f"files.{path}")
