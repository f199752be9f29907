"""Both clients against a server that plays recorded answers."""

import json
import threading
from collections.abc import Generator
from typing import Any

import pytest

from enclave import Enclave
from enclave.contracts.errors import (
    Conflict,
    ConnectionFailed,
    EnclaveError,
    FieldProblem,
    InternalError,
    InvalidRequest,
    NotFound,
    PolicyUnenforceable,
    QuotaExceeded,
    Unauthenticated,
    Unavailable,
)
from enclave.contracts.logs import LogEntry
from enclave.contracts.policy import EgressMode, EgressPolicy, Language, RequestedLimits
from enclave.contracts.sessions import CreateSessionRequest, Health, Phase, Session
from enclave.contracts.wire import Page
from tests.sdk.conftest import Play
from tests.sdk.samples import (
    DONE,
    END,
    GRUMBLED,
    HI,
    ID,
    OH,
    PRINTED,
    RESULT,
    RESULTED,
    RUNNING,
    STARTED,
    TORN_DOWN,
    session,
)
from tests.sdk.scripted import Reply, cut_off, event, events, ok, problem, raw, scripted


def _once(name: str, *args: Any, **options: Any) -> Any:
    def script(client: Any) -> Generator[Any, Any, Any]:
        return (yield getattr(client, name)(*args, **options))

    return script


def test_run_sends_the_request_with_the_credential_and_gives_a_handle(play: Play) -> None:
    with scripted(ok(session(), 201)) as server:
        handle = play(
            server.base_url,
            _once(
                "run",
                "1 + 1",
                language="node",
                limits={"memory_mib": 64},
                allow=["example.org"],
                labels={"a": "b"},
                wait=2.5,
            ),
        )

    asked = server.asked[0]
    assert (asked.method, asked.path) == ("POST", "/sessions")
    assert asked.headers["authorization"] == "Bearer ek_1_secret"
    assert asked.headers["prefer"] == "wait=3"
    assert CreateSessionRequest.model_validate_json(asked.body) == CreateSessionRequest(
        code="1 + 1",
        language=Language.NODE,
        limits=RequestedLimits(memory_mib=64),
        egress=EgressPolicy(mode=EgressMode.ALLOWLIST, allow=("example.org",)),
        labels={"a": "b"},
    )
    assert handle.id == ID
    assert handle.session == session()


def test_only_what_is_given_is_sent(play: Play) -> None:
    with scripted(ok(session(), 201)) as server:
        play(server.base_url, _once("run", "pass"))

    assert json.loads(server.asked[0].body) == {"code": "pass"}
    assert "prefer" not in server.asked[0].headers


def test_a_result_that_came_with_the_handle_costs_no_request(play: Play) -> None:
    def script(client: Any) -> Generator[Any, Any, Any]:
        handle = yield client.run("x", wait=5)
        return (yield handle.result())

    with scripted(ok(DONE, 201)) as server:
        assert play(server.base_url, script) == RESULT

    assert len(server.asked) == 1


def test_result_follows_the_stream_to_its_end(play: Play) -> None:
    def script(client: Any) -> Generator[Any, Any, Any]:
        handle = yield client.run("x")
        result = yield handle.result()
        return result, handle.session

    stream = events(event(HI, "1"), event(RESULTED, "2"), event(END, "2"))
    with scripted(ok(session(), 201), stream, ok(DONE)) as server:
        assert play(server.base_url, script) == (RESULT, DONE)

    assert [asked.path for asked in server.asked] == ["/sessions", f"/sessions/{ID}/stream", f"/sessions/{ID}"]
    assert server.connections == 1


def test_a_session_that_ended_without_a_result_is_a_conflict(play: Play) -> None:
    def script(client: Any) -> Generator[Any, Any, Any]:
        handle = yield client.run("x")
        yield handle.result()

    gone = session(phase=Phase.TORN_DOWN)
    with scripted(ok(gone, 201), ok(gone)) as server, pytest.raises(Conflict, match="torn_down"):
        play(server.base_url, script)


