"""The routes: paths, statuses and shapes of the reference."""

import asyncio
import json
import logging
import time
from html import escape
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from starlette.types import Message

from enclave.contracts.audit import AuditEvent
from enclave.contracts.errors import ERRORS, ConnectionFailed, Problem
from enclave.contracts.operations import OPERATIONS
from enclave.contracts.policy import Language
from enclave.contracts.sessions import Session, SessionResult
from enclave.core.audit import verify
from enclave.orchestrator.orchestrator import Bounds
from enclave.server.app import Application
from enclave.server.problems import STATUS
from tests.orchestrator.test_orchestrator import prints_and_succeeds
from tests.server.conftest import Answer, Site

pytestmark = pytest.mark.anyio

NONE = "ses_" + "0" * 26


def problem(answer: Answer) -> Problem:
    assert answer.headers["content-type"] == "application/problem+json"
    return Problem.model_validate_json(answer.body)


def test_every_error_has_a_status() -> None:
    assert set(STATUS) == set(ERRORS) - {ConnectionFailed.code}


async def test_every_operation_has_a_route(site: Site) -> None:
    app = site.server.config.app
    assert isinstance(app, Application)
    by_name = {route.name: route for route in app.routes}
    for operation in OPERATIONS:
        route = by_name[operation.name]
        path = operation.path.replace("{path}", "{path:path}")
        assert (route.path, operation.method in (route.methods or ())) == (path, True)


async def test_a_run_in_one_round_trip(site: Site) -> None:
    site.backend.play = prints_and_succeeds
    answer = await site.ask("POST", "/sessions", {"code": "x", "labels": {"a": "b"}}, prefer="wait=5")
    assert answer.status == 201
    assert answer.headers["preference-applied"] == "wait=5"
    session = Session.model_validate_json(answer.body)
    assert answer.headers["location"] == f"/sessions/{session.id}"
    assert session.result is not None
    assert session.result.result == {"ok": True}
    assert (await site.ask("GET", f"/sessions/{session.id}")).json == answer.json
    result = await site.ask("GET", f"/sessions/{session.id}/result")
    assert SessionResult.model_validate_json(result.body) == session.result
    audit = (await site.ask("GET", f"/sessions/{session.id}/audit")).json
    assert [event["type"] for event in audit["items"]][:2] == ["session_created", "sandbox_started"]
    listed = (await site.ask("GET", "/sessions?label=a:b&phase=succeeded&limit=1")).json
    assert [item["id"] for item in listed["items"]] == [session.id]
    torn = await site.ask("DELETE", f"/sessions/{session.id}")
    assert (torn.status, torn.json["phase"]) == (200, "torn_down")


async def test_names_on_the_wire_are_camel_case(site: Site) -> None:
    session = await site.run()
    assert {"orgId", "createdBy", "startedAt"} <= set(session)
    assert "memoryMiB" in session["limits"]


async def test_a_template_is_in_the_session_only_when_it_was_asked_for(site: Site) -> None:
    site.backend.offered = {"data": Language.PYTHON}
    answer = await site.ask("POST", "/sessions", {"code": "x", "template": "data"})
    assert (answer.status, answer.json["template"]) == (201, "data")
    assert "template" not in (await site.ask("POST", "/sessions", {"code": "x"})).json


@pytest.mark.parametrize(
    ("value", "applied"),
    [
        ("wait=0", "wait=0"),
        ("respond-async, wait=1", "wait=1"),
        ('WAIT = "1"; x=y', "wait=1"),
        ("wait=abc", None),
        ("wait=-1", None),
        ("wait", None),
        ("wait=1.5", None),
        ("return=minimal", None),
    ],
)
async def test_preferences_are_read_as_the_rfc_says(site: Site, value: str, applied: str | None) -> None:
    site.backend.play = prints_and_succeeds
    answer = await site.ask("POST", "/sessions", {"code": "x"}, prefer=value)
    assert (answer.status, answer.headers.get("preference-applied")) == (201, applied)


async def test_a_long_wait_is_clamped(site: Site) -> None:
    site.backend.play = prints_and_succeeds
    for value in ("wait=301", "wait=" + "9" * 100):
        answer = await site.ask("POST", "/sessions", {"code": "x"}, prefer=value)
        assert answer.headers["preference-applied"] == "wait=300"


