"""Callers whom another process knows: how often it is asked, and what passes while it does not answer."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from enclave.contracts.errors import Forbidden, InvalidRequest, Unauthenticated, Unavailable
from enclave.contracts.identity import Principal
from enclave.contracts.introspection import INTROSPECT
from enclave.contracts.keys import CreateKey
from enclave.contracts.operations import OF_IDENTITY
from enclave.identity import remote
from enclave.identity.apikey import new_api_key
from enclave.identity.base import Answered, Asked
from enclave.identity.circuit import FIRST_SECONDS, MOST_SECONDS, Circuit
from enclave.identity.line import Line
from enclave.identity.remote import MAX_STRANGERS, RemoteIdentity, Terms
from enclave.identity.separate import MAX_OF_PLACE, SeparateIdentity
from enclave.identity.service import Identity
from enclave.identity.token import TokenReader
from enclave.server.app import Surface
from enclave.server.call import ELSEWHERE, Platform
from enclave.server.internal import internal_routes
from tests.identity.tokens import SECRET, issue_token
from tests.server.conftest import served

pytestmark = pytest.mark.anyio


@dataclass
class Way:
    """The way to the service: counts what passes, holds it, or fails."""

    app: ASGIApp
    asked: Counter[str] = field(default_factory=Counter)
    free: asyncio.Event = field(default_factory=asyncio.Event)
    down: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked[scope["path"]] += 1
        await self.free.wait()
        app = Response(status_code=503) if self.down else self.app
        await app(scope, receive, send)


@dataclass
class Rig:
    """A control plane's memory of callers, the real service behind it, and the time on both sides."""

    identity: Identity
    way: Way
    seconds: float = 1000.0
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    callers: Any = None
    url: str = ""

    @property
    def questions(self) -> int:
        return self.way.asked[INTROSPECT]

    def later(self, seconds: float) -> None:
        self.seconds += seconds
        self.now += timedelta(seconds=seconds)

    def key(self) -> str:
        return str(self.identity.authority.issue_key(self.identity.authority.owner("owner@example.org")))

    async def principal(self, credential: str) -> Principal:
        found: Principal = await self.callers.authenticate(credential)
        return found

    def line(self, key: str) -> Line:
        return Line(self.url, key)

    def remembering(self, line: Line, tokens: TokenReader | None = None) -> RemoteIdentity:
        circuit = Circuit(lambda: self.seconds)
        return RemoteIdentity(line, Terms(10, 60), now=lambda: self.now, circuit=circuit, tokens=tokens)


@asynccontextmanager
async def opened(home: Path, tokens: TokenReader | None = None) -> AsyncIterator[Rig]:
    clock: list[Rig] = []
    identity = Identity.open(home, None, now=lambda: clock[0].now if clock else datetime.now(UTC), jwt_secret=SECRET)
    platform = Platform(ELSEWHERE, identity.authority, identity.accounts, ELSEWHERE)
    rig = Rig(identity, Way(Surface(internal_routes(platform, OF_IDENTITY, identity.service))))
    clock.append(rig)
    rig.way.free.set()
    async with served(rig.way) as server:
        rig.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        line = rig.line(str(identity.service.issue()))
        rig.callers = rig.remembering(line, tokens)
        yield rig
        rig.way.free.set()
        await rig.callers.close()
        await line.close()
    identity.close()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with opened(tmp_path / "home") as rig:
        yield rig


def stranger() -> str:
    return str(new_api_key())


async def refused(rig: Rig, credential: str) -> type[Exception] | None:
    try:
        await rig.callers.authenticate(credential)
    except (Unauthenticated, Unavailable, Forbidden) as error:
        return type(error)
    return None


async def until_asked(rig: Rig, questions: int) -> None:
    while rig.questions < questions:  # noqa: ASYNC110  of what comes over a socket
        await asyncio.sleep(0)


# How often it is asked


