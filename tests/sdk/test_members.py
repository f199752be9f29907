"""`client.members` of both clients, against a server that plays recorded answers."""

from collections.abc import Generator
from typing import Any

import pytest

from enclave.contracts.errors import InvalidRequest
from enclave.contracts.members import Member
from enclave.contracts.wire import Page
from tests.cli.test_member import ADA, INVITATION
from tests.sdk.conftest import Play
from tests.sdk.scripted import ok, scripted


def test_members_are_gone_through_asked_in_changed_and_removed(play: Play) -> None:
    def script(client: Any) -> Generator[Any, Any, Any]:
        members = client.members
        found = yield members.list()
        asked = yield members.invite(ADA.email, "viewer")
        return found, asked, (yield members.change(ADA.id, "admin")), (yield members.remove(ADA.id))

    pages = (Page[Member](items=(ADA,), next_cursor="c"), Page[Member](items=(ADA,)))
    with scripted(*map(ok, pages), ok(INVITATION, 201), ok(ADA), ok(ADA)) as server:
        assert play(server.base_url, script) == ([ADA, ADA], INVITATION, ADA, ADA)

    assert [asked.path for asked in server.asked] == [
        "/members", "/members?cursor=c", "/invitations", f"/members/{ADA.id}", f"/members/{ADA.id}",
    ]  # fmt: skip


def test_a_role_that_is_none_is_refused_here(play: Play) -> None:
    def script(client: Any) -> Generator[Any, Any, Any]:
        return (yield client.members.change(ADA.id, "root"))

    with scripted() as server, pytest.raises(InvalidRequest):
        play(server.base_url, script)

    assert server.asked == []