@pytest.mark.slow
async def test_a_wait_that_is_over_answers_what_is(site: Site) -> None:
    began = time.monotonic()
    answer = await site.ask("POST", "/sessions", {"code": "x"}, prefer="wait=1")
    assert 0.9 < time.monotonic() - began < 3
    assert answer.json["phase"] == "running"
    result = await site.ask("GET", f"/sessions/{answer.json['id']}/result")
    assert (result.status, problem(result).code) == (409, "conflict")


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["code"]),
        ({"code": ""}, ["code"]),
        ({"code": "x", "memory": 1}, ["memory"]),
        ({"code": "x", "webhook_url": "x"}, ["webhook_url"]),
        ({"code": "x", "limits": {"memory_mib": 1}}, ["limits.memory_mib"]),
        ({"code": "x", "limits": {"memoryMiB": "1"}}, ["limits.memoryMiB"]),
        ({"code": "x", "limits": {"memoryMiB": True}}, ["limits.memoryMiB"]),
        ({"code": "x", "limits": {"memoryMiB": 1, "pids": 10**400}}, ["limits.memoryMiB", "limits.pids"]),
        ({"code": "x", "language": "ruby"}, ["language"]),
        ({"code": "x", "template": "none"}, ["template"]),
        ({"code": "x", "template": "../up"}, ["template"]),
        ({"code": "x", "labels": {"a b": "c"}}, ["labels.a b"]),
        ({"code": "x", "egress": {"mode": "deny_all", "allow": ["a.b"]}}, ["egress.allow"]),
        ({"code": "x", "egress": {"mode": "allowlist", "allow": ["a..b"]}}, ["egress.allow.0"]),
        ([], []),
        (b"{", []),
        (b"\xff", []),
        (b"", []),
        (b'{"code": "\\ud800"}', []),
        (b"[" * 100_000, []),
    ],
)
async def test_a_bad_body_is_refused_by_its_fields(site: Site, body: object, fields: list[str]) -> None:
    answer = await site.ask("POST", "/sessions", body)
    assert answer.status == 400
    assert [error.field for error in problem(answer).errors] == fields
    assert not site.backend.all


async def test_bounds_are_told(site: Site) -> None:
    answer = await site.ask("POST", "/sessions", {"code": "x", "limits": {"memoryMiB": 1}})
    (error,) = problem(answer).errors
    assert error.message == "must be between 16 and 4096"


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_too_large_is_refused(site: Site, declared: bool) -> None:
    if declared:
        connection = await site.open("POST", "/sessions", content_length=str(5 << 20))
        status, _ = await connection.head()
        assert status == 400
        return
    body = b'{"code": "' + b"x" * (5 << 20) + b'"}'
    connection = await site.open("POST", "/sessions", transfer_encoding="chunked")
    connection.writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
    status, _ = await connection.head()
    assert status == 400


@pytest.mark.parametrize("where", [{}, {"limits": {}}, {"labels": {}}])
async def test_a_name_of_a_megabyte_is_not_sent_back(site: Site, where: dict[str, dict[str, object]]) -> None:
    name = "x" * (1 << 20)
    body = {"code": "x", **{field: {name: "y"} for field in where}} if where else {"code": "x", name: 1}
    answer = await site.ask("POST", "/sessions", body)
    (error,) = problem(answer).errors
    assert answer.status == 400
    assert len(error.field) == 200
    assert error.field.endswith("x…")
    assert len(answer.body) < 2000


async def test_a_name_in_a_query_is_not_sent_back_whole(site: Site) -> None:
    answer = await site.ask("GET", f"/sessions?{'x' * 5000}=1")
    (error,) = problem(answer).errors
    assert error.field == "x" * 199 + "…"


@pytest.mark.parametrize("limit", ["0", "201", "-1", "9" * 100, "x", "1.5", ""])
async def test_a_limit_that_is_none_is_told_its_bounds(site: Site, limit: str) -> None:
    (error,) = problem(await site.ask("GET", f"/sessions?limit={limit}")).errors
    assert error.message == "must be a whole number from 1 to 200"


async def test_a_client_that_goes_away_is_no_fault_of_ours(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    sent: list[Message] = []
    received: list[Message] = [
        {"type": "http.request", "body": b'{"co', "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return received.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    app = site.server.config.app
    assert isinstance(app, Application)
    scope = {
        "type": "http", "method": "POST", "path": "/sessions", "query_string": b"",
        "headers": [(b"authorization", b"Bearer owner.org_a")],
    }  # fmt: skip
    await app(scope, receive, send)
    assert (received, sent) == ([], [])
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"), ("limit=201", "limit"), ("limit=x", "limit"), ("limit=1&limit=2", "limit"),
        ("cursor=!", "cursor"), ("cursor=", "cursor"), ("phase=gone", "phase"), ("label=a", "label"),
        ("label=:a", "label"), ("label=a:b&label=a:c", "label"), ("offset=1", "offset"), ("offset", "offset"),
        ("Limit=1", "Limit"),
    ],
)  # fmt: skip
async def test_a_bad_query_is_refused_by_its_parameter(site: Site, query: str, field: str) -> None:
    answer = await site.ask("GET", f"/sessions?{query}")
    assert answer.status == 400
    assert [error.field for error in problem(answer).errors] == [field]


@pytest.mark.parametrize("path", ["/sessions", f"/sessions/{NONE}", f"/sessions/{NONE}/stream"])
@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "Basic abc", "Bearer nobody", "Bearer a b", "bearer\towner.org_a", "Bearer \xff"],
)
async def test_without_a_credential_nothing_is_said(site: Site, path: str, authorization: str | None) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    answer = await site.ask("GET", path, token=None, **headers)
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert problem(answer).code == "unauthenticated"
    assert b"nobody" not in answer.body


