"""What an org's sessions may ask for: rules within rules, and requests beside a floor and an org's own policy."""

from typing import Any

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from enclave.contracts.errors import EnclaveError, InvalidRequest, PolicyForbids
from enclave.contracts.policy import MAX_RULES, EgressMode, EgressPolicy, RequestedLimits, SessionLimits
from enclave.contracts.sessions import CreateSessionRequest, GitSource, Source
from enclave.contracts.tenancy import OrgPolicy, Quotas
from enclave.core.egress import canonical, decide, parse_rule, parse_rules
from enclave.core.grant import Grant
from enclave.core.policy import Ceiling
from enclave.core.reach import Reach, within
from enclave.core.tenancy import Allowance, check_form, check_narrower, combined
from tests.core.test_egress import HOSTS, LEAVES, PINNED, PORTS, Host, Net, addresses, nets

CEILING = Ceiling()
FREE = OrgPolicy()


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ("0.0.0.0/0", "8.8.8.8"),
        ("10.0.0.0/8", "10.1.0.0/16:443"),
        ("10.0.0.0/8:1-500", "10.0.0.0/8:443"),
        ("2001:db8::/32", "[2001:db8:1::/48]:443"),
        ("example.org", "EXAMPLE.org.:443"),
        ("*.example.org", "a.example.org"),
        ("*.example.org", "b.a.example.org:443"),
        ("*.example.org", "*.example.org"),
        ("*.example.org:80-443", "*.a.example.org:443"),
    ],
)
def test_a_rule_lies_within_a_wider_one(outer: str, inner: str) -> None:
    assert within(parse_rule(outer), parse_rule(inner))
    assert within(parse_rule(inner), parse_rule(inner))


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ("8.8.8.8", "8.8.8.0/24"),
        ("8.8.8.0/24", "8.8.9.8"),
        ("0.0.0.0/0", "2001:db8::1"),
        ("::/0", "8.8.8.8"),
        ("8.8.8.8:443", "8.8.8.8"),
        ("8.8.8.8:1-442", "8.8.8.8:1-443"),
        ("0.0.0.0/0", "10.1.2.3"),  # it opens no private space
        ("8.0.0.0/5", "10.0.0.0/8"),
        ("f800::/5", "fd00::1"),
        ("example.org", "a.example.org"),
        ("example.org", "*.example.org"),
        ("*.example.org", "example.org"),
        ("*.example.org", "xexample.org"),
        ("*.a.example.org", "*.example.org"),
        ("*.example.org:443", "a.example.org"),
        ("0.0.0.0/0", "example.org"),
        ("*.example.org", "8.8.8.8"),
    ],
)
def test_a_rule_does_not_lie_within_one_that_is_narrower_or_other(outer: str, inner: str) -> None:
    assert not within(parse_rule(outer), parse_rule(inner))


@st.composite
def narrower(draw: st.DrawFn, outer: Net | Host) -> Net | Host:
    """A rule that may lie within another, often on its very edge."""
    first, last = outer.ports or (1, 65535)
    ports = draw(st.just(outer.ports) | PORTS.map(lambda port: (min(max(port, first), last),) * 2))
    if isinstance(outer, Host):
        labels = (*draw(st.sampled_from([(), ("a",), ("b", "a")])), *outer.labels)
        return Host(labels, draw(st.booleans()) and len(labels) > 1, ports)
    width = 32 if "." in outer.address and ":" not in outer.address else 128
    return Net(outer.address, draw(st.integers(outer.length, width)), ports)


@st.composite
def covered(draw: st.DrawFn) -> tuple[list[Net | Host], list[Net | Host], bytes]:
    """Two lists of rules, the second often within the first, and an address."""
    packed = draw(addresses())
    near = nets(st.just(packed))
    rules = st.one_of(HOSTS, near, near, nets(addresses()))
    outer = draw(st.lists(rules, min_size=1, max_size=4))
    inner = st.sampled_from(outer).flatmap(narrower) | rules
    return outer, draw(st.lists(inner, max_size=4)), packed


@settings(max_examples=500)
@given(covered(), LEAVES, PORTS, PINNED)
@example(([Net("0.0.0.0", 0, None)], [Net("10.0.0.0", 8, None)], bytes((10, 1, 2, 3))), [], 443, [])
def test_what_a_covered_list_allows_the_covering_one_allows(
    lists: tuple[list[Net | Host], list[Net | Host], bytes], leave: list[str], port: int, pinned: list[str]
) -> None:
    outer, inner, packed = ([str(rule) for rule in lists[0]], [str(rule) for rule in lists[1]], lists[2])
    reach = Reach([parse_rule(rule) for rule in outer])
    kept = [rule for rule in inner if reach.opens(parse_rule(rule))]

    verdict = decide(parse_rules(kept, (), leave), canonical(packed), port, pinned)

    event(f"allowed: {verdict.allowed}, dropped: {len(inner) > len(kept)}")
    assert not verdict.allowed or decide(parse_rules(outer, (), leave), canonical(packed), port, pinned).allowed


