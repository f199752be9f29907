"""`enclave webhook`, against a server that plays recorded answers."""

import json

from enclave.contracts.webhooks import Delivery
from enclave.contracts.wire import Page
from tests.cli.conftest import Command
from tests.sdk.scripted import ok, problem, scripted
from tests.sdk.test_webhooks import DELIVERY, ID, MADE


def test_a_secret_is_made_and_shown_once(enclave: Command) -> None:
    with scripted(ok(MADE, 201), ok(MADE, 201)) as server:
        plain = enclave(server.base_url, "webhook", "rotate")
        ran = enclave(server.base_url, "webhook", "rotate", "--json")

    assert (plain.code, plain.out, "again" in plain.err) == (0, f"{MADE.secret}\n", True)
    assert json.loads(ran.out) == MADE.model_dump(mode="json")


def test_deliveries_are_listed_and_sent_again(enclave: Command) -> None:
    page = ok(Page[Delivery](items=(DELIVERY,)))
    with scripted(page, page, ok(DELIVERY), problem(404, "not_found", "No.")) as server:
        table = enclave(server.base_url, "webhook", "deliveries")
        listed = enclave(server.base_url, "webhook", "deliveries", "--session", DELIVERY.session_id, "--json")
        again = enclave(server.base_url, "webhook", "redeliver", ID)
        missing = enclave(server.base_url, "webhook", "redeliver", "x")

    assert table.out.splitlines()[1].split()[:5] == [ID, "hooks.example.org", "failed", "9", "500"]
    assert json.loads(listed.out) == [DELIVERY.model_dump(mode="json")]
    assert (again.out, missing.code) == (f"{ID}\n", 70)
    assert server.asked[1].path == f"/webhooks/deliveries?session={DELIVERY.session_id}"
