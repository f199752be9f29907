"""Invitations, sign-ins and members over HTTP: that what is wrong is refused, and what is secret is in one answer."""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from tests.server.conftest import BOTH, Answer, Site
from tests.server.test_keys import contents

pytestmark = pytest.mark.anyio
SITES = BOTH

PASSWORD = "correct horse battery"
EMAIL = "ada@example.org"


async def post(site: Site, path: str, body: object, token: str | None = None) -> Answer:
    return await site.ask("POST", path, body, token=token)


async def invited(site: Site, role: str = "developer") -> Any:
    answer = await post(site, "/invitations", {"email": EMAIL, "role": role}, "owner.org_a")
    assert answer.status == 201
    return answer.json


async def joined(site: Site, role: str = "developer") -> Any:
    body = {"code": (await invited(site, role))["code"], "password": PASSWORD}
    answer = await post(site, "/invitations/accept", body)
    assert answer.status == 200
    return answer.json


async def test_from_an_invitation_to_the_end_of_a_sign_in(site: Site) -> None:
    await joined(site)
    signed_in = (await post(site, "/login", {"email": EMAIL, "password": PASSWORD})).json
    assert set(signed_in) == {"token", "expiresAt", "refreshToken", "orgId", "role"}
    me = (await site.ask("GET", "/whoami", token=signed_in["token"])).json
    assert (me["orgId"], me["role"]) == ("org_a", "developer")
    assert (await post(site, "/sessions", {"code": "x"}, signed_in["token"])).status == 201
    fresh = (await post(site, "/token/refresh", {"refreshToken": signed_in["refreshToken"]})).json
    assert fresh["refreshToken"] != signed_in["refreshToken"]
    for _ in range(2):
        assert (await post(site, "/logout", {"refreshToken": fresh["refreshToken"]})).json == {"ok": True}
    assert (await post(site, "/token/refresh", {"refreshToken": fresh["refreshToken"]})).status == 401


async def test_members_are_listed_changed_and_removed(site: Site) -> None:
    me = (await site.ask("GET", "/whoami", token=(await joined(site))["token"])).json["userId"]
    changed = await site.ask("PUT", f"/members/{me}", {"role": "auditor"}, token="admin.org_a")
    assert (changed.status, changed.json["role"]) == (200, "auditor")
    names, path = [], "/members?limit=2"
    while path:
        page = (await site.ask("GET", path)).json
        names += [one["id"] for one in page["items"]]
        path = f"/members?limit=2&cursor={page['nextCursor']}" if page["nextCursor"] else ""
    assert len(names) == 6
    assert me in names
    assert (await site.ask("DELETE", f"/members/{me}")).json["email"] == EMAIL
    assert (await site.ask("DELETE", f"/members/{me}")).status == 404


async def test_another_orgs_member_is_as_none_at_all(site: Site) -> None:
    for method, body in (("PUT", {"role": "viewer"}), ("DELETE", None)):
        theirs = await site.ask(method, "/members/viewer.org_b", body)
        none = await site.ask(method, "/members/usr_0", body)
        assert (theirs.status, theirs.body) == (404, none.body)


async def test_a_wrong_password_and_an_unknown_user_are_refused_word_for_word_alike(site: Site) -> None:
    await joined(site)
    wrong = await post(site, "/login", {"email": EMAIL, "password": "wrong"})
    unknown = await post(site, "/login", {"email": "x@example.org", "password": "wrong"})
    without = await post(site, "/login", {"email": "owner.org_a", "password": "wrong"})
    assert wrong.status == 401
    assert (wrong.body, wrong.headers.keys()) == (unknown.body, unknown.headers.keys())
    assert without.body == unknown.body


@pytest.mark.parametrize(
    "email", ["", "\0", "a\0@example.org", "é@example.org", "a" * 257, 1, None, ["a"], "' OR 1=1 --"]
)
@pytest.mark.parametrize("password", [PASSWORD, "\0" * 20, "é" * 20, "x" * 257, "", None])
async def test_an_odd_sign_in_is_refused_and_nothing_worse(site: Site, email: object, password: object) -> None:
    answer = await post(site, "/login", {"email": email, "password": password})
    assert answer.status in (400, 401)
    assert PASSWORD not in answer.body.decode()


async def test_guessing_is_slowed_and_says_for_how_long(site: Site) -> None:
    body = {"email": EMAIL, "password": "wrong"}
    answers = await asyncio.gather(*(post(site, "/login", body) for _ in range(7)))
    assert sorted(answer.status for answer in answers) == [401] * 5 + [429] * 2
    refused = next(answer for answer in answers if answer.status == 429)
    assert 200 < int(refused.headers["retry-after"]) <= 300


async def test_secrets_are_in_their_one_answer_only(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    invitation = await invited(site)
    tokens = (await post(site, "/invitations/accept", {"code": invitation["code"], "password": PASSWORD})).json
    paths = ("/members", "/audit", "/keys")
    shown = b"".join([(await site.ask("GET", path)).body for path in paths])
    everything = b"".join([contents(tmp_path), shown, caplog.text.encode()])
    for secret in (PASSWORD, invitation["code"][-43:], tokens["refreshToken"][-43:], tokens["token"]):
        assert secret.encode() not in everything
    assert b"$argon2" not in shown + json.dumps(tokens).encode()
