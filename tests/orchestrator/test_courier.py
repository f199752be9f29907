"""Webhooks from the end of a session to their receivers, on a real store, with receivers that the test plays."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest
from standardwebhooks import Webhook

from enclave.contracts.errors import Forbidden, InvalidRequest, NotFound, PolicyForbids, Unavailable
from enclave.contracts.identity import Role
from enclave.contracts.sessions import CreateSessionRequest, Phase, Session
from enclave.contracts.tenancy import OrgPolicy
from enclave.contracts.webhooks import Delivery
from enclave.core.audit import verify
from enclave.core.session import created
from enclave.core.webhook import ATTEMPT_SECONDS, DELAYS
from enclave.orchestrator.courier import LEASE, MOST, Courier, Means
from enclave.orchestrator.orchestrator import Keyring
from enclave.store.base import Attempt, Due, Held, Share
from enclave.store.outbox import SqliteOutbox
from enclave.store.vault import Vault
from enclave.webhook.base import Answer, Post
from tests.orchestrator.conftest import Stage, member
from tests.orchestrator.test_orchestrator import events_of, prints_and_succeeds
from tests.store.test_sqlite import a_session

pytestmark = pytest.mark.anyio

ME = member()
URL = "https://hooks.example.org/in?token=s3cret-part"


def taken(_: Post) -> Answer:
    return Answer(status=204)


@dataclass
class Receivers:
    """Everybody's receivers: each message is kept, and answered as the test says, at once or when it is let go."""

    answer: Callable[[Post], Answer] = taken
    posts: list[Post] = field(default_factory=list)
    waiting: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)
    held: dict[str, asyncio.Event] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def hold(self, host: str) -> asyncio.Event:
        return self.held.setdefault(host, asyncio.Event())

    async def send(self, post: Post) -> Answer:
        host = post.url.split("/")[2]
        self.posts.append(post)
        self.waiting[host] += 1
        self.most[host] = max(self.most[host], self.waiting[host])
        self.news.set()
        try:
            if (gate := self.held.get(host)) is not None:
                await gate.wait()
        finally:
            self.waiting[host] -= 1
        return self.answer(post)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                self.news.clear()
                await self.news.wait()


class Watched(SqliteOutbox):
    """An outbox that says when something was written."""

    news: asyncio.Event

    def settle(self, attempt: Attempt) -> Awaitable[None]:
        written = asyncio.ensure_future(super().settle(attempt))
        written.add_done_callback(lambda _: self.news.set())
        return written


class Clock:
    """The time, which goes on when the test says so."""

    def __init__(self, stage: Stage) -> None:
        self._now = stage.ports.clock
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return self._now() + self.ahead


@dataclass
class Rig:
    stage: Stage
    means: Means
    receivers: Receivers
    clock: Clock

    @asynccontextmanager
    async def sending(self, most: Share = MOST) -> AsyncIterator[Courier]:
        courier = Courier(replace(self.means, most=most), self.stage.orchestrator.webhooks.stirred)
        courier.start()
        try:
            yield courier
        finally:
            await courier.close()

    async def run(self, url: str = URL, org_id: str = "org_a") -> Session:
        request = CreateSessionRequest(code="x", webhook_url=url)
        return await self.stage.orchestrator.create(member(org_id), request, wait_seconds=10)

    async def told(self, session: Session) -> Delivery:
        (found,) = (await self.stage.orchestrator.webhooks.list(member(session.org_id), session_id=session.id)).items
        return found

    async def settled(self, session: Session, state: str = "delivered", attempts: int = 1) -> Delivery:
        """The delivery once it is so."""
        async with asyncio.timeout(20):
            while True:
                self.receivers.news.clear()
                told = await self.told(session)
                if (told.state, told.attempts) == (state, attempts):
                    return told
                await self.receivers.news.wait()

    def wind(self, seconds: float) -> None:
        self.clock.ahead += timedelta(seconds=seconds)
        self.stage.orchestrator.webhooks.stirred.set()


