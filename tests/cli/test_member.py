"""`enclave member`, against a server that plays recorded answers."""

import json

from enclave.contracts.identity import Role
from enclave.contracts.members import Invitation, Member
from enclave.contracts.wire import Page
from tests.cli.conftest import Command
from tests.sdk.samples import NOW
from tests.sdk.scripted import ok, scripted

ADA = Member(id="usr_1", email="ada@example.org", role=Role.VIEWER, joined_at=NOW)
INVITATION = Invitation(id="1", email=ADA.email, role=Role.VIEWER, expires_at=NOW, code="ei_1_secret")


def test_one_is_asked_in_and_the_code_is_shown_once(enclave: Command) -> None:
    with scripted(*[ok(INVITATION, 201)] * 2) as server:
        plain = enclave(server.base_url, "member", "invite", ADA.email, "--role", "viewer", "--hours", "1")
        document = enclave(server.base_url, "member", "invite", ADA.email, "--role", "viewer", "--json")
        wrong = enclave(server.base_url, "member", "invite", "nobody", "--role", "viewer")

    assert (plain.out, wrong.code, len(server.asked)) == (f"{INVITATION.code}\n", 2, 2)
    assert json.loads(server.asked[0].body) == {"email": ADA.email, "role": "viewer", "hours": 1}
    assert json.loads(document.out)["code"] == INVITATION.code
    assert INVITATION.code not in repr(INVITATION)


def test_members_are_listed_changed_and_removed(enclave: Command) -> None:
    with scripted(*[ok(Page[Member](items=(ADA,)))] * 2, ok(ADA), ok(ADA)) as server:
        table = enclave(server.base_url, "member", "list")
        listed = enclave(server.base_url, "member", "list", "--json")
        changed = enclave(server.base_url, "member", "change", ADA.id, "--role", "admin")
        removed = enclave(server.base_url, "member", "remove", ADA.id)

    assert table.out.splitlines()[1].split() == [ADA.id, ADA.email, "viewer"]
    assert json.loads(listed.out) == [ADA.model_dump(mode="json")]
    assert [changed.out, removed.out] == [f"{ADA.id}\n"] * 2
    assert json.loads(server.asked[2].body) == {"role": "admin"}
    assert [(asked.method, asked.path) for asked in server.asked[2:]] == [
        ("PUT", f"/members/{ADA.id}"), ("DELETE", f"/members/{ADA.id}"),
    ]  # fmt: skip
