"""Webhooks over HTTP: their shapes, and that a URL and a secret go in and never come out."""

import logging
from pathlib import Path
from typing import Any

import pytest

from enclave.contracts.webhooks import Delivery
from tests.orchestrator.test_orchestrator import prints_and_succeeds
from tests.server.conftest import Answer, Site
from tests.server.test_bindings import contents, fields

pytestmark = pytest.mark.anyio

URL = "https://hooks.example.org/in/s3cret-part?token=s3cret-part"


async def posted(site: Site, **changes: Any) -> Answer:
    site.backend.play = prints_and_succeeds
    return await site.ask("POST", "/sessions", {"code": "x", "webhookUrl": URL, **changes}, prefer="wait=5")


async def test_a_secret_is_shown_once_and_the_one_before_signs_on_for_a_day(site: Site) -> None:
    first = await site.ask("POST", "/webhooks/secret")
    second = await site.ask("POST", "/webhooks/secret", token="admin.org_a")

    assert (first.status, second.status) == (201, 201)
    assert set(first.json) == {"secret", "createdAt", "previousUntil"}
    assert first.json["secret"].startswith("whsec_")
    assert first.json["previousUntil"] is None
    assert second.json["previousUntil"] > second.json["createdAt"]
    assert first.json["secret"] != second.json["secret"]


async def test_a_delivery_is_told_of_by_its_host_alone(site: Site) -> None:
    session = (await posted(site)).json
    (told,) = (await site.ask("GET", "/webhooks/deliveries")).json["items"]

    assert told == {
        "id": f"msg_{session['id'].removeprefix('ses_')}_succeeded",
        "sessionId": session["id"],
        "phase": "succeeded",
        "host": "hooks.example.org",
        "state": "pending",
        "attempts": 0,
        "createdAt": session["finishedAt"],
        "lastAttemptAt": None,
        "lastStatus": None,
        "lastError": None,
        "nextAttemptAt": session["finishedAt"],
        "deliveredAt": None,
    }
    assert set(told) == {field.alias for field in Delivery.model_fields.values()}


async def test_deliveries_are_found_by_session_and_page_by_page(site: Site) -> None:
    made = [(await posted(site)).json["id"] for _ in range(3)]
    first = (await site.ask("GET", "/webhooks/deliveries?limit=2")).json
    rest = (await site.ask("GET", f"/webhooks/deliveries?limit=2&cursor={first['nextCursor']}")).json
    one = (await site.ask("GET", f"/webhooks/deliveries?session={made[1]}")).json

    assert [item["sessionId"] for item in first["items"] + rest["items"]] == made[::-1]
    assert [item["sessionId"] for item in one["items"]] == [made[1]]
    assert fields(await site.ask("GET", "/webhooks/deliveries?session=x")) == ["session"]
    assert fields(await site.ask("GET", "/webhooks/deliveries?cursor=czpzZXNf")) == ["cursor"]
    assert fields(await site.ask("GET", "/webhooks/deliveries?phase=running")) == ["phase"]


async def test_another_orgs_delivery_is_as_none_at_all(site: Site) -> None:
    await posted(site)
    (told,) = (await site.ask("GET", "/webhooks/deliveries")).json["items"]
    theirs = await site.ask("POST", f"/webhooks/deliveries/{told['id']}/redeliver", token="owner.org_b")
    none = await site.ask("POST", "/webhooks/deliveries/none/redeliver", token="owner.org_b")
    again = await site.ask("POST", f"/webhooks/deliveries/{told['id']}/redeliver")

    assert (theirs.status, theirs.body) == (404, none.body)
    assert (await site.ask("GET", "/webhooks/deliveries", token="owner.org_b")).json["items"] == []
    assert (again.status, again.json["id"]) == (200, told["id"])


async def test_a_url_and_a_secret_go_nowhere(site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = (await site.ask("POST", "/webhooks/secret")).json["secret"]
    session = await posted(site)
    its = [f"/sessions/{session.json['id']}{what}" for what in ("", "/audit", "/result", "/stream")]
    answers = [session]
    for path in (*its, "/sessions", "/webhooks/deliveries", "/audit", "/openapi.json"):
        answers += [await site.ask("GET", path)]

    for hidden in ("s3cret-part", secret, secret.removeprefix("whsec_")):
        assert [answer for answer in answers if answer.status >= 300 or hidden.encode() in answer.body] == []
        assert hidden.encode() not in contents(tmp_path)
        assert hidden not in caplog.text


@pytest.mark.parametrize(
    "url",
    """
    x http://a.example https://u:s3cret-part@a.example https://localhost/s3cret-part https://[::1]/ https://0x7f.1/
    https://169.254.169.254/s3cret-part https://a.example:0/ https://a.example/#s3cret-part
    """.split(),
)
async def test_a_bad_url_is_named_and_not_repeated(site: Site, url: str) -> None:
    refused = await posted(site, webhookUrl=url)

    assert fields(refused) == ["webhookUrl"]
    assert b"s3cret-part" not in refused.body
    assert site.backend.all == []


async def test_what_is_no_text_or_too_long_is_named(site: Site) -> None:
    for url in (1, ["https://a.example"], "https://a.example/" + "x" * 2048):
        assert fields(await posted(site, webhookUrl=url)) == ["webhookUrl"]
