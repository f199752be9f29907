"""Orgs: made, listed, switched to and disabled, beside a clock that the test moves."""

import sqlite3
from contextlib import closing
from pathlib import Path

import jwt
import pytest
from pydantic import SecretStr

from enclave.contracts.errors import Conflict, Forbidden, NotFound, Unauthenticated
from enclave.contracts.identity import Principal, Role
from enclave.contracts.keys import CreateKey
from enclave.contracts.members import ChangeMember, Invite, Refresh, Switch, Tokens
from enclave.contracts.orgs import CreateOrg, FoundOrg
from enclave.identity.bootstrap import bootstrap
from enclave.identity.service import DATABASE, Identity
from tests.identity.conftest import founder
from tests.identity.test_authority import Clock
from tests.identity.test_keys import Trail
from tests.identity.test_sign_in import ADA, accept, join, login, refresh, who

pytestmark = pytest.mark.anyio

MINE = CreateOrg(name="mine")


async def switch(identity: Identity, token: str, org_id: str) -> Tokens:
    return await identity.sign_ins.switch(Switch(refresh_token=SecretStr(token), org_id=org_id))


def refused(identity: Identity, credential: str) -> None:
    with pytest.raises(Unauthenticated):
        identity.authority.identify(credential)


async def ids(identity: Identity, caller: Principal) -> set[str]:
    return {org.id for org in (await identity.orgs.list(caller)).items}


async def test_a_user_makes_an_org_and_acts_in_it_once_they_switched(
    identity: Identity, owner: Principal, trail: Trail
) -> None:
    tokens = await join(identity, owner, role=Role.OWNER)
    user = who(identity, tokens)
    made = await identity.orgs.create(user, MINE)
    there = await switch(identity, tokens.refresh_token, made.id)

    assert (made.name, made.role) == ("mine", Role.OWNER)
    assert (who(identity, there).org_id, there.role, there.org_id) == (made.id, Role.OWNER, made.id)
    assert await ids(identity, user) == await ids(identity, who(identity, there)) == {owner.org_id, made.id}
    told = [(event.type, event.org_id) for event in trail.events.values() if event.actor == user.user_id]
    assert told[-2:] == [("org_created", made.id), ("signed_in", made.id)]
    assert (await refresh(identity, there.refresh_token)).org_id == made.id


async def test_orgs_are_listed_page_by_page(identity: Identity, owner: Principal) -> None:
    for _ in range(4):
        await identity.orgs.create(owner, MINE)
    found, cursor = [], None
    while True:
        page = await identity.orgs.list(owner, cursor=cursor, limit=2)
        found += [org.id for org in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break

    assert found == sorted(found)
    assert set(found) == await ids(identity, owner)
    assert len(found) == 5


async def test_a_key_sees_its_org_and_makes_none(identity: Identity, owner: Principal) -> None:
    await identity.orgs.create(owner, MINE)
    key = identity.authority.identify((await identity.keys.create(owner, CreateKey(name="k"))).api_key)

    assert await ids(identity, key) == {owner.org_id}
    with pytest.raises(Forbidden, match="POST /login"):
        await identity.orgs.create(key, MINE)


async def test_who_is_known_nowhere_here_makes_and_sees_none(identity: Identity, owner: Principal) -> None:
    stranger = owner.model_copy(update={"user_id": "ada", "org_id": "org_z"})

    assert await ids(identity, stranger) == set()
    with pytest.raises(Forbidden):
        await identity.orgs.create(stranger, MINE)


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.OWNER])
async def test_who_owns_no_org_here_makes_none(identity: Identity, owner: Principal, role: Role) -> None:
    user = who(identity, await join(identity, owner, role=role))
    with pytest.raises(Forbidden):
        await identity.orgs.create(user, MINE)


