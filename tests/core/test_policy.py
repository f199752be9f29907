"""What a request may have."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.contracts.errors import InvalidRequest, PolicyUnenforceable
from enclave.contracts.policy import (
    EgressMode,
    EgressPolicy,
    Guarantee,
    Language,
    RequestedLimits,
    SessionLimits,
)
from enclave.contracts.sessions import GitSource, Source
from enclave.contracts.wire import wire_name
from enclave.core.policy import FLOOR, Ceiling, check_egress, require, required, resolve

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


GOOD_RULES = [
    "example.org",
    "example.org:443",
    "*.example.org",
    "*.example.org:8080",
    "localhost",
    "xn--bcher-kva.example",
    "a-b.example:65535",
    "10.0.0.0/8",
    "10.1.2.3",
    "10.1.2.3:1",
    "10.0.0.0/8:5432",
    "2001:db8::/32",
    "::1",
    "[2001:db8::1]",
    "[2001:db8::1]:443",
    "[2001:db8::/32]:443",
    "a" * 63 + ".example",
]
BAD_RULES = [
    " ",
    "*",
    "*.",
    "*:443",
    "**.example",
    "a.*.example",
    "*.*.example",
    ".example",
    "example.",
    "a..b",
    "-a.example",
    "a-.example",
    "-",
    "a_b.example",
    "http://example.com",
    "example.com/path",
    "user@example.com",
    "example.com:",
    "example.com:0",
    "example.com:65536",
    "example.com:+1",
    "example.com: 1",
    "example.com:１",
    "example.com:-1",
    "example.com:80:80",
    "bücher.example",
    "example.com\n",
    "10.0.0.0/33",
    "10.0.0.256",
    "10.0.0",
    "1234",
    "0x7f.1",
    "[2001:db8::1",
    "[2001:db8::1]443",
    "[2001:db8::1]:0",
    "[]",
    "[]:443",
    "a" * 64 + ".example",
    "a." * 127 + "example",
    "*.10.0.0.1",
    "*.10.0.0.0/8",
    "*.::1",
]


@pytest.mark.parametrize("rule", GOOD_RULES)
def test_a_well_formed_rule_is_taken(rule: str) -> None:
    check_egress(EgressPolicy(mode=EgressMode.ALLOWLIST, allow=(rule,)))


@pytest.mark.parametrize("rule", BAD_RULES)
def test_a_malformed_rule_is_refused_and_named(rule: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_egress(EgressPolicy(mode=EgressMode.ALLOWLIST, allow=("example.org", rule)))

    assert [problem.field for problem in refused.value.errors] == ["egress.allow.1"]


@given(st.text(min_size=1, max_size=300))
def test_any_text_is_a_rule_or_refused_and_nothing_worse(rule: str) -> None:
    try:
        check_egress(EgressPolicy(mode=EgressMode.ALLOWLIST, allow=(rule,)))
    except InvalidRequest:
        return
    assert rule.isascii()
    assert not set(rule) & set(" /\\@?#\n\t'\"") - {"/"}


def test_deny_all_with_rules_is_refused_rather_than_read_either_way() -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_egress(EgressPolicy(allow=("example.org",)))

    assert [problem.field for problem in refused.value.errors] == ["egress.allow"]


@pytest.mark.parametrize("policy", [EgressPolicy(), EgressPolicy(mode=EgressMode.ALLOWLIST)])
def test_a_policy_without_rules_is_taken(policy: EgressPolicy) -> None:
    check_egress(policy)


LANGUAGES = {Guarantee.PYTHON, Guarantee.NODE}


@pytest.mark.parametrize("language", list(Language))
@pytest.mark.parametrize("mode", list(EgressMode))
def test_every_control_is_required_of_every_session(language: Language, mode: EgressMode) -> None:
    needed = required(language, EgressPolicy(mode=mode))

    controls = set(Guarantee) - LANGUAGES - {Guarantee.EGRESS_ALLOWLIST, Guarantee.GIT_SOURCE}
    assert needed - {Guarantee.EGRESS_ALLOWLIST} == controls | {Guarantee(language.value)}
    assert (Guarantee.EGRESS_ALLOWLIST in needed) == (mode is EgressMode.ALLOWLIST)


def test_a_source_needs_somebody_who_fetches_it() -> None:
    source = Source(git=GitSource(url="https://example.org/x"))

    more = required(Language.PYTHON, EgressPolicy(), source) - required(Language.PYTHON, EgressPolicy())

    assert more == {Guarantee.GIT_SOURCE}


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
