"""Quotas, policies and usage over HTTP: what the operator sets, what an org sees, and how it is refused."""

import asyncio
import json
from collections import Counter
from typing import Any

import pytest
from pydantic import TypeAdapter

from enclave.backends.base import Exit
from enclave.contracts.audit import AuditEvent
from enclave.contracts.errors import QuotaExceeded
from enclave.contracts.policy import Language
from enclave.core.audit import verify
from enclave.server.problems import answer
from tests.server.conftest import Answer, Site

pytestmark = pytest.mark.anyio

RUN = {"code": "pass"}


async def operate(site: Site, method: str, path: str, body: object = None) -> Answer:
    return await site.ask(method, f"/operator/orgs/{path}", body, token=str(site.identity.authority.issue_operator()))


async def grant(site: Site, org_id: str = "org_a", **terms: Any) -> Any:
    answer = await operate(site, "PUT", f"{org_id}/terms", terms)
    assert answer.status == 200, answer.json
    return answer.json


def fields(answer: Answer) -> list[str]:
    return [problem["field"] for problem in answer.json["errors"]]


async def test_a_refusal_says_which_quota_how_much_and_until_when(site: Site) -> None:
    await grant(site, quotas={"createsPerMinute": 2})
    for _ in range(2):
        assert (await site.ask("POST", "/sessions", RUN)).status == 201
    answer = await site.ask("POST", "/sessions", RUN)

    assert answer.status == 429
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.json["code"], answer.json["quota"]) == ("quota_exceeded", "createsPerMinute")
    assert answer.json["detail"] == "2 of 2 sessions of this minute are created; wait and retry"
    assert 0 < answer.json["retryAfter"] <= int(answer.headers["retry-after"]) <= 60
    assert (await site.ask("POST", "/sessions", RUN, token="owner.org_b")).status == 201


def test_nobody_is_told_to_come_back_before_it_is_time() -> None:
    """The header has whole seconds (RFC 9110, section 10.2.3)."""
    for seconds, told in ((0.2, "1"), (10.2, "11"), (11.0, "11"), (0.0, "1")):
        assert answer(QuotaExceeded(retry_after=seconds)).headers["retry-after"] == told


async def test_fifty_at_once_and_five_run(site: Site) -> None:
    await grant(site, quotas={"concurrentSessions": 5})

    answers = await asyncio.gather(*(site.ask("POST", "/sessions", RUN) for _ in range(50)))

    assert Counter(answer.status for answer in answers) == {201: 5, 429: 45}
    usage = (await site.ask("GET", "/usage")).json
    assert usage["concurrentSessions"] == {"used": 5, "limit": 5}


async def test_usage_is_the_same_to_the_org_and_to_the_operator(site: Site) -> None:
    site.backend.play = lambda puppet: puppet.end(Exit(code=0))
    await grant(site, quotas={"cpuSecondsPerDay": 0.5, "storedBytes": 10**15})
    await site.run(prefer="wait=5")

    usage = await site.ask("GET", "/usage", token="viewer.org_a")
    assert usage.json == (await operate(site, "GET", "org_a/usage")).json
    assert usage.json["createsPerMinute"] == {"used": 1, "limit": None}
    assert usage.json["cpuSecondsPerDay"] == {"used": 0, "limit": 0.5}
    assert usage.json["storedBytes"] == {"used": 0, "limit": 10**15}
    assert usage.json["resetsAt"].endswith("T00:00:00.000000Z")
    assert (await operate(site, "GET", "org_b/usage")).json["createsPerMinute"]["used"] == 0


