"""Invitations, sign-ins and members, beside a clock that the test moves."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from threading import Event

import pytest
from pydantic import SecretStr

from enclave.contracts.errors import Conflict, EnclaveError, Forbidden, InvalidRequest, QuotaExceeded, Unauthenticated
from enclave.contracts.identity import Principal, Role
from enclave.contracts.keys import CreateKey
from enclave.contracts.members import AcceptInvitation, ChangeMember, Invite, Login, Refresh, Tokens
from enclave.core.access import ROLES
from enclave.identity import password
from enclave.identity.bootstrap import bootstrap
from enclave.identity.guard import MAX_OF_ADDRESS, MAX_OF_PAIR, MAX_OF_USER, WINDOW_SECONDS
from enclave.identity.service import DATABASE, Identity
from enclave.identity.sign_in import SIGN_IN_LIFE, TOKEN_LIFE
from tests.identity.test_authority import Clock
from tests.identity.test_keys import Trail

pytestmark = pytest.mark.anyio

PASSWORD = "correct horse battery"
HERE, THERE = "192.0.2.1", "192.0.2.2"
ADA = "ada@example.org"


async def join(
    identity: Identity, owner: Principal, email: str = ADA, role: Role = Role.DEVELOPER, secret: str = PASSWORD
) -> Tokens:
    invitation = await identity.members.invite(owner, Invite(email=email, role=role))
    return await accept(identity, invitation.code, secret)


async def accept(identity: Identity, code: str, secret: str = PASSWORD, address: str = HERE) -> Tokens:
    return await identity.members.accept(AcceptInvitation(code=SecretStr(code), password=SecretStr(secret)), address)


async def login(identity: Identity, email: str = ADA, secret: str = PASSWORD, address: str = HERE) -> Tokens:
    return await identity.sign_ins.login(Login(email=email, password=SecretStr(secret)), address)


async def refresh(identity: Identity, token: str) -> Tokens:
    return await identity.sign_ins.refresh(Refresh(refresh_token=SecretStr(token)))


def who(identity: Identity, tokens: Tokens) -> Principal:
    return identity.authority.identify(tokens.token)


async def test_one_who_is_asked_in_joins_signs_in_and_may_what_they_were_asked_for(
    identity: Identity, owner: Principal, trail: Trail
) -> None:
    joined = who(identity, await join(identity, owner))
    again = who(identity, await login(identity, "ADA@example.org"))

    assert (joined.org_id, joined.role, again) == (owner.org_id, Role.DEVELOPER, joined)
    assert trail.types == ["org_created", "member_invited", "member_joined", "signed_in", "signed_in"]
    members = (await identity.members.list(owner)).items
    assert {(one.email, one.role) for one in members} == {("o@example.org", Role.OWNER), (ADA, Role.DEVELOPER)}


async def test_a_code_passes_once_and_not_for_ever(identity: Identity, owner: Principal, clock: Clock) -> None:
    invitation = await identity.members.invite(owner, Invite(email=ADA, role=Role.VIEWER))
    late = await identity.members.invite(owner, Invite(email="bob@example.org", role=Role.VIEWER, hours=1))
    many = await asyncio.gather(*(accept(identity, invitation.code) for _ in range(3)), return_exceptions=True)
    clock.advance(3600)

    assert sorted(type(one).__name__ for one in many) == ["Tokens", "Unauthenticated", "Unauthenticated"]
    for code in (late.code, invitation.code, f"ei_{invitation.id}_{'a' * 43}", "ei_x", late.code.replace("ei_", "ek_")):
        with pytest.raises(Unauthenticated):
            await accept(identity, code)


async def test_a_code_alone_does_not_open_an_account_that_there_is(identity: Identity, owner: Principal) -> None:
    other = identity.authority.owner("boss@example.org")
    boss = Principal(user_id=other.user_id, org_id=other.org_id, role=other.role, scopes=ROLES[other.role])
    await join(identity, owner)
    invitation = await identity.members.invite(boss, Invite(email=ADA, role=Role.VIEWER))
    with pytest.raises(Unauthenticated):
        await accept(identity, invitation.code, "another long password")

    joined = await accept(identity, invitation.code)
    there = await identity.sign_ins.login(Login(email=ADA, password=SecretStr(PASSWORD), org_id=owner.org_id), HERE)

    assert (joined.org_id, there.org_id) == (boss.org_id, owner.org_id)
    with pytest.raises(Forbidden):
        await identity.sign_ins.login(Login(email=ADA, password=SecretStr(PASSWORD), org_id="org_z"), HERE)


async def test_a_short_password_makes_no_account(identity: Identity, owner: Principal) -> None:
    with pytest.raises(InvalidRequest):
        await join(identity, owner, secret="short")


async def test_an_unknown_user_and_a_wrong_password_get_one_answer_for_one_effort(
    identity: Identity, owner: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    await join(identity, owner)
    compared: list[str] = []
    genuine = identity.sign_ins.passwords._compare

    def counting(kept: str, given: str) -> bool:
        compared.append(kept.rpartition("$")[0].rpartition("$")[0])
        return genuine(kept, given)

    monkeypatch.setattr(identity.sign_ins.passwords, "_compare", counting)
    refusals = []
    for email in (ADA, "nobody@example.org", "o@example.org"):
        with pytest.raises(Unauthenticated) as refused:
            await login(identity, email, "wrong")
        refusals.append((refused.value.detail, refused.value.__cause__))

    assert len(set(refusals)) == 1
    assert len(compared) == 3
    assert len(set(compared)) == 1
    assert not identity.sign_ins.passwords.hasher.check_needs_rehash(password.NOBODYS)


async def failing(identity: Identity, count: int, email: str = ADA, address: str = HERE) -> type[EnclaveError]:
    error: EnclaveError = Unauthenticated()
    for number in range(count):
        try:
            await login(identity, email.format(number), "wrong", address.format(number))
        except EnclaveError as refused:
            error = refused
    return type(error)


@pytest.fixture
def no_hashing(identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured here is how often a password is compared, not what that costs."""
    monkeypatch.setattr(identity.sign_ins.passwords, "_compare", lambda kept, given: given == PASSWORD)


