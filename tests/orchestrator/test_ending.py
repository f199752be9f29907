"""Whatever a program hands over, there is a result, and it can be stored and sent."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.backends.base import Exit
from enclave.contracts.sessions import MAX_RESULT_BYTES, SessionResult
from enclave.orchestrator.ending import MAX_DEPTH, Printed, finished

NOTHING = Printed("", "")


def collected(value: bytes) -> SessionResult:
    return finished(Exit(code=0, value=value), NOTHING).result


@pytest.mark.parametrize(
    "value",
    [
        b"", b"{", b"1 2", b"NaN", b"[Infinity]", b"1e999", b"[-1e999]", b'"\xff"', b'"\\ud800"', b'{"\\udfff": 1}',
        b'"\xed\xa0\x80"', b"1" + b"0" * 5000, b"[" * 100_000, b"[" * 150 + b"]" * 150,
        b'{"a":' * 150 + b"1" + b"}" * 150,
        b'"' + b"a" * MAX_RESULT_BYTES + b'"',
    ],
)  # fmt: skip
def test_what_is_not_sound_json_is_refused_with_a_reason(value: bytes) -> None:
    outcome = finished(Exit(code=0, value=value), NOTHING)
    assert outcome.result.result is None
    assert outcome.result.result_error
    assert outcome.result_json is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"null", None),
        (b'{"a": 1, "a": 2}', {"a": 2}),
        (b"1" + b"0" * 4000, 10**4000),
        (b'"\\u0000"', "\0"),
        (b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, json.loads("[" * MAX_DEPTH + "]" * MAX_DEPTH)),
    ],
)
def test_strange_but_sound_json_is_taken(value: bytes, expected: object) -> None:
    outcome = finished(Exit(code=0, value=value), NOTHING)
    assert outcome.result.result == expected
    assert outcome.result.result_error is None
    assert outcome.result_json == value


@given(st.binary() | st.text().map(str.encode) | st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_every_result_survives_being_stored(value: bytes) -> None:
    result = collected(value)
    assert SessionResult.model_validate_json(result.model_dump_json()) == result


def test_a_value_the_backend_refused_says_why() -> None:
    result = finished(Exit(code=0, value_error="too large"), NOTHING).result
    assert (result.result, result.result_error) == (None, "too large")
