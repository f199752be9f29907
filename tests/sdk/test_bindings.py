"""`client.bindings` of both clients, against a server that plays recorded answers."""

import json
from collections.abc import Generator
from typing import Any

import pytest

from enclave.contracts.bindings import Binding, Injection
from enclave.contracts.errors import InvalidRequest, NotFound
from enclave.contracts.wire import Page
from enclave.sdk.bindings import binding_request
from enclave.sdk.flow import Api
from enclave.sdk.step import Call
from tests.sdk.conftest import Play
from tests.sdk.samples import NOW, session
from tests.sdk.scripted import ok, problem, scripted

SECRET = "s3cret-t0ken"
BINDING = Binding(
    name="crm", url="https://a.example", inject=Injection(kind="bearer"), created_at=NOW, created_by="k", updated_at=NOW
)


def _once(method: str, *args: Any, **options: Any) -> Any:
    def script(client: Any) -> Generator[Any, Any, Any]:
        return (yield getattr(client.bindings, method)(*args, **options))

    return script


@pytest.mark.parametrize(
    ("terms", "inject", "secret"),
    [
        ({"bearer": SECRET}, {"kind": "bearer"}, SECRET),
        ({"basic": ("me", SECRET)}, {"kind": "basic"}, f"me:{SECRET}"),
        ({"header": ("X-Key", SECRET)}, {"kind": "header", "name": "X-Key"}, SECRET),
        (
            {"header": ("X-Key", SECRET), "template": "k {secret}"},
            {"kind": "header", "name": "X-Key", "template": "k {secret}"},
            SECRET,
        ),
        ({"query": ("key", SECRET)}, {"kind": "query", "name": "key"}, SECRET),
    ],
)
def test_put_sends_the_secret_once_and_gives_the_binding(
    play: Play, terms: dict[str, Any], inject: dict[str, str], secret: str
) -> None:
    with scripted(ok(BINDING, 201)) as server:
        made = play(server.base_url, _once("put", "crm", url="https://a.example", methods=["GET"], **terms))

    (asked,) = server.asked
    assert (asked.method, asked.path, made) == ("PUT", "/bindings/crm", BINDING)
    assert json.loads(asked.body) == {
        "url": "https://a.example", "inject": inject, "secret": secret, "methods": ["GET"],
    }  # fmt: skip


def test_bindings_are_gone_through_page_by_page(play: Play) -> None:
    pages = (Page[Binding](items=(BINDING,), next_cursor="c"), Page[Binding](items=(BINDING,)))
    with scripted(*map(ok, pages)) as server:
        assert play(server.base_url, _once("list")) == [BINDING, BINDING]

    assert [asked.path for asked in server.asked] == ["/bindings", "/bindings?cursor=c"]


def test_one_is_shown_and_deleted(play: Play) -> None:
    with scripted(ok(BINDING), ok(BINDING)) as server:
        assert play(server.base_url, _once("get", "crm")) == BINDING
        assert play(server.base_url, _once("delete", "crm")) == BINDING

    assert [(asked.method, asked.path) for asked in server.asked] == [
        ("GET", "/bindings/crm"),
        ("DELETE", "/bindings/crm"),
    ]


def test_a_name_cannot_leave_its_place(play: Play) -> None:
    with scripted(problem(404, "not_found", "No.")) as server, pytest.raises(NotFound):
        play(server.base_url, _once("get", "../sessions"))

    assert server.asked[0].path == "/bindings/..%2Fsessions"


@pytest.mark.parametrize(
    "terms", [{}, {"bearer": SECRET, "query": ("key", SECRET)}, {"bearer": ""}, {"bearer": SECRET, "methods": ["X"]}]
)
def test_terms_that_make_no_binding_are_refused_without_the_secret(play: Play, terms: dict[str, Any]) -> None:
    with scripted() as server, pytest.raises(InvalidRequest) as refused:
        play(server.base_url, _once("put", "crm", url="https://a.example", **terms))

    assert server.asked == []
    assert SECRET not in f"{refused.value!r} {refused.value.errors}"


def test_a_secret_is_not_in_what_a_flow_shows() -> None:
    request = binding_request({"url": "https://a.example", "bearer": SECRET})
    step = next(Api("http://x").put_binding("crm", request))

    assert isinstance(step, Call)
    assert SECRET in str(step.body)
    assert SECRET not in repr(step) + repr(request)


@pytest.mark.parametrize("named", ["crm", ["crm"]])
def test_a_run_names_its_bindings(play: Play, named: Any) -> None:
    def script(client: Any) -> Generator[Any, Any, Any]:
        return (yield client.run("x", bindings=named))

    granted = session(service_bindings=("crm",))
    with scripted(ok(granted, 201)) as server:
        assert play(server.base_url, script).session == granted

    assert json.loads(server.asked[0].body) == {"code": "x", "serviceBindings": ["crm"]}