def test_a_stream_gives_typed_frames_in_order(play: Play) -> None:
    frames = (RUNNING, HI, OH, RESULTED, END)
    with scripted(events(*(event(frame, str(n)) for n, frame in enumerate(frames)))) as server:
        assert play(server.base_url, _once("stream", ID)) == list(frames)

    assert "last-event-id" not in server.asked[0].headers


def test_a_dropped_stream_goes_on_where_it_broke(play: Play) -> None:
    cut = event(OH, "0.9")[:-9]
    broken = events(event(RUNNING, "0.1"), b": ping\n\n", event(HI, "0.2"), cut, drop=True)
    rest = events(event(OH, "0.9"), event(END, "0.9"))
    with scripted(broken, rest) as server:
        assert play(server.base_url, _once("stream", ID)) == [RUNNING, HI, OH, END]

    assert [asked.headers.get("last-event-id") for asked in server.asked] == [None, "0.2"]


def test_a_stream_that_ends_without_an_end_frame_goes_on(play: Play) -> None:
    with scripted(events(event(HI, "a")), events(event(END, "b"))) as server:
        assert play(server.base_url, _once("stream", ID)) == [HI, END]


def test_a_stream_without_ids_is_not_told_twice(play: Play) -> None:
    bare = f"data: {HI.model_dump_json()}\n\n".encode()
    with scripted(events(bare, drop=True)) as server, pytest.raises(ConnectionFailed, match="broke"):
        play(server.base_url, _once("stream", ID))

    assert len(server.asked) == 1


def test_a_stream_can_be_taken_up_after_a_cursor(play: Play) -> None:
    with scripted(events(event(END, "8"))) as server:
        assert play(server.base_url, _once("stream", ID, after="7")) == [END]

    assert server.asked[0].headers["last-event-id"] == "7"


def test_frames_of_a_kind_from_the_future_are_passed_over(play: Play) -> None:
    news = b'id: 1\ndata: {"kind":"weather","sun":true}\n\n'
    more = b'id: 2\ndata: {"kind":"end","phase":"succeeded","ts":"2026-11-24T12:00:00Z","mood":"good"}\n\n'
    with scripted(events(news, more)) as server:
        assert play(server.base_url, _once("stream", ID)) == [END]


@pytest.mark.parametrize("garbage", [b"data: {\n\n", b'data: {"kind":"stdout"}\n\n', b"data: \xff\xfe\n\n"])
def test_garbage_in_a_stream_is_one_of_our_errors(play: Play, garbage: bytes) -> None:
    with scripted(events(garbage)) as server, pytest.raises(Unavailable, match="cannot read"):
        play(server.base_url, _once("stream", ID))


def test_a_refused_stream_is_an_error(play: Play) -> None:
    with scripted(problem(404, "not_found", "No such session.")) as server, pytest.raises(NotFound):
        play(server.base_url, _once("stream", ID))


def test_one_connection_serves_request_after_request(play: Play) -> None:
    def script(client: Any) -> Generator[Any, Any, Any]:
        yield client.get(ID)
        yield client.stream(ID)
        return (yield client.get(ID))

    with scripted(ok(DONE), events(event(END, "1")), ok(DONE)) as server:
        assert play(server.base_url, script) == DONE

    assert server.connections == 1


def test_list_goes_through_the_pages(play: Play) -> None:
    first, second = (Page[Session](items=(DONE,), next_cursor="c1"), Page[Session](items=(session(),)))
    with scripted(ok(first), ok(second)) as server:
        found = play(server.base_url, _once("list", phase=Phase.SUCCEEDED, labels={"team": "a=b c"}))

    assert found == [DONE, session()]
    assert [asked.path for asked in server.asked] == [
        "/sessions?limit=50&phase=succeeded&label=team%3Aa%3Db+c",
        "/sessions?limit=50&phase=succeeded&label=team%3Aa%3Db+c&cursor=c1",
    ]


