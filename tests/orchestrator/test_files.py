"""Files that programs leave: kept before they are told of, shown to their org alone, and removed in the end."""

import asyncio
import os
import shutil
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest

from enclave.backends.base import Exit, SandboxLost
from enclave.contracts.audit import ResultCollected, SessionCreated
from enclave.contracts.errors import Conflict, InvalidRequest, NoSuchFile, NotFound, PolicyUnenforceable, StaleSession
from enclave.contracts.files import Omission
from enclave.contracts.policy import Guarantee
from enclave.contracts.sessions import CreateSessionRequest, Phase, Session
from enclave.core.files import digest, listed
from enclave.core.session import Change
from enclave.orchestrator.orchestrator import Bounds, Orchestrator
from enclave.store.files import DirectoryFiles
from tests.orchestrator.conftest import Stage, member
from tests.scripted import Puppet

pytestmark = pytest.mark.anyio

ME = member()
PROGRAM = CreateSessionRequest(code="pass")
T = TypeVar("T")


def leaves(files: dict[str, bytes], refusal: Exception | None = None) -> Callable[[Puppet], None]:
    """A program that ends well and leaves these files."""

    def play(puppet: Puppet) -> None:
        puppet.left, puppet.refusal = files, refusal
        puppet.end(Exit(code=0, left_files=True))

    return play


async def left(stage: Stage, files: dict[str, bytes], refusal: Exception | None = None) -> Session:
    stage.backend.play = leaves(files, refusal)
    return await stage.orchestrator.create(ME, PROGRAM, wait_seconds=10)


async def content(orchestrator: Orchestrator, session: Session, path: str) -> bytes:
    _, reading = await orchestrator.file(ME, session.id, path)
    pieces = []
    while piece := await reading.piece():
        pieces.append(piece)
    reading.close()
    return b"".join(pieces)


def on_disk(stage: Stage) -> list[str]:
    return sorted(os.listdir(stage.kept))


async def test_what_a_program_leaves_is_told_and_can_be_read(stage: Stage) -> None:
    session = await left(stage, {"a.txt": b"one", "b/c": bytes(600_000)})

    assert session.result is not None
    assert session.result.files == listed({"a.txt": b"one", "b/c": bytes(600_000)})
    assert await content(stage.orchestrator, session, "a.txt") == b"one"
    assert await content(stage.orchestrator, session, "b/c") == bytes(600_000)
    trail = await stage.orchestrator.audit(ME, session.id)
    (collected,) = [event for event in trail.items if isinstance(event, ResultCollected)]
    assert collected.files == digest(session.result.files)


async def test_what_is_kept_of_each_org_is_known_to_the_byte(stage: Stage) -> None:
    def stored() -> list[int]:
        again = DirectoryFiles.open(stage.kept)
        return [files.stored(org_id) for files in (stage.ports.files, again) for org_id in ("org_a", "org_b")]

    one, other = await left(stage, {"a": b"123", "b": b""}), await left(stage, {"c": bytes(1000)})
    assert stored() == [1003, 0, 1003, 0]
    await left(stage, {"d": b"x"}, OSError("disk"))
    assert stored() == [1003, 0, 1003, 0]
    await asyncio.gather(*(stage.orchestrator.teardown(ME, other.id) for _ in range(5)))
    assert stored() == [3, 0, 3, 0]
    await stage.ports.files.remove(one.id)
    assert stored() == [0, 0, 0, 0]


async def test_no_name_of_a_program_comes_to_the_disk_and_nobody_else_can_read_it(stage: Stage) -> None:
    session = await left(stage, {"a.txt": b"one"})

    (stage.kept / session.id / "0").stat()
    assert sorted(os.listdir(stage.kept / session.id)) == ["0", "owner"]
    assert oct(stage.kept.stat().st_mode & 0o777) == oct((stage.kept / session.id).stat().st_mode & 0o777) == "0o700"


async def test_a_session_that_leaves_none_says_nothing_of_files_and_costs_none(stage: Stage) -> None:
    stage.backend.play = lambda puppet: puppet.end(Exit(code=0))
    session = await stage.orchestrator.create(ME, PROGRAM, wait_seconds=10)

    assert "files" not in session.model_dump_json()
    assert on_disk(stage) == []


