"""The source of a session: fetched before its sandbox is made, told of, and released whatever becomes of it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from enclave.backends.base import Mounted
from enclave.contracts.audit import AuditEvent
from enclave.contracts.bindings import Injection, PutBinding
from enclave.contracts.errors import InvalidRequest, PolicyUnenforceable, Unavailable
from enclave.contracts.sessions import CreateSessionRequest, GitSource, Phase, Session, Source
from enclave.core.grant import Grant
from enclave.source.base import FetchFailed, Tree
from tests.orchestrator.conftest import Stage, member, orchestrator_of
from tests.scripted import Puppet

pytestmark = pytest.mark.anyio

ME = member()
SOURCE = Source(git=GitSource(url="https://example.org/a", ref="main", entrypoint="main.py"))
PROGRAM = CreateSessionRequest(source=SOURCE)
TREE = Tree(path=Path("/sources/x/tree"), commit="c" * 40, files=3, bytes=7, omitted=1, seconds=0.5)


class Fetcher:
    """Fetches when the test says so; `kept` are the trees that nobody has released."""

    def __init__(self) -> None:
        self.asked: list[GitSource] = []
        self.grants: list[Grant | None] = []
        self.kept: list[Tree] = []
        self.begun = asyncio.Event()
        self.cancelled = False
        self.answer: asyncio.Future[Tree] = asyncio.get_running_loop().create_future()

    async def fetch(self, source: GitSource, grant: Grant | None) -> Tree:
        self.asked.append(source)
        self.grants.append(grant)
        self.begun.set()
        try:
            tree = await self.answer
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        self.kept.append(tree)
        return tree

    async def release(self, tree: Tree) -> None:
        if tree in self.kept:
            self.kept.remove(tree)


@pytest.fixture
async def fetcher() -> Fetcher:
    return Fetcher()


@pytest.fixture
async def with_sources(stage: Stage, fetcher: Fetcher) -> AsyncIterator[Stage]:
    made = orchestrator_of(stage.store, replace(stage.ports, sources=fetcher))
    yield replace(stage, orchestrator=made)
    await made.close()


async def events_of(stage: Stage, session: Session) -> tuple[AuditEvent, ...]:
    return (await stage.orchestrator.audit(ME, session.id)).items


async def asked(stage: Stage, fetcher: Fetcher) -> Session:
    session = await stage.orchestrator.create(ME, PROGRAM)
    await asyncio.wait_for(fetcher.begun.wait(), 5)
    return session


async def gone(stage: Stage, session: Session) -> Session:
    """The session, once nothing is left to do for it."""
    return await stage.orchestrator.teardown(ME, session.id)


async def test_the_trail_tells_of_the_clone_between_creation_and_start(with_sources: Stage, fetcher: Fetcher) -> None:
    with_sources.backend.play = Puppet.end
    fetcher.answer.set_result(TREE)

    session = await with_sources.orchestrator.create(ME, PROGRAM, wait_seconds=5)

    events = await events_of(with_sources, session)
    assert session.phase is Phase.SUCCEEDED
    assert session.source == SOURCE
    assert [event.type for event in events] == [
        "session_created",
        "clone_started",
        "clone_completed",
        "sandbox_started",
        "workload_exited",
        "result_collected",
    ]
    stamp = {"ts", "org_id", "session_id", "seq", "previous", "digest"}
    assert events[1].model_dump(mode="json", exclude=stamp) == {
        "type": "clone_started",
        "actor": "platform",
        "url": "https://example.org/a",
        "ref": "main",
        "binding": None,
        "entrypoint": "main.py",
    }
    assert events[2].model_dump(mode="json", exclude=stamp) == {
        "type": "clone_completed",
        "actor": "platform",
        "commit": "c" * 40,
        "files": 3,
        "bytes": 7,
        "omitted": 1,
        "durationMs": 500.0,
    }
    (puppet,) = with_sources.backend.all
    assert puppet.spec.source == Mounted(TREE.path, "main.py")
    assert puppet.code is None


async def test_the_session_is_pending_meanwhile(with_sources: Stage, fetcher: Fetcher) -> None:
    session = await asked(with_sources, fetcher)

    assert (await with_sources.orchestrator.get(ME, session.id)).phase is Phase.PENDING
    assert with_sources.backend.all == []


async def test_the_tree_is_there_until_the_sandbox_is_gone(with_sources: Stage, fetcher: Fetcher) -> None:
    kept_at_teardown: list[int] = []

    class Watching(Puppet):
        async def teardown(self) -> None:
            kept_at_teardown.append(len(fetcher.kept))
            await super().teardown()

    def play(puppet: Puppet) -> None:
        puppet.__class__ = Watching
        puppet.end()

    with_sources.backend.play = play
    fetcher.answer.set_result(TREE)
    session = await with_sources.orchestrator.create(ME, PROGRAM, wait_seconds=5)

    await gone(with_sources, session)

    assert kept_at_teardown
    assert kept_at_teardown[0] == 1
    assert fetcher.kept == []


async def test_a_clone_that_fails_fails_the_session_before_any_sandbox(with_sources: Stage, fetcher: Fetcher) -> None:
    fetcher.answer.set_exception(FetchFailed("there is no such ref in it"))

    session = await with_sources.orchestrator.create(ME, PROGRAM, wait_seconds=5)

    detail = "the source could not be fetched: there is no such ref in it"
    events = await events_of(with_sources, session)
    assert session.phase is Phase.FAILED
    assert session.result is not None
    assert session.result.error == detail
    assert [event.type for event in events] == ["session_created", "clone_started", "session_failed"]
    assert (events[2].reason, events[2].detail) == ("clone_failed", detail)  # type: ignore[union-attr]
    assert with_sources.backend.all == []


async def test_a_fetcher_that_breaks_fails_the_session(with_sources: Stage, fetcher: Fetcher) -> None:
    fetcher.answer.set_exception(RuntimeError("secret"))

    session = await with_sources.orchestrator.create(ME, PROGRAM, wait_seconds=5)

    assert session.phase is Phase.FAILED
    assert "secret" not in session.model_dump_json()


async def test_a_teardown_ends_the_clone(with_sources: Stage, fetcher: Fetcher) -> None:
    session = await asked(with_sources, fetcher)

    assert (await gone(with_sources, session)).phase is Phase.TORN_DOWN

    assert fetcher.cancelled
    assert with_sources.backend.all == []


async def test_a_shutdown_ends_the_clone(with_sources: Stage, fetcher: Fetcher) -> None:
    session = await asked(with_sources, fetcher)

    await with_sources.orchestrator.close()

    assert fetcher.cancelled
    assert (await with_sources.store.get(ME.org_id, session.id)).phase is Phase.FAILED
    assert with_sources.backend.all == []


async def test_the_tree_is_released_when_no_sandbox_can_be_made(with_sources: Stage, fetcher: Fetcher) -> None:
    with_sources.backend.refusal = Unavailable("no sandbox is to be had")
    fetcher.answer.set_result(TREE)

    session = await with_sources.orchestrator.create(ME, PROGRAM, wait_seconds=5)
    await gone(with_sources, session)

    assert fetcher.kept == []


async def test_output_is_streamed_behind_the_events_of_a_clone(with_sources: Stage, fetcher: Fetcher) -> None:
    """While the program runs, too: a follower is not kept waiting for its end."""
    fetcher.answer.set_result(TREE)
    session = await asked(with_sources, fetcher)
    follower = await with_sources.orchestrator.follow(ME, session.id)
    frames = [await anext(follower) for _ in range(6)]
    with_sources.backend.all[0].print(b"hi")

    place, frame = await asyncio.wait_for(anext(follower), 5)

    assert [each.kind for _, each in frames] == ["phase", "audit", "audit", "audit", "phase", "audit"]
    assert (place, frame.kind) == ("6.2.0", "stdout")
    with_sources.backend.all[0].end()
    resumed = [each.kind async for _, each in await with_sources.orchestrator.follow(ME, session.id, place)]
    assert resumed[0] == "audit"
    assert resumed[-1] == "end"


PRIVATE = Source(git=GitSource(url="https://example.org/a", binding="github"))
BINDING = PutBinding(url="https://example.org", inject=Injection(kind="bearer"), secret=SecretStr("hunter2-hunter2"))


async def test_a_binding_that_the_org_has_not_is_refused(with_sources: Stage, fetcher: Fetcher) -> None:
    """Another org's, too."""
    await with_sources.orchestrator.bindings.put(member("org_b"), "github", BINDING)

    with pytest.raises(InvalidRequest) as refused:
        await with_sources.orchestrator.create(ME, CreateSessionRequest(source=PRIVATE, code="1"))

    (problem,) = refused.value.errors
    assert (problem.field, problem.message) == (
        "source.git.binding",
        "no such binding: github; bindings of this org: there is none",
    )
    assert fetcher.asked == []


