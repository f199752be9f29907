"""Invitations: seen, taken back, and no way into somebody else's account."""

import asyncio

import pytest

from enclave.contracts.errors import Forbidden, InvalidRequest, NotFound, Unauthenticated
from enclave.contracts.identity import Principal, Role
from enclave.contracts.keys import CreateKey
from enclave.contracts.members import ChangeMember, Invite
from enclave.core.access import ROLES
from enclave.identity.service import Identity
from tests.identity.conftest import founder
from tests.identity.test_authority import Clock
from tests.identity.test_keys import Trail
from tests.identity.test_sign_in import ADA, PASSWORD, accept, join, login, who

pytestmark = pytest.mark.anyio

BOB = "bob@example.org"


async def waiting(identity: Identity, caller: Principal) -> list[str]:
    return [one.email for one in (await identity.members.list_invitations(caller)).items]


async def test_what_waits_is_listed_and_nothing_else(identity: Identity, owner: Principal, clock: Clock) -> None:
    await join(identity, owner)
    for number in range(3):
        await identity.members.invite(owner, Invite(email=f"u{number}@example.org", role=Role.VIEWER))
    await identity.members.invite(owner, Invite(email=BOB, role=Role.VIEWER, hours=1))
    assert len(await waiting(identity, owner)) == 4
    clock.advance(3600)
    first = await identity.members.list_invitations(owner, limit=2)
    second = await identity.members.list_invitations(owner, limit=2, cursor=first.next_cursor)

    found = [*first.items, *second.items]
    assert {one.email for one in found} == {f"u{number}@example.org" for number in range(3)}
    assert [one.id for one in found] == sorted(one.id for one in found)
    assert second.next_cursor is None
    assert await waiting(identity, founder(identity, "boss@example.org")) == []


async def test_one_that_is_taken_back_passes_no_more(identity: Identity, owner: Principal, trail: Trail) -> None:
    invitation = await identity.members.invite(owner, Invite(email=ADA, role=Role.VIEWER))
    taken = await identity.members.withdraw(owner, invitation.id)

    assert (taken.id, taken.email, taken.role) == (invitation.id, ADA, Role.VIEWER)
    assert await waiting(identity, owner) == []
    with pytest.raises(Unauthenticated):
        await accept(identity, invitation.code)
    with pytest.raises(NotFound):
        await identity.members.withdraw(owner, invitation.id)
    assert trail.types.count("invitation_withdrawn") == 1


async def test_one_that_is_taken_back_while_it_is_accepted_is_one_or_the_other(
    identity: Identity, owner: Principal
) -> None:
    invitation = await identity.members.invite(owner, Invite(email=ADA, role=Role.VIEWER))
    accepted, withdrawn = await asyncio.gather(
        accept(identity, invitation.code), identity.members.withdraw(owner, invitation.id), return_exceptions=True
    )

    assert sum(isinstance(one, Exception) for one in (accepted, withdrawn)) == 1


async def test_another_orgs_is_as_none_and_one_above_is_not_taken_back(identity: Identity, owner: Principal) -> None:
    boss = founder(identity, "boss@example.org")
    theirs = await identity.members.invite(boss, Invite(email=ADA, role=Role.VIEWER))
    admin = who(identity, await join(identity, owner, role=Role.ADMIN))
    above = await identity.members.invite(owner, Invite(email=BOB, role=Role.OWNER))
    for invitation_id in (theirs.id, "0" * 16, "", "\0"):
        with pytest.raises(NotFound):
            await identity.members.withdraw(admin, invitation_id)
    with pytest.raises(Forbidden):
        await identity.members.withdraw(admin, above.id)

    assert await waiting(identity, owner) == [BOB]
    assert await waiting(identity, boss) == [ADA]


async def test_an_account_without_a_password_is_nobodys_to_take(identity: Identity, owner: Principal) -> None:
    """The machine's own user is one: who may invite would set its password, and be its owner everywhere."""
    machine = founder(identity, "owner@localhost")
    invitation = await identity.members.invite(owner, Invite(email="owner@localhost", role=Role.VIEWER))
    with pytest.raises(Unauthenticated):
        await accept(identity, invitation.code)

    with pytest.raises(Unauthenticated):
        await login(identity, "owner@localhost")
    assert {one.id for one in (await identity.members.list(owner)).items} == {owner.user_id}
    assert machine.org_id != owner.org_id


async def test_of_two_who_are_asked_in_by_one_address_at_once_one_has_the_account(
    identity: Identity, owner: Principal
) -> None:
    boss = founder(identity, "boss@example.org")
    here = await identity.members.invite(owner, Invite(email=ADA, role=Role.VIEWER))
    there = await identity.members.invite(boss, Invite(email=ADA, role=Role.VIEWER))
    both = await asyncio.gather(
        accept(identity, here.code), accept(identity, there.code, "another long password"), return_exceptions=True
    )

    assert sorted(type(one).__name__ for one in both) == ["Tokens", "Unauthenticated"]


async def test_a_short_password_does_not_use_up_the_code(identity: Identity, owner: Principal) -> None:
    invitation = await identity.members.invite(owner, Invite(email=ADA, role=Role.VIEWER))
    with pytest.raises(InvalidRequest):
        await accept(identity, invitation.code, "short")

    assert (await accept(identity, invitation.code)).org_id == owner.org_id


@pytest.mark.parametrize("by_key", [True, False])
async def test_one_who_is_removed_does_not_come_back_by_what_they_left(
    identity: Identity, owner: Principal, trail: Trail, by_key: bool
) -> None:
    admin = who(identity, await join(identity, owner, role=Role.ADMIN))
    key = await identity.keys.create(admin, CreateKey(name="k"))
    inviter = identity.authority.identify(key.api_key) if by_key else admin
    again = await identity.members.invite(inviter, Invite(email=BOB, role=Role.ADMIN))
    own = await identity.members.invite(owner, Invite(email=ADA.upper(), role=Role.ADMIN))
    kept = await identity.members.invite(owner, Invite(email="c@example.org", role=Role.VIEWER))
    await identity.members.remove(owner, admin.user_id)

    for code, password in ((again.code, PASSWORD), (own.code, PASSWORD)):
        with pytest.raises(Unauthenticated):
            await accept(identity, code, password)
    assert await waiting(identity, owner) == ["c@example.org"]
    assert trail.types.count("invitation_withdrawn") == 2
    assert (await accept(identity, kept.code)).role is Role.VIEWER


async def test_one_who_is_lowered_leaves_nothing_above_them(identity: Identity, owner: Principal) -> None:
    second = who(identity, await join(identity, owner, role=Role.OWNER))
    above = await identity.members.invite(second, Invite(email=BOB, role=Role.OWNER))
    await identity.members.invite(second, Invite(email="c@example.org", role=Role.ADMIN))
    await identity.members.change(owner, second.user_id, ChangeMember(role=Role.ADMIN))

    assert await waiting(identity, owner) == ["c@example.org"]
    with pytest.raises(Unauthenticated):
        await accept(identity, above.code)


@pytest.mark.parametrize("role", list(Role))
async def test_only_who_may_see_members_sees_who_is_asked_in(identity: Identity, owner: Principal, role: Role) -> None:
    caller = owner.model_copy(update={"role": role, "scopes": ROLES[role]})
    if "members:read" in ROLES[role]:
        assert await waiting(identity, caller) == []
    else:
        with pytest.raises(Forbidden):
            await waiting(identity, caller)