async def test_two_credentials_are_none(site: Site) -> None:
    answer = await site.ask("GET", "/sessions", authorization="Bearer owner.org_b")
    assert answer.status == 401


async def test_what_is_missing_and_what_is_anothers_are_the_same_bytes(site: Site) -> None:
    theirs = (await site.run())["id"]
    known = {"server", "date"}
    for method, tail in (("GET", ""), ("GET", "/result"), ("GET", "/audit"), ("GET", "/stream"), ("DELETE", "")):
        answers = set()
        for session_id in (theirs, NONE, "x", "ses_%00", "%ff", "..", theirs.upper(), theirs + "%0a"):
            answer = await site.ask(method, f"/sessions/{session_id}{tail}", token="owner.org_b")
            heads = tuple(sorted((name, value) for name, value in answer.headers.items() if name not in known))
            answers.add((answer.status, heads, answer.body))
            assert session_id.encode() not in answer.body or session_id in ("x", "..")
        assert len(answers) == 1
        assert answers.pop()[0] == 404


async def test_paths_and_methods_that_are_none_are_problems(site: Site) -> None:
    assert problem(await site.ask("GET", "/nothing")).status == 404
    assert (await site.ask("GET", "/sessions/")).status == 404
    wrong = await site.ask("PUT", "/sessions")
    assert (wrong.status, wrong.headers["allow"]) == (405, "GET, HEAD, POST")
    assert problem(wrong).status == 405
    assert (await site.ask("HEAD", f"/sessions/{NONE}/stream")).status == 405


async def test_a_role_without_the_scope_is_refused_before_its_body_is_read(site: Site) -> None:
    answer = await site.ask("POST", "/sessions", b"{", token="viewer.org_a")
    assert (answer.status, problem(answer).code) == (403, "forbidden")


async def test_too_much_at_once_says_when_to_retry(site: Site) -> None:
    site.orchestrator._bounds = Bounds(max_concurrency=0)
    answer = await site.ask("POST", "/sessions", {"code": "x"})
    assert (answer.status, answer.headers["retry-after"]) == (429, "1")
    assert problem(answer).retry_after == 1


async def test_a_bug_is_a_problem_that_leaks_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("password")

    monkeypatch.setattr(site.orchestrator, "get", broken)
    answer = await site.ask("GET", f"/sessions/{NONE}")
    assert (answer.status, problem(answer).code) == (500, "internal_error")
    assert b"password" not in answer.body


async def test_health_is_public(site: Site) -> None:
    answer = await site.ask("GET", "/healthz", token=None)
    assert (answer.status, answer.json) == (200, {"ok": True, "backend": "puppet", "backendHealthy": True})


async def test_every_answer_has_the_security_headers(site: Site) -> None:
    for path in ("/healthz", "/docs", "/openapi.json", "/nothing", "/sessions"):
        headers = (await site.ask("GET", path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]


async def test_the_description_is_served_and_asks_nobody_else(site: Site) -> None:
    openapi = await site.ask("GET", "/openapi.json", token=None)
    assert openapi.json == json.loads((Path(__file__).parents[2] / "contracts" / "openapi.json").read_text())
    docs = await site.ask("GET", "/docs", token=None)
    text = docs.body.decode().replace("<code>", "`").replace("</code>", "`")
    assert "text/html" in docs.headers["content-type"]
    assert "<script" not in text
    assert "http://127.0.0.1:8088" in text
    assert all(escape(operation.summary) in text for operation in OPERATIONS)
    assert "limits.memoryMiB" in text


async def test_a_connection_is_kept_for_the_next_request(site: Site) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    for _ in range(3):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
    writer.close()


async def test_a_caller_is_told_who_they_are(site: Site) -> None:
    told = (await site.ask("GET", "/whoami", token="viewer.org_b")).json
    assert told == {
        "userId": "viewer.org_b", "orgId": "org_b", "role": "viewer", "scopes": ["sessions:read", "bindings:read"],
    }  # fmt: skip


async def test_the_orgs_trail_is_a_chain_that_holds_and_nobody_elses(site: Site) -> None:
    site.backend.play = prints_and_succeeds
    await site.run(prefer="wait=5")
    await site.run(prefer="wait=5", token="owner.org_b")
    events, path = [], "/audit?limit=3"
    while path:
        page = (await site.ask("GET", path, token="auditor.org_a")).json
        events += page["items"]
        path = f"/audit?limit=3&cursor={page['nextCursor']}" if page["nextCursor"] else ""
    trail = TypeAdapter(list[AuditEvent]).validate_json(json.dumps(events))
    assert verify(trail) is None
    assert len(trail) > 3
    assert {event.org_id for event in trail} == {"org_a"}