async def test_a_user_makes_so_many_orgs_and_giving_them_away_makes_no_room(tmp_path: Path, trail: Trail) -> None:
    with closing(Identity.open(tmp_path, trail, now=Clock(), orgs_per_user=2)) as identity:
        owner = founder(identity, "o@example.org")
        made = await identity.orgs.create(owner, MINE)
        with pytest.raises(Conflict, match="at most 2 orgs"):
            await identity.orgs.create(owner, MINE)
        there = owner.model_copy(update={"org_id": made.id})
        other = who(identity, await join(identity, there, role=Role.OWNER))
        await identity.members.remove(other, owner.user_id)
        with pytest.raises(Conflict):
            await identity.orgs.create(owner, MINE)


async def test_where_only_the_operator_makes_orgs_a_user_is_told_so(tmp_path: Path, trail: Trail) -> None:
    with closing(Identity.open(tmp_path, trail, now=Clock(), orgs_per_user=0)) as identity:
        owner = founder(identity, "o@example.org")
        with pytest.raises(Forbidden, match="only the operator"):
            await identity.orgs.create(owner, MINE)


async def test_a_sign_in_moves_to_no_org_that_its_user_is_not_in(identity: Identity, owner: Principal) -> None:
    other = founder(identity, "boss@example.org")
    tokens = await join(identity, owner)
    refusals = []
    for org_id in (other.org_id, "org_0"):
        with pytest.raises(Forbidden) as caught:
            await switch(identity, tokens.refresh_token, org_id)
        refusals.append(caught.value.detail)

    assert refusals[0] == refusals[1]
    assert (await refresh(identity, tokens.refresh_token)).org_id == owner.org_id


async def test_a_refresh_token_that_switched_passes_no_more(identity: Identity, owner: Principal, trail: Trail) -> None:
    first = await join(identity, owner, role=Role.OWNER)
    made = await identity.orgs.create(who(identity, first), MINE)
    second = await switch(identity, first.refresh_token, made.id)
    with pytest.raises(Unauthenticated):
        await switch(identity, first.refresh_token, owner.org_id)
    with pytest.raises(Unauthenticated):
        await refresh(identity, second.refresh_token)

    refused(identity, second.token)
    assert trail.types.count("refresh_reused") == 1


@pytest.mark.parametrize("token", ["x", "er_0123456789abcdef_" + "a" * 43, "ek_0123456789abcdef_" + "a" * 43, "\0"])
async def test_what_is_no_refresh_token_switches_nowhere(identity: Identity, owner: Principal, token: str) -> None:
    with pytest.raises(Unauthenticated):
        await switch(identity, token, owner.org_id)


async def test_nobody_calls_for_an_org_that_is_disabled(identity: Identity, owner: Principal, trail: Trail) -> None:
    tokens = await join(identity, owner, role=Role.OWNER)
    user = who(identity, tokens)
    key = (await identity.keys.create(owner, CreateKey(name="k"))).api_key
    invitation = await identity.members.invite(owner, Invite(email="b@example.org", role=Role.VIEWER))
    identity.authority.identify(key)
    first = await identity.operator.disable_org(owner.org_id)
    again = await identity.operator.disable_org(owner.org_id)

    assert first == again
    assert first.disabled_at is not None
    refused(identity, key)
    refused(identity, tokens.token)
    with pytest.raises(Unauthenticated):
        await refresh(identity, tokens.refresh_token)
    with pytest.raises(Unauthenticated):
        await accept(identity, invitation.code)
    with pytest.raises(Forbidden):
        await login(identity)
    assert await ids(identity, user) == set()

    await identity.operator.enable_org(owner.org_id)
    enabled = await identity.operator.enable_org(owner.org_id)

    assert enabled.disabled_at is None
    assert identity.authority.identify(key).org_id == who(identity, tokens).org_id == owner.org_id
    assert (await refresh(identity, tokens.refresh_token)).org_id == owner.org_id
    assert (await login(identity)).org_id == owner.org_id
    assert (trail.types.count("org_disabled"), trail.types.count("org_enabled")) == (1, 1)
    assert {event.actor for event in trail.events.values() if event.type == "org_disabled"} == {"operator"}


