"""Orgs, members and the operator over HTTP: what nobody may, by each who might try it, and what is told of that."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from enclave.contracts.audit import AuditEvent
from enclave.contracts.errors import Forbidden, PolicyForbids, Unauthenticated
from enclave.contracts.identity import Principal, Role, Scope
from enclave.contracts.operations import CREATE_SESSION, OPERATIONS, WHOAMI, Operation
from enclave.core.access import ROLES
from enclave.server.refusals import Refusals
from tests.server.conftest import BOTH, Answer, Site
from tests.server.test_sign_in import EMAIL, PASSWORD, joined, post

pytestmark = pytest.mark.anyio
SITES = BOTH

TICKET = "0123456789abcdef_" + "a" * 43
ODD = ["", "x", "ek_" + TICKET, "eo_" + TICKET, "er_" + TICKET, "a.b.c", "ek_" + "a" * 8000, "x" * 8193, "\xe9" * 20]


@pytest.fixture
def operator(site: Site) -> str:
    return str(site.identity.authority.issue_operator())


@pytest.mark.parametrize("operation", [one for one in OPERATIONS if not one.public], ids=lambda one: one.name)
async def test_an_odd_credential_is_401_wherever_it_is_given(site: Site, operation: Operation) -> None:
    path = operation.path.format(id="x", name="x", path="x")
    answers = [await site.ask(operation.method, path, token=token) for token in ODD]
    without = await site.ask(operation.method, path, token=None)
    assert {answer.status for answer in answers} == {401}
    assert {answer.body for answer in answers} == {without.body}


async def test_a_credential_with_a_null_byte_is_refused_before_it_is_read(site: Site) -> None:
    """No header has one (RFC 9110, section 5.5): the parser of HTTP says so, with 400."""
    assert (await site.ask("GET", "/whoami", token="ek_\0")).status == 400
    with pytest.raises(Unauthenticated):
        await site.identity.authority.authenticate(f"ek_{TICKET}\0")


@pytest.mark.parametrize("caller", list(Role))
@pytest.mark.parametrize("role", list(Role))
async def test_nobody_gives_or_takes_a_role_that_may_more_than_they(site: Site, caller: Role, role: Role) -> None:
    """Of each caller and each role: invite to it, withdraw such an invitation, make oneself and another it, and remove
    who has it."""
    token = f"{caller}.org_a"
    may = Scope.MEMBERS_WRITE in ROLES[caller] and ROLES[role] <= ROLES[caller]
    invite = {"email": EMAIL, "role": role}
    invitation = (await post(site, "/invitations", invite, "owner.org_a")).json
    second = (await post(site, "/invitations", {**invite, "email": "second@example.org"}, "owner.org_a")).json
    other = (await post(site, "/invitations/accept", {"code": second["code"], "password": PASSWORD})).json
    target = (await site.ask("GET", "/whoami", token=other["token"])).json["userId"]
    answers = [
        await post(site, "/invitations", invite, token),
        await site.ask("DELETE", f"/invitations/{invitation['id']}", token=token),
        await site.ask("PUT", f"/members/{target}", {"role": role}, token=token),
        await site.ask("DELETE", f"/members/{target}", token=token),
    ]
    assert [answer.status for answer in answers] == ([201, 200, 200, 200] if may else [403] * 4)
    if role is not caller:
        raised = await site.ask("PUT", f"/members/{token}", {"role": role}, token=token)
        # The one owner there is stays one; everyone else who may makes themself less.
        assert raised.status == (409 if caller is Role.OWNER else 200 if may else 403)


@pytest.mark.parametrize("caller", list(Role))
async def test_the_last_owner_stays_whoever_asks(site: Site, caller: Role) -> None:
    removed = await site.ask("DELETE", "/members/owner.org_a", token=f"{caller}.org_a")
    lowered = await site.ask("PUT", "/members/owner.org_a", {"role": "admin"}, token=f"{caller}.org_a")
    assert [removed.status, lowered.status] == [409 if caller is Role.OWNER else 403] * 2
    assert "owner.org_a" in (await site.ask("GET", "/members")).body.decode()


@pytest.mark.parametrize("caller", list(Role))
async def test_what_is_another_orgs_is_as_what_is_not_there(site: Site, caller: Role) -> None:
    token = f"{caller}.org_a"
    invitation = (await post(site, "/invitations", {"email": EMAIL, "role": "viewer"}, "owner.org_b")).json["id"]
    key = (await post(site, "/keys", {"name": "k"}, "owner.org_b")).json["id"]
    tries: list[tuple[str, str, str, object]] = [
        ("DELETE", f"/invitations/{invitation}", "/invitations/0123456789abcdef", None),
        ("DELETE", f"/keys/{key}", "/keys/0123456789abcdef", None),
        ("DELETE", "/members/viewer.org_b", "/members/usr_0", None),
        ("PUT", "/members/viewer.org_b", "/members/usr_0", {"role": "viewer"}),
    ]
    for method, theirs, none, body in tries:
        one, other = [await site.ask(method, path, body, token=token) for path in (theirs, none)]
        assert (one.status, one.body) == (other.status, other.body)
        assert one.status == (404 if caller in (Role.OWNER, Role.ADMIN) else 403)


async def test_a_user_makes_an_org_switches_to_it_and_is_alone_there(site: Site) -> None:
    tokens = await joined(site, "owner")
    made = await post(site, "/orgs", {"name": "Acme Inc."}, tokens["token"])
    assert (made.status, set(made.json)) == (201, {"id", "name", "role", "createdAt"})
    there = (await post(site, "/token/switch", {"refreshToken": tokens["refreshToken"], "orgId": made.json["id"]})).json
    assert there["orgId"] == made.json["id"]
    members = (await site.ask("GET", "/members", token=there["token"])).json["items"]
    assert [one["email"] for one in members] == [EMAIL]
    orgs = (await site.ask("GET", "/orgs", token=there["token"])).json["items"]
    assert {one["id"] for one in orgs} == {"org_a", made.json["id"]}
    assert [e["type"] for e in (await site.ask("GET", "/audit", token=there["token"])).json["items"]] == [
        "org_created",
        "signed_in",
    ]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/orgs", {"name": ""}),
        ("/orgs", {"name": "a\n"}),
        ("/orgs", {"name": "é"}),
        ("/orgs", {"name": "a" * 65}),
        ("/orgs", {"name": "a", "id": "org_b"}),
        ("/password", {"current": "x", "new": ""}),
        ("/password", {"current": "x", "new": "y" * 257}),
        ("/password", {"current": PASSWORD, "new": "short"}),
        ("/token/switch", {"refreshToken": "x" * 129, "orgId": "org_b"}),
        ("/token/switch", {"refreshToken": "x", "orgId": ""}),
        ("/password/reset", {"code": "", "password": PASSWORD}),
        ("/password/reset", {"code": "x", "password": "short"}),
    ],
)
async def test_what_is_wrong_is_refused(site: Site, path: str, body: Any) -> None:
    answer = await post(site, path, body, "owner.org_a")
    assert (answer.status, answer.json["code"]) == (400, "invalid_request")


@pytest.mark.parametrize("odd", ["\0", "é", "er_\0", "ep_" + TICKET, "er_" + TICKET, "' OR 1=1 --", "\ud800"])
async def test_an_odd_ticket_is_refused_and_nothing_worse(site: Site, odd: str) -> None:
    for path, body in (
        ("/token/switch", {"refreshToken": odd, "orgId": odd}),
        ("/password/reset", {"code": odd, "password": PASSWORD}),
    ):
        assert (await post(site, path, body)).status in (400, 401)


async def test_the_operator_disables_an_org_and_its_callers_are_refused_like_any(site: Site, operator: str) -> None:
    tokens = await joined(site)
    key = (await post(site, "/keys", {"name": "k"}, "owner.org_a")).json["apiKey"]
    disabled = await post(site, "/operator/orgs/org_a/disable", None, operator)
    wrong = await site.ask("GET", "/whoami", token="x")
    for credential in (key, tokens["token"]):
        answer = await site.ask("GET", "/whoami", token=credential)
        assert (answer.status, answer.body) == (401, wrong.body)
    assert disabled.json["disabledAt"]
    assert (await post(site, "/operator/orgs/org_a/enable", None, operator)).json["disabledAt"] is None
    assert (await site.ask("GET", "/whoami", token=key)).status == 200
    assert (await post(site, "/operator/orgs/org_0/disable", None, operator)).status == 404


async def test_a_founded_orgs_owner_joins_and_sets_their_password_anew(site: Site, operator: str) -> None:
    founded = (await post(site, "/operator/orgs", {"name": "acme", "ownerEmail": EMAIL}, operator)).json
    code = founded["invitation"]["code"]
    tokens = (await post(site, "/invitations/accept", {"code": code, "password": PASSWORD})).json
    assert (tokens["orgId"], tokens["role"]) == (founded["org"]["id"], "owner")
    reset = (await post(site, "/operator/passwords", {"email": EMAIL}, operator)).json
    body = {"code": reset["code"], "password": "another long password"}
    assert (await post(site, "/password/reset", body)).json == {"ok": True}
    assert (await post(site, "/password/reset", body)).status == 401
    assert (await site.ask("GET", "/whoami", token=tokens["token"])).status == 401
    assert (await post(site, "/login", {"email": EMAIL, "password": PASSWORD})).status == 401
    fresh = (await post(site, "/login", {"email": EMAIL, "password": "another long password"})).json
    changed = await post(site, "/password", {"current": "another long password", "new": PASSWORD}, fresh["token"])
    assert set(changed.json) == set(tokens)
    assert (await site.ask("GET", "/whoami", token=changed.json["token"])).status == 200


async def test_calls_that_are_refused_are_told_together(site: Site) -> None:
    for _ in range(3):
        await post(site, "/sessions", {"code": "x"}, "viewer.org_a")
    await asyncio.gather(*(site.ask("GET", "/keys", token="developer.org_a") for _ in range(2)))
    await post(site, "/invitations", {"email": EMAIL, "role": "owner"}, "admin.org_a")
    await post(site, "/operator/orgs", {}, "owner.org_a")
    told = await refusals(site)
    assert sorted((one["actor"], one["operation"], one["reason"], one["count"]) for one in told) == [
        ("admin.org_a", "create_invitation", "scope", 1),
        ("developer.org_a", "list_keys", "scope", 2),
        ("owner.org_a", "operator_found_org", "scope", 1),
        ("viewer.org_a", "create_session", "scope", 3),
    ]
    assert await refusals(site) == told


async def refusals(site: Site) -> list[Any]:
    await site.tell()
    return [one for one in (await audit(site)).json["items"] if one["type"] == "access_refused"]


async def audit(site: Site) -> Answer:
    return await site.ask("GET", "/audit?limit=200")


async def test_what_a_policy_forbids_is_told_as_that_and_what_cannot_be_told_waits() -> None:
    told: list[AuditEvent] = []

    async def sink(key: str, event: AuditEvent) -> None:
        if len(told) == 1:
            told.append(event)
            raise OSError("full")
        told.append(event)

    refused, ada = Refusals(), Principal(user_id="ada", org_id="org_a", role=Role.VIEWER, scopes=frozenset())
    refused.note(ada, CREATE_SESSION, PolicyForbids())
    refused.note(ada, WHOAMI, Forbidden())
    at = datetime.now(UTC)
    with pytest.raises(OSError, match="full"):
        await refused.tell(sink, at)
    await refused.tell(sink, at)
    found = [event.model_dump(include={"operation", "reason", "count"}) for event in (told[0], told[2])]
    assert found == [
        {"operation": "create_session", "reason": "policy", "count": 1},
        {"operation": "whoami", "reason": "scope", "count": 1},
    ]
    assert len(told) == 3
