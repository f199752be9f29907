"""How much JSON there is in a text."""

import json

from hypothesis import given
from hypothesis import strategies as st

from enclave.core.weight import weight

VALUES = st.recursive(
    st.integers() | st.text('ab,[{"\\', max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('a,"\\', max_size=3), inner, max_size=3),
    max_leaves=20,
)


def elements(value: object) -> int:
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 4 + max(0, len(inner) - 1) + sum(map(elements, inner))


@given(VALUES)
def test_what_stands_in_strings_is_no_element(value: object) -> None:
    raw, real = json.dumps(value).encode(), elements(value)
    enough = max(real, 60)

    assert weight(raw, enough) <= enough
    assert weight(raw, real - 1) > real - 1


def test_many_strings_are_many_elements_and_are_not_even_split() -> None:
    assert weight(b'"\\\\"' * 500, 100) > 100
    assert weight(b'"\\""' * 500, 100) > 100
    assert weight(b'["' + b'\\"' * 100_000 + b'"]', 100) == 4


def test_text_with_commas_weighs_nothing() -> None:
    assert weight(json.dumps({"csv": "1,2\n" * 100_000}).encode(), 100) == 4