@pytest.mark.usefixtures("no_hashing")
async def test_from_an_address_a_user_is_tried_so_often(identity: Identity, owner: Principal, clock: Clock) -> None:
    await join(identity, owner)
    assert await failing(identity, MAX_OF_PAIR) is Unauthenticated
    with pytest.raises(QuotaExceeded) as refused:
        await login(identity)
    assert refused.value.retry_after == pytest.approx(WINDOW_SECONDS)
    assert (await login(identity, address=THERE)).role is Role.DEVELOPER
    clock.advance(WINDOW_SECONDS)
    assert (await login(identity)).role is Role.DEVELOPER


@pytest.mark.usefixtures("no_hashing")
async def test_from_an_address_users_are_guessed_so_often(identity: Identity) -> None:
    assert await failing(identity, MAX_OF_ADDRESS, "user{}@example.org") is Unauthenticated
    assert await failing(identity, 1, "one-more@example.org") is QuotaExceeded


@pytest.mark.usefixtures("no_hashing")
async def test_nobody_can_lock_another_out_of_where_they_signed_in(identity: Identity, owner: Principal) -> None:
    await join(identity, owner)
    await login(identity)
    assert await failing(identity, MAX_OF_USER + 1, address="198.51.100.{}") is QuotaExceeded

    assert (await login(identity)).role is Role.DEVELOPER
    with pytest.raises(QuotaExceeded):
        await login(identity, address=THERE)