async def test_an_empty_harvest_leaves_no_directory(stage: Stage) -> None:
    session = await left(stage, {})

    assert session.result is not None
    assert session.result.files == ()
    assert on_disk(stage) == []


@pytest.mark.parametrize("refusal", [OSError(28, "No space left on device"), SandboxLost("gone")])
async def test_what_cannot_be_kept_is_told_and_the_end_of_the_program_stands(stage: Stage, refusal: Exception) -> None:
    session = await left(stage, {"a": b"one"}, refusal)

    assert session.phase is Phase.SUCCEEDED
    assert session.result is not None
    assert (session.result.files, session.result.files_omitted) == ((), {Omission.NOT_KEPT: 1})
    assert on_disk(stage) == []


async def test_the_files_of_a_session_that_runs_are_a_conflict(stage: Stage) -> None:
    session = await stage.orchestrator.create(ME, PROGRAM)

    with pytest.raises(Conflict):
        await stage.orchestrator.file(ME, session.id, "a")


@pytest.mark.parametrize("path", ["b", "", "..", "a/", "/a", "./a", "../a", "0", "owner", "a\0", "A"])
async def test_only_a_path_that_was_told_leads_to_a_file(stage: Stage, path: str) -> None:
    session = await left(stage, {"a": b"one"})

    with pytest.raises(NoSuchFile):
        await stage.orchestrator.file(ME, session.id, path)


async def test_another_orgs_files_are_as_if_they_never_were(stage: Stage) -> None:
    session = await left(stage, {"a": b"one"})

    with pytest.raises(NotFound) as refused:
        await stage.orchestrator.file(member("org_b"), session.id, "a")
    assert type(refused.value) is NotFound


async def test_a_session_that_is_torn_down_keeps_nothing(stage: Stage) -> None:
    session = await left(stage, {"a": b"one"})
    _, reading = await stage.orchestrator.file(ME, session.id, "a")

    for _ in range(2):
        await stage.orchestrator.teardown(ME, session.id)

    assert on_disk(stage) == []
    with pytest.raises(NoSuchFile):
        await stage.orchestrator.file(ME, session.id, "a")
    assert await reading.piece() == b"one"  # what is being read is read to its end
    reading.close()


async def test_files_are_removed_when_they_were_kept_for_long_enough(stage: Stage) -> None:
    session = await left(stage, {"a": b"one"})
    now = datetime.now(UTC)

    def at(moment: datetime) -> Orchestrator:
        ports = replace(stage.ports, clock=lambda: moment)
        return Orchestrator(ports, stage.orchestrator.bindings, Bounds(max_concurrency=1), stage.orchestrator.webhooks)

    await at(now + timedelta(hours=23)).tick()
    assert await content(stage.orchestrator, session, "a") == b"one"

    await at(now + timedelta(hours=25)).tick()
    assert on_disk(stage) == []
    with pytest.raises(NoSuchFile):
        await stage.orchestrator.file(ME, session.id, "a")
    assert (await stage.orchestrator.get(ME, session.id)).phase is Phase.SUCCEEDED


async def test_a_restart_keeps_what_is_told_of(stage: Stage) -> None:
    session = await left(stage, {"a": b"one"})
    again = stage.another()
    await again.recover()

    assert await content(again, session, "a") == b"one"


class RefusesResults:
    """A store in front of the stage's that does not take results."""

    def __init__(self, stage: Stage) -> None:
        self._store = stage.store

    def commit(self, change: Change) -> Awaitable[object]:
        if any(isinstance(event, ResultCollected) for event in change.events):
            refused: asyncio.Future[object] = asyncio.get_running_loop().create_future()
            refused.set_exception(StaleSession())
            return refused
        return self._store.commit(change)

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


async def test_files_that_no_result_tells_of_are_removed(stage: Stage) -> None:
    ports = replace(stage.ports, store=RefusesResults(stage))  # type: ignore[arg-type]
    orchestrator = Orchestrator(
        ports, stage.orchestrator.bindings, Bounds(max_concurrency=1), stage.orchestrator.webhooks
    )
    stage.backend.play = leaves({"a": b"one"})

    session = await orchestrator.create(ME, PROGRAM, wait_seconds=10)
    await orchestrator.close()

    assert session.phase is Phase.FAILED
    assert on_disk(stage) == []