async def test_one_of_two_orgs_is_disabled_and_the_other_is_signed_in_to(
    identity: Identity, owner: Principal, clock: Clock
) -> None:
    tokens = await join(identity, owner, role=Role.OWNER)
    clock.advance(1)
    made = await identity.orgs.create(who(identity, tokens), MINE)
    assert (await login(identity)).org_id == owner.org_id
    await identity.operator.disable_org(owner.org_id)

    here = await login(identity)
    assert here.org_id == made.id
    with pytest.raises(Forbidden):
        await switch(identity, here.refresh_token, owner.org_id)
    assert (await refresh(identity, here.refresh_token)).org_id == made.id


async def test_a_token_of_one_who_was_removed_or_lowered_is_worth_that_at_once(
    identity: Identity, owner: Principal
) -> None:
    tokens = await join(identity, owner, role=Role.ADMIN)
    user = who(identity, tokens)
    await identity.members.change(owner, user.user_id, ChangeMember(role=Role.AUDITOR))
    lowered = who(identity, tokens)
    await identity.members.remove(owner, user.user_id)

    anothers = {"sub": user.user_id, "orgId": user.org_id, "role": "admin", "exp": 4102444800}
    refused(identity, identity.sign_ins._tokens.sign(anothers))
    assert (user.role, lowered.role) == (Role.ADMIN, Role.AUDITOR)
    assert not lowered.scopes - user.scopes
    assert "sessions:write" not in lowered.scopes
    refused(identity, tokens.token)


async def test_a_token_is_worth_no_more_than_it_says(identity: Identity, owner: Principal) -> None:
    tokens = await join(identity, owner, role=Role.VIEWER)
    user = who(identity, tokens)
    await identity.members.change(owner, user.user_id, ChangeMember(role=Role.ADMIN))

    assert who(identity, tokens).role is Role.VIEWER


async def test_a_token_of_another_issuer_passes_unless_it_names_two_who_are_strangers_here(
    identity: Identity, owner: Principal, tmp_path: Path
) -> None:
    other = founder(identity, "boss@example.org")
    sign = identity.sign_ins._tokens.sign
    claims = {"role": "owner", "exp": 4102444800}

    assert identity.authority.identify(sign({**claims, "sub": "ada", "orgId": "org_z"})).org_id == "org_z"
    assert identity.authority.identify(sign({**claims, "sub": "ada", "orgId": owner.org_id})).user_id == "ada"
    assert identity.authority.identify(sign({**claims, "sub": owner.user_id, "orgId": "org_z"})).org_id == "org_z"
    refused(identity, sign({**claims, "sub": owner.user_id, "orgId": other.org_id}))
    await identity.operator.disable_org(owner.org_id)
    refused(identity, sign({**claims, "sub": "ada", "orgId": owner.org_id}))


async def test_who_reads_a_token_cannot_end_the_sign_in_that_it_names(identity: Identity, owner: Principal) -> None:
    tokens = await join(identity, owner)
    claims = jwt.decode(tokens.token, options={"verify_signature": False})

    assert len(claims["sid"]) == 16
    assert claims["sid"] not in tokens.refresh_token
    with pytest.raises(Unauthenticated):
        await refresh(identity, f"er_{claims['sid']}_{'a' * 43}")
    assert who(identity, await refresh(identity, tokens.refresh_token)).org_id == owner.org_id


async def test_a_token_ends_with_its_sign_in(identity: Identity, owner: Principal, trail: Trail) -> None:
    first, second = await join(identity, owner), await login(identity)
    assert who(identity, first) == who(identity, second)
    await identity.sign_ins.logout(refresh_of(first))

    refused(identity, first.token)
    assert who(identity, second).org_id == owner.org_id
    assert trail.types.count("signed_out") == 1
    await identity.sign_ins.logout(refresh_of(first))
    assert trail.types.count("signed_out") == 1


def refresh_of(tokens: Tokens) -> Refresh:
    return Refresh(refresh_token=SecretStr(tokens.refresh_token))


