"""Two real servers on one PostgreSQL database, each with its home, and clients that go from one to the other."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from enclave import Enclave
from enclave.contracts.errors import EnclaveError, QuotaExceeded, Unavailable
from enclave.contracts.frames import StreamFrame
from enclave.contracts.identity import Credential
from enclave.contracts.sessions import Phase, Session
from enclave.core.audit import verify
from tests.postgres import Server, binaries
from tests.webhook.receiving import receiving

pytestmark = [pytest.mark.slow, pytest.mark.sandbox, pytest.mark.timeout(120)]

LONG = "import time\nprint('up', flush=True)\ntime.sleep(100)"


@contextlib.contextmanager
def served(home: Path, url: str, **settings: str) -> Iterator[tuple["subprocess.Popen[str]", Enclave]]:
    command = (sys.executable, "-m", "enclave.serve", "--home", str(home))
    environment = os.environ | {"ENCLAVE_DATABASE_URL": url, "ENCLAVE_POOL": "2"} | settings
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        try:
            credential = Credential.model_validate_json(child.stdout.readline())
            with Enclave(credential.base_url, api_key=credential.api_key) as enclave:
                yield child, enclave
        finally:
            child.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(10)
            child.kill()


@pytest.fixture
def url(postgres: Server) -> str:
    return asyncio.run(postgres.schema())


@pytest.fixture
def homes(tmp_path: Path, url: str) -> tuple[Path, Path]:
    """Two homes whose callers are the same: the second is a copy of the first."""
    first, second = tmp_path / "first", tmp_path / "second"
    with served(first, url):
        pass
    shutil.copytree(first, second)
    return first, second


@pytest.fixture
def pair(homes: tuple[Path, Path], url: str) -> Iterator[tuple[Enclave, Enclave]]:
    with served(homes[0], url) as (_, first), served(homes[1], url) as (_, second):
        yield first, second


def until(holds: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def up(enclave: Enclave) -> Session:
    """A session that prints and goes on."""
    session = enclave.run(LONG)
    frames = session.stream()
    while next(frames).kind != "stdout":
        pass
    return enclave.get(session.id)


class Listener:
    """Somebody who follows a session."""

    def __init__(self, enclave: Enclave, session_id: str) -> None:
        self.frames: list[StreamFrame] = []
        self._thread = threading.Thread(target=self._listen, args=(enclave, session_id), daemon=True)
        self._thread.start()

    def _listen(self, enclave: Enclave, session_id: str) -> None:
        self.frames.extend(enclave.stream(session_id))

    def all(self) -> list[StreamFrame]:
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self.frames


def test_a_copy_of_a_home_is_another_replica(homes: tuple[Path, Path], url: str) -> None:
    with served(homes[0], url), served(homes[1], url):
        names = {(home / "replica").read_text().split()[0] for home in homes}
    assert len(names) == 2


def test_what_one_creates_the_other_shows_follows_and_tears_down(pair: tuple[Enclave, Enclave]) -> None:
    first, second = pair
    session = up(first)

    assert second.get(session.id).phase is Phase.RUNNING
    assert [one.id for one in second.list()] == [session.id]
    assert [event.type for event in second.audit(session.id)] == ["session_created", "sandbox_started"]
    there, here = Listener(second, session.id), Listener(first, session.id)
    second.teardown(session.id)

    torn = first.get(session.id)
    assert torn.phase is Phase.TORN_DOWN
    assert torn.result is not None
    assert torn.result.stdout == "up\n"
    kinds = [frame.kind for frame in there.all()]
    assert kinds == [frame.kind for frame in here.all()]
    assert kinds[-1] == "end"
    assert "stdout" in kinds


def test_a_stream_elsewhere_tells_events_as_they_are_and_output_at_the_end(pair: tuple[Enclave, Enclave]) -> None:
    first, second = pair
    session = up(first)
    frames = second.stream(session.id)
    seen = [next(frames).kind, next(frames).kind]
    first.teardown(session.id)
    seen += [frame.kind for frame in frames]

    assert seen == [frame.kind for frame in first.stream(session.id)]


def test_load_on_both_makes_one_chain(pair: tuple[Enclave, Enclave]) -> None:
    sessions: list[str] = []

    def work(enclave: Enclave) -> None:
        for number in range(10):
            session = enclave.run(f"enclave.result({number})")
            session.result()
            sessions.append(session.id)

    threads = [threading.Thread(target=work, args=(enclave,)) for enclave in pair for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    for enclave in pair:
        chain = list(enclave.org_audit())
        told = {event.session_id for event in chain if event.session_id is not None}
        assert verify(chain) is None
        assert told == set(sessions)
        assert len(sessions) == 60
        assert {enclave.get(one).phase for one in sessions} == {Phase.SUCCEEDED}


def test_files_are_where_the_session_ran_and_go_with_it(
    pair: tuple[Enclave, Enclave], homes: tuple[Path, Path]
) -> None:
    first, second = pair
    session = first.run("import os\nos.mkdir('out')\nopen('out/a', 'w').write('x')")
    assert session.result().files[0].path == "a"
    with pytest.raises(Unavailable, match="another replica"):
        second.download(session.id, "a")
    assert list((homes[0] / "files").rglob(f"*{session.id}*"))

    second.teardown(session.id)

    until(lambda: not list((homes[0] / "files").rglob(f"*{session.id}*")), 10)


def test_what_a_session_printed_goes_with_it_wherever_it_is_torn_down(
    pair: tuple[Enclave, Enclave], homes: tuple[Path, Path]
) -> None:
    first, second = pair
    running, over = up(first), first.run("import time; print('a', flush=True); time.sleep(0.5); print('b')")
    assert over.result().stdout == "a\nb\n"
    assert {entry.name for entry in (homes[0] / "journals").iterdir()} == {running.id, over.id}
    seen = first.logs(running.id)
    unseen = second.logs(running.id, after=seen.next_cursor)
    assert [entry.text for entry in seen.items] == ["up\n"]
    assert (unseen.items, unseen.next_cursor) == ((), seen.next_cursor)
    assert "".join(entry.text for entry in second.logs(over.id).items) == "a\nb\n"

    second.teardown(running.id)
    second.teardown(over.id)

    assert [entry.text for entry in second.logs(running.id).items] == ["up\n"]
    until(lambda: not any((homes[0] / "journals").iterdir()), 10)


def test_each_webhook_is_sent_by_one_of_the_two(homes: tuple[Path, Path], url: str, tmp_path: Path) -> None:
    with receiving(tmp_path, "127.0.0.1") as site:
        settings = {"ENCLAVE_EGRESS_PRIVATE": "127.0.0.1/32", "ENCLAVE_EGRESS_CA": str(site.authorities)}
        with served(homes[0], url, **settings) as (_, first), served(homes[1], url, **settings) as (_, second):
            receiver = f"https://127.0.0.1:{site.port}/in"
            made = [one.run("1", webhook_url=receiver).id for one in (first, second) for _ in range(20)]
            until(lambda: sum(one.state == "delivered" for one in second.webhooks.deliveries()) == 40, 60)
            attempts = {one.attempts for one in first.webhooks.deliveries()}

    sent = sorted(received.headers["webhook-id"].split("_")[1] for received in site.received)
    assert sent == sorted(session_id.removeprefix("ses_") for session_id in made)
    assert attempts == {1}


def test_of_one_that_is_killed_the_other_sends_the_webhooks(homes: tuple[Path, Path], url: str, tmp_path: Path) -> None:
    with receiving(tmp_path, "127.0.0.1") as site:
        settings = {"ENCLAVE_EGRESS_PRIVATE": "127.0.0.1/32", "ENCLAVE_EGRESS_CA": str(site.authorities)}
        with served(homes[1], url, **settings):
            with served(homes[0], url, **settings) as (child, first):
                session = first.run(LONG, webhook_url=f"https://127.0.0.1:{site.port}/in")
                until(lambda: first.get(session.id).phase is Phase.RUNNING, 30)
                child.send_signal(signal.SIGKILL)
                child.wait(10)
            assert site.arrived.acquire(timeout=60)

    assert [one.headers["webhook-id"] for one in site.received] == [f"msg_{session.id.removeprefix('ses_')}_failed"]


def test_one_that_is_killed_and_started_again_settles_its_own_at_once(homes: tuple[Path, Path], url: str) -> None:
    with served(homes[1], url) as (_, second):
        with served(homes[0], url) as (child, first):
            session = up(first)
            child.send_signal(signal.SIGKILL)
            child.wait(10)
        assert second.get(session.id).phase is Phase.RUNNING
        with served(homes[0], url):
            left = second.get(session.id)
            assert left.phase is Phase.FAILED
            assert [event.type for event in second.audit(session.id)][-1] == "session_failed"


def test_of_one_that_is_killed_the_other_settles_what_it_ran_and_nothing_else(
    homes: tuple[Path, Path], url: str
) -> None:
    with served(homes[1], url) as (_, second):
        mine = up(second)
        with served(homes[0], url) as (child, first):
            session = up(first)
            child.send_signal(signal.SIGKILL)
            child.wait(10)
        listener = Listener(second, session.id)
        until(lambda: second.get(session.id).phase is Phase.FAILED, 60)

        assert [frame.kind for frame in listener.all()][-1] == "end"
        assert second.get(mine.id).phase is Phase.RUNNING


def test_a_database_that_goes_and_comes_back_costs_503s_and_no_restart(tmp_path: Path) -> None:
    programs = binaries()
    if programs is None:
        pytest.skip("PostgreSQL is not installed")
    server = Server(programs)
    try:
        server.start()
        with served(tmp_path, server.url()) as (_, enclave):
            session = up(enclave)
            server.stop()
            with pytest.raises(Unavailable):
                enclave.run("print(1)")
            with pytest.raises(Unavailable):
                list(enclave.list())
            # Its end cannot be written now.
            with contextlib.suppress(EnclaveError):
                enclave.teardown(session.id)
            server.start()
            until(lambda: not is_away(enclave), 20)
            until(lambda: enclave.get(session.id).phase not in (Phase.PENDING, Phase.RUNNING), 30)
            assert enclave.run("enclave.result(2)").result().result == 2
            assert verify(list(enclave.org_audit())) is None
    finally:
        server.remove()


def is_away(enclave: Enclave) -> bool:
    try:
        list(enclave.list())
    except Unavailable:
        return True
    return False


def test_what_is_set_at_one_is_in_force_at_the_other_and_quotas_are_of_both(
    pair: tuple[Enclave, Enclave], homes: tuple[Path, Path]
) -> None:
    first, second = pair
    second.run("print(1)").result()
    key = Credential.model_validate_json((homes[0] / "operator.json").read_bytes()).api_key
    request = urllib.request.Request(
        f"{first.base_url}/operator/orgs/default/terms",
        method="PUT",
        data=b'{"quotas": {"concurrentSessions": 1}}',
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    assert urllib.request.urlopen(request).status == 200
    running = up(first)

    def refused() -> bool:
        try:
            second.run("print(1)").result()
        except QuotaExceeded:
            return True
        return False

    until(refused, 20)
    first.teardown(running.id)
    until(lambda: not refused(), 20)