async def test_a_bindings_grant_is_for_the_fetcher_alone(with_sources: Stage, fetcher: Fetcher) -> None:
    await with_sources.orchestrator.bindings.put(ME, "github", BINDING)
    with_sources.backend.play = Puppet.end
    fetcher.answer.set_result(TREE)

    request = CreateSessionRequest(source=PRIVATE, code="1")
    session = await with_sources.orchestrator.create(ME, request, wait_seconds=5)

    (grant,) = fetcher.grants
    assert grant is not None
    assert (grant.name, grant.secret) == ("github", "hunter2-hunter2")
    (puppet,) = with_sources.backend.all
    assert puppet.spec.bindings == ()
    assert session.service_bindings == ()
    events = await events_of(with_sources, session)
    assert events[1].binding == "github"  # type: ignore[union-attr]
    assert not any("hunter2" in event.model_dump_json() for event in events)


async def test_a_url_that_is_none_is_refused_at_once(with_sources: Stage, fetcher: Fetcher) -> None:
    source = Source(git=GitSource(url="ext::sh"))

    with pytest.raises(InvalidRequest) as refused:
        await with_sources.orchestrator.create(ME, CreateSessionRequest(source=source, code="1"))

    assert [problem.field for problem in refused.value.errors] == ["source.git.url"]


async def test_without_a_fetcher_a_source_is_refused(stage: Stage) -> None:
    with pytest.raises(PolicyUnenforceable, match="git_source"):
        await stage.orchestrator.create(ME, PROGRAM)