@given(covered())
def test_rules_together_open_what_one_of_them_opens(lists: tuple[list[Net | Host], list[Net | Host], bytes]) -> None:
    outer, inner = ([parse_rule(str(rule)) for rule in rules] for rules in lists[:2])
    for rule in inner:
        assert Reach(outer).opens(rule) == any(within(one, rule) for one in outer)
        assert not Reach(outer).opens(rule) or Reach(outer).includes(rule)


TEXTS = st.lists((HOSTS | nets(addresses())).map(str), max_size=4).map(tuple)
LIMITS = st.fixed_dictionaries(
    {}, optional={"memory_mib": st.integers(16, 4096), "cpus": st.floats(0.05, 8), "pids": st.integers(4, 1024)}
).map(RequestedLimits.model_validate)
NAMES = st.none() | st.lists(st.sampled_from(["a", "b", "c"]), max_size=3, unique=True).map(tuple)
POLICIES = st.builds(
    OrgPolicy, limits=LIMITS, egress=st.none() | TEXTS, deny=TEXTS, templates=NAMES, backends=st.just(None)
)


@given(POLICIES, POLICIES)
def test_two_policies_together_are_within_each(floor: OrgPolicy, own: OrgPolicy) -> None:
    both = combined(floor, own)

    for one in (floor, own):
        check_narrower(both, one)
        assert set(one.deny) <= set(both.deny)
        assert combined(both, one).limits == both.limits
        assert combined(both, one).templates == both.templates
        assert set(combined(both, one).egress or ()) == set(both.egress or ())
    assert combined(FREE, own) == own == combined(own, FREE) or len(set(own.deny)) < len(own.deny)


@given(POLICIES, LIMITS)
def test_limits_are_the_lesser_of_what_there_is(floor: OrgPolicy, own: RequestedLimits) -> None:
    allowance = Allowance.of(CEILING, floor, OrgPolicy(limits=own))

    for name in SessionLimits.model_fields:
        limits = [value for one in (floor.limits, own) if (value := getattr(one, name)) is not None]
        most = getattr(allowance.ceiling.most, name)
        assert most == min(getattr(CEILING.most, name), *limits, 10**9)
        assert getattr(allowance.ceiling.default, name) == min(getattr(CEILING.default, name), most)


def fields(error: EnclaveError) -> dict[str, str]:
    return {problem.field: problem.message for problem in error.errors}


def forbidden(floor: OrgPolicy, own: OrgPolicy = FREE, grants: tuple[Grant, ...] = (), **asked: Any) -> dict[str, str]:
    request = CreateSessionRequest(**({"code": "x"} | asked))
    try:
        Allowance.of(CEILING, floor, own).check(request, "local", grants)
    except PolicyForbids as error:
        return fields(error)
    return {}


def reaching(*allow: str) -> EgressPolicy:
    return EgressPolicy(mode=EgressMode.ALLOWLIST, allow=allow)


def granted(url: str) -> tuple[Grant, ...]:
    return (Grant(name="crm", url=url, inject="bearer", secret="s"),)


def sourced(url: str) -> dict[str, Any]:
    return {"source": Source(git=GitSource(url=url))}


def test_a_request_is_held_against_the_floor_and_the_own_policy_one_by_one() -> None:
    floor, own = OrgPolicy(egress=("*.example.org:1-443",)), OrgPolicy(egress=("a.example.org:80-500", "b.example.org"))
    allowed = forbidden(floor, own, egress=reaching("a.example.org:80-443", "b.example.org:22"))

    assert allowed == {}
    assert forbidden(floor, own, egress=reaching("a.example.org:443", "c.example.org:443", "b.example.org")) == {
        "egress.allow.1": "c.example.org:443 is not within the egress of your org's policy: "
        "a.example.org:80-500, b.example.org",
        "egress.allow.2": "b.example.org is not within the egress of the operator's floor: *.example.org:1-443",
    }


def test_no_rules_are_no_egress_at_all() -> None:
    nothing = OrgPolicy(egress=())

    assert forbidden(nothing, egress=EgressPolicy()) == {}
    assert "there is none" in forbidden(nothing, egress=reaching("example.org"))["egress.allow.0"]
    assert set(forbidden(FREE, nothing, granted("https://api.example.org"))) == {"serviceBindings.0"}
    assert set(forbidden(nothing, **sourced("https://git.example.org/r"))) == {"source.git.url"}


@pytest.mark.parametrize(
    ("rule", "url"),
    [
        ("api.example.org:443", "https://api.example.org/v1"),
        ("*.example.org", "https://API.example.org:8443"),
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("[fd00::/8]:443", "https://[fd00::1]"),
        ("10.0.0.0/8:80", "http://10.1.2.3/a"),
    ],
)
def test_what_the_platform_calls_for_a_session_lies_within_a_rule(rule: str, url: str) -> None:
    assert forbidden(OrgPolicy(egress=(rule,)), FREE, granted(url)) == {}
    assert forbidden(OrgPolicy(egress=(rule,)), **sourced(url)) == {}
    assert set(forbidden(OrgPolicy(egress=(f"{'*.' * (rule[0] == '*')}other.test",)), FREE, granted(url))) != set()