async def test_a_policy_narrows_and_what_is_outside_of_it_is_forbidden_by_field(site: Site) -> None:
    floor = {"limits": {"memoryMiB": 512}, "egress": ["*.example.org:443"], "templates": ["pandas"]}
    await grant(site, floor=floor)
    own = {"limits": {"memoryMiB": 128}, "egress": ["api.example.org:443"], "deny": ["x.example.org"]}
    put = await site.ask("PUT", "/policy", own)
    assert put.status == 200
    assert put.json == (await site.ask("GET", "/policy", token="viewer.org_a")).json
    assert put.json["effective"]["egress"] == ["api.example.org:443"]
    assert put.json["effective"]["templates"] == ["pandas"]
    assert put.json["effective"]["limits"]["memoryMiB"] == 128
    await site.ask(
        "PUT", "/bindings/crm", {"url": "https://b.example.org", "inject": {"kind": "bearer"}, "secret": "s3cr"}
    )

    egress = {"mode": "allowlist", "allow": ["api.example.org:443", "b.example.org:443"]}
    source = {"git": {"url": "https://git.example.org/r"}}
    asked = RUN | {"egress": egress, "serviceBindings": ["crm"], "source": source}
    answer = await site.ask("POST", "/sessions", asked)
    assert (answer.status, answer.json["code"]) == (403, "policy_forbids")
    assert sorted(fields(answer)) == ["egress.allow.1", "serviceBindings.0", "source.git.url"]
    assert answer.json["detail"].endswith("egress.allow.1, serviceBindings.0, source.git.url")
    over = await site.ask("POST", "/sessions", RUN | {"limits": {"memoryMiB": 129}})
    assert (over.status, over.json["errors"][0]["message"]) == (400, "must be between 16 and 128")

    fits = RUN | {"egress": {"mode": "allowlist", "allow": ["api.example.org:443"]}}
    session = await site.ask("POST", "/sessions", fits)
    assert (session.status, session.json["egress"]["deny"]) == (201, ["x.example.org"])
    assert session.json["limits"]["memoryMiB"] == 128
    assert (await site.ask("POST", "/sessions", asked, token="owner.org_b")).status != 403


async def test_a_template_that_is_not_listed_is_forbidden_though_it_is_there(site: Site) -> None:
    site.backend.offered = {"pandas": Language.PYTHON, "torch": Language.PYTHON}
    await grant(site, floor={"templates": ["pandas"], "backends": ["puppet"]})

    assert (await site.ask("POST", "/sessions", RUN | {"template": "pandas"})).status == 201
    assert fields(await site.ask("POST", "/sessions", RUN | {"template": "torch"})) == ["template"]
    await site.ask("PUT", "/policy", {"backends": []})
    answer = await site.ask("POST", "/sessions", RUN)
    assert (answer.status, fields(answer)) == (403, ["backend"])


async def test_an_org_cannot_widen_its_floor(site: Site) -> None:
    await grant(site, floor={"limits": {"cpus": 1}, "egress": ["*.example.org"]})

    wide = {"limits": {"cpus": 2}, "egress": ["example.org"]}
    answer = await site.ask("PUT", "/policy", wide)
    assert (answer.status, sorted(fields(answer))) == (403, ["egress.0", "limits.cpus"])
    assert (await site.ask("GET", "/policy")).json["own"] == {
        "limits": dict.fromkeys((await site.ask("GET", "/policy")).json["own"]["limits"]),
        "egress": None, "deny": [], "templates": None, "backends": None,
    }  # fmt: skip


BAD: list[bytes] = [
    b'{"quotas": {"createsPerMinute": -1}}',
    b'{"quotas": {"createsPerMinute": 1e9}}',
    b'{"quotas": {"cpuSecondsPerDay": NaN}}',
    b'{"quotas": {"cpuSecondsPerDay": Infinity}}',
    b'{"quotas": {"cpuSecondsPerDay": 1e999}}',
    b'{"quotas": {"storedBytes": 1' + b"0" * 5000 + b"}}",
    b'{"quotas": {"storedBytes": "1"}}',
    b'{"quotas": {"sessions": 1}}',
    b'{"floor": {"limits": {"pids": -5}}}',
    b'{"floor": {"egress": ["*"]}}',
    b'{"floor": {"deny": ["http://a.test"]}}',
    b'{"floor": {"egress": [' + b",".join([b'"a.test"'] * 1000) + b"]}}",
    b'{"floor": {"templates": ["../x"]}}',
    b"[]",
    b"null",
]


@pytest.mark.parametrize("body", BAD, ids=lambda body: body[:40].decode())
async def test_terms_that_are_none_are_refused_and_change_nothing(site: Site, body: bytes) -> None:
    answer = await operate(site, "PUT", "org_a/terms", body)

    assert answer.status == 400, answer.json
    assert (await operate(site, "GET", "org_a/terms")).json["quotas"]["createsPerMinute"] is None


