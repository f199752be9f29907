"""API keys beside a clock that the test moves and an audit trail that fails when it says so."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.resources import files
from pathlib import Path

import pytest

from enclave.contracts.audit import AuditEvent
from enclave.contracts.errors import Conflict, Forbidden, InvalidRequest, Unauthenticated, Unavailable
from enclave.contracts.identity import Principal, Role, Scope
from enclave.contracts.keys import CreateKey, Key
from enclave.identity import database, keys
from enclave.identity.service import DATABASE, Identity
from tests.identity.test_authority import Clock

pytestmark = pytest.mark.anyio


@dataclass
class Trail:
    """An audit trail; while it is `broken` it takes nothing, and a `deaf` one forgets to say that it did."""

    events: dict[str, AuditEvent] = field(default_factory=dict)
    broken: bool = False
    deaf: bool = False

    async def __call__(self, key: str, event: AuditEvent) -> None:
        if self.broken:
            raise Unavailable
        if key in self.events:
            raise Conflict
        self.events[key] = event
        if self.deaf:
            raise Unavailable

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.events.values()]


def refused(identity: Identity, credential: str) -> None:
    with pytest.raises(Unauthenticated):
        identity.authority.identify(credential)


async def listed(identity: Identity, owner: Principal) -> list[Key]:
    return list((await identity.keys.list(owner)).items)


@pytest.mark.parametrize("used_before", [True, False])
async def test_a_key_ends_at_its_moment(identity: Identity, owner: Principal, clock: Clock, used_before: bool) -> None:
    ends = clock() + timedelta(seconds=10)
    made = await identity.keys.create(owner, CreateKey(name="k", expires_at=ends))
    clock.advance(9.9)
    if used_before:
        assert identity.authority.identify(made.api_key).user_id == made.id
    clock.advance(0.1)

    refused(identity, made.api_key)


@pytest.mark.parametrize(
    "ends", ["9999-12-31T23:59:59.999999Z", "9999-12-31T23:00:00-12:00", "0001-01-01T00:00:00+14:00"]
)
async def test_a_key_ends_at_a_moment_that_there_is(identity: Identity, owner: Principal, ends: str) -> None:
    with pytest.raises(InvalidRequest):
        await identity.keys.create(owner, CreateKey.model_validate_json(f'{{"name": "k", "expiresAt": "{ends}"}}'))

    assert (await identity.keys.list(owner)).items == ()


async def test_a_key_may_what_is_left_to_its_member(identity: Identity, owner: Principal, tmp_path: Path) -> None:
    made = await identity.keys.create(owner, CreateKey(name="k", scopes=(Scope.SESSIONS_WRITE, Scope.SESSIONS_READ)))
    with closing(sqlite3.connect(tmp_path / DATABASE)) as other, other:
        other.execute("UPDATE memberships SET role = 'auditor'")

    principal = identity.authority.identify(made.api_key)

    assert (principal.role, principal.scopes) == (Role.AUDITOR, frozenset({Scope.SESSIONS_READ}))


async def test_a_use_is_written_down_once_in_a_while(identity: Identity, owner: Principal, clock: Clock) -> None:
    made = await identity.keys.create(owner, CreateKey(name="k"))
    assert (await listed(identity, owner))[0].last_used_at is None
    at = clock()
    for _ in range(5):
        clock.advance(1)
        identity.authority.identify(made.api_key)
    await identity.tick()

    assert (await listed(identity, owner))[0].last_used_at == at + timedelta(seconds=1)
    assert identity.authority.used() == {}


async def test_what_cannot_be_told_now_is_told_later_and_once(
    identity: Identity, owner: Principal, trail: Trail
) -> None:
    trail.broken = True
    made = await identity.keys.create(owner, CreateKey(name="k"))
    assert identity.authority.identify(made.api_key).user_id == made.id
    assert trail.types == []

    trail.broken, trail.deaf = False, True
    await identity.tick()
    assert trail.types == ["org_created"]
    trail.deaf = False
    await identity.keys.revoke(owner, made.id)
    await identity.tick()

    assert trail.types == ["org_created", "key_created", "key_revoked"]


async def test_an_event_that_cannot_be_read_fails_no_change(
    identity: Identity, owner: Principal, trail: Trail, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(sqlite3.connect(tmp_path / DATABASE)) as other, other:
        other.execute("INSERT INTO outbox (id, body) VALUES ('x', '{\"type\": \"from tomorrow\"}')")
    made = await identity.keys.create(owner, CreateKey(name="k"))
    assert identity.authority.identify(made.api_key).user_id == made.id
    assert "the first cannot be read" in caplog.text

    with closing(sqlite3.connect(tmp_path / DATABASE)) as other, other:
        other.execute("DELETE FROM outbox WHERE id = 'x'")
    await identity.tick()
    assert trail.types[-1] == "key_created"


async def test_a_change_that_fails_is_not_told(
    identity: Identity, owner: Principal, trail: Trail, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise sqlite3.OperationalError("disk full")

    monkeypatch.setattr(keys, "post", failing)
    with pytest.raises(Unavailable):
        await identity.keys.create(owner, CreateKey(name="k"))
    monkeypatch.undo()
    await identity.tick()

    assert (await listed(identity, owner), trail.types) == ([], ["org_created"])


async def test_an_org_has_so_many_keys_and_no_more(
    identity: Identity, owner: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "MAX_KEYS", 2)
    first = await identity.keys.create(owner, CreateKey(name="k"))
    await identity.keys.create(owner, CreateKey(name="k"))
    with pytest.raises(Conflict):
        await identity.keys.create(owner, CreateKey(name="k"))
    await identity.keys.revoke(owner, first.id)

    assert (await identity.keys.create(owner, CreateKey(name="k"))).name == "k"


async def test_a_revoked_key_makes_none(identity: Identity, owner: Principal) -> None:
    made = await identity.keys.create(owner, CreateKey(name="k"))
    held = identity.authority.identify(made.api_key)
    await identity.keys.revoke(owner, made.id)

    with pytest.raises(Forbidden):
        await identity.keys.create(held, CreateKey(name="k"))


def as_version_1(path: Path) -> None:
    """Put what is in a database into one of the first version, in its place."""
    schema = files("enclave.identity").joinpath("schema.sql").read_text()
    with closing(sqlite3.connect(path)) as new:
        tables = {
            "orgs": "id, created_at",
            "users": "id, email, created_at",
            "memberships": "org_id, user_id, role",
            "api_keys": "id, hash, org_id, user_id, role, created_at, revoked_at",
        }
        rows = {name: new.execute(f"SELECT {columns} FROM {name}").fetchall() for name, columns in tables.items()}
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    with closing(sqlite3.connect(path)) as old, old:
        old.executescript(f"{schema} PRAGMA user_version = 1;")
        for name, columns in tables.items():
            marks = ", ".join("?" * len(columns.split(",")))
            old.executemany(f"INSERT INTO {name} ({columns}) VALUES ({marks})", rows[name])


async def test_a_key_from_before_there_were_names_is_as_it_was(tmp_path: Path, trail: Trail, clock: Clock) -> None:
    with closing(Identity.open(tmp_path, trail, now=clock)) as identity:
        key = identity.authority.issue_key(identity.authority.owner("o@example.org"))
    as_version_1(tmp_path / DATABASE)

    with closing(Identity.open(tmp_path, trail, now=clock)) as identity:
        principal = identity.authority.identify(str(key))
        (shown,) = await listed(identity, principal)

    assert (principal.role, principal.scopes) == (Role.OWNER, frozenset(Scope))
    assert (shown.id, shown.name, shown.created_by) == (key.id, "bootstrap", "platform")
    assert database.SCHEMA_VERSION >= 2