def test_list_stops_at_its_limit(play: Play) -> None:
    with scripted(ok(Page[Session](items=(DONE, DONE), next_cursor="c1"))) as server:
        assert play(server.base_url, _once("list", limit=1)) == [DONE]

    assert [asked.path for asked in server.asked] == ["/sessions?limit=1"]


def test_a_page_that_leads_to_itself_ends_the_list(play: Play) -> None:
    loop = Page[Session](items=(DONE,), next_cursor="c1")
    with scripted(ok(loop), ok(loop)) as server:
        assert len(play(server.base_url, _once("list"))) == 2


def test_one_page_is_one_request(play: Play) -> None:
    page = Page[Session](items=(DONE,), next_cursor="c2")
    with scripted(ok(page)) as server:
        assert play(server.base_url, _once("page", cursor="c1", limit=7)) == page

    assert server.asked[0].path == "/sessions?limit=7&cursor=c1"


def test_one_page_of_output_is_one_request(play: Play) -> None:
    page = Page[LogEntry](items=(PRINTED, GRUMBLED), next_cursor="c2")
    with scripted(ok(page)) as server:
        assert play(server.base_url, _once("logs", ID, "c1")) == page

    assert server.asked[0].path == f"/sessions/{ID}/logs?after=c1"


def test_the_audit_trail_comes_whole(play: Play) -> None:
    pages = [
        raw(200, json.dumps({"items": [event.model_dump(mode="json")], "nextCursor": cursor}).encode())
        for event, cursor in ((STARTED, "c1"), (TORN_DOWN, None))
    ]
    with scripted(*pages) as server:
        assert play(server.base_url, _once("audit", ID)) == (STARTED, TORN_DOWN)

    assert [asked.path for asked in server.asked] == [f"/sessions/{ID}/audit", f"/sessions/{ID}/audit?cursor=c1"]


def test_an_audit_event_of_an_unknown_type_is_not_left_out_in_silence(play: Play) -> None:
    with scripted(raw(200, b'{"items":[{"type":"moon_landing"}]}')) as server, pytest.raises(Unavailable):
        play(server.base_url, _once("audit", ID))


def test_what_a_newer_server_adds_is_passed_over(play: Play) -> None:
    with scripted(raw(200, b'{"ok":true,"backend":"local","backendHealthy":true,"phase":"moon"}')) as server:
        assert play(server.base_url, _once("health")) == Health(ok=True, backend="local", backend_healthy=True)


def test_result_and_teardown_ask_what_they_say(play: Play) -> None:
    def script(client: Any) -> Generator[Any, Any, Any]:
        result = yield client.result(ID)
        return result, (yield client.teardown(ID))

    gone = session(phase=Phase.TORN_DOWN)
    with scripted(ok(RESULT), ok(gone)) as server:
        assert play(server.base_url, script) == (RESULT, gone)

    assert [(asked.method, asked.path) for asked in server.asked] == [
        ("GET", f"/sessions/{ID}/result"),
        ("DELETE", f"/sessions/{ID}"),
    ]


@pytest.mark.parametrize("odd", ["../healthz", "a/b?c#d", "%2e%2e", "é\x1b", " "])
def test_an_id_never_leads_elsewhere(play: Play, odd: str) -> None:
    with scripted(problem(404, "not_found", "No such session.")) as server, pytest.raises(NotFound):
        play(server.base_url, _once("get", odd))

    path = server.asked[0].path
    assert path.startswith("/sessions/")
    assert len(path.split("/")) == 3
    assert "?" not in path


@pytest.mark.parametrize("odd", ["", ".", ".."])
def test_an_id_that_is_no_path_is_not_found(play: Play, odd: str) -> None:
    with scripted() as server, pytest.raises(NotFound):
        play(server.base_url, _once("get", odd))

    assert server.asked == []


def test_a_problem_becomes_the_servers_own_error(play: Play) -> None:
    answer = problem(
        400, "invalid_request", "a limit is out of bounds", errors=[{"field": "limits.pids", "message": "too many"}]
    )
    with scripted(answer) as server, pytest.raises(InvalidRequest) as caught:
        play(server.base_url, _once("run", "x"))

    assert caught.value.detail == "a limit is out of bounds"
    assert caught.value.errors == (FieldProblem(field="limits.pids", message="too many"),)


