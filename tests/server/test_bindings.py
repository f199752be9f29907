"""Service bindings over HTTP: their shapes, and that a secret goes in and never comes out."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from enclave.contracts.bindings import Binding
from enclave.contracts.errors import Problem
from enclave.contracts.policy import Guarantee
from tests.orchestrator.test_orchestrator import prints_and_succeeds
from tests.server.conftest import Answer, Site

pytestmark = pytest.mark.anyio

SECRET = "SEKRIT0123456789abcdef"
ANOTHER = "SEKRIT-another-one"
BODY = {"url": "https://api.example.org/v1/", "inject": {"kind": "bearer"}, "secret": SECRET}
SEEN = {"url": "https://api.example.org/v1", "inject": {"kind": "bearer", "name": None, "template": None}}


def problem(answer: Answer) -> Problem:
    assert answer.headers["content-type"] == "application/problem+json"
    return Problem.model_validate_json(answer.body)


def fields(answer: Answer) -> list[str]:
    assert answer.status == 400
    return [one.field for one in problem(answer).errors]


def contents(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir() if file.is_file())


async def put(site: Site, name: str = "crm", **changes: Any) -> Answer:
    return await site.ask("PUT", f"/bindings/{name}", {**BODY, **changes})


async def test_a_binding_is_put_shown_listed_replaced_and_deleted(site: Site) -> None:
    made = await put(site, methods=["GET"], paths=["/users/"])
    view = made.json
    assert (made.status, set(view)) == (
        201, {"name", "url", "inject", "methods", "paths", "createdAt", "createdBy", "updatedAt"},
    )  # fmt: skip
    assert view == view | SEEN | {"name": "crm", "methods": ["GET"], "paths": ["/users"], "createdBy": "owner.org_a"}
    assert (await site.ask("GET", "/bindings/crm")).json == view
    replaced = await site.ask("PUT", "/bindings/crm", BODY | {"secret": ANOTHER}, token="admin.org_a")
    assert (replaced.status, replaced.json["methods"]) == (200, [])
    assert [replaced.json[name] for name in ("createdAt", "createdBy")] == [view["createdAt"], "owner.org_a"]
    assert replaced.json["updatedAt"] > view["updatedAt"]
    assert (await site.ask("GET", "/bindings")).json == {"items": [replaced.json], "nextCursor": None}
    gone = await site.ask("DELETE", "/bindings/crm")
    assert (gone.status, gone.json) == (200, replaced.json)
    assert (await site.ask("DELETE", "/bindings/crm")).status == 404
    assert (await site.ask("GET", "/bindings")).json["items"] == []


async def test_bindings_are_listed_page_by_page(site: Site) -> None:
    for name in ("c", "a", "b"):
        await put(site, name)
    names, path = [], "/bindings?limit=2"
    while path:
        page = (await site.ask("GET", path)).json
        names.append([one["name"] for one in page["items"]])
        path = f"/bindings?limit=2&cursor={page['nextCursor']}" if page["nextCursor"] else ""
    assert names == [["a", "b"], ["c"]]
    assert fields(await site.ask("GET", "/bindings?cursor=czpzZXNf")) == ["cursor"]
    assert fields(await site.ask("GET", "/bindings?phase=running")) == ["phase"]


async def test_another_orgs_binding_is_as_none_at_all(site: Site) -> None:
    await put(site)
    for method in ("GET", "DELETE"):
        theirs = await site.ask(method, "/bindings/crm", token="owner.org_b")
        none = await site.ask(method, "/bindings/none", token="owner.org_b")
        odd = await site.ask(method, "/bindings/..%20X", token="owner.org_b")
        assert (theirs.status, theirs.body, odd.body) == (404, none.body, none.body)
    assert (await site.ask("GET", "/bindings", token="owner.org_b")).json["items"] == []
    assert (await site.ask("GET", "/bindings/crm")).status == 200


async def test_two_names_of_one_variable_are_a_conflict(site: Site) -> None:
    await put(site, "my-db")
    refused = await put(site, "my_db")
    assert (refused.status, problem(refused).errors[0].field) == (409, "name")
    assert "ENCLAVE_SVC_MY_DB" in problem(refused).errors[0].message


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"url": "http://api.example.org"}, ["url"]),
        ({"url": "https://127.0.0.1"}, ["url"]),
        ({"url": "https://169.254.169.254/latest"}, ["url"]),
        ({"url": "https://a.example/" + "x" * 2048}, ["url"]),
        ({"methods": ["GET", "TRACE"]}, ["methods.1"]),
        ({"methods": ["get"]}, ["methods.0"]),
        ({"paths": ["/a", "b"]}, ["paths.1"]),
        ({"paths": ["/"] * 65}, ["paths"]),
        ({"inject": {"kind": "cookie"}}, ["inject.kind"]),
        ({"inject": {"kind": "header", "name": "Host"}}, ["inject.name"]),
        ({"inject": {"kind": "header", "name": "X-Key", "template": "Key"}}, ["inject.template"]),
        ({"secret": "a" * 8193}, ["secret"]),
        ({"secret": ""}, ["secret"]),
        ({"secret": None}, ["secret"]),
    ],
)
async def test_what_is_wrong_is_named(site: Site, changes: dict[str, Any], named: list[str]) -> None:
    assert fields(await put(site, **changes)) == named
    assert (await site.ask("GET", "/bindings")).json["items"] == []


@pytest.mark.parametrize("name", ["CRM", "1a", "a" * 33, "a.b", "%E2%82%AC"])
async def test_a_bad_name_is_named(site: Site, name: str) -> None:
    assert fields(await put(site, name)) == ["name"]


BARE = json.dumps(BODY).encode()
RAW = SECRET.encode()
BROKEN: list[bytes] = [
    BARE[:-1],
    BARE + b"}",
    b"[" + BARE + b"]",
    BARE.replace(b'"secret"', b"secret"),
    BARE.replace(b"{", b"\xff{", 1),
    b'"' + RAW + b'"',
    RAW,
    b"\x00" + RAW,
    b'{"secret": "' + RAW,
    b'{"secret": "\\ud800' + RAW + b'"}',
    json.dumps({"secret": SECRET}).encode(),
    json.dumps({"secrett": SECRET}).encode(),
    json.dumps({"password": SECRET, "token": {"value": [SECRET]}}).encode(),
]
WRONG: list[dict[str, Any]] = [
    {"extra": SECRET},
    {"secret": [SECRET]},
    {"secret": {"value": SECRET}},
    {"secret": f"{SECRET}\n"},
    {"secret": f"{SECRET}\u00e9"},
    {"secret": SECRET * 500},
    {"inject": SECRET},
    {"inject": {"kind": SECRET}},
    {"inject": {"kind": "bearer", "token": SECRET}},
    {"inject": {"kind": "bearer", "name": SECRET}},
    {"inject": {"kind": "header", "name": SECRET}},
    {"inject": {"kind": "header", "name": f"{SECRET}:"}},
    {"inject": {"kind": "header", "name": "X-Key", "template": SECRET}},
    {"inject": {"kind": "query", "name": f"{SECRET}&"}},
    {"methods": SECRET},
    {"methods": [SECRET]},
    {"paths": {SECRET: 1}},
    {"paths": [SECRET]},
    {"paths": [f"/{SECRET}"]},
    {"url": SECRET},
    {"url": f"https://u:{SECRET}@a.example"},
    {"url": f"https://a.example?k={SECRET}"},
    {"url": f"https://a.example/{SECRET}"},
    {"url": f"https://{SECRET}/"},
    {"url": f"https://a.example:{SECRET}"},
]


@pytest.mark.parametrize("body", [*BROKEN, *(json.dumps(BODY | one).encode() for one in WRONG)], ids=lambda body: "")
async def test_a_refusal_never_repeats_the_secret(site: Site, body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    refused = await site.ask("PUT", "/bindings/crm", body)

    assert (refused.status, problem(refused).code) == (400, "invalid_request")
    assert b"sekrit" not in refused.body.lower()
    assert "sekrit" not in repr(refused.headers).lower() + caplog.text.lower()


async def test_a_secret_goes_nowhere_but_into_the_grant(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    site.backend.play = prints_and_succeeds
    answers = [await put(site), await put(site, secret=ANOTHER), await put(site, "other")]
    run = {"code": "x", "serviceBindings": ["crm"]}
    answers.append(session := await site.ask("POST", "/sessions", run, prefer="wait=5"))
    its = [f"/sessions/{session.json['id']}{what}" for what in ("", "/audit", "/result", "/stream")]
    for path in ("/bindings", "/bindings/crm", "/sessions", *its, "/openapi.json", "/docs"):
        answers += [await site.ask("GET", path)]
    answers += [await site.ask("DELETE", "/bindings/crm")]

    (puppet,) = site.backend.all
    assert [grant.secret for grant in puppet.spec.bindings] == [ANOTHER]
    assert "SEKRIT" not in repr(puppet.spec) + caplog.text
    assert "api.example.org" in repr(puppet.spec)
    assert [answer.status for answer in answers if b"SEKRIT" in answer.body or answer.status >= 300] == []
    assert b"api.example.org" in contents(tmp_path)
    assert b"SEKRIT" not in contents(tmp_path)
    chain = await site.orchestrator._ports.store.chain("org_a")
    assert "SEKRIT" not in repr(chain)
    assert [event.type for event in chain if event.session_id is None] == ["binding_put"] * 3 + ["binding_deleted"]


async def test_a_session_is_told_which_bindings_there_are(site: Site) -> None:
    await put(site)
    await site.ask("PUT", "/bindings/theirs", BODY, token="owner.org_b")
    for name in ("theirs", "none"):
        refused = await site.ask("POST", "/sessions", {"code": "x", "serviceBindings": ["crm", name]})
        assert fields(refused) == ["serviceBindings.1"]
        assert problem(refused).errors[0].message == f"no such binding: {name}; bindings of this org: crm"
    assert fields(await site.ask("POST", "/sessions", {"code": "x", "serviceBindings": ["crm", "crm"]})) == [
        "serviceBindings.1"
    ]
    assert fields(await site.ask("POST", "/sessions", {"code": "x", "serviceBindings": ["../x"]})) == [
        "serviceBindings.0"
    ]
    assert (await site.ask("GET", "/sessions")).json["items"] == []
    assert site.backend.all == []


async def test_a_developer_uses_what_only_an_admin_sets_up(site: Site) -> None:
    await put(site)
    made = await site.ask("POST", "/sessions", {"code": "x", "serviceBindings": ["crm"]}, token="developer.org_a")
    assert (made.status, made.json["serviceBindings"]) == (201, ["crm"])
    assert (await site.ask("PUT", "/bindings/crm", BODY, token="developer.org_a")).status == 403


async def test_without_the_guarantee_a_session_that_binds_is_refused_by_name(site: Site) -> None:
    site.backend.guarantees = frozenset(Guarantee) - {Guarantee.SERVICE_BINDINGS}
    await put(site)
    refused = await site.ask("POST", "/sessions", {"code": "x", "serviceBindings": ["crm"]})
    assert (refused.status, "service_bindings" in problem(refused).detail) == (422, True)
    assert fields(await site.ask("POST", "/sessions", {"code": "x", "serviceBindings": ["none"]})) == [
        "serviceBindings.0"
    ]
    assert (await site.ask("POST", "/sessions", {"code": "x"})).status == 201


async def test_what_the_schema_calls_a_binding_has_no_place_for_a_secret(site: Site) -> None:
    schemas = (await site.ask("GET", "/openapi.json")).json["components"]["schemas"]
    secret = schemas["PutBinding"]["properties"]["secret"]

    assert (secret["writeOnly"], secret["format"]) == (True, "password")
    assert not any("secret" in name.lower() for name in schemas["Binding"]["properties"])
    assert not any("secret" in name.lower() for name in Binding.model_fields)