async def test_an_answer_is_used_while_it_is_fresh(rig: Rig) -> None:
    key = rig.key()
    first = await rig.principal(key)
    rig.later(9.9)
    assert (await rig.principal(key), rig.questions) == (first, 1)
    rig.later(0.2)
    assert (await rig.principal(key), rig.questions) == (first, 2)


async def test_a_refusal_is_remembered_too(rig: Rig) -> None:
    key = stranger()
    assert [await refused(rig, key) for _ in range(3)] == [Unauthenticated] * 3
    assert rig.questions == 1


async def test_a_hundred_who_want_to_know_at_once_ask_once(rig: Rig) -> None:
    key = rig.key()
    rig.way.free.clear()
    asking = [asyncio.create_task(rig.principal(key)) for _ in range(100)]
    await until_asked(rig, 1)
    rig.way.free.set()
    assert len(set(await asyncio.gather(*asking))) == 1
    assert rig.questions == 1


async def test_who_goes_away_takes_the_answer_from_nobody(rig: Rig) -> None:
    key = rig.key()
    rig.way.free.clear()
    first, second = (asyncio.create_task(rig.principal(key)) for _ in range(2))
    await until_asked(rig, 1)
    first.cancel()
    rig.way.free.set()
    assert (await second, rig.questions) == (await rig.principal(key), 1)


@pytest.mark.parametrize(
    "odd", ["", "x", "a.b", "ek_short_x", "é.é.é", "a.b.c" * 2000, "ek_" + "0" * 16 + "_" + "\0" * 43]
)
async def test_what_can_be_no_credential_is_refused_without_asking(rig: Rig, odd: str) -> None:
    assert (await refused(rig, odd), rig.questions) == (Unauthenticated, 0)


async def test_with_the_secret_of_tokens_a_forged_one_is_refused_without_asking(tmp_path: Path) -> None:
    async with opened(tmp_path / "home", TokenReader(SECRET.encode())) as rig:
        past = timedelta(seconds=-1)
        for forged in (issue_token(secret="another secret, and long enough to be one"), issue_token(lifetime=past)):
            assert (await refused(rig, forged), rig.questions) == (Unauthenticated, 0)


async def test_a_genuine_token_is_asked_about_all_the_same(tmp_path: Path) -> None:
    async with opened(tmp_path / "home", TokenReader(SECRET.encode())) as rig:
        owner = rig.identity.authority.owner("owner@example.org")
        token = issue_token(sub=owner.user_id, orgId=owner.org_id, role="owner")
        assert (await rig.principal(token)).user_id == owner.user_id
        assert rig.questions == 1


# What is honoured


async def test_a_key_that_was_revoked_is_refused_once_the_answer_is_no_longer_fresh(rig: Rig) -> None:
    key = rig.key()
    principal = await rig.principal(key)
    await rig.identity.keys.revoke(principal, principal.user_id)
    rig.later(10)
    assert await refused(rig, key) is Unauthenticated


async def test_a_key_ends_when_it_ends_however_fresh_the_answer_and_down_the_service(rig: Rig) -> None:
    owner = await rig.principal(rig.key())
    end = rig.now + timedelta(seconds=5)
    key = (await rig.identity.keys.create(owner, CreateKey(name="k", expires_at=end))).api_key
    await rig.principal(key)
    rig.way.down = True
    rig.later(4)
    await rig.principal(key)
    rig.later(1.1)
    assert await refused(rig, key) is Unavailable
    rig.way.down = False
    rig.later(MOST_SECONDS)
    assert await refused(rig, key) is Unauthenticated


async def test_the_operator_acts_in_no_org_and_nobody_in_one_is_the_operator(rig: Rig) -> None:
    operator, key = str(rig.identity.authority.issue_operator()), rig.key()
    await rig.callers.authenticate_operator(operator)
    assert await refused(rig, operator) is Forbidden
    with pytest.raises(Forbidden):
        await rig.callers.authenticate_operator(key)
    with pytest.raises(Unauthenticated):
        await rig.callers.authenticate_operator(stranger())


