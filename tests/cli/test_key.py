"""`enclave key`, against a server that plays recorded answers."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from enclave.contracts.identity import Role, Scope
from enclave.contracts.keys import Key, MadeKey
from enclave.contracts.wire import Page
from tests.cli.conftest import Command
from tests.sdk.samples import NOW
from tests.sdk.scripted import ok, problem, scripted

KEY = Key(
    id="0123456789abcdef", name="ci", role=Role.OWNER, scopes=(Scope.SESSIONS_READ,), created_by="u", created_at=NOW,
    expires_at=None, last_used_at=None, revoked_at=None,
)  # fmt: skip
MADE = MadeKey(**dict(KEY), api_key="ek_0123456789abcdef_" + "s" * 43)


def test_a_key_is_made_and_shown_once(enclave: Command) -> None:
    began = datetime.now(UTC)
    with scripted(ok(MADE, 201), ok(MADE, 201)) as server:
        plain = enclave(server.base_url, "key", "create", "--name", "ci")
        ran = enclave(
            server.base_url, "key", "create", "--name", "ci", "--role", "viewer", "--scope", "sessions:read",
            "--expires", "7", "--json",
        )  # fmt: skip

    assert (plain.code, plain.out) == (0, f"{MADE.api_key}\n")
    assert KEY.id in plain.err
    assert json.loads(server.asked[0].body) == {"name": "ci"}
    asked = json.loads(server.asked[1].body)
    ends = datetime.fromisoformat(asked.pop("expiresAt"))
    assert asked == {"name": "ci", "role": "viewer", "scopes": ["sessions:read"]}
    assert began + timedelta(days=7) <= ends <= datetime.now(UTC) + timedelta(days=7)
    assert [json.loads(ran.out)[name] for name in ("id", "apiKey")] == [KEY.id, MADE.api_key]


@pytest.mark.parametrize(
    "options", [["--name", "a\nb"], ["--name", "a", "--scope", "all"], ["--name", "a", "--role", "x"]]
)
def test_what_makes_no_key_is_a_usage_error(enclave: Command, options: list[str]) -> None:
    with scripted() as server:
        ran = enclave(server.base_url, "key", "create", *options)

    assert (ran.code, ran.out, server.asked) == (2, "", [])


def test_keys_are_listed_and_revoked(enclave: Command) -> None:
    with scripted(*[ok(Page[Key](items=(KEY,)))] * 2, ok(KEY), problem(404, "not_found", "No.")) as server:
        table = enclave(server.base_url, "key", "list")
        listed = enclave(server.base_url, "key", "list", "--json")
        revoked = enclave(server.base_url, "key", "revoke", KEY.id)
        missing = enclave(server.base_url, "key", "revoke", "x")

    assert table.out.splitlines()[1].split()[:4] == [KEY.id, "ci", "owner", "sessions:read"]
    assert json.loads(listed.out) == [KEY.model_dump(mode="json")]
    assert (revoked.out, missing.code) == (f"{KEY.id}\n", 70)
    assert [(asked.method, asked.path) for asked in server.asked[2:]] == [
        ("DELETE", f"/keys/{KEY.id}"), ("DELETE", "/keys/x"),
    ]  # fmt: skip
