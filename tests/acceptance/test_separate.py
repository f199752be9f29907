"""Identity in a process of its own: what passes, what is refused and what is told while it is stopped, slow or gone."""

import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from enclave.contracts.audit import AuditEvent
from enclave.core.audit import verify
from enclave.identity.apikey import new_api_key
from tests.acceptance.separate import Pair, ask, eventually, pair

pytestmark = [pytest.mark.slow, pytest.mark.sandbox, pytest.mark.timeout(120)]

RUN = {"code": "print('hi')"}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pair(tmp_path_factory.mktemp("both"), cache_seconds=1, grace_seconds=3600) as both:
        yield both


@pytest.fixture(autouse=True)
def answering(request: pytest.FixtureRequest) -> None:
    """Each starts with a service that answers."""
    if "both" in request.fixturenames:
        pair: Pair = request.getfixturevalue("both")
        eventually(lambda: pair.ask("GET", "/whoami", str(new_api_key())).status == 401)


def run(both: Pair, key: str) -> Any:
    said = both.ask("POST", "/sessions", key, RUN, prefer="wait=60")
    return said.json["phase"] if said.status == 201 else said


def test_the_two_do_what_one_does(both: Pair) -> None:
    made = both.ask("POST", "/keys", body={"name": "ci"}).json
    assert run(both, made["apiKey"]) == "succeeded"
    assert both.ask("DELETE", f"/keys/{made['id']}").status == 200
    # What was done through this control plane holds here at once.
    assert both.ask("GET", "/whoami", made["apiKey"]).status == 401
    kept = {path.name for path in (both.home / "control").iterdir()}
    assert kept & {"identity.db", "credentials.json", "operator.json", "secrets.json", "service.json"} == set()


def test_each_says_what_it_is(both: Pair) -> None:
    assert ask(both.identity.url, "GET", "/healthz").json == {"ok": True, "service": "identity"}
    assert both.ask("GET", "/healthz").json["backend"] == "local"
    paths = ask(both.identity.url, "GET", "/openapi.json").json["paths"]
    assert "/keys" in paths
    assert [path for path in paths if "internal" in path or "session" in path] == []
    assert ask(both.identity.url, "GET", "/sessions", both.key).status == 404


@pytest.mark.parametrize("path", ["/internal/introspect", "/internal/events", "/keys/../internal/introspect"])
def test_nobody_reaches_inside_from_outside(both: Pair, path: str) -> None:
    service = both.credential("service").api_key
    for url in (both.identity.url, both.control.url):
        for key in (service, both.key, both.credential("operator").api_key):
            assert ask(url, "POST", path, key, {"credential": both.key}, enclave_service=service).status in (404, 405)


def test_the_operators_hand_reaches_through(both: Pair) -> None:
    operator = both.credential("operator").api_key
    founded = both.ask("POST", "/operator/orgs", operator, {"name": "o", "ownerEmail": "o@example.org"})
    assert founded.status == 201
    assert both.ask("GET", "/operator/orgs", both.key).status == 403
    joining = {"code": founded.json["invitation"]["code"], "password": "a long enough password"}
    token = both.ask("POST", "/invitations/accept", body=joining).json["token"]
    assert run(both, token) == "succeeded"
    org = founded.json["org"]["id"]
    assert both.ask("POST", f"/operator/orgs/{org}/disable", operator).status == 200
    assert both.ask("GET", "/whoami", token).status == 401


