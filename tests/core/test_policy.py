"""What a request may have."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.contracts.errors import InvalidRequest, PolicyUnenforceable
from enclave.contracts.policy import (
    MAX_RULES,
    EgressMode,
    EgressPolicy,
    Guarantee,
    Language,
    RequestedLimits,
    SessionLimits,
)
from enclave.contracts.sessions import CreateSessionRequest, GitSource, Source
from enclave.contracts.wire import wire_name
from enclave.core.policy import FLOOR, MAX_FOREIGN, Ceiling, check_egress, malformed, require, required, resolve

CEILING = Ceiling()
NAMES = sorted(SessionLimits.model_fields)
WHOLE = {name for name, field in SessionLimits.model_fields.items() if field.annotation is int}


def bounds(name: str) -> tuple[Any, Any]:
    return getattr(FLOOR, name), getattr(CEILING.most, name)


def some(name: str) -> st.SearchStrategy[Any]:
    _, most = bounds(name)
    if name in WHOLE:
        return st.integers(-most, 3 * most)
    return st.floats(-most, 3 * most, allow_nan=False)


ASKED = st.fixed_dictionaries({}, optional={name: some(name) for name in NAMES})


@given(ASKED)
def test_limits_are_as_asked_within_bounds_or_the_request_is_refused_naming_what_is_not(asked: dict[str, Any]) -> None:
    outside = [name for name, value in asked.items() if not bounds(name)[0] <= value <= bounds(name)[1]]

    if not outside:
        assert resolve(RequestedLimits(**asked), CEILING) == CEILING.default.model_copy(update=asked)
        return
    with pytest.raises(InvalidRequest) as refused:
        resolve(RequestedLimits(**asked), CEILING)
    assert {problem.field for problem in refused.value.errors} == {f"limits.{wire_name(name)}" for name in outside}


@pytest.mark.parametrize("name", NAMES)
def test_both_bounds_themselves_are_granted(name: str) -> None:
    for bound in bounds(name):
        granted = resolve(RequestedLimits.model_validate({wire_name(name): bound}), CEILING)

        assert getattr(granted, name) == bound


def test_a_refusal_says_what_the_bounds_are() -> None:
    with pytest.raises(InvalidRequest) as refused:
        resolve(RequestedLimits(memory_mib=1), CEILING)

    (problem,) = refused.value.errors
    assert (problem.field, problem.message) == ("limits.memoryMiB", "must be between 16 and 4096")


def test_an_operators_ceiling_is_what_counts() -> None:
    ceiling = Ceiling(default=SessionLimits(pids=8), most=SessionLimits(pids=16))

    assert resolve(RequestedLimits(), ceiling).pids == 8
    assert resolve(RequestedLimits(pids=16), ceiling).pids == 16
    with pytest.raises(InvalidRequest):
        resolve(RequestedLimits(pids=17), ceiling)


def test_every_default_is_within_bounds() -> None:
    asked = RequestedLimits.model_validate(CEILING.default.model_dump())

    assert resolve(asked, CEILING) == CEILING.default


def refused(policy: EgressPolicy) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as refusal:
        check_egress(policy)
    return {problem.field: problem.message for problem in refusal.value.errors}


def test_a_malformed_rule_is_refused_by_its_place_and_says_what_to_write() -> None:
    policy = EgressPolicy(
        mode=EgressMode.ALLOWLIST,
        allow=("example.org", "10.0.0.1/8", "*.example.org:443", "127.1"),
        deny=("*.com", "bad.example.org"),
    )

    assert refused(policy) == {
        "egress.allow.1": "the address has bits beyond the length; write 10.0.0.0/8",
        "egress.allow.3": "write an IPv4 address as four decimal numbers from 0 to 255 without leading zeros",
        "egress.deny.0": "*.com is too broad; name the domain: *.example.com",
    }


def test_well_formed_rules_are_taken() -> None:
    check_egress(EgressPolicy(mode=EgressMode.ALLOWLIST, allow=("example.org", "10.0.0.0/8:5432"), deny=("::/0",)))


@pytest.mark.parametrize("field", ["allow", "deny"])
def test_deny_all_with_rules_is_refused_rather_than_read_either_way(field: str) -> None:
    policy = EgressPolicy.model_validate({field: ("example.org",)})

    assert refused(policy) == {f"egress.{field}": "must be empty when egress.mode is deny_all; use mode allowlist"}


@pytest.mark.parametrize("policy", [EgressPolicy(), EgressPolicy(mode=EgressMode.ALLOWLIST)])
def test_a_policy_without_rules_is_taken(policy: EgressPolicy) -> None:
    check_egress(policy)


LANGUAGES = {Guarantee.PYTHON, Guarantee.NODE}


ASKED_FOR = {
    Guarantee.EGRESS_ALLOWLIST,
    Guarantee.EGRESS_ADDRESSES,
    Guarantee.SERVICE_BINDINGS,
    Guarantee.FILES,
    Guarantee.GIT_SOURCE,
}


@pytest.mark.parametrize("language", list(Language))
def test_every_control_is_required_of_every_session(language: Language) -> None:
    needed = required(CreateSessionRequest(code="1", language=language))

    assert needed == set(Guarantee) - LANGUAGES - ASKED_FOR | {Guarantee(language.value)}


@pytest.mark.parametrize(
    ("asked", "guarantee"),
    [
        ({"egress": EgressPolicy(mode=EgressMode.ALLOWLIST)}, Guarantee.EGRESS_ALLOWLIST),
        ({"service_bindings": ("crm",)}, Guarantee.SERVICE_BINDINGS),
        ({"files": {"a": "b"}}, Guarantee.FILES),
        ({"source": Source(git=GitSource(url="https://example.org/x"))}, Guarantee.GIT_SOURCE),
    ],
)
def test_what_is_asked_for_is_required_beside(asked: Mapping[str, Any], guarantee: Guarantee) -> None:
    plain = CreateSessionRequest(code="1")

    assert required(plain.model_copy(update=asked)) - required(plain) == {guarantee}


@given(st.frozensets(st.sampled_from(Guarantee)), st.frozensets(st.sampled_from(Guarantee)))
def test_a_session_is_refused_for_want_of_any_guarantee(
    needed: frozenset[Guarantee], given_: frozenset[Guarantee]
) -> None:
    if needed <= given_:
        require(needed, given_)
        return
    with pytest.raises(PolicyUnenforceable) as refused:
        require(needed, given_)
    for missing in needed - given_:
        assert missing in refused.value.detail


def test_names_in_other_scripts_are_few_because_each_takes_long() -> None:
    names = tuple(f"bücher-{at}.example" for at in range(MAX_FOREIGN))
    ascii_ones = tuple(f"host-{at}.example" for at in range(MAX_RULES - MAX_FOREIGN))

    assert malformed({"egress.allow": names + ascii_ones, "egress.deny": ascii_ones}) == {}
    refused = malformed({"egress.allow": names, "egress.deny": ("bücher.example",), "other": ascii_ones})
    assert set(refused) == {"egress.allow", "egress.deny"}
    assert "xn--" in refused["egress.deny"]
