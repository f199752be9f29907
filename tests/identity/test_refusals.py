"""What is told of API keys that do not hold."""

import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from enclave.contracts.audit import AccessRefused
from enclave.contracts.errors import Unauthenticated, Unavailable
from enclave.contracts.identity import Principal
from enclave.contracts.keys import CreateKey
from enclave.identity.apikey import ApiKey, new_api_key
from enclave.identity.service import DATABASE, Identity
from tests.identity.test_authority import Clock
from tests.identity.test_keys import Trail

pytestmark = pytest.mark.anyio


def told(trail: Trail) -> list[tuple[str, str, int]]:
    events = [event for event in trail.events.values() if isinstance(event, AccessRefused)]
    assert all((event.operation, event.reason, event.session_id) == (None, "credential", None) for event in events)
    return [(event.org_id, event.actor, event.count) for event in events]


def refused(identity: Identity, credential: str, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(Unauthenticated):
            identity.authority.identify(credential)


@pytest.mark.parametrize("why", ["secret", "revoked", "expired", "disabled"])
async def test_a_key_that_does_not_hold_is_told_by_its_id_and_how_often(
    identity: Identity, owner: Principal, trail: Trail, clock: Clock, why: str
) -> None:
    made = await identity.keys.create(owner, CreateKey(name="k", expires_at=clock() + timedelta(hours=1)))
    identity.authority.identify(made.api_key)
    given = str(ApiKey(made.id, new_api_key().secret)) if why == "secret" else made.api_key
    if why == "revoked":
        await identity.keys.revoke(owner, made.id)
    elif why == "expired":
        clock.advance(3600)
    elif why == "disabled":
        await identity.operator.disable_org(owner.org_id)
    refused(identity, given, 3)
    await identity.tick()
    await identity.tick()

    assert told(trail) == [(owner.org_id, made.id, 3)]


async def test_what_is_no_key_of_anyones_is_told_nowhere(identity: Identity, owner: Principal, trail: Trail) -> None:
    made = await identity.keys.create(owner, CreateKey(name="k"))
    for credential in (str(new_api_key()), made.api_key[:-1], "ek_", "x.y.z"):
        refused(identity, credential)
    await identity.tick()

    assert told(trail) == []


async def test_what_could_not_be_written_is_told_the_next_time(
    identity: Identity, owner: Principal, trail: Trail, tmp_path: Path
) -> None:
    made = await identity.keys.create(owner, CreateKey(name="k"))
    refused(identity, str(ApiKey(made.id, new_api_key().secret)), 2)
    with closing(sqlite3.connect(tmp_path / DATABASE)) as other, other:
        other.execute("ALTER TABLE outbox RENAME TO away")
    with pytest.raises(Unavailable):
        identity.refusals.note()
    with closing(sqlite3.connect(tmp_path / DATABASE)) as other, other:
        other.execute("ALTER TABLE away RENAME TO outbox")
    await identity.tick()

    assert told(trail) == [(owner.org_id, made.id, 2)]
