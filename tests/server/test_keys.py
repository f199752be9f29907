"""API keys over HTTP: that nobody gives what they have not, that what is revoked is refused, and what is told of it."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from enclave.contracts.audit import AuditEvent
from enclave.contracts.identity import Role, Scope
from enclave.core.access import ROLES, ordered
from enclave.core.audit import verify
from tests.server.conftest import BOTH, Answer, Site

pytestmark = pytest.mark.anyio
SITES = BOTH

SHOWN = {"id", "name", "role", "scopes", "createdBy", "createdAt", "expiresAt", "lastUsedAt", "revokedAt"}
SOON, LATER = "2999-01-01T00:00:00Z", "2999-01-02T00:00:00Z"


async def create(site: Site, token: str = "owner.org_a", **terms: Any) -> Answer:
    return await site.ask("POST", "/keys", {"name": "k", **terms}, token=token)


async def made(site: Site, token: str = "owner.org_a", **terms: Any) -> Any:
    answer = await create(site, token, **terms)
    assert answer.status == 201, answer.json
    return answer.json


async def trail(site: Site) -> list[AuditEvent]:
    return TypeAdapter(list[AuditEvent]).validate_python(
        (await site.ask("GET", "/audit?limit=200")).json["items"], strict=False
    )


async def test_a_key_is_made_used_listed_and_revoked(site: Site) -> None:
    key = await made(site, name="ci", scopes=["sessions:read"])
    assert set(key) == SHOWN | {"apiKey"}
    assert [key[name] for name in ("name", "scopes", "createdBy")] == ["ci", ["sessions:read"], "owner.org_a"]
    me = (await site.ask("GET", "/whoami", token=key["apiKey"])).json
    assert me == {"userId": key["id"], "orgId": "org_a", "role": "owner", "scopes": ["sessions:read"]}
    assert (await site.ask("POST", "/sessions", {"code": "x"}, token=key["apiKey"])).status == 403
    (listed,) = (await site.ask("GET", "/keys")).json["items"]
    assert set(listed) == SHOWN
    assert listed["lastUsedAt"] > listed["createdAt"]
    revoked = await site.ask("DELETE", f"/keys/{key['id']}")
    again = await site.ask("DELETE", f"/keys/{key['id']}")
    assert (revoked.status, again.json) == (200, revoked.json)
    assert revoked.json["revokedAt"]
    assert (await site.ask("GET", "/whoami", token=key["apiKey"])).status == 401


async def test_keys_are_listed_page_by_page_oldest_first(site: Site) -> None:
    for name in ("c", "a", "b"):
        await made(site, name=name)
    await made(site, "owner.org_b", name="theirs")
    names, path = [], "/keys?limit=2"
    while path:
        page = (await site.ask("GET", path)).json
        names.append([one["name"] for one in page["items"]])
        path = f"/keys?limit=2&cursor={page['nextCursor']}" if page["nextCursor"] else ""
    assert names == [["c", "a"], ["b"]]


@pytest.mark.parametrize("maker", list(Role))
@pytest.mark.parametrize("role", list(Role))
async def test_nobody_makes_a_key_of_a_role_that_may_more(site: Site, maker: Role, role: Role) -> None:
    answer = await create(site, f"{maker}.org_a", role=role)
    allowed = Scope.KEYS_WRITE in ROLES[maker] and ROLES[role] <= ROLES[maker]
    named_only = await create(site, f"{maker}.org_a", role=role, scopes=["sessions:read"])
    assert [answer.status, named_only.status] == [201 if allowed else 403] * 2


async def test_a_narrow_key_passes_on_no_more_than_it_has(site: Site) -> None:
    narrow = (await made(site, scopes=["keys:write", "sessions:read"], expiresAt=SOON))["apiKey"]
    refused: list[dict[str, Any]] = [
        {"role": "owner"}, {"role": "viewer"}, {"scopes": ["sessions:write"]}, {"scopes": ordered(Scope)},
        {"scopes": ["sessions:read", "audit:read"]}, {"expiresAt": LATER},
    ]  # fmt: skip
    for terms in refused:
        assert (await create(site, narrow, **terms)).status == 403, terms
    same = await made(site, narrow)
    assert [same["scopes"], same["expiresAt"]] == [["sessions:read", "keys:write"], "2999-01-01T00:00:00.000000Z"]
    assert (await made(site, narrow, scopes=["sessions:read"]))["scopes"] == ["sessions:read"]
    assert (await site.ask("GET", "/keys", token=narrow)).status == 403


@pytest.mark.parametrize(
    ("terms", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "a\n"}, "name"),
        ({"name": "a" * 65}, "name"),
        ({"role": "root"}, "role"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["all"]}, "scopes.0"),
        ({"role": "viewer", "scopes": ["sessions:write"]}, "scopes"),
        ({"expiresAt": "2001-01-01T00:00:00Z"}, "expiresAt"),
        ({"expiresAt": "2999-01-01T00:00:00"}, "expiresAt"),
        ({"orgId": "org_b"}, "orgId"),
    ],
)
async def test_what_is_wrong_is_named(site: Site, terms: dict[str, Any], field: str) -> None:
    answer = await create(site, **terms)
    assert (answer.status, answer.json["errors"][0]["field"]) == (400, field)


async def test_another_orgs_key_is_as_none_at_all(site: Site) -> None:
    key = await made(site)
    theirs = await site.ask("DELETE", f"/keys/{key['id']}", token="owner.org_b")
    none = await site.ask("DELETE", "/keys/0123456789abcdef", token="owner.org_b")
    odd = await site.ask("DELETE", "/keys/..%00", token="owner.org_b")
    assert (theirs.status, theirs.body, odd.body) == (404, none.body, none.body)
    assert (await site.ask("GET", "/keys", token="owner.org_b")).json["items"] == []
    assert (await site.ask("GET", "/whoami", token=key["apiKey"])).status == 200


async def test_one_who_is_no_member_here_makes_no_key(site: Site) -> None:
    assert (await create(site, "owner.org_z")).status == 403


async def test_each_change_is_in_the_chain_once(site: Site) -> None:
    key = await made(site, name="ci", scopes=["sessions:read"], expiresAt=SOON)
    for _ in range(2):
        await site.ask("DELETE", f"/keys/{key['id']}", token="admin.org_a")
    events = await trail(site)
    assert [(event.type, event.actor) for event in events] == [
        ("key_created", "owner.org_a"),
        ("key_revoked", "admin.org_a"),
    ]
    assert verify(events) is None
    told = events[0].model_dump(mode="json")
    assert (told["keyId"], told["scopes"], told["expiresAt"]) == (key["id"], key["scopes"], key["expiresAt"])


async def test_of_many_that_revoke_one_key_one_is_told(site: Site) -> None:
    key = await made(site)
    answers = await asyncio.gather(*(site.ask("DELETE", f"/keys/{key['id']}") for _ in range(8)))
    assert {answer.body for answer in answers} == {answers[0].body}
    assert [event.type for event in await trail(site)] == ["key_created", "key_revoked"]


def contents(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


async def test_the_secret_is_in_one_answer_and_nowhere_else(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key = await made(site)
    secret = key["apiKey"].rpartition(key["id"] + "_")[2]
    await site.ask("GET", "/whoami", token=key["apiKey"])
    shown = [await site.ask(*one) for one in (("GET", "/keys"), ("GET", "/audit"), ("DELETE", f"/keys/{key['id']}"))]
    kept = contents(tmp_path)
    assert len(secret) == 43
    assert key["id"].encode() in kept
    assert secret.encode() not in b"".join([kept, caplog.text.encode(), *(answer.body for answer in shown)])
