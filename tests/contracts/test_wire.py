"""What every wire type has in common."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue, TypeAdapter, ValidationError

from enclave.contracts import audit, errors, files, frames, identity, policy, sessions
from enclave.contracts.frames import StreamFrame
from enclave.contracts.policy import EgressMode, EgressPolicy, Language, RequestedLimits, SessionLimits
from enclave.contracts.sessions import CreateSessionRequest, GitSource, KillReason, Phase, Session, SessionResult, Usage
from enclave.contracts.wire import Page, SessionId, Wire, wire_name

AT = datetime(2026, 1, 2, 3, 4, 5, 67, tzinfo=UTC)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON: st.SearchStrategy[JsonValue] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
W = TypeVar("W", bound=Wire)


def some(kind: type[W], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[W]:
    return st.fixed_dictionaries(fields).map(lambda values: kind(**values))


MOMENTS = st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1), timezones=st.just(UTC))
RESULTS = some(
    SessionResult,
    exit_code=st.none() | st.integers(0, 255),
    result=JSON,
    stdout=TEXT,
    stderr=TEXT,
    stdout_truncated=st.booleans(),
    duration_ms=st.floats(0, 1e9),
    usage=some(Usage, cpu_seconds=st.none() | st.floats(0, 1e6), peak_pids=st.none() | st.integers(0, 1000)),
    error=st.none() | TEXT,
)
SESSIONS = some(
    Session,
    id=st.from_regex(r"ses_[0-9a-z]{26}", fullmatch=True),
    org_id=st.text("abc_", min_size=1, max_size=64),
    created_by=TEXT,
    phase=st.sampled_from(Phase),
    language=st.sampled_from(Language),
    limits=some(SessionLimits, memory_mib=st.integers(1, 4096), cpus=st.floats(0.1, 8)),
    egress=some(EgressPolicy, mode=st.sampled_from(EgressMode), allow=st.just(("*.example.org:443",))),
    kill_reason=st.none() | st.sampled_from(KillReason),
    result=st.none() | RESULTS,
    backend=TEXT,
    labels=st.dictionaries(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.\-/]{0,9}", fullmatch=True), TEXT, max_size=3),
    created_at=MOMENTS,
    started_at=st.none() | MOMENTS,
    finished_at=st.none() | MOMENTS,
)
MODULES = (audit, errors, files, frames, identity, policy, sessions)
TYPES = sorted(
    {
        kind
        for module in MODULES
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Wire) and kind is not Wire
    },
    key=lambda kind: kind.__name__,
)


@given(SESSIONS)
def test_a_session_comes_back_from_json_as_it_was(session: Session) -> None:
    text = session.model_dump_json()

    assert Session.model_validate_json(text) == session
    assert Session.model_validate_json(text).model_dump_json() == text


@given(RESULTS, MOMENTS)
def test_a_frame_comes_back_from_json_as_it_was(result: SessionResult, ts: datetime) -> None:
    frame = frames.ResultFrame(result=result, ts=ts)

    assert TypeAdapter[StreamFrame](StreamFrame).validate_json(frame.model_dump_json()) == frame


@given(st.lists(SESSIONS, max_size=2), st.none() | TEXT)
def test_a_page_comes_back_from_json_as_it_was(items: list[Session], cursor: str | None) -> None:
    page = Page[Session](items=tuple(items), next_cursor=cursor)

    assert Page[Session].model_validate_json(page.model_dump_json()) == page


def names(value: object) -> Iterator[str]:
    """The field names of a JSON value, at every depth; what is below `labels` and `result` is the caller's."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from () if name == "labels" else names(inner)


@given(SESSIONS.filter(lambda session: session.result is None))
def test_json_is_camel_case_throughout(session: Session) -> None:
    written = list(names(json.loads(session.model_dump_json())))

    assert [name for name in written if not re.fullmatch(r"[a-z]+([A-Z][a-z]*)*B?", name)] == []


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_every_type_is_frozen_and_strict_and_refuses_what_it_does_not_know(kind: type[Wire]) -> None:
    kept = {name: kind.model_config.get(name) for name in ("frozen", "strict", "extra", "allow_inf_nan")}

    assert kept == {"frozen": True, "strict": True, "extra": "forbid", "allow_inf_nan": False}


@pytest.mark.parametrize(
    ("name", "wire"),
    [
        ("memory_mib", "memoryMiB"),
        ("disk_mib", "diskMiB"),
        ("output_kib", "outputKiB"),
        ("wall_clock_seconds", "wallClockSeconds"),
        ("id", "id"),
        ("org_id", "orgId"),
        ("stdout_truncated", "stdoutTruncated"),
        ("code_sha256", "codeSha256"),
    ],
)
def test_names_on_the_wire_are_spelled_as_the_reference_spells_them(name: str, wire: str) -> None:
    assert wire_name(name) == wire


def test_limits_are_spelled_as_the_reference_spells_them() -> None:
    assert set(json.loads(SessionLimits().model_dump_json())) == {
        "memoryMiB",
        "wallClockSeconds",
        "cpuSeconds",
        "cpus",
        "pids",
        "diskMiB",
        "outputKiB",
    }