async def test_what_was_on_its_way_when_callers_were_forgotten_is_not_remembered(rig: Rig) -> None:
    key = rig.key()
    rig.way.free.clear()
    before = asyncio.create_task(rig.principal(key))
    await until_asked(rig, 1)
    rig.callers.forget()
    rig.way.free.set()
    first = await before
    assert (await rig.principal(key), rig.questions) == (first, 2)


async def test_who_asks_after_callers_were_forgotten_does_not_get_what_was_on_its_way(rig: Rig) -> None:
    key = rig.key()
    rig.way.free.clear()
    before = asyncio.create_task(rig.principal(key))
    await until_asked(rig, 1)
    rig.callers.forget()
    after = asyncio.create_task(rig.principal(key))
    await until_asked(rig, 2)
    rig.way.free.set()
    assert await before == await after


async def test_an_org_is_forgotten_alone(rig: Rig) -> None:
    ours, theirs = rig.key(), str(rig.identity.authority.issue_key(rig.identity.authority.owner("b@example.org")))
    principal = await rig.principal(ours)
    await rig.principal(theirs)
    rig.callers.forget(principal.org_id)
    await rig.principal(theirs)
    assert rig.questions == 2
    await rig.principal(ours)
    assert rig.questions == 3


# While the service does not answer


async def test_only_who_was_let_in_lately_passes(rig: Rig) -> None:
    key, other = rig.key(), rig.key()
    assert await refused(rig, gone := stranger()) is Unauthenticated
    await rig.principal(key)
    rig.way.down = True
    rig.later(59.9)
    await rig.principal(key)
    # Nobody is told that they are nobody by one who could not ask.
    assert [await refused(rig, one) for one in (other, stranger(), gone)] == [Unavailable] * 3
    rig.later(0.2)
    assert await refused(rig, key) is Unavailable


async def test_a_refusal_says_when_to_come_again(rig: Rig) -> None:
    rig.way.down = True
    for _ in range(2):
        with pytest.raises(Unavailable) as raised:
            await rig.callers.authenticate(stranger())
        assert (raised.value.retry_after or 0) >= 1


async def test_it_is_tried_now_and_then_and_nobody_waits_for_that(rig: Rig) -> None:
    key = rig.key()
    await rig.principal(key)
    rig.later(11)
    rig.way.down = True
    for _ in range(50):
        await rig.principal(key)
        await refused(rig, stranger())
    assert rig.questions == 2
    rig.later(FIRST_SECONDS)
    rig.way.free.clear()
    # One tries; it is held, and still all are answered.
    assert len({await rig.principal(key) for _ in range(50)}) == 1
    await until_asked(rig, 3)
    rig.way.down = False
    rig.way.free.set()
    while await refused(rig, stranger()) is Unavailable:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert rig.questions == 4


async def test_a_no_counts_at_once_however_lately_there_was_a_yes(rig: Rig) -> None:
    key = rig.key()
    principal = await rig.principal(key)
    rig.way.down = True
    rig.later(11)
    await rig.principal(key)
    rig.way.down = False
    await rig.identity.keys.revoke(principal, principal.user_id)
    rig.later(FIRST_SECONDS)
    while await refused(rig, key) is None:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert await refused(rig, key) is Unauthenticated
    rig.way.down = True
    rig.later(11)
    assert await refused(rig, key) is Unavailable


async def test_a_service_that_refuses_us_lets_nobody_in_and_nobody_down(rig: Rig) -> None:
    line = rig.line(str(new_api_key("es")))
    rig.callers = rig.remembering(line)
    assert await refused(rig, rig.key()) is Unavailable
    with pytest.raises(Unavailable):
        await line.relay(Asked("GET", "/keys", b"", rig.key(), "192.0.2.1"))
    await rig.callers.close()
    await line.close()