def watched(stage: Stage, key: bytes, news: asyncio.Event) -> Watched:
    outbox = Watched(stage.store._writer, stage.store._readers, Vault(key))
    outbox.news = news
    return outbox


@pytest.fixture
def rig(stage: Stage) -> Rig:
    stage.backend.play = prints_and_succeeds
    clock, key, receivers = Clock(stage), bytes(32), Receivers()
    keyring = Keyring(stage.store.signing(key), clock)
    means = Means(stage.store, watched(stage, key, receivers.news), keyring, receivers, clock, chance=lambda: 0.5)
    return Rig(stage, means, receivers, clock)


def others(events: list[str]) -> list[str]:
    return [event for event in events if event.startswith("webhook")]


async def chain(rig: Rig, org_id: str = "org_a") -> list[str]:
    found = await rig.stage.store.chain(org_id)
    assert verify(found) is None
    return others([event.type for event in found])


async def test_a_session_that_is_over_is_posted_signed_with_the_orgs_secret(rig: Rig) -> None:
    secret = (await rig.stage.orchestrator.webhooks.rotate(ME)).secret
    async with rig.sending():
        session = await rig.run()
        told = await rig.settled(session)

    (post,) = rig.receivers.posts
    message = Webhook(secret).verify(post.body, dict(post.headers))
    assert (post.url, post.headers["webhook-id"]) == (URL, told.id)
    assert message["type"] == "session.succeeded"
    assert message["data"] == json.loads(session.model_dump_json())
    assert (told.host, told.last_status, told.next_attempt_at) == ("hooks.example.org", 204, None)
    assert await chain(rig) == ["webhook_secret_rotated", "webhook_delivered"]


async def test_the_url_is_told_to_nobody(rig: Rig) -> None:
    async with rig.sending():
        session = await rig.run()
        told = await rig.settled(session)

    shown = session.model_dump_json() + told.model_dump_json() + repr(await rig.stage.store.chain("org_a"))
    assert "s3cret-part" not in shown + repr(rig.receivers.posts)
    assert b"s3cret-part" not in rig.receivers.posts[0].body


async def test_the_sessions_own_trail_and_stream_end_where_they_ended(rig: Rig) -> None:
    session = await rig.run()
    before = await events_of(rig.stage, session)
    places = [place async for place, _ in await rig.stage.orchestrator.follow(ME, session.id)]
    async with rig.sending():
        await rig.settled(session)

    assert await events_of(rig.stage, session) == before
    assert [place async for place, _ in await rig.stage.orchestrator.follow(ME, session.id)] == places


async def test_a_session_torn_down_while_it_runs_is_posted_as_that_and_no_other_is_twice(rig: Rig) -> None:
    rig.stage.backend.play = lambda _: None
    session = await rig.stage.orchestrator.create(ME, CreateSessionRequest(code="x", webhook_url=URL))
    await rig.stage.orchestrator.teardown(ME, session.id)
    rig.stage.backend.play = prints_and_succeeds
    other = await rig.run()
    async with rig.sending():
        await rig.settled(other)
        await rig.stage.orchestrator.teardown(ME, other.id)
        assert (await rig.settled(session)).phase is Phase.TORN_DOWN

    types = {post.headers["webhook-id"]: json.loads(post.body)["type"] for post in rig.receivers.posts}
    assert sorted(types.values()) == ["session.succeeded", "session.torn_down"]
    assert len(rig.receivers.posts) == 2