def problems(text: str, **options: Any) -> list[tuple[str, str]]:
    with pytest.raises(ValidationError) as refused:
        CreateSessionRequest.model_validate_json(text, **options)
    return [(problem["type"], ".".join(map(str, problem["loc"]))) for problem in refused.value.errors()]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{"code": "1", "tmeout": 1}', "tmeout"),
        ('{"code": "1", "limits": {"memoryMib": 1}}', "limits.memoryMib"),
        ('{"code": "1", "egress": {"block": []}}', "egress.block"),
    ],
)
def test_an_unknown_field_is_refused_and_named(text: str, where: str) -> None:
    assert problems(text) == [("extra_forbidden", where)]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{"code": "1", "limits": {"memory_mib": 1}}', "limits.memory_mib"),
        ('{"code": "1", "webhook_url": "x"}', "webhook_url"),
    ],
)
def test_a_pythonic_name_is_refused_where_only_the_wire_is_spoken(text: str, where: str) -> None:
    assert problems(text, by_name=False, by_alias=True) == [("extra_forbidden", where)]


def test_python_may_use_its_own_names() -> None:
    assert RequestedLimits(memory_mib=1) == RequestedLimits.model_validate_json('{"memoryMiB": 1}')


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{"code": 1}', "code"),
        ('{"code": ""}', "code"),
        ('{"code": "1", "limits": {"pids": "64"}}', "limits.pids"),
        ('{"code": "1", "limits": {"pids": 1.5}}', "limits.pids"),
        ('{"code": "1", "limits": {"pids": true}}', "limits.pids"),
        ('{"code": "1", "limits": {"cpus": NaN}}', "limits.cpus"),
        ('{"code": "1", "limits": {"cpus": Infinity}}', "limits.cpus"),
        ('{"code": "1", "language": "PYTHON"}', "language"),
        ('{"code": "1", "labels": {"": "x"}}', "labels..[key]"),
        ('{"code": "1", "labels": {"a b": "x"}}', "labels.a b.[key]"),
        ('{"code": "1", "labels": {"a": 1}}', "labels.a"),
        ('{"limits": {}}', "code"),
        ('{"code": null}', "code"),
        ('{"source": {"git": {"url": "https://a/b"}}}', "code"),
        ('{"code": "1", "source": {"git": {"url": "https://a/b", "entrypoint": "a"}}}', "code"),
        ('{"source": {"git": {"url": "https://a/b", "entrypoint": 1}}}', "source.git.entrypoint"),
        ('{"code": "1", "source": {"git": {}}}', "source.git.url"),
        ('{"code": "1", "source": {}}', "source.git"),
        ('{"code": "1", "source": {"git": {"url": "https://a/b", "token": "x"}}}', "source.git.token"),
        ('{"code": "1", "source": {"git": {"url": "https://a/\\nb"}}}', "source.git.url"),
    ],
)
def test_a_value_is_refused_rather_than_bent_into_shape(text: str, where: str) -> None:
    assert [place for _, place in problems(text)] == [where]


@pytest.mark.parametrize(
    "ref", ["", "-x", "--upload-pack=x", "+main", "a:b", "a b", "a^", "a~1", "a*", "a?", "a[", "a\\b", "a\nb", "@{-1}"]
)
def test_a_ref_is_neither_an_option_nor_a_refspec(ref: str) -> None:
    with pytest.raises(ValidationError):
        GitSource(url="https://a/b", ref=ref)


@pytest.mark.parametrize("ref", ["main", "v1.0", "feature/a-b_c", "refs/heads/main", "a" * 40, "größe", "a@b", "a+b"])
def test_a_ref_may_have_any_name_that_git_gives(ref: str) -> None:
    assert GitSource(url="https://a/b", ref=ref).ref == ref


@pytest.mark.parametrize(
    "path", ["", "/etc/x", "..", "../x", "a/../x", "a//x", "./x", "a/.", "a/", ".git/x", "a/.GIT/x", "a\0b", "x" * 513]
)
def test_an_entry_point_is_a_path_in_the_tree(path: str) -> None:
    with pytest.raises(ValidationError):
        GitSource(url="https://a/b", entrypoint=path)


def test_a_value_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        SessionLimits().pids = 1  # type: ignore[misc]


@given(MOMENTS, st.integers(-12, 12))
def test_a_moment_is_written_in_utc_to_the_microsecond(moment: datetime, hours: int) -> None:
    frame = frames.EndFrame(phase=Phase.SUCCEEDED, ts=moment.astimezone(timezone(timedelta(hours=hours))))

    written = json.loads(frame.model_dump_json())["ts"]

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", written)
    assert datetime.fromisoformat(written) == moment


@pytest.mark.parametrize("wrong", ["ses_", "ses_" + "a" * 25, "ses_" + "a" * 27, "ses_" + "A" * 26, "x" * 30])
def test_a_session_id_has_one_shape(wrong: str) -> None:
    with pytest.raises(ValidationError, match="pattern"):
        TypeAdapter[str](SessionId).validate_python(wrong)


def test_a_session_has_no_field_for_a_secret() -> None:
    suspicious = re.compile("token|secret|key|password|credential|env", re.IGNORECASE)

    assert [name for name in Session.model_fields if suspicious.search(name)] == []