async def test_what_cannot_be_asked_for_is_the_callers_mistake(rig: Rig) -> None:
    line = rig.line(str(rig.identity.service.issue()))
    # Each of them is three characters in a URL.
    asked = Asked("GET", "/keys?" + '"' * 25_000, b"", rig.key(), "192.0.2.1")
    with pytest.raises(InvalidRequest):
        await line.relay(asked)
    await line.close()


async def test_from_one_place_no_more_than_so_much_is_on_its_way(rig: Rig) -> None:
    rig.way.free.clear()
    line, circuit = rig.line(str(rig.identity.service.issue())), Circuit(lambda: rig.seconds)
    there = SeparateIdentity(line, rig.callers, circuit)
    key = rig.key()

    def ask(address: str) -> "asyncio.Task[Answered]":
        return asyncio.create_task(there.relay(Asked("GET", "/keys", b"", key, address)))

    many = [ask(f"2001:db8::{at:x}") for at in range(MAX_OF_PLACE)]
    while rig.way.asked["/keys"] < MAX_OF_PLACE:  # noqa: ASYNC110  of what comes over a socket
        await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await ask("2001:db8::ffff")
    other = ask("192.0.2.1")
    rig.way.free.set()
    assert {answered.status for answered in await asyncio.gather(other, *many)} == {200}
    assert (await ask("2001:db8::ffff")).status == 200
    await line.close()


@pytest.mark.slow
async def test_a_service_that_is_slow_is_one_that_does_not_answer(rig: Rig) -> None:
    rig.way.free.clear()
    assert await refused(rig, rig.key()) is Unavailable


@pytest.mark.slow
@pytest.mark.timeout(20)
async def test_a_service_that_answers_byte_by_byte_is_one_that_does_not_answer(rig: Rig) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError), contextlib.closing(writer):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            # Each byte comes in time; all of them never would.
            while not writer.is_closing() and not reader.at_eof():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.2)

    async with await asyncio.start_server(drip, "127.0.0.1", 0) as server:
        line = Line(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "es")
        rig.callers = rig.remembering(line)
        assert await refused(rig, rig.key()) is Unavailable
        await rig.callers.close()
        await line.close()


# Floods


async def test_strangers_push_out_nobody_who_is_known(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "MAX_REMEMBERED", 8)
    key = rig.key()
    await rig.principal(key)
    for _ in range(20):
        await refused(rig, stranger())
    asked = rig.questions
    await rig.principal(key)
    assert rig.questions == asked
    assert len(rig.callers._refused) == 8


async def test_an_org_of_many_keys_pushes_out_none_of_anothers(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "MAX_REMEMBERED", 8)
    theirs = [rig.key() for _ in range(3)]
    other = rig.identity.authority.owner("other@example.org")
    for key in theirs:
        await rig.principal(key)
    for _ in range(20):
        await rig.principal(str(rig.identity.authority.issue_key(other)))
    asked = rig.questions
    for key in theirs:
        await rig.principal(key)
    assert rig.questions == asked
    assert len(rig.callers._active) == 8


async def test_of_strangers_who_come_at_once_few_are_asked_about_and_who_is_known_passes(rig: Rig) -> None:
    key = rig.key()
    await rig.principal(key)
    rig.later(11)
    rig.way.free.clear()
    flood = [asyncio.create_task(refused(rig, stranger())) for _ in range(200)]
    await until_asked(rig, 1 + MAX_STRANGERS)
    done, held = await asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED)
    assert {task.result() for task in done} == {Unavailable}
    known = asyncio.create_task(rig.principal(key))
    await until_asked(rig, 2 + MAX_STRANGERS)
    rig.way.free.set()
    await known
    assert Counter(await asyncio.gather(*flood)) == {Unavailable: 200 - MAX_STRANGERS, Unauthenticated: MAX_STRANGERS}
    assert rig.questions == 2 + MAX_STRANGERS
    assert held