async def test_what_fails_is_tried_again_with_one_id_until_it_is_given_up(rig: Rig) -> None:
    rig.receivers.answer = lambda _: Answer(status=500)
    async with rig.sending():
        session = await rig.run()
        for attempts, delay in enumerate(DELAYS, 1):
            told = await rig.settled(session, "pending", attempts)
            assert told.next_attempt_at is not None
            assert told.last_attempt_at is not None
            assert (told.next_attempt_at - told.last_attempt_at).total_seconds() == pytest.approx(delay, abs=0.01)
            rig.wind(delay)
        told = await rig.settled(session, "failed", 1 + len(DELAYS))

    ids = {post.headers["webhook-id"] for post in rig.receivers.posts}
    stamps = {post.headers["webhook-timestamp"] for post in rig.receivers.posts}
    assert (len(rig.receivers.posts), len(ids), len(stamps)) == (9, 1, 9)
    assert len({post.body for post in rig.receivers.posts}) == 1
    assert (told.last_status, told.last_error) == (500, "the receiver answered 500")
    assert await chain(rig) == ["webhook_secret_rotated", "webhook_failed"]


async def test_a_receiver_that_wants_no_more_is_left_alone(rig: Rig) -> None:
    rig.receivers.answer = lambda _: Answer(status=410)
    async with rig.sending():
        session = await rig.run()
        await rig.settled(session, "failed")

    assert await chain(rig) == ["webhook_secret_rotated", "webhook_failed"]


async def test_what_was_given_up_or_taken_is_sent_again_when_asked(rig: Rig) -> None:
    rig.receivers.answer = lambda _: Answer(status=410)
    webhooks = rig.stage.orchestrator.webhooks
    async with rig.sending():
        session = await rig.run()
        told = await rig.settled(session, "failed")
        rig.receivers.answer = taken
        assert (await webhooks.redeliver(ME, told.id)).state == "pending"
        await rig.settled(session)
        await webhooks.redeliver(ME, told.id)
        await rig.receivers.until(lambda: len(rig.receivers.posts) == 3)
        await rig.settled(session)

    assert len({post.headers["webhook-id"] for post in rig.receivers.posts}) == 1
    ends = ["webhook_failed", "webhook_redelivered", "webhook_delivered", "webhook_redelivered", "webhook_delivered"]
    assert await chain(rig) == ["webhook_secret_rotated", *ends]


async def test_both_secrets_sign_for_a_day_and_then_the_new_one_alone(rig: Rig) -> None:
    webhooks = rig.stage.orchestrator.webhooks
    old, new = await webhooks.rotate(ME), await webhooks.rotate(ME)
    assert old.previous_until is None
    assert new.previous_until is not None
    assert new.previous_until - new.created_at == pytest.approx(timedelta(hours=24), abs=timedelta(seconds=1))
    async with rig.sending():
        session = await rig.run()
        told = await rig.settled(session)
        for secret in (old.secret, new.secret):
            Webhook(secret).verify(rig.receivers.posts[0].body, dict(rig.receivers.posts[0].headers))
        rig.wind(24 * 3600)
        await webhooks.redeliver(ME, told.id)
        await rig.receivers.until(lambda: len(rig.receivers.posts) == 2)

    signed = [len(post.headers["webhook-signature"].split(" ")) for post in rig.receivers.posts]
    assert signed == [2, 1]


async def test_two_that_rotate_at_once_both_get_a_secret_that_signs(rig: Rig) -> None:
    webhooks = rig.stage.orchestrator.webhooks
    made = await asyncio.gather(webhooks.rotate(ME), webhooks.rotate(ME))

    found = await rig.means.keyring.secrets("org_a")
    assert {one.secret for one in made} == set(found)


async def test_orgs_sign_with_secrets_of_their_own(rig: Rig) -> None:
    async with rig.sending():
        for org_id in ("org_a", "org_b"):
            await rig.settled(await rig.run(org_id=org_id))

    assert not {*await rig.means.keyring.secrets("org_a")} & {*await rig.means.keyring.secrets("org_b")}
    assert await chain(rig, "org_b") == ["webhook_secret_rotated", "webhook_delivered"]


