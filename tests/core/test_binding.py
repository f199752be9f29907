"""Which bindings there may be."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from enclave.contracts.bindings import PutBinding
from enclave.contracts.errors import InvalidRequest
from enclave.core.binding import binding_of, check_name, grant_of, normal, variable
from enclave.core.grant import Grant

SECRET = "s3cret-t0ken"


def a_request(secret: str = SECRET, inject: Any = None, **fields: Any) -> PutBinding:
    given = {"url": "https://a.example", "inject": inject or {"kind": "bearer"}, "secret": secret, **fields}
    return PutBinding.model_validate_json(json.dumps(given))


def fields(request: PutBinding) -> list[str]:
    with pytest.raises(InvalidRequest) as refused:
        normal(request, ())
    said = f"{refused.value.detail} {refused.value.errors}"
    assert request.secret.get_secret_value() not in said
    return [problem.field for problem in refused.value.errors]


@pytest.mark.parametrize("name", ["a", "a-b_c9", "a" * 32])
def test_a_good_name_is_taken(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", ["", "A", "1a", "-a", "_a", "a.b", "a/b", "a b", "a" * 33, "a\n", "\u0430", "../a"])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest):
        check_name(name)


def test_the_variable_of_a_binding() -> None:
    assert variable("my-db_2") == "ENCLAVE_SVC_MY_DB_2"


@pytest.mark.parametrize(
    ("kind", "secret"),
    [
        ("bearer", "a.b-c_d~e+f/g=="),
        ("basic", "user:pass word\u00e9"),
        ("basic", ":"),
        ("header", "a b"),
        ("query", "a b&c=\u00e9"),
    ],
)
def test_a_secret_that_fits_is_taken(kind: str, secret: str) -> None:
    name = {"name": "X-Key"} if kind in ("header", "query") else {}
    normal(a_request(secret, {"kind": kind, **name}), ())


@pytest.mark.parametrize("kind", ["bearer", "basic", "header", "query"])
@pytest.mark.parametrize("bad", ["\r", "\n", "\x00", "\x7f", "\t", "\u2028", "\ue000", "\u00a0"])
def test_a_secret_that_breaks_a_line_is_refused(kind: str, bad: str) -> None:
    name = {"name": "X-Key"} if kind in ("header", "query") else {}
    assert fields(a_request(f"us:er{bad}x", {"kind": kind, **name})) == ["secret"]


@pytest.mark.parametrize(
    ("kind", "secret"),
    [("bearer", "s3 cr3t"), ("bearer", "\u00e9"), ("basic", "s3cr3t"), ("header", " s3cr3t"), ("header", "\u00e9")],
)
def test_a_secret_that_cannot_be_injected_so_is_refused(kind: str, secret: str) -> None:
    assert fields(a_request(secret, {"kind": kind, **({"name": "X-Key"} if kind == "header" else {})})) == ["secret"]


@pytest.mark.parametrize(
    "name",
    ["Host", "content-length", "Transfer-Encoding", "CONNECTION", "te", "Upgrade", "Proxy-Authorization", "keep-alive",
     "a b", "a:b", "a\r\nb", "\u00e9", ":path", "a,b"],
)  # fmt: skip
def test_a_header_that_is_not_the_callers_is_refused(name: str) -> None:
    assert fields(a_request(inject={"kind": "header", "name": name})) == ["inject.name"]


@pytest.mark.parametrize(
    ("inject", "field"),
    [
        ({"kind": "header"}, "inject.name"),
        ({"kind": "query"}, "inject.name"),
        ({"kind": "bearer", "name": "x"}, "inject.name"),
        ({"kind": "basic", "name": "x"}, "inject.name"),
        ({"kind": "query", "name": "a&b"}, "inject.name"),
        ({"kind": "query", "name": "x", "template": "{secret}"}, "inject.template"),
        ({"kind": "bearer", "template": "{secret}"}, "inject.template"),
        ({"kind": "header", "name": "X", "template": "none"}, "inject.template"),
        ({"kind": "header", "name": "X", "template": "{secret}{secret}"}, "inject.template"),
        ({"kind": "header", "name": "X", "template": "{secret}\r\nY: z"}, "inject.template"),
        ({"kind": "header", "name": "X", "template": "{secret}\x00"}, "inject.template"),
        ({"kind": "header", "name": "X", "template": " {secret}"}, "inject.template"),
    ],
)
def test_an_injection_that_makes_no_sense_is_refused(inject: dict[str, str], field: str) -> None:
    secret = "user:s3cret" if inject["kind"] == "basic" else SECRET
    assert fields(a_request(secret, inject)) == [field]


def test_everything_that_is_wrong_is_told_at_once() -> None:
    wrong = a_request("a\nb", {"kind": "header"}, url="http://a.example", paths=["/ok", "no", "/.."])

    assert fields(wrong) == ["inject.name", "secret", "url", "paths.1", "paths.2"]


def test_a_secret_that_is_repeated_where_everyone_reads_is_refused() -> None:
    header = {"kind": "header", "name": f"X-{SECRET}", "template": f"{SECRET} {{secret}}"}
    repeated = a_request(SECRET.upper(), header, url=f"https://a.example/hook/{SECRET}", paths=["/a", f"/{SECRET}"])

    assert sorted(fields(repeated)) == ["inject.name", "inject.template", "paths.1", "url"]
    normal(a_request("exam", url="https://example.org"), ())


def test_a_request_is_brought_into_its_one_form() -> None:
    request = normal(a_request(url="https://A.example/", paths=["/a/", "/a", "/b"], methods=["GET", "GET"]), ())

    assert (request.url, request.paths, request.methods) == ("https://a.example", ("/a", "/b"), ("GET",))


def test_a_grant_is_the_binding_and_its_secret() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    request = a_request(inject={"kind": "header", "name": "X-Key"}, methods=["GET"], paths=["/a"])
    grant = grant_of(binding_of("one", request, at=at, by="k"), SECRET)

    assert grant == Grant(
        name="one", url="https://a.example", inject="header", secret=SECRET, parameter="X-Key", methods=("GET",),
        paths=("/a",),
    )  # fmt: skip
    assert Grant.from_fields(json.loads(json.dumps(grant.to_fields()))) == grant
    assert SECRET not in repr(grant) + repr(request) + str(request) + request.model_dump_json()


@pytest.mark.parametrize("wrong", [{"secret": [SECRET]}, {"extra": SECRET}, {"inject": SECRET}, {"methods": [SECRET]}])
def test_a_body_that_does_not_fit_is_not_repeated(wrong: dict[str, object]) -> None:
    body = {"url": "https://a.example", "inject": {"kind": "bearer"}, "secret": SECRET} | wrong
    with pytest.raises(ValidationError) as refused:
        PutBinding.model_validate_json(json.dumps(body))

    assert SECRET not in f"{refused.value!s} {refused.value!r}"