async def test_who_signed_in_there_does_not_wait_behind_those_who_guess(
    identity: Identity, owner: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    await join(identity, owner)
    await login(identity)
    held = Event()
    genuine = identity.sign_ins.passwords._compare
    monkeypatch.setattr(
        identity.sign_ins.passwords,
        "_compare",
        lambda kept, given: genuine(kept, given) if given == PASSWORD else held.wait() and False,
    )
    guessing = [
        asyncio.create_task(failing(identity, 1, f"user{number}@example.org", f"198.51.100.{number}"))
        for number in range(20)
    ]
    try:
        assert (await asyncio.wait_for(login(identity), 10)).role is Role.DEVELOPER
    finally:
        held.set()
    assert set(await asyncio.gather(*guessing)) == {Unauthenticated}


@pytest.mark.usefixtures("no_hashing")
async def test_successes_are_no_failures(identity: Identity, owner: Principal) -> None:
    await join(identity, owner)
    for _ in range(MAX_OF_ADDRESS + 1):
        await login(identity)


@pytest.mark.usefixtures("no_hashing")
async def test_refusals_are_told_together(identity: Identity, owner: Principal, trail: Trail) -> None:
    await join(identity, owner)
    await failing(identity, MAX_OF_PAIR + 20)
    await failing(identity, 3, "nobody@example.org")
    await identity.tick()
    await identity.tick()

    told = [event for event in trail.events.values() if event.type == "sign_ins_refused"]
    assert [(one.count, one.org_id) for one in told] == [(MAX_OF_PAIR + 20, owner.org_id)]


async def test_a_token_is_short_lived_and_a_refresh_token_passes_once(
    identity: Identity, owner: Principal, clock: Clock, trail: Trail
) -> None:
    first = await join(identity, owner)
    second = await refresh(identity, first.refresh_token)
    assert who(identity, second) == who(identity, first)
    clock.advance(TOKEN_LIFE.total_seconds())
    with pytest.raises(Unauthenticated):
        who(identity, first)

    third = await refresh(identity, second.refresh_token)
    for stolen in (first, third):
        with pytest.raises(Unauthenticated):
            await refresh(identity, stolen.refresh_token)
    assert trail.types.count("refresh_reused") == 1


async def test_of_two_that_refresh_at_once_one_is_taken_for_a_thief(identity: Identity, owner: Principal) -> None:
    first = await join(identity, owner)
    both = await asyncio.gather(*(refresh(identity, first.refresh_token) for _ in range(2)), return_exceptions=True)

    assert sorted(type(one).__name__ for one in both) == ["Tokens", "Unauthenticated"]


@pytest.mark.parametrize("token", ["x", "er_0123456789abcdef_" + "a" * 43, "ek_0123456789abcdef_" + "a" * 43, "\0"])
async def test_what_is_no_refresh_token_is_refused(identity: Identity, token: str) -> None:
    with pytest.raises(Unauthenticated):
        await refresh(identity, token)


async def test_a_sign_in_ends_by_itself_and_by_signing_out(identity: Identity, owner: Principal, clock: Clock) -> None:
    first = await join(identity, owner)
    await identity.sign_ins.logout(Refresh(refresh_token=SecretStr(first.refresh_token)))
    with pytest.raises(Unauthenticated):
        await refresh(identity, first.refresh_token)
    second = await login(identity)
    clock.advance(SIGN_IN_LIFE.total_seconds())
    with pytest.raises(Unauthenticated):
        await refresh(identity, second.refresh_token)


async def test_a_token_of_one_who_signed_out_is_refused_after_the_sign_in_would_have_ended(
    identity: Identity, owner: Principal, clock: Clock
) -> None:
    first = await join(identity, owner)
    await join(identity, owner, "bob@example.org")
    clock.advance(SIGN_IN_LIFE.total_seconds() - 60)
    last = await refresh(identity, first.refresh_token)
    await identity.sign_ins.logout(Refresh(refresh_token=SecretStr(last.refresh_token)))
    clock.advance(120)
    await login(identity, "bob@example.org")

    with pytest.raises(Unauthenticated):
        identity.authority.identify(last.token)


async def test_what_a_member_is_made_holds_at_the_next_refresh(identity: Identity, owner: Principal) -> None:
    tokens = await join(identity, owner)
    await identity.members.change(owner, who(identity, tokens).user_id, ChangeMember(role=Role.AUDITOR))

    assert (await refresh(identity, tokens.refresh_token)).role is Role.AUDITOR


async def test_a_member_who_is_removed_keeps_nothing(identity: Identity, owner: Principal, trail: Trail) -> None:
    tokens = await join(identity, owner, role=Role.ADMIN)
    member = who(identity, tokens)
    key = await identity.keys.create(member, CreateKey(name="k"))
    assert identity.authority.identify(key.api_key).user_id == key.id

    await identity.members.remove(owner, member.user_id)

    with pytest.raises(Unauthenticated):
        identity.authority.identify(key.api_key)
    with pytest.raises(Unauthenticated):
        await refresh(identity, tokens.refresh_token)
    with pytest.raises(Forbidden):
        await login(identity)
    with pytest.raises(Forbidden):
        await identity.keys.create(member, CreateKey(name="k"))
    await join(identity, owner, role=Role.VIEWER)
    with pytest.raises(Unauthenticated):
        identity.authority.identify(key.api_key)
    assert "member_removed" in trail.types


async def test_an_org_keeps_an_owner(identity: Identity, owner: Principal) -> None:
    with pytest.raises(Conflict):
        await identity.members.change(owner, owner.user_id, ChangeMember(role=Role.ADMIN))
    with pytest.raises(Conflict):
        await identity.members.remove(owner, owner.user_id)
    second = who(identity, await join(identity, owner, role=Role.OWNER))
    both = await asyncio.gather(
        identity.members.remove(owner, second.user_id),
        identity.members.remove(second, owner.user_id),
        return_exceptions=True,
    )

    assert sum(isinstance(one, EnclaveError) for one in both) == 1
    kept = next(one for one, gone in ((owner, both[1]), (second, both[0])) if isinstance(gone, EnclaveError))
    assert [one.role for one in (await identity.members.list(kept)).items] == [Role.OWNER]


async def test_nobody_gives_or_takes_what_is_above_them(identity: Identity, owner: Principal) -> None:
    admin = who(identity, await join(identity, owner, role=Role.ADMIN))
    narrow = admin.model_copy(
        update={"scopes": ROLES[Role.AUDITOR] | {next(s for s in ROLES[Role.ADMIN] if s == "members:write")}}
    )
    for role in (Role.OWNER,):
        with pytest.raises(Forbidden):
            await identity.members.change(admin, admin.user_id, ChangeMember(role=role))
        with pytest.raises(Forbidden):
            await identity.members.invite(admin, Invite(email="x@example.org", role=role))
    with pytest.raises(Forbidden):
        await identity.members.change(admin, owner.user_id, ChangeMember(role=Role.VIEWER))
    with pytest.raises(Forbidden):
        await identity.members.remove(admin, owner.user_id)
    with pytest.raises(Forbidden):
        await identity.members.invite(narrow, Invite(email="x@example.org", role=Role.DEVELOPER))
    assert (await identity.members.invite(narrow, Invite(email="x@example.org", role=Role.VIEWER))).role is Role.VIEWER


@pytest.mark.parametrize("removed", [True, False])
async def test_a_token_does_not_undo_what_was_done_to_its_member(
    identity: Identity, owner: Principal, removed: bool
) -> None:
    stale = who(identity, await join(identity, owner, role=Role.ADMIN))
    if removed:
        await identity.members.remove(owner, stale.user_id)
    else:
        await identity.members.change(owner, stale.user_id, ChangeMember(role=Role.DEVELOPER))

    with pytest.raises(Forbidden):
        await identity.members.change(stale, stale.user_id, ChangeMember(role=Role.ADMIN))
    with pytest.raises(Forbidden):
        await identity.members.invite(stale, Invite(email="x@example.org", role=Role.ADMIN))
    with pytest.raises(Forbidden):
        await identity.members.remove(stale, stale.user_id)
    with pytest.raises(Forbidden):
        await identity.keys.create(stale, CreateKey(name="k"))


def contents(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.glob(f"{DATABASE}*"))


async def test_no_secret_is_in_the_database(identity: Identity, owner: Principal, tmp_path: Path) -> None:
    invitation = await identity.members.invite(owner, Invite(email=ADA, role=Role.VIEWER))
    tokens = await accept(identity, invitation.code)
    kept = contents(tmp_path)

    assert b"$argon2id$" in kept
    for secret in (PASSWORD, invitation.code[-43:], tokens.refresh_token[-43:], tokens.token):
        assert secret.encode() not in kept
        assert secret not in repr((invitation, tokens))


async def test_who_was_removed_from_the_machines_org_can_still_start_it(
    identity: Identity, owner: Principal, tmp_path: Path
) -> None:
    first = bootstrap(tmp_path, "http://127.0.0.1:1", identity.authority)
    machine = identity.authority.identify(first.api_key)
    await join(identity, machine, role=Role.OWNER)
    with closing(sqlite3.connect(tmp_path / DATABASE)) as other:
        (user_id,) = other.execute("SELECT user_id FROM api_keys WHERE id = ?", (machine.user_id,)).fetchone()
    await identity.members.remove(machine, user_id)

    second = bootstrap(tmp_path, "http://127.0.0.1:1", identity.authority)

    assert identity.authority.identify(second.api_key).org_id not in (machine.org_id, owner.org_id)