async def test_what_was_under_way_when_the_platform_ended_is_sent_by_the_next(rig: Rig) -> None:
    rig.receivers.hold("hooks.example.org")
    async with rig.sending():
        session = await rig.run()
        await rig.receivers.until(lambda: len(rig.receivers.posts) == 1)
    rig.receivers.held.clear()
    async with rig.sending():
        rig.wind(LEASE.total_seconds())
        await rig.settled(session)

    assert len({post.headers["webhook-id"] for post in rig.receivers.posts}) == 1
    assert timedelta(seconds=ATTEMPT_SECONDS) < LEASE


async def test_of_two_couriers_one_sends(rig: Rig) -> None:
    sessions = [await rig.run() for _ in range(20)]
    async with rig.sending(), rig.sending():
        for session in sessions:
            await rig.settled(session)

    counts = Counter(post.headers["webhook-id"] for post in rig.receivers.posts)
    assert (len(counts), set(counts.values())) == (20, {1})


async def test_a_session_that_a_restart_ended_is_posted_too(rig: Rig) -> None:
    session = a_session(1)
    callback = rig.stage.orchestrator.webhooks.callback(session.id, URL)
    await rig.stage.store.commit(created(session, "x", callback=callback))
    await rig.stage.another().recover()
    async with rig.sending():
        told = await rig.settled(session)

    assert (told.phase, json.loads(rig.receivers.posts[0].body)["type"]) == (Phase.FAILED, "session.failed")


async def test_dead_receivers_hold_up_neither_others_of_their_org_nor_other_orgs(rig: Rig) -> None:
    dead = [f"dead-{number}.example.org" for number in range(3)]
    gates = [rig.receivers.hold(host) for host in dead]
    for _ in range(6):
        for host in dead[:2]:
            await rig.run(f"https://{host}/")
        await rig.run(f"https://{dead[2]}/", "org_b")
    async with rig.sending(Share(host=2, org=5, all=8)):
        await rig.receivers.until(lambda: rig.receivers.waiting.total() == 6)
        await rig.settled(await rig.run())
        await rig.settled(await rig.run(org_id="org_c"))
        assert dict(rig.receivers.waiting) == {**dict.fromkeys(dead, 2), "hooks.example.org": 0}
        for gate in gates:
            gate.set()
        await rig.receivers.until(lambda: len(rig.receivers.posts) == 20)

    assert max(rig.receivers.most[host] for host in dead) == 2


async def test_an_org_has_a_bound_whatever_its_hosts(rig: Rig) -> None:
    gates = [rig.receivers.hold(f"{number}.example.org") for number in range(4)]
    for number in range(4):
        await rig.run(f"https://{number}.example.org/")
    async with rig.sending(Share(host=2, org=3, all=8)):
        await rig.settled(await rig.run(org_id="org_b"))
        assert rig.receivers.waiting.total() == 3
        gates[0].set()
        await rig.receivers.until(lambda: len(rig.receivers.posts) == 5)
        for gate in gates:
            gate.set()


async def test_whoever_has_nothing_under_way_is_next_where_all_places_are_taken(rig: Rig) -> None:
    gates = {host: rig.receivers.hold(host) for host in ("a.example", "b.example")}
    for host, org_id in (("a.example", "org_a"), ("b.example", "org_b")):
        for _ in range(6):
            await rig.run(f"https://{host}/", org_id)
    async with rig.sending(Share(host=4, org=4, all=4)):
        await rig.receivers.until(lambda: rig.receivers.waiting.total() == 4)
        newcomer = await rig.run(org_id="org_c")
        assert (await rig.told(newcomer)).attempts == 0
        rig.receivers.held.clear()
        gates["a.example"].set()
        await rig.settled(newcomer)
        order = [post.url for post in rig.receivers.posts]
        gates["b.example"].set()

    assert URL in order[4:6]


async def test_an_attempt_that_lingers_keeps_its_place(rig: Rig) -> None:
    lingering: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    rig.receivers.answer = lambda post: Answer(error="no", lingering=lingering if "slow" in post.url else None)
    async with rig.sending(Share(host=1, org=2, all=2)):
        slow = await rig.run("https://slow.example/")
        await rig.settled(slow, "pending")
        second = await rig.run("https://slow.example/")
        for _ in range(3):
            await rig.settled(await rig.run(), "pending")
        assert sum("slow" in post.url for post in rig.receivers.posts) == 1
        lingering.set_result(None)
        await rig.settled(second, "pending")


