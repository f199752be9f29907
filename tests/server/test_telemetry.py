"""Metrics, readiness and request ids over the wire."""

import pytest

from enclave.contracts.errors import Unavailable
from enclave.telemetry.readiness import Readiness
from tests.server.conftest import Site

pytestmark = pytest.mark.anyio


def operator_of(site: Site) -> str:
    return str(site.identity.authority.issue_operator())


async def test_metrics_are_the_operators(site: Site) -> None:
    await site.run()
    assert (await site.ask("GET", "/metrics", token=None)).status == 401
    assert (await site.ask("GET", "/metrics")).status == 403
    answer = await site.ask("GET", "/metrics", token=operator_of(site))
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b'enclave_sessions_created_total{language="python"} 1.0' in answer.body
    assert b'enclave_request_seconds_count{operation="create_session",status="201"} 1.0' in answer.body
    assert b'enclave_request_seconds_count{operation="metrics",status="403"} 1.0' in answer.body


async def test_a_request_is_named_by_its_caller_if_that_can_be_logged(site: Site) -> None:
    async def told(given: str | None) -> str | None:
        headers = {} if given is None else {"x_request_id": given}
        return (await site.ask("GET", "/healthz", **headers)).headers.get("x-request-id")

    assert [await told(given) for given in ("a-B.9_", "", "a b", "a" * 65, "\xe9", None)] == ["a-B.9_", *[None] * 5]


async def test_a_request_that_fails_is_named(site: Site) -> None:
    site.backend.refusal = Unavailable("gone")
    names = {(await site.ask("GET", "/readyz")).headers["x-request-id"] for _ in range(3)}
    assert len(names) == 3


async def test_ready_tells_the_truth(site: Site) -> None:
    assert (await site.ask("GET", "/readyz", token=None)).json == {"ready": True}
    site.backend.refusal = Unavailable("gone")
    answer = await site.ask("GET", "/readyz", token=None)
    assert (answer.status, answer.json["code"]) == (503, "unavailable")
    site.backend.refusal = None
    assert (await site.ask("GET", "/readyz", token=None)).status == 200


async def test_the_store_is_asked_once_a_second_however_many_ask() -> None:
    asked: list[int] = []

    async def check() -> None:
        asked.append(1)

    readiness = Readiness(lambda: True, check)
    for _ in range(100):
        await readiness.check()
    assert len(asked) == 1


async def test_a_store_that_cannot_be_written_is_not_ready() -> None:
    async def check() -> None:
        raise Unavailable("the database cannot be written")

    readiness = Readiness(lambda: True, check)
    for _ in range(2):
        with pytest.raises(Unavailable, match="cannot be written"):
            await readiness.check()
