"""A request with a key is accepted once."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from tests.server.conftest import Answer, Site

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def ends(site: Site) -> None:
    site.backend.play = lambda puppet: puppet.end()


async def create(site: Site, key: str, body: Mapping[str, Any] | None = None, **more: str) -> Answer:
    return await site.ask("POST", "/sessions", body or {"code": "x"}, idempotency_key=key, **more)


async def test_the_same_request_gets_the_same_session(site: Site) -> None:
    first = await create(site, "k1")
    again = await create(site, "k1", {"language": "python", "code": "x"}, prefer="wait=5")
    assert (first.status, again.status) == (201, 201)
    assert (first.json["id"], again.json["phase"]) == (again.json["id"], "succeeded")
    assert ("idempotent-replayed" in first.headers, again.headers["idempotent-replayed"]) == (False, "true")
    assert len(site.backend.all) == 1


async def test_another_request_with_the_key_is_refused(site: Site) -> None:
    await create(site, "k1")
    answer = await create(site, "k1", {"code": "y"})
    assert (answer.status, answer.json["code"]) == (409, "idempotency_key_reused")
    assert len(site.backend.all) == 1


async def test_a_key_is_an_orgs(site: Site) -> None:
    mine, theirs = await create(site, "k1"), await create(site, "k1", token="owner.org_b")
    assert mine.json["id"] != theirs.json["id"]
    assert theirs.json["orgId"] == "org_b"


async def test_of_many_at_once_one_is_accepted(site: Site) -> None:
    answers = await asyncio.gather(*(create(site, "k1", prefer="wait=5") for _ in range(20)))
    assert {answer.status for answer in answers} == {201}
    assert len({answer.json["id"] for answer in answers}) == 1
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 19
    assert len(site.backend.all) == 1


async def test_a_request_that_was_refused_takes_no_key(site: Site) -> None:
    refused = await create(site, "k1", {"code": "x", "limits": {"memoryMiB": 1}})
    accepted = await create(site, "k1")
    assert (refused.status, accepted.status) == (400, 201)


async def test_a_key_outlives_its_session(site: Site) -> None:
    first = await create(site, "k1", prefer="wait=5")
    await site.ask("DELETE", f"/sessions/{first.json['id']}")
    again = await create(site, "k1")
    assert (again.json["id"], again.json["phase"]) == (first.json["id"], "torn_down")


@pytest.mark.parametrize("key", ["", "a b", "\xe9", "a" * 256, "\x7f"])
async def test_what_is_no_key_is_refused(site: Site, key: str) -> None:
    answer = await create(site, key)
    assert answer.status == 400
    assert site.backend.all == []