async def test_a_url_that_does_not_open_is_told_and_kept(rig: Rig) -> None:
    rig.means = replace(rig.means, outbox=watched(rig.stage, bytes(range(32)), rig.receivers.news))
    async with rig.sending():
        told = await rig.settled(await rig.run(), "pending")

    assert (told.last_error, rig.receivers.posts) == ("the stored URL does not open with this server's key", [])


@pytest.mark.parametrize(
    "url", ["", "http://a.example", "https://127.0.0.1/", "https://u:p@a.example", "https://[::1]"]
)
async def test_a_bad_url_is_refused_by_name_before_anything_runs(rig: Rig, url: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await rig.run(url)

    assert [problem.field for problem in refused.value.errors] == ["webhookUrl"]
    assert rig.stage.backend.all == []


async def test_an_orgs_policy_holds_for_its_webhooks(rig: Rig) -> None:
    tenancy = rig.stage.orchestrator.tenancy
    await tenancy.put_policy(ME, OrgPolicy(egress=("*.example.com:443",), deny=("evil.example.com",)))
    for url in (URL, "https://evil.example.com/", "https://a.example.com:8443/"):
        with pytest.raises(PolicyForbids) as refused:
            await rig.run(url)
        assert [problem.field for problem in refused.value.errors] == ["webhookUrl"]

    await rig.run("https://a.example.com/in?x")


async def test_who_may_what(rig: Rig) -> None:
    webhooks = rig.stage.orchestrator.webhooks
    session = await rig.run()
    told = await rig.told(session)
    for role in (Role.DEVELOPER, Role.VIEWER):
        for call in (webhooks.rotate(member(role=role)), webhooks.list(member(role=role))):
            with pytest.raises(Forbidden):
                await call
    assert (await webhooks.list(member(role=Role.AUDITOR))).items == (told,)
    with pytest.raises(Forbidden):
        await webhooks.redeliver(member(role=Role.AUDITOR), told.id)
    with pytest.raises(NotFound):
        await webhooks.redeliver(member("org_b"), told.id)
    assert (await webhooks.list(member("org_b"))).items == ()


async def test_a_list_goes_on_where_it_stopped(rig: Rig) -> None:
    made = [(await rig.run()).id for _ in range(3)]
    webhooks = rig.stage.orchestrator.webhooks
    first = await webhooks.list(ME, limit=2)
    rest = await webhooks.list(ME, cursor=first.next_cursor, limit=2)

    assert [one.session_id for one in (*first.items, *rest.items)] == made[::-1]
    assert rest.next_cursor is None


async def test_a_store_that_cannot_be_written_is_told_once_and_makes_no_attempt(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        await rig.run()
    refused: asyncio.Queue[Due] = asyncio.Queue()

    class Broken(Watched):
        def claim(self, due: Due, at: datetime, until: datetime) -> Awaitable[Held]:
            refused.put_nowait(due)
            answer: asyncio.Future[Held] = asyncio.get_running_loop().create_future()
            answer.set_exception(Unavailable("the database cannot be written"))
            return answer

    whole = rig.means.outbox
    broken = Broken(rig.stage.store._writer, rig.stage.store._readers, Vault(bytes(32)))
    rig.means = replace(rig.means, outbox=broken)
    async with rig.sending():
        for _ in range(5):
            await refused.get()
        rig.wind(0)
        await refused.get()  # of the second time: the first has been told by now
    assert caplog.text.count("the database cannot be written") == 1
    assert rig.receivers.posts == []
    rig.means = replace(rig.means, outbox=whole)
    async with rig.sending():
        await rig.receivers.until(lambda: len(rig.receivers.posts) == 5)