def test_what_is_revoked_elsewhere_is_refused_within_the_cache_time(both: Pair) -> None:
    key = both.new_key()
    assert both.ask("GET", "/whoami", key["apiKey"]).status == 200
    assert ask(both.identity.url, "DELETE", f"/keys/{key['id']}", both.key).status == 200
    seen: list[int] = []
    eventually(lambda: seen.append(both.ask("GET", "/whoami", key["apiKey"]).status) or seen[-1] == 401)  # type: ignore[func-returns-value]
    assert set(seen) <= {200, 401}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_while_the_service_is_gone_who_was_known_passes_and_nobody_else(both: Pair, number: signal.Signals) -> None:
    known, unknown, revoked = (both.new_key()["apiKey"] for _ in range(3))
    assert run(both, known) == "succeeded"
    assert both.ask("GET", "/whoami", str(new_api_key())).status == 401
    try:
        both.identity.send(number)
        if number is signal.SIGKILL:
            both.identity.kill()
        assert {run(both, known) for _ in range(10)} == {"succeeded"}
        for key in (unknown, revoked, str(new_api_key())):
            said = both.ask("GET", "/whoami", key)
            assert (said.status, said.json["code"]) == (503, "unavailable")
            assert int(said.headers["retry-after"]) >= 1
        # What only the service can do is not done, and says so.
        assert both.ask("POST", "/keys", known, {"name": "k"}).status == 503
        assert both.ask("POST", "/login", body={"email": "a@example.org", "password": "x"}).status == 503
    finally:
        both.identity.start() if number is signal.SIGKILL else both.identity.send(signal.SIGCONT)
    eventually(lambda: both.ask("GET", "/whoami", unknown).status == 200)
    assert both.ask("GET", "/whoami", str(new_api_key())).status == 401


def test_a_service_that_comes_and_goes_under_load_costs_nobody_who_is_known_a_session(both: Pair) -> None:
    keys = [both.new_key()["apiKey"] for _ in range(3)]
    assert {run(both, key) for key in keys} == {"succeeded"}
    seen: Counter[object] = Counter()
    strangers: Counter[int] = Counter()
    over = threading.Event()

    def work(key: str) -> None:
        while not over.is_set():
            seen[str(run(both, key))] += 1

    def guess() -> None:
        while not over.is_set():
            strangers[both.ask("GET", "/whoami", str(new_api_key())).status] += 1

    threads = [threading.Thread(target=work, args=(key,)) for key in keys] + [threading.Thread(target=guess)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            done = seen.total()
            both.identity.kill()
            eventually(lambda done=done: seen.total() > done + 20)  # type: ignore[misc]
            both.identity.start()
            both.identity.send(signal.SIGSTOP)
            done = seen.total()
            eventually(lambda done=done: seen.total() > done + 20)  # type: ignore[misc]
            both.identity.send(signal.SIGCONT)
            refused = strangers[401]
            eventually(lambda refused=refused: strangers[401] > refused)  # type: ignore[misc]
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert set(seen) == {"succeeded"}
    assert set(strangers) == {401, 503}


def test_a_control_plane_starts_without_the_service(tmp_path: Path) -> None:
    with pair(tmp_path) as both:
        both.control.kill()
        both.identity.kill()
        both.control.start()
        assert both.ask("GET", "/whoami").status == 503
        both.identity.start()
        eventually(lambda: both.ask("GET", "/whoami").status == 200)


def test_each_event_is_in_the_chain_once_whichever_side_is_killed(tmp_path: Path) -> None:
    with pair(tmp_path, cache_seconds=1) as both:
        made: list[str] = []
        over = threading.Event()

        def work() -> None:
            while not over.is_set():
                # Killed in the middle, the key may be there, and nobody was given it.
                with suppress(OSError, HTTPException):
                    key = both.new_key()["id"]
                    made.append(key)
                    # An org has so many at most.
                    ask(both.identity.url, "DELETE", f"/keys/{key}", both.key)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            for server in (both.control, both.identity) * 3:
                count = len(made)
                eventually(lambda count=count: len(made) > count + 5)  # type: ignore[misc]
                server.kill()
                server.start()
        finally:
            over.set()
            thread.join()
        last = both.new_key()["id"]
        eventually(lambda: any(event.get("keyId") == last for event in both.trail()))
        trail = both.trail()
        told = Counter(event["keyId"] for event in trail if event["type"] == "key_created")
        assert set(told.values()) == {1}
        assert {*made, last} <= set(told)
        verify(TypeAdapter(list[AuditEvent]).validate_python(trail, strict=False))