STEPS = ("mkdir", "open", "fsync", "rename", "listdir", "unlink", "rmdir")


def dying_at(step: int) -> Callable[[], None]:
    """Have this process die, as by kill -9, before its n-th call that touches the disk."""
    count = iter(range(1000))

    def lethal(real: Callable[..., T]) -> Callable[..., T]:
        def call(*args: object, **options: object) -> T:
            if next(count) == step:
                os._exit(9)
            return real(*args, **options)

        return call

    def arm() -> None:
        for name in STEPS:
            setattr(os, name, lethal(getattr(os, name)))

    return arm


def die_keeping(place: Path, session: Session, step: int) -> int:
    """The status of a process that keeps, and then removes, files, and dies at a step of it."""
    if (child := os.fork()) == 0:
        files = DirectoryFiles(place)

        async def put(into: Path) -> None:
            (into / "0").write_bytes(b"one")
            (into / "1").write_bytes(b"two")

        async def whole() -> None:
            await files.keep(session, put)
            await files.remove(session.id)

        dying_at(step)()
        asyncio.run(whole())
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


async def test_nothing_is_left_over_whenever_the_platform_was_killed(stage: Stage) -> None:
    """The session is still running for the database: nobody was told of the files yet, or they were being removed."""
    session = (await stage.orchestrator.create(ME, PROGRAM)).model_copy(update={"id": "ses_" + "0" * 26})
    seen: set[tuple[str, ...]] = set()
    step = 0
    while await asyncio.to_thread(die_keeping, stage.kept, session, step) == 9:
        seen.add(tuple(on_disk(stage)))
        restarted = stage.another()
        await restarted.recover()
        assert on_disk(stage) == [], step
        assert restarted._ports.files.stored("org_a") == 0, step
        step += 1

    assert step > 8
    assert seen == {(), (f".{session.id}",), (session.id,)}


async def test_what_a_session_starts_with_is_told_by_its_digest(stage: Stage) -> None:
    files = {"a": "text", "b/c": "more"}
    session = await stage.orchestrator.create(ME, PROGRAM.model_copy(update={"files": files}))
    raw = {path: text.encode() for path, text in files.items()}

    assert stage.backend.all[0].spec.files == raw
    created = (await stage.orchestrator.audit(ME, session.id)).items[0]
    assert isinstance(created, SessionCreated)
    assert created.files == digest(listed(raw))


async def test_a_backend_without_files_refuses_them_by_name(stage: Stage) -> None:
    stage.backend.guarantees = frozenset(Guarantee) - {Guarantee.FILES}

    with pytest.raises(PolicyUnenforceable, match="files"):
        await stage.orchestrator.create(ME, PROGRAM.model_copy(update={"files": {"a": ""}}))
    await stage.orchestrator.create(ME, PROGRAM)


async def test_files_in_each_others_way_are_named(stage: Stage) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await stage.orchestrator.create(ME, PROGRAM.model_copy(update={"files": {"a": "", "a/b": ""}}))

    assert [problem.field for problem in refused.value.errors] == ["files.a"]


async def test_a_request_is_not_held_for_as_long_as_its_program_runs(stage: Stage) -> None:
    request = CreateSessionRequest(code="pass", files={"a": "x" * 1000})
    held = weakref.ref(request)
    started = asyncio.Event()
    stage.backend.play = lambda _: started.set()
    waiting = asyncio.create_task(stage.orchestrator.create(ME, request, wait_seconds=10))
    del request
    await started.wait()

    assert held() is None
    stage.backend.all[0].end()
    await waiting


async def test_what_could_not_be_removed_is_not_shown_and_goes_with_the_next_start(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await left(stage, {"a": b"one"})
    with monkeypatch.context() as broken:
        broken.setattr(shutil, "rmtree", _refuse)
        broken.setattr(Path, "rename", _refuse)
        with pytest.raises(OSError, match="read-only"):
            await stage.orchestrator.teardown(ME, session.id)

    with pytest.raises(NoSuchFile):
        await stage.orchestrator.file(ME, session.id, "a")
    assert on_disk(stage) == [session.id]
    await stage.another().recover()
    assert on_disk(stage) == []


def _refuse(*_: object) -> None:
    raise OSError(30, "read-only")