async def test_a_million_rules_are_refused_before_they_are_read(site: Site) -> None:
    body = json.dumps({"deny": ["a.test"] * 1_000_000}).encode()

    assert (await site.ask("PUT", "/policy", body)).status == 400
    assert (await site.ask("GET", "/policy")).json["own"]["deny"] == []


async def test_full_lists_on_all_sides_are_taken_and_read_again(site: Site) -> None:
    def full(name: str) -> list[str]:
        return [f"{name}{number}.example.org" for number in range(256)]

    await grant(site, floor={"egress": ["*.example.org"], "deny": full("a")})
    assert (await site.ask("PUT", "/policy", {"egress": full("b"), "deny": full("c")})).status == 200
    egress = {"mode": "allowlist", "allow": full("b"), "deny": full("d")}
    session = await site.ask("POST", "/sessions", RUN | {"egress": egress}, prefer="wait=0")
    assert session.status == 201, session.json
    assert len(session.json["egress"]["deny"]) == 768
    over = await site.ask("POST", "/sessions", RUN | {"egress": egress | {"deny": [*full("d"), "e.test"]}})
    assert (over.status, fields(over)) == (400, ["egress.deny"])
    await site.ask("DELETE", f"/sessions/{session.json['id']}")
    assert len((await site.ask("GET", "/sessions")).json["items"][0]["egress"]["deny"]) == 768


async def test_orgs_act_on_their_own_alone(site: Site) -> None:
    for role in ("owner", "admin", "auditor"):
        for method, path, body in (("GET", "terms", None), ("PUT", "terms", {}), ("GET", "usage", None)):
            for org_id in ("org_a", "org_b", "default"):
                answer = await site.ask(method, f"/operator/orgs/{org_id}/{path}", body, token=f"{role}.org_a")
                assert (answer.status, answer.json["code"]) == (403, "forbidden")


@pytest.mark.parametrize("org_id", ["%00", "a%2Fb", "x" * 65, "%ff", "a%20b", "..", "%0a"])
async def test_no_org_can_be_called_so(site: Site, org_id: str) -> None:
    for method, body in (("GET", None), ("PUT", {})):
        assert (await operate(site, method, f"{org_id}/terms", body)).status in (404, 405)
    assert (await operate(site, "GET", f"{org_id}/usage")).status == 404
    assert (await operate(site, "GET", "default/usage")).status == 404


async def test_changes_are_in_the_chain_and_refusals_too(site: Site) -> None:
    await grant(site, quotas={"createsPerMinute": 0})
    await site.ask("PUT", "/policy", {"templates": []})
    for _ in range(3):
        assert (await site.ask("POST", "/sessions", RUN)).status == 429
    await site.orchestrator.tick()

    raw = (await site.ask("GET", "/audit?limit=200")).json["items"]
    chain = TypeAdapter(list[AuditEvent]).validate_python(raw, strict=False)
    assert [event.type for event in chain] == ["org_terms_changed", "org_policy_changed", "quota_refused"]
    assert (raw[2]["quota"], raw[2]["count"], verify(chain)) == ("createsPerMinute", 3, None)


async def test_an_org_that_is_disabled_runs_nothing_when_the_answer_comes(site: Site) -> None:
    mine = [(await site.ask("POST", "/sessions", RUN)).json["id"] for _ in range(3)]
    theirs = (await site.ask("POST", "/sessions", RUN, token="owner.org_b")).json["id"]

    assert (await operate(site, "POST", "org_a/disable")).status == 200
    assert list(site.backend.puppets) == [theirs]
    # These credentials the test's own authenticator knows, as one does that was asked a moment before.
    assert (await site.ask("POST", "/sessions", RUN)).status == 401
    assert (await operate(site, "POST", "org_a/enable")).status == 200
    assert (await site.ask("POST", "/sessions", RUN)).status == 201
    for session_id in mine:
        assert (await site.ask("GET", f"/sessions/{session_id}")).json["phase"] == "torn_down"
