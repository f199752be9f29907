"""`client.webhooks` of both clients, against a server that plays recorded answers."""

import json
from collections.abc import Generator
from typing import Any

from enclave.contracts.sessions import Phase
from enclave.contracts.webhooks import Delivery, WebhookSecret
from enclave.contracts.wire import Page
from tests.sdk.conftest import Play
from tests.sdk.samples import NOW, session
from tests.sdk.scripted import ok, scripted

MADE = WebhookSecret(secret="whsec_c2VjcmV0", created_at=NOW, previous_until=None)
ID = f"msg_{'0' * 26}_succeeded"
DELIVERY = Delivery(
    id=ID, session_id=f"ses_{'0' * 26}", phase=Phase.SUCCEEDED, host="hooks.example.org", state="failed", attempts=9,
    created_at=NOW, last_attempt_at=NOW, last_status=500, last_error="the receiver answered 500", next_attempt_at=None,
    delivered_at=None,
)  # fmt: skip


def _once(method: str, *args: Any) -> Any:
    def script(client: Any) -> Generator[Any, Any, Any]:
        return (yield getattr(client.webhooks, method)(*args))

    return script


def test_a_secret_is_rotated_and_not_in_what_is_printed(play: Play) -> None:
    with scripted(ok(MADE, 201)) as server:
        made = play(server.base_url, _once("rotate_secret"))

    assert (made.secret, "c2Vj" in repr(made)) == (MADE.secret, False)
    assert [(asked.method, asked.path) for asked in server.asked] == [("POST", "/webhooks/secret")]


def test_deliveries_are_gone_through_page_by_page(play: Play) -> None:
    pages = (Page[Delivery](items=(DELIVERY,), next_cursor="c"), Page[Delivery](items=(DELIVERY,)))
    with scripted(*map(ok, [*pages, *pages])) as server:
        assert play(server.base_url, _once("deliveries")) == [DELIVERY, DELIVERY]
        assert play(server.base_url, _once("deliveries", "ses_1")) == [DELIVERY, DELIVERY]

    assert [asked.path.removeprefix("/webhooks/deliveries") for asked in server.asked] == [
        "", "?cursor=c", "?session=ses_1", "?session=ses_1&cursor=c",
    ]  # fmt: skip


def test_one_is_sent_again(play: Play) -> None:
    with scripted(ok(DELIVERY)) as server:
        assert play(server.base_url, _once("redeliver", ID)) == DELIVERY

    assert [(asked.method, asked.path) for asked in server.asked] == [("POST", f"/webhooks/deliveries/{ID}/redeliver")]


def test_a_run_names_its_webhook(play: Play) -> None:
    def script(client: Any) -> Generator[Any, Any, Any]:
        return (yield client.run("x", webhook_url="https://hooks.example.org/in"))

    with scripted(ok(session(), 201)) as server:
        play(server.base_url, script)

    assert json.loads(server.asked[0].body) == {"code": "x", "webhookUrl": "https://hooks.example.org/in"}