@pytest.mark.parametrize(
    ("deny", "url"),
    [
        ("api.example.org", "https://api.example.org/v1"),
        ("*.example.org:443", "https://api.example.org"),
        ("0.0.0.0/0", "https://10.1.2.3"),  # it denies private space, though it opens none
        ("8.8.8.8", "https://[64:ff9b::808:808]"),
        ("203.0.113.7", "https://0xcb.0.113.7/"),  # some would read it so: nobody here does
    ],
)
def test_what_is_denied_is_denied_to_what_the_platform_calls(deny: str, url: str) -> None:
    for policies in ((OrgPolicy(deny=(deny,)), FREE), (FREE, OrgPolicy(deny=(deny,)))):
        assert set(forbidden(*policies, **sourced(url))) == {"source.git.url"}
    assert forbidden(OrgPolicy(deny=("other.test", "192.0.2.1")), **sourced("https://api.example.org")) == {}


def test_templates_and_backends_are_those_that_are_listed() -> None:
    floor = OrgPolicy(templates=("pandas", "numpy"), backends=("oci", "local"))

    assert forbidden(floor, template="pandas") == {}
    assert forbidden(floor) == {}
    assert forbidden(floor, OrgPolicy(templates=("numpy",), backends=("oci",)), template="pandas") == {
        "template": "pandas is none of those of your org's policy: numpy",
        "backend": "local is none of those of your org's policy: oci",
    }


def test_what_is_denied_is_added_to_an_allowlist_and_to_nothing_else() -> None:
    allowance = Allowance.of(CEILING, OrgPolicy(deny=("a.test",)), OrgPolicy(deny=("b.test", "a.test")))
    asked = EgressPolicy(mode=EgressMode.ALLOWLIST, allow=("*.test",), deny=("b.test", "c.test"))

    assert allowance.egress(asked).deny == ("b.test", "c.test", "a.test")
    assert allowance.egress(EgressPolicy()) == EgressPolicy()


def test_three_full_lists_of_denials_are_a_policy_that_can_be_read_again() -> None:
    def full(name: str) -> tuple[str, ...]:
        return tuple(f"{name}{number}.example.test" for number in range(MAX_RULES))

    allowance = Allowance.of(CEILING, OrgPolicy(deny=full("a")), OrgPolicy(deny=full("b")))
    egress = allowance.egress(EgressPolicy(mode=EgressMode.ALLOWLIST, deny=full("c")))
    both = combined(OrgPolicy(egress=full("a"), deny=full("a")), OrgPolicy(egress=("*.example.test",), deny=full("b")))

    assert len(egress.deny) == 3 * MAX_RULES
    assert EgressPolicy.model_validate_json(egress.model_dump_json()) == egress
    assert OrgPolicy.model_validate_json(both.model_dump_json()) == both


@pytest.mark.parametrize(
    ("policy", "problem"),
    [
        ({"limits": {"memoryMiB": -1}}, "limits.memoryMiB"),
        ({"limits": {"cpuSeconds": 1e300}}, "limits.cpuSeconds"),
        ({"egress": ["ok.test", "*.com"]}, "egress.1"),
        ({"deny": ["10.0.0.1/8"]}, "deny.0"),
        ({"deny": ["a.test"] * (MAX_RULES + 1)}, "deny"),
        ({"egress": ["a.test"] * (MAX_RULES + 1)}, "egress"),
    ],
)
def test_a_malformed_policy_is_refused_by_field(policy: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_form(OrgPolicy.model_validate(policy, strict=False), CEILING, at="floor.")

    assert list(fields(refused.value)) == [f"floor.{problem}"]


@pytest.mark.parametrize("bad", [-1, float("nan"), float("inf"), 2**54, 1e300, "1", True])
@pytest.mark.parametrize("quota", Quotas.model_fields)
def test_a_quota_that_is_no_amount_is_refused(quota: str, bad: object) -> None:
    with pytest.raises(ValueError, match=quota.partition("_")[0]):
        Quotas.model_validate({quota: bad})


def test_an_org_can_only_narrow_the_floor() -> None:
    floor = OrgPolicy(
        limits=RequestedLimits(memory_mib=512),
        egress=("*.example.org",),
        templates=("pandas",),
        backends=("local",),
    )
    wide = OrgPolicy(
        limits=RequestedLimits(memory_mib=513, pids=8),
        egress=("a.example.org", "example.org"),
        deny=("anything.test",),
        templates=("pandas", "numpy"),
        backends=("oci",),
    )

    check_narrower(FREE, floor)
    check_narrower(floor, floor)
    check_narrower(wide, FREE)
    with pytest.raises(PolicyForbids) as refused:
        check_narrower(wide, floor)
    assert fields(refused.value) == {
        "limits.memoryMiB": "must be at most 512, the operator's floor",
        "egress.1": "example.org is not within the egress of the operator's floor: *.example.org",
        "templates.1": "numpy is none of those of the operator's floor: pandas",
        "backends.0": "oci is none of those of the operator's floor: local",
    }
