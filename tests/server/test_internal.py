"""The listener of an identity service that only control planes reach, and what is relayed to it."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest

from enclave.contracts.introspection import CLIENT_HEADER, EVENTS, INTROSPECT, SERVICE_CHALLENGE, SERVICE_HEADER
from enclave.contracts.operations import OF_IDENTITY, OPERATIONS
from enclave.identity.apikey import new_api_key
from enclave.identity.service import Identity
from enclave.server.app import Application, Surface
from enclave.server.call import ELSEWHERE, Platform
from enclave.server.internal import internal_routes
from tests.server.conftest import Site, served

pytestmark = pytest.mark.anyio


class Inside:
    """An identity service with its two listeners."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.service = str(identity.service.issue())
        self.owner = str(identity.authority.issue_key(identity.authority.owner("owner@example.org")))
        self.operator = str(identity.authority.issue_operator())
        self.platform = Platform(ELSEWHERE, identity.authority, identity.accounts, ELSEWHERE)
        self.public = ""
        self.internal = ""

    async def ask(self, url: str, method: str, path: str, body: object = None, **headers: str) -> httpx2.Response:
        async with httpx2.AsyncClient(trust_env=False) as client:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return await client.request(method, url + path, json=body, headers=named)


@pytest.fixture
async def inside(tmp_path: Path) -> AsyncIterator[Inside]:
    identity = Identity.open(tmp_path / "home", None, now=lambda: datetime.now(UTC))
    inside = Inside(identity)
    routes = internal_routes(inside.platform, OF_IDENTITY, identity.service)
    async with served(Application(inside.platform, OF_IDENTITY)) as public, served(Surface(routes)) as internal:
        inside.public, inside.internal = (
            f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}" for server in (public, internal)
        )
        yield inside
    identity.close()


def bearer(credential: str) -> dict[str, str]:
    return {"authorization": f"Bearer {credential}"}


async def test_nobody_asks_but_who_has_the_service_credential(inside: Inside) -> None:
    wrong = [inside.owner, inside.operator, str(new_api_key("es")), "x", inside.service[:-1] + "_"]
    for path in (INTROSPECT, EVENTS):
        for credential in wrong:
            said = await inside.ask(inside.internal, "POST", path, {}, **bearer(credential))
            assert (said.status_code, said.headers["www-authenticate"]) == (401, SERVICE_CHALLENGE)
        assert (await inside.ask(inside.internal, "POST", path, {})).status_code == 401
    # Not even who has a caller's credential is answered as a caller.
    for operation in OF_IDENTITY:
        path = operation.path.format(id="x")
        said = await inside.ask(inside.internal, operation.method, path, **bearer(inside.owner))
        assert (said.status_code, said.headers["www-authenticate"]) == (401, SERVICE_CHALLENGE)


async def test_a_credential_that_was_replaced_is_refused(inside: Inside) -> None:
    fresh = str(inside.identity.service.issue())
    asked = {"credential": inside.owner}
    assert (await inside.ask(inside.internal, "POST", INTROSPECT, asked, **bearer(inside.service))).status_code == 401
    assert (await inside.ask(inside.internal, "POST", INTROSPECT, asked, **bearer(fresh))).status_code == 200


async def test_callers_reach_nothing_of_it(inside: Inside, site: Site) -> None:
    for path in (INTROSPECT, EVENTS):
        said = await inside.ask(inside.public, "POST", path, {}, **bearer(inside.service))
        assert said.status_code == 404
    described = (await inside.ask(inside.public, "GET", "/openapi.json")).json()["paths"]
    assert set(described) == {operation.path for operation in OF_IDENTITY}
    assert [operation for operation in OPERATIONS if "internal" in operation.path] == []
    assert (await site.ask("POST", INTROSPECT, {})).status == 404


async def test_where_a_call_came_from_is_believed_of_the_control_plane_alone(inside: Inside) -> None:
    body = {"email": "nobody@example.org", "password": "x"}

    async def tries(url: str, **headers: str) -> list[int]:
        said = [await inside.ask(url, "POST", "/login", body, **headers) for _ in range(6)]
        return [one.status_code for one in said]

    relayed = {SERVICE_HEADER: inside.service}
    # Five from an address to a user, and no more; each address of the control plane's callers has its own.
    assert await tries(inside.internal, **relayed, **{CLIENT_HEADER: "192.0.2.1"}) == [401] * 5 + [429]
    assert await tries(inside.internal, **relayed, **{CLIENT_HEADER: "192.0.2.2"}) == [401] * 5 + [429]
    assert await tries(inside.public, **relayed, **{CLIENT_HEADER: "192.0.2.3"}) == [401] * 5 + [429]
    assert await tries(inside.public, **relayed, **{CLIENT_HEADER: "192.0.2.4"}) == [429] * 6


async def test_a_token_that_holds_for_longer_than_there_are_dates_is_answered(inside: Inside) -> None:
    owner = inside.identity.authority.owner("owner@example.org")
    claims = {"sub": owner.user_id, "orgId": owner.org_id, "role": "owner", "exp": 1e18}
    token = inside.identity.sign_ins._tokens.sign(claims)
    said = await inside.ask(inside.internal, "POST", INTROSPECT, {"credential": token}, **bearer(inside.service))
    assert (said.json()["active"], said.json()["until"]) == (True, None)


async def test_no_credential_is_logged(inside: Inside, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await inside.ask(inside.internal, "POST", INTROSPECT, {"credential": inside.owner}, **bearer(inside.service))
    await inside.ask(inside.internal, "POST", INTROSPECT, {"credential": inside.owner * 999}, **bearer(inside.service))
    ours = "".join(record.getMessage() for record in caplog.records if record.name.startswith("enclave"))
    assert inside.owner[20:] not in ours
    assert inside.service[20:] not in ours


# Events


async def events(inside: Inside, **asked: Any) -> Any:
    said = await inside.ask(inside.internal, "POST", EVENTS, asked, **bearer(inside.service))
    return said.json()["items"]


async def test_events_wait_until_they_are_acknowledged_by_name(inside: Inside) -> None:
    first = await events(inside)
    assert [item["event"]["type"] for item in first] == ["org_created", "key_created"]
    assert await events(inside) == first
    # A name that is not there acknowledges nothing: it is of another database, or of what is gone.
    assert await events(inside, after="0" * 32) == first
    assert await events(inside, after=first[-1]["key"]) == []


async def test_who_waits_is_told_when_something_happens(inside: Inside) -> None:
    known = (await events(inside))[-1]
    waiting = asyncio.create_task(events(inside, after=known["key"], waitSeconds=30))
    while inside.identity.outbox._waiting():  # noqa: ASYNC110  until the question is there
        await asyncio.sleep(0)
    made = await inside.ask(inside.public, "POST", "/keys", {"name": "k"}, **bearer(inside.owner))
    (item,) = await waiting
    assert item["event"]["keyId"] == made.json()["id"]
    assert made.json()["apiKey"] not in json.dumps(item)
