"""`client.keys` and `client.whoami` of both clients, against a server that plays recorded answers."""

import json
from collections.abc import Generator
from typing import Any

import pytest

from enclave.contracts.errors import InvalidRequest
from enclave.contracts.keys import Key
from enclave.contracts.wire import Page
from tests.cli.test_key import KEY, MADE
from tests.cli.test_whoami import CALLER
from tests.sdk.conftest import Play
from tests.sdk.samples import NOW
from tests.sdk.scripted import ok, scripted


def test_keys_are_made_gone_through_and_revoked(play: Play) -> None:
    def script(client: Any) -> Generator[Any, Any, Any]:
        made = yield client.keys.create("ci", scopes=["sessions:read"], expires_at=NOW)
        return made, (yield client.keys.list()), (yield client.keys.revoke(KEY.id)), (yield client.whoami())

    pages = (Page[Key](items=(KEY,), next_cursor="c"), Page[Key](items=(KEY,)))
    with scripted(ok(MADE, 201), *map(ok, pages), ok(KEY), ok(CALLER)) as server:
        assert play(server.base_url, script) == (MADE, [KEY, KEY], KEY, CALLER)

    assert json.loads(server.asked[0].body) == {
        "name": "ci", "scopes": ["sessions:read"], "expiresAt": KEY.model_dump(mode="json")["createdAt"],
    }  # fmt: skip
    assert [asked.path for asked in server.asked] == [
        "/keys", "/keys", "/keys?cursor=c", f"/keys/{KEY.id}", "/whoami",
    ]  # fmt: skip


def test_terms_that_make_no_key_are_refused_here(play: Play) -> None:
    def script(client: Any) -> Generator[Any, Any, Any]:
        return (yield client.keys.create("ci", role="root"))

    with scripted() as server, pytest.raises(InvalidRequest) as refused:
        play(server.base_url, script)

    assert ([one.field for one in refused.value.errors], server.asked) == (["role"], [])


def test_a_made_key_does_not_show_itself() -> None:
    assert MADE.api_key not in repr(MADE)
