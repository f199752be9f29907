"""Webhooks of a whole server, real sandboxes and a real HTTPS receiver among them; the server killed in between."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from enclave import Enclave
from enclave.contracts.errors import InvalidRequest
from enclave.contracts.identity import Credential
from tests.webhook.receiving import OK, Received, Site, receiving, says, until_closed

pytestmark = [pytest.mark.slow, pytest.mark.sandbox, pytest.mark.timeout(180)]

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "receive-webhooks.md").read_text()


@contextmanager
def served(home: Path, **environment: str) -> Iterator[tuple[Enclave, "subprocess.Popen[bytes]"]]:
    command = (sys.executable, "-m", "enclave.serve", "--home", str(home))
    environment = {"ENCLAVE_EGRESS_PRIVATE": "127.0.0.1/32", "ENCLAVE_POOL": "4", **environment}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | environment
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        credential = Credential.model_validate_json(child.stdout.readline())
        with Enclave(credential.base_url, api_key=credential.api_key) as client:
            yield client, child
        child.stdin.close()
        child.wait(30)


def url(site: Site) -> str:
    return f"https://127.0.0.1:{site.port}/in"


def ids(received: list[Received]) -> set[str]:
    return {one.headers["webhook-id"] for one in received}


def test_a_session_is_posted_when_it_is_over(tmp_path: Path) -> None:
    with (
        receiving(tmp_path, "127.0.0.1") as site,
        served(tmp_path / "home", ENCLAVE_EGRESS_CA=str(site.authorities)) as (client, _),
    ):
        secret = client.webhooks.rotate_secret().secret
        session = client.run("print('hi'); enclave.result({'n': 1})", webhook_url=url(site), wait=30).session
        assert site.arrived.acquire(timeout=30)

    (received,) = site.received
    message = Webhook(secret).verify(received.body, dict(received.headers))
    assert message["type"] == "session.succeeded"
    assert message["data"]["id"] == session.id
    assert (message["data"]["result"]["stdout"], message["data"]["result"]["result"]) == ("hi\n", {"n": 1})
    assert "print(" not in str(message)


def test_without_leave_no_address_of_this_machine_is_posted_to(tmp_path: Path) -> None:
    with served(tmp_path / "home", ENCLAVE_EGRESS_PRIVATE="") as (client, _), pytest.raises(InvalidRequest) as refused:
        client.run("1", webhook_url="https://127.0.0.1:8443/")

    assert [problem.field for problem in refused.value.errors] == ["webhookUrl"]


def test_no_webhook_is_lost_when_the_server_is_killed(tmp_path: Path) -> None:
    home, count = tmp_path / "home", 20
    with receiving(tmp_path, "127.0.0.1") as site:
        site.answer = until_closed
        with served(home, ENCLAVE_EGRESS_CA=str(site.authorities)) as (client, child):
            secret = client.webhooks.rotate_secret().secret
            made = [client.run("1", webhook_url=url(site)).id for _ in range(count)]
            assert site.arrived.acquire(timeout=30)
            child.kill()
            child.wait()
        before = list(site.received)
        site.answer = says(OK)
        with served(home, ENCLAVE_EGRESS_CA=str(site.authorities)) as (client, _):
            unheard = {session_id.removeprefix("ses_") for session_id in made}
            after: list[Received] = []
            while unheard:
                assert site.arrived.acquire(timeout=60)
                after = site.received[len(before) :]
                unheard -= {one.headers["webhook-id"].split("_")[1] for one in after}
            client.webhooks.rotate_secret()

    assert before
    assert len({id.split("_")[1] for id in ids(before) | ids(after)}) == count
    assert len(ids(before) | ids(after)) == count  # what was sent before the kill is sent again as what it was
    for received in after:
        Webhook(secret).verify(received.body, dict(received.headers))


def test_the_receiver_of_the_page_takes_what_is_sent_and_nothing_else(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    home = tmp_path / "home"
    with served(home) as (client, _):
        secret = client.webhooks.rotate_secret().secret
        with subprocess.Popen(
            (sys.executable, "-u", "-c", code),
            stdout=subprocess.PIPE,
            env=os.environ | {"WEBHOOK_SECRET": secret, "PORT": "0"},
            text=True,
        ) as receiver:
            assert receiver.stdout is not None
            port = int(receiver.stdout.readline().split()[-1])
            session = client.run("1", webhook_url=f"http://127.0.0.1:{port}/", wait=30).session
            said = receiver.stdout.readline()
            forged = _post(port, b"{}")
            receiver.terminate()

    assert said.split() == [session.id, "session.succeeded"]
    assert forged.startswith(b"HTTP/1.0 400")


def _post(port: int, body: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        return connection.recv(65536)
