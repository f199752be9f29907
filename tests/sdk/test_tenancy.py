"""`client.policy`, `client.usage` and the operator's clients, blocking and awaited, against recorded answers."""

import asyncio
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from enclave import AsyncOperator, Operator
from enclave.contracts.errors import InvalidRequest, PolicyForbids, QuotaExceeded, Unauthenticated
from enclave.contracts.identity import Role
from enclave.contracts.members import Invitation, OpenInvitation
from enclave.contracts.orgs import FoundedOrg, OrgState, ResetCode
from enclave.contracts.tenancy import OrgPolicy, OrgTerms, PolicyView
from enclave.contracts.wire import Page
from tests.cli.test_key import KEY
from tests.cli.test_usage import USAGE
from tests.sdk.conftest import Play
from tests.sdk.samples import NOW
from tests.sdk.scripted import ok, problem, scripted

VIEW = PolicyView(floor=OrgPolicy(), own=OrgPolicy(egress=()), effective=OrgPolicy(egress=()))
OPEN = OpenInvitation(id="1", email="ada@example.org", role=Role.OWNER, expires_at=NOW)
STATE = OrgState(id="org_1", name="One", created_at=NOW, disabled_at=None)
FOUNDED = FoundedOrg(org=STATE, invitation=Invitation(**dict(OPEN), code="ei_1_secret"))
RESET = ResetCode(email=OPEN.email, expires_at=NOW, code="ep_1_secret")


def test_a_policy_is_read_and_set_as_it_was_written(play: Play) -> None:
    def script(client: Any) -> Generator[Any, Any, Any]:
        used = yield client.usage()
        found = yield client.policy.get()
        return used, found, (yield client.policy.put({"egress": [], "limits": {"memoryMiB": 64}}))

    with scripted(ok(USAGE), ok(VIEW), ok(VIEW)) as server:
        assert play(server.base_url, script) == (USAGE, VIEW, VIEW)

    assert [(asked.method, asked.path) for asked in server.asked] == [
        ("GET", "/usage"), ("GET", "/policy"), ("PUT", "/policy"),
    ]  # fmt: skip
    assert json.loads(server.asked[2].body) == {"egress": [], "limits": {"memoryMiB": 64}}


def test_a_policy_that_is_none_is_refused_here(play: Play) -> None:
    def script(client: Any) -> Generator[Any, Any, Any]:
        return (yield client.policy.put({"limits": {"memory": 64}}))

    with scripted() as server, pytest.raises(InvalidRequest, match=r"limits\.memory"):
        play(server.base_url, script)


def test_what_a_quota_and_a_policy_refuse_comes_through(play: Play) -> None:
    def script(client: Any) -> Generator[Any, Any, Any]:
        return (yield client.run("pass"))

    full = problem(429, "quota_exceeded", "too many", retryAfter=3.5, quota="creates_per_minute")
    with scripted(full) as server, pytest.raises(QuotaExceeded) as used_up:
        play(server.base_url, script)
    field = {"field": "limits.pids", "message": "at most 32"}
    with scripted(problem(403, "policy_forbids", "no", errors=[field])) as server, pytest.raises(PolicyForbids) as no:
        play(server.base_url, script)

    assert (used_up.value.quota, used_up.value.retry_after) == ("creates_per_minute", 3.5)
    assert [one.model_dump() for one in no.value.errors] == [field]


def test_invitations_are_gone_through_and_taken_back(play: Play) -> None:
    def script(client: Any) -> Generator[Any, Any, Any]:
        found = yield client.members.invitations()
        return found, (yield client.members.withdraw("1"))

    with scripted(ok(Page[OpenInvitation](items=(OPEN,))), ok(OPEN)) as server:
        assert play(server.base_url, script) == ([OPEN], OPEN)

    assert [(asked.method, asked.path) for asked in server.asked] == [
        ("GET", "/invitations"), ("DELETE", "/invitations/1"),
    ]  # fmt: skip


CALLS: list[tuple[str, tuple[Any, ...], Any, str]] = [
    ("found", ("One", OPEN.email), FOUNDED, "POST /operator/orgs"),
    ("disable", ("org_1",), STATE, "POST /operator/orgs/org_1/disable"),
    ("enable", ("org_1",), STATE, "POST /operator/orgs/org_1/enable"),
    ("revoke_key", ("1",), KEY, "DELETE /operator/keys/1"),
    ("reset_password", (OPEN.email,), RESET, "POST /operator/passwords"),
    ("terms", (), OrgTerms(), "GET /operator/orgs/default/terms"),
    ("put_terms", ("org_1", {"quotas": {"stored_bytes": 1}}), OrgTerms(), "PUT /operator/orgs/org_1/terms"),
    ("usage", ("org_1",), USAGE, "GET /operator/orgs/org_1/usage"),
]


@pytest.mark.parametrize(("name", "args", "answer", "asked"), CALLS, ids=[call[0] for call in CALLS])
def test_both_operators_ask_the_same(name: str, args: tuple[Any, ...], answer: Any, asked: str) -> None:
    async def awaited(site: str) -> Any:
        async with AsyncOperator(site, key="eo_1_s") as operator:
            return await getattr(operator, name)(*args)

    with scripted(ok(answer), ok(answer)) as server:
        with Operator(server.base_url, key="eo_1_s") as operator:
            assert getattr(operator, name)(*args) == answer
        assert asyncio.run(awaited(server.base_url)) == answer

    assert [f"{one.method} {one.path}" for one in server.asked] == [asked] * 2
    assert {one.headers["authorization"] for one in server.asked} == {"Bearer eo_1_s"}


def test_both_operators_go_through_all_orgs() -> None:
    async def awaited(site: str) -> list[OrgState]:
        async with AsyncOperator(site, key="eo_1_s") as operator:
            return [org async for org in operator.orgs()]

    pages = (Page[OrgState](items=(STATE,), next_cursor="c"), Page[OrgState](items=(STATE,)))
    with scripted(*map(ok, pages * 2)) as server:
        with Operator(server.base_url, key="eo_1_s") as operator:
            assert list(operator.orgs()) == [STATE, STATE]
        assert asyncio.run(awaited(server.base_url)) == [STATE, STATE]


def test_an_operators_credential_is_found_and_shown_to_no_other_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ENCLAVE_BASE_URL", raising=False)
    monkeypatch.setenv("ENCLAVE_API_KEY", "ek_1_s")
    monkeypatch.setenv("ENCLAVE_HOME", str(tmp_path))
    with pytest.raises(Unauthenticated, match="ENCLAVE_OPERATOR_KEY"):
        Operator()
    (tmp_path / "operator.json").write_text('{"baseUrl": "http://127.0.0.1:9", "apiKey": "eo_1_left"}')
    with pytest.raises(Unauthenticated, match="others can read"):
        Operator()
    (tmp_path / "operator.json").chmod(0o600)
    assert repr(Operator()) == "Operator('http://127.0.0.1:9')"
    with pytest.raises(Unauthenticated, match="operator's credential for http"):
        Operator("http://127.0.0.1:8")
    monkeypatch.setenv("ENCLAVE_OPERATOR_KEY", "eo_1_named")
    assert repr(Operator("http://127.0.0.1:8")) == "Operator('http://127.0.0.1:8')"
