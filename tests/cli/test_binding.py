"""`enclave binding`, against a server that plays recorded answers."""

import io
import json
import sys
from pathlib import Path

import pytest

from enclave.contracts.bindings import Binding
from enclave.contracts.wire import Page
from tests.cli.conftest import Command
from tests.sdk.samples import session
from tests.sdk.scripted import ok, problem, scripted
from tests.sdk.test_bindings import BINDING, SECRET

PUT = ("binding", "put", "crm", "--url", "https://a.example")


@pytest.mark.parametrize("source", ["variable", "file", "standard input"])
def test_the_secret_comes_from_anywhere_but_the_arguments(
    enclave: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setenv("TOKEN", SECRET)
    (tmp_path / "token").write_text(f"{SECRET}\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{SECRET}\r\n".encode())))
    args = {"variable": ["--secret-from-env", "TOKEN"], "file": ["--secret-file", str(tmp_path / "token")]}
    with scripted(ok(BINDING, 201)) as server:
        ran = enclave(server.base_url, *PUT, *args.get(source, []))

    assert (ran.code, ran.err) == (0, "")
    assert json.loads(server.asked[0].body)["secret"] == SECRET
    assert ran.out.splitlines()[1].split()[:5] == ["crm", "https://a.example", "bearer", "any", "any"]


@pytest.mark.parametrize(
    ("options", "inject"),
    [
        (["--basic"], {"kind": "basic"}),
        (["--query", "key"], {"kind": "query", "name": "key"}),
        (
            ["--header", "X-Key", "--template", "k {secret}"],
            {"kind": "header", "name": "X-Key", "template": "k {secret}"},
        ),
    ],
)
def test_every_way_of_injecting_can_be_asked_for(
    enclave: Command, monkeypatch: pytest.MonkeyPatch, options: list[str], inject: dict[str, str]
) -> None:
    monkeypatch.setenv("TOKEN", "user:pass:word")
    bounds = ["--method", "GET", "--path", "/a", "--path", "/b"]
    with scripted(ok(BINDING, 201)) as server:
        ran = enclave(server.base_url, *PUT, "--secret-from-env", "TOKEN", *options, *bounds, "--json")

    assert json.loads(server.asked[0].body) == {
        "url": "https://a.example", "inject": inject, "secret": "user:pass:word", "methods": ["GET"],
        "paths": ["/a", "/b"],
    }  # fmt: skip
    assert json.loads(ran.out) == BINDING.model_dump(mode="json")


@pytest.mark.parametrize(
    "options",
    [
        ["--secret-from-env", SECRET],
        ["--secret-file", f"/none/{SECRET}"],
        ["--secret-from-env", "TOKEN", "--secret-file", "x"],
        ["--secret-from-env", "TOKEN", "--basic", "--query", "x"],
    ],
)
def test_what_makes_no_sense_is_a_usage_error_that_repeats_nothing(
    enclave: Command, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.setenv("TOKEN", SECRET)
    with scripted() as server:
        ran = enclave(server.base_url, *PUT, *options)

    assert (ran.code, ran.out, server.asked) == (2, "", [])
    assert SECRET not in ran.err


def test_a_refusal_names_the_field(enclave: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", SECRET)
    errors = [{"field": "url", "message": "must be https"}]
    with scripted(problem(400, "invalid_request", "the binding is malformed: url", errors=errors)) as server:
        ran = enclave(server.base_url, *PUT, "--secret-from-env", "TOKEN")

    assert (ran.code, ran.err) == (2, "error: the binding is malformed: url\n  url: must be https\n")


def test_bindings_are_listed_shown_and_removed(enclave: Command) -> None:
    with scripted(*[ok(Page[Binding](items=(BINDING,)))] * 2, *[ok(BINDING)] * 3) as server:
        table = enclave(server.base_url, "binding", "list")
        listed = enclave(server.base_url, "binding", "list", "--json")
        shown = enclave(server.base_url, "binding", "show", "crm")
        as_json = enclave(server.base_url, "binding", "show", "crm", "--json")
        removed = enclave(server.base_url, "binding", "rm", "crm")

    assert table.out == shown.out
    assert [json.loads(listed.out), [json.loads(as_json.out)]] == [[BINDING.model_dump(mode="json")]] * 2
    assert removed.out == "crm\n"
    assert [asked.method for asked in server.asked] == ["GET"] * 4 + ["DELETE"]


def test_a_run_names_its_bindings(enclave: Command) -> None:
    with scripted(problem(422, "policy_unenforceable", "no")) as server:
        enclave(server.base_url, "run", "-c", "x", "--bind", "crm", "--bind", "db")

    (asked,) = [asked for asked in server.asked if asked.method == "POST"]
    assert json.loads(asked.body)["serviceBindings"] == ["crm", "db"]
    assert session().service_bindings == ()
