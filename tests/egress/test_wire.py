"""What the control plane says is what the broker hears."""

import os
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from enclave.core.egress import Floor
from enclave.core.grant import Grant
from enclave.egress import wire
from enclave.egress.wire import Terms

texts = st.text(max_size=20)
some = st.lists(texts, max_size=3).map(tuple)
grants = st.builds(
    Grant, name=texts, url=texts, inject=st.sampled_from(["bearer", "basic", "header", "query"]), secret=texts,
    parameter=texts, template=texts, methods=some, paths=some,
)  # fmt: skip
terms = st.builds(Terms, allow=some, deny=some, grants=st.lists(grants, max_size=3).map(tuple))


@given(terms)
def test_terms_are_read_as_they_were_written(said: Terms) -> None:
    memory = os.memfd_create("terms")
    os.write(memory, said.to_bytes())

    assert wire.read_terms(memory) == said


@given(st.builds(Floor, deny=some, private=some, authorities=st.none() | texts))
def test_a_floor_is_read_as_it_was_written(floor: Floor) -> None:
    assert wire.read_floor(wire.configure(floor)) == floor


def test_each_grant_has_a_place_and_a_variable_of_its_own() -> None:
    grant = Grant(name="my-bank", url="https://bank.test", inject="bearer", secret="sk_live_1")
    held = Terms(grants=(grant, replace(grant, name="other")))

    assert held.environment() == {
        "ENCLAVE_SVC_MY_BANK": "http://127.77.0.1",
        "ENCLAVE_SVC_OTHER": "http://127.77.0.2",
    }
    assert (held.opens, Terms(allow=("a.test",)).opens, Terms(deny=("a.test",)).opens) == (True, True, False)
