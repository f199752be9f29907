"""What we print ourselves cannot take a terminal over."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.cli.say import as_json, printable


@given(st.text(st.characters()))
def test_printable_text_is_printable(text: str) -> None:
    assert printable(text).isprintable()


def test_only_what_is_not_printable_is_escaped() -> None:
    assert printable("grüß [bold]\x1b[31m\r\n\x9b\u202e") == "grüß [bold]\\x1b[31m\\r\\n\\x9b\\u202e"


@pytest.mark.slow
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")), st.lists))
def test_json_is_printable_ascii_and_says_the_same(value: object) -> None:
    text = as_json(value)  # type: ignore[arg-type]

    assert text.isascii()
    assert text.isprintable()
    assert json.loads(text) == value


def test_json_escapes_delete() -> None:
    assert as_json("\x7f\x9b\x1b") == '"\\u007f\\u009b\\u001b"'