def test_a_problem_says_when_to_try_again(play: Play) -> None:
    with (
        scripted(problem(429, "quota_exceeded", "too many", retryAfter=1.5)) as server,
        pytest.raises(QuotaExceeded) as caught,
    ):
        play(server.base_url, _once("run", "x"))

    assert caught.value.retry_after == 1.5
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (problem(422, "policy_unenforceable", "no"), PolicyUnenforceable),
        (problem(418, "teapot", "short and stout"), InvalidRequest),
        (problem(503, "connection_failed", "x"), Unavailable),
        (raw(401, b""), Unauthenticated),
        (raw(404, b"<html>nope</html>", kind="text/html"), NotFound),
        (raw(429, b"x", headers="Retry-After: 7\r\n"), QuotaExceeded),
        (raw(500, b"\xff\x00"), InternalError),
        (raw(301, b"", headers="Location: http://elsewhere/\r\n"), Unavailable),
        (raw(201, b"<html>hello</html>", kind="text/html"), Unavailable),
        (raw(201, b'{"id": 7}'), Unavailable),
        (raw(201, b"[" * 100_000), Unavailable),
        (raw(204, b""), Unavailable),
        (Reply((b"SSH-2.0-OpenSSH_9.2\r\n",), drop=True), ConnectionFailed),
        (Reply((), drop=True), ConnectionFailed),
        (cut_off(ok(session(), 201), -20), ConnectionFailed),
        (raw(201, b"not gzip at all", headers="Content-Encoding: gzip\r\n"), ConnectionFailed),
    ],
)
def test_no_answer_is_a_surprise(play: Play, reply: Reply, kind: type[EnclaveError]) -> None:
    with scripted(reply) as server, pytest.raises(EnclaveError) as caught:
        play(server.base_url, _once("run", "x"))

    assert type(caught.value) is kind
    assert caught.value.detail
    assert "\n" not in caught.value.detail
    assert len(server.asked) == 1


def test_a_read_is_repeated_when_its_connection_breaks(play: Play) -> None:
    with scripted(cut_off(ok(DONE), -5), ok(DONE)) as server:
        assert play(server.base_url, _once("get", ID)) == DONE

    assert len(server.asked) == 2


@pytest.mark.slow
def test_no_server_is_told_in_one_line(play: Play) -> None:
    with scripted() as server:
        pass

    with pytest.raises(ConnectionFailed) as caught:
        play(server.base_url, _once("run", "x"))

    assert server.base_url in caught.value.detail
    assert "`enclave serve`" in caught.value.detail
    assert "\n" not in caught.value.detail


def test_result_gives_up_in_time_though_the_stream_lives(play: Play) -> None:
    def script(client: Any) -> Generator[Any, Any, Any]:
        handle = yield client.run("x")
        yield handle.result(timeout=0.1)

    gate = threading.Event()
    alive = events(event(RUNNING, "1"), b": ping\n\n", gate.wait)
    with scripted(ok(session(), 201), alive) as server:
        try:
            with pytest.raises(TimeoutError, match=r"0\.1 seconds"):
                play(server.base_url, script)
        finally:
            gate.set()


def test_a_stream_left_early_lets_the_client_go_on() -> None:
    gate = threading.Event()
    with (
        scripted(events(event(HI, "5"), gate.wait), ok(DONE)) as server,
        Enclave(server.base_url, api_key="k") as client,
    ):
        with client.stream(ID) as frames:
            assert next(frames) == HI
            assert frames.cursor == "5"
        gate.set()

        assert client.get(ID) == DONE


def test_a_client_does_not_show_its_key() -> None:
    with Enclave("http://127.0.0.1:1", api_key="ek_1_secret") as client:
        assert repr(client) == "Enclave('http://127.0.0.1:1')"
        assert "secret" not in repr(vars(client))