async def test_the_machines_own_key_is_kept_while_its_org_is_disabled(identity: Identity, tmp_path: Path) -> None:
    first = bootstrap(tmp_path, "http://127.0.0.1:1", identity.authority)
    org_id = identity.authority.identify(first.api_key).org_id
    await identity.operator.disable_org(org_id)
    assert bootstrap(tmp_path, "http://127.0.0.1:1", identity.authority) == first
    refused(identity, first.api_key)
    await identity.operator.enable_org(org_id)

    assert identity.authority.identify(first.api_key).org_id == org_id


async def test_the_operator_sees_every_org_and_founds_one(identity: Identity, owner: Principal, trail: Trail) -> None:
    founded = await identity.operator.found_org(FoundOrg(name="acme", owner_email="BOSS@example.org"))
    tokens = await accept(identity, founded.invitation.code)

    assert (tokens.org_id, tokens.role) == (founded.org.id, Role.OWNER)
    assert founded.invitation.email == "boss@example.org"
    listed = (await identity.operator.list_orgs()).items
    assert [one.id for one in listed] == sorted([owner.org_id, founded.org.id])
    first = await identity.operator.list_orgs(limit=1)
    second = await identity.operator.list_orgs(limit=1, cursor=first.next_cursor)
    assert (*first.items, *second.items) == listed
    assert second.next_cursor is None
    told = [(event.type, event.actor) for event in trail.events.values() if event.org_id == founded.org.id]
    assert told[:2] == [("org_created", "operator"), ("member_invited", "operator")]


@pytest.mark.parametrize("org_id", ["org_0", "", "\0", "é", "x" * 1000, "default"])
async def test_an_org_that_is_none_is_not_disabled(identity: Identity, org_id: str) -> None:
    for change in (identity.operator.disable_org, identity.operator.enable_org):
        with pytest.raises(NotFound):
            await change(org_id)


async def test_the_operator_revokes_any_key_and_it_is_told_there(
    identity: Identity, owner: Principal, trail: Trail
) -> None:
    made = await identity.keys.create(owner, CreateKey(name="k"))
    identity.authority.identify(made.api_key)
    first, again = await identity.operator.revoke_key(made.id), await identity.operator.revoke_key(made.id)

    assert first == again
    refused(identity, made.api_key)
    told = [(event.org_id, event.actor) for event in trail.events.values() if event.type == "key_revoked"]
    assert told == [(owner.org_id, "operator")]
    with pytest.raises(NotFound):
        await identity.operator.revoke_key("0" * 16)


async def test_orgs_from_before_they_had_names_have_their_ids_as_such(tmp_path: Path, trail: Trail) -> None:
    with closing(Identity.open(tmp_path, trail, now=Clock())) as identity:
        owner = founder(identity, "o@example.org")
        tokens = await join(identity, owner)
    as_version_3(tmp_path / DATABASE)

    with closing(Identity.open(tmp_path, trail, now=Clock())) as identity:
        (org,) = (await identity.operator.list_orgs()).items
        assert (org.id, org.name, org.disabled_at) == (owner.org_id, owner.org_id, None)
        assert who(identity, tokens).org_id == owner.org_id
        assert who(identity, await refresh(identity, tokens.refresh_token)).org_id == owner.org_id
        assert (await login(identity, ADA)).org_id == owner.org_id
        assert (await identity.orgs.create(owner, MINE)).role is Role.OWNER


def as_version_3(path: Path) -> None:
    """Take out of a database what the fourth version put in."""
    with closing(sqlite3.connect(path)) as old, old:
        old.executescript(
            "DROP INDEX sign_ins_by_sid; ALTER TABLE sign_ins DROP COLUMN sid;"
            "DROP INDEX orgs_by_maker; DROP INDEX memberships_of_user; DROP INDEX sign_ins_of_user;"
            "DROP INDEX invitations_of_org; DROP TABLE resets; DROP TABLE operator;"
            "ALTER TABLE orgs DROP COLUMN made_by; ALTER TABLE orgs DROP COLUMN disabled_at;"
            "ALTER TABLE orgs DROP COLUMN name; DROP TABLE services; PRAGMA user_version = 3;"
        )
