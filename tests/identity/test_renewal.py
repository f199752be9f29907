"""Passwords set anew: who may, that every sign-in ends, and that guessing does not pay here either."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from pydantic import SecretStr

from enclave.contracts.errors import Conflict, Forbidden, InvalidRequest, NotFound, QuotaExceeded, Unauthenticated
from enclave.contracts.identity import Principal, Role
from enclave.contracts.keys import CreateKey
from enclave.contracts.members import ChangePassword, ResetPassword, Tokens
from enclave.contracts.orgs import AskReset, CreateOrg
from enclave.identity.guard import MAX_OF_ADDRESS, MAX_OF_PAIR
from enclave.identity.renewal import RESET_LIFE
from enclave.identity.service import DATABASE, Identity
from tests.identity.conftest import founder
from tests.identity.test_authority import Clock
from tests.identity.test_keys import Trail
from tests.identity.test_sign_in import ADA, HERE, PASSWORD, THERE, contents, join, login, refresh, who

pytestmark = pytest.mark.anyio

NEW = "a new long password"


async def change(identity: Identity, caller: Principal, current: str = PASSWORD, new: str = NEW) -> Tokens:
    asked = ChangePassword(current=SecretStr(current), new=SecretStr(new))
    return await identity.passwords.change(caller, asked, HERE)


async def reset(identity: Identity, code: str, new: str = NEW, address: str = HERE) -> None:
    await identity.passwords.reset(ResetPassword(code=SecretStr(code), password=SecretStr(new)), address)


async def code(identity: Identity, email: str = ADA) -> str:
    return (await identity.operator.reset_password(AskReset(email=email))).code


async def test_a_password_is_changed_and_every_other_sign_in_ends(
    identity: Identity, owner: Principal, trail: Trail, clock: Clock
) -> None:
    first, second = await join(identity, owner, role=Role.OWNER), await login(identity)
    user = who(identity, first)
    clock.advance(1)
    made = await identity.orgs.create(user, CreateOrg(name="mine"))
    fresh = await change(identity, user)

    for old in (first, second):
        with pytest.raises(Unauthenticated):
            who(identity, old)
        with pytest.raises(Unauthenticated):
            await refresh(identity, old.refresh_token)
    with pytest.raises(Unauthenticated):
        await login(identity)
    assert who(identity, fresh) == user
    assert (await refresh(identity, fresh.refresh_token)).org_id == owner.org_id
    assert (await login(identity, secret=NEW)).org_id == owner.org_id
    told = [event for event in trail.events.values() if event.type == "password_changed"]
    assert {(one.org_id, one.actor, one.reset) for one in told} == {
        (owner.org_id, user.user_id, False),
        (made.id, user.user_id, False),
    }


async def test_the_current_password_is_needed_and_guesses_at_it_are_counted_as_sign_ins(
    identity: Identity, owner: Principal, trail: Trail
) -> None:
    tokens = await join(identity, owner)
    user = who(identity, tokens)
    for _ in range(MAX_OF_PAIR):
        with pytest.raises(InvalidRequest) as wrong:
            await change(identity, user, "wrong")
    with pytest.raises(QuotaExceeded):
        await change(identity, user)
    with pytest.raises(QuotaExceeded):
        await login(identity)
    await identity.tick()

    assert [one.field for one in wrong.value.errors] == ["current"]
    assert who(identity, tokens) == user
    assert "sign_ins_refused" in trail.types


async def test_a_short_one_is_named(identity: Identity, owner: Principal) -> None:
    user = who(identity, await join(identity, owner))
    with pytest.raises(InvalidRequest) as short:
        await change(identity, user, new="short")
    with pytest.raises(InvalidRequest) as reset_short:
        await reset(identity, await code(identity), "short")

    assert [short.value.errors[0].field, reset_short.value.errors[0].field] == ["new", "password"]


async def test_a_key_and_a_stranger_have_no_password(identity: Identity, owner: Principal) -> None:
    await join(identity, owner)
    key = identity.authority.identify((await identity.keys.create(owner, CreateKey(name="k"))).api_key)
    for caller in (key, owner.model_copy(update={"user_id": "ada"})):
        with pytest.raises(Forbidden):
            await change(identity, caller)


async def test_one_who_has_none_sets_none_without_a_code(identity: Identity, owner: Principal) -> None:
    with pytest.raises(InvalidRequest):
        await change(identity, owner)


async def test_of_two_who_change_it_at_once_one_does(identity: Identity, owner: Principal) -> None:
    user = who(identity, await join(identity, owner))
    both = await asyncio.gather(
        change(identity, user), change(identity, user, new="one more password"), return_exceptions=True
    )

    assert sorted(type(one).__name__ for one in both) == ["Conflict", "Tokens"]
    assert isinstance(next(one for one in both if not isinstance(one, Tokens)), Conflict)


async def test_a_sign_in_with_a_password_that_is_replaced_meanwhile_is_none(
    identity: Identity, owner: Principal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await join(identity, owner)
    genuine = identity.sign_ins.passwords._compare

    def slow(kept: str, given: str) -> bool:
        fits = genuine(kept, given)
        with closing(sqlite3.connect(tmp_path / DATABASE)) as other, other:
            other.execute("UPDATE users SET password = 'another' WHERE email = ?", (ADA,))
        return fits

    monkeypatch.setattr(identity.sign_ins.passwords, "_compare", slow)
    with pytest.raises(Unauthenticated):
        await login(identity)


async def test_a_code_of_the_operators_sets_it_once(identity: Identity, owner: Principal, trail: Trail) -> None:
    first = await join(identity, owner)
    given = await code(identity)
    await reset(identity, given)

    with pytest.raises(Unauthenticated):
        await reset(identity, given, "one more password")
    with pytest.raises(Unauthenticated):
        who(identity, first)
    with pytest.raises(Unauthenticated):
        await login(identity)
    assert who(identity, await login(identity, secret=NEW)).org_id == owner.org_id
    (told,) = [event for event in trail.events.values() if event.type == "password_changed"]
    assert told.reset
    assert given.startswith("ep_")


async def test_the_machines_own_user_gets_a_password_by_a_code_only(identity: Identity) -> None:
    machine = founder(identity, "owner@localhost")
    await reset(identity, await code(identity, "owner@localhost"))

    assert who(identity, await login(identity, "owner@localhost", NEW)).org_id == machine.org_id


async def test_a_code_passes_for_a_day_unless_another_is_given_or_the_password_changed(
    identity: Identity, owner: Principal, clock: Clock
) -> None:
    user = who(identity, await join(identity, owner))
    older, newer = await code(identity), await code(identity)
    with pytest.raises(Unauthenticated):
        await reset(identity, older)
    await change(identity, user)
    with pytest.raises(Unauthenticated):
        await reset(identity, newer)
    late = await code(identity)
    clock.advance(RESET_LIFE.total_seconds())
    with pytest.raises(Unauthenticated):
        await reset(identity, late)


async def test_of_two_who_use_a_code_at_once_one_does(identity: Identity, owner: Principal) -> None:
    await join(identity, owner)
    given = await code(identity)
    both = await asyncio.gather(
        reset(identity, given), reset(identity, given, "one more password"), return_exceptions=True
    )

    assert sorted(type(one).__name__ for one in both) == ["NoneType", "Unauthenticated"]


async def test_codes_are_guessed_so_often_from_an_address(identity: Identity, owner: Principal) -> None:
    await join(identity, owner)
    given = await code(identity)
    for wrong in [given[:-1] + ("a" if given[-1] != "a" else "b"), "ep_x", "\0", given.replace("ep_", "ei_")]:
        with pytest.raises(Unauthenticated):
            await reset(identity, wrong)
    for _ in range(MAX_OF_ADDRESS - 4):
        with pytest.raises(Unauthenticated):
            await reset(identity, "x")
    with pytest.raises(QuotaExceeded):
        await reset(identity, given)
    await reset(identity, given, address=THERE)


async def test_there_is_no_code_for_who_is_unknown(identity: Identity) -> None:
    with pytest.raises(NotFound):
        await code(identity, "nobody@example.org")


async def test_a_code_is_in_its_one_answer_only(
    identity: Identity, owner: Principal, trail: Trail, tmp_path: Path
) -> None:
    await join(identity, owner)
    answer = await identity.operator.reset_password(AskReset(email=ADA.upper()))
    kept = contents(tmp_path)
    await reset(identity, answer.code)

    told = "".join(event.model_dump_json() for event in trail.events.values())
    assert answer.email == ADA
    assert answer.code[-43:] not in told + repr(answer)
    assert answer.code[-43:].encode() not in kept
