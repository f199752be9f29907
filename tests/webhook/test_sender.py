"""Webhooks sent to receivers of every kind, over real sockets and TLS."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from enclave.core import webhook
from enclave.core.address import Address
from enclave.core.egress import Floor
from enclave.core.webhook import signatures
from enclave.egress import upstreams
from enclave.egress.route import Routes
from enclave.testing.store import AT
from enclave.webhook import sender as module
from enclave.webhook.base import Answer, Post
from enclave.webhook.sender import HttpsSender, Walls
from tests.webhook.receiving import NAME, Received, Site, receiving, says, until_closed

pytestmark = pytest.mark.anyio

BODY = b'{"type":"session.succeeded"}'
HEADERS = signatures(["whsec_c2VjcmV0"], "msg_1_succeeded", AT, BODY)
HERE = ("127.0.0.1/32",)


def _leads_away(address: Address) -> bool:
    with closing(Routes()) as routes:
        return routes.leads_away(address)


class Resolver:
    """Answers with these addresses, one list after another, the last of them from then on."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, host: str, port: object, **_: object) -> list[tuple[Any, ...]]:
        self.asked.append(host)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if not answer:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(0, 0, 0, "", (address, 0)) for address in answer]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with receiving(tmp_path) as found:
        yield found


def sender(site: Site, *answers: list[str], private: tuple[str, ...] = HERE, deny: tuple[str, ...] = ()) -> HttpsSender:
    floor = Floor(deny=deny, private=private, authorities=str(site.authorities))
    return HttpsSender(Walls.of(floor, _leads_away), Resolver(*(answers or (["127.0.0.1"],))))


async def send(way: HttpsSender, url: str, body: bytes = BODY) -> Answer:
    return await way.send(Post(url, HEADERS, body))


async def test_a_message_arrives_as_it_was_signed(site: Site) -> None:
    answer = await send(sender(site), site.url("/in?token=a%20b"))

    (received,) = site.received
    assert (answer.status, answer.error) == (204, None)
    assert (received.target, received.body) == ("/in?token=a%20b", BODY)
    assert received.headers == {
        **HEADERS,
        "host": f"{NAME}:{site.port}",
        "user-agent": "Enclave-Webhook/1",
        "content-type": "application/json",
        "content-length": str(len(BODY)),
        "connection": "close",
    }


async def test_plain_http_goes_to_a_literal_address_that_the_operator_gave_leave_for(tmp_path: Path) -> None:
    with receiving(tmp_path, tls=False) as site:
        url = f"http://127.0.0.1:{site.port}/in"
        assert (await send(sender(site), url)).status == 204
        refused = await send(sender(site, private=()), url)

    assert (refused.status, len(site.received)) == (None, 1)
    assert "ENCLAVE_EGRESS_PRIVATE" in (refused.error or "")


@pytest.mark.parametrize("status", [200, 202, 299, 301, 302, 307, 308, 400, 404, 410, 429, 500, 503])
async def test_whatever_the_status_it_is_the_answer(site: Site, status: int) -> None:
    site.answer = says(b"HTTP/1.1 %d x\r\ncontent-length: 2\r\n\r\nok" % status)

    assert (await send(sender(site), site.url())).status == status


async def test_a_redirect_is_not_followed(site: Site, tmp_path: Path) -> None:
    with receiving(tmp_path) as other:
        site.answer = says(b"HTTP/1.1 307 x\r\nlocation: %b\r\ncontent-length: 0\r\n\r\n" % other.url().encode())
        answer = await send(sender(site), site.url())

    assert (answer.status, site.connections, other.connections) == (307, 1, 0)


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["127.8.8.8"],
        ["0.0.0.0"],
        ["10.0.0.1"],
        ["172.16.0.1"],
        ["192.168.1.1"],
        ["100.64.0.1"],
        ["169.254.169.254"],
        ["168.63.129.16"],
        ["224.0.0.1"],
        ["255.255.255.255"],
        ["::"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["::ffff:169.254.169.254"],
        ["::127.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["64:ff9b::a9fe:a9fe"],
        ["64:ff9b::a00:1"],
        ["64:ff9b:1::a00:1"],
        ["2002:7f00:1::"],
        ["fe80::1"],
        ["fd00::1"],
        ["fd00:ec2::254"],
        ["ff02::1"],
        ["93.184.215.14", "127.0.0.1"],
        ["2606:2800:21f:cb07:6820:80da:af6b:8b2c", "10.0.0.1"],
    ],
)
async def test_a_name_of_which_any_address_is_not_public_is_not_connected_to(
    site: Site, addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dialled = _count_dials(monkeypatch)

    answer = await send(sender(site, addresses, private=()), site.url())

    assert (answer.status, answer.error) == (None, "an address of the host is private, local or reserved")
    assert (dialled, site.connections) == ([], 0)


async def test_this_machines_own_addresses_are_private_whatever_they_are(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialled = _count_dials(monkeypatch)
    walls = Walls.of(Floor(), lambda address: address != ip_address("93.184.215.14"))

    answer = await send(HttpsSender(walls, Resolver(["93.184.215.14"])), site.url())

    assert ("private" in (answer.error or ""), dialled) == (True, [])


async def test_the_operators_denials_hold_by_name_and_by_address(site: Site) -> None:
    for deny in ("*.example.org", f"{NAME}:{site.port}", "127.0.0.0/8", "127.0.0.1"):
        answer = await send(sender(site, deny=(deny,)), site.url())
        assert (answer.status, answer.error) == (None, "the operator denies the host, or an address of it")
    assert (await send(sender(site, deny=(f"{NAME}:1",)), site.url())).status == 204


async def test_a_name_that_moves_after_it_was_checked_leads_to_where_it_was_checked(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First the site's address, then that of a secret: an attempt asks once, and goes where that answer was."""
    dialled = _count_dials(monkeypatch)
    way = sender(site, ["127.0.0.1"], ["169.254.169.254"])

    first, second = await send(way, site.url()), await send(way, site.url())

    assert (first.status, second.status) == (204, None)
    assert second.error == "an address of the host is private, local or reserved"
    assert dialled == ["127.0.0.1"]


async def test_a_name_without_an_address_is_told(site: Site) -> None:
    assert (await send(sender(site, []), site.url())).error == "the host's name does not resolve"


async def test_a_certificate_of_another_name_or_authority_is_refused(site: Site, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with receiving(tmp_path / "other", "other.example.org") as other:
        of_another_name = await send(sender(other), other.url())
        of_another_authority = await send(sender(other), site.url())

    for answer in (of_another_name, of_another_authority):
        assert (answer.status, "certificate is not trusted" in (answer.error or "")) == (None, True)
    assert (other.received, site.received) == ([], [])


async def test_the_environments_proxies_are_not_asked(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving(tmp_path, tls=False) as proxy:
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "HTTP_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        answer = await send(sender(site), site.url())

    assert (answer.status, proxy.connections) == (204, 0)


def _endless(connection: socket.socket, _: Received) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n")
    while True:
        connection.sendall(b"x" * 65536)


async def test_a_gigantic_answer_is_not_read(site: Site) -> None:
    site.answer = _endless

    assert (await send(sender(site), site.url())).status == 200


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "the receiver closed the connection"),
        (b"HTTP/1.1 200 OK\r\nx-cut: ", "the receiver closed the connection"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "not HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 100_000 + b"\r\n\r\n", "not HTTP/1.1, or its head is too large"),
        (b"HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n", "not HTTP/1.1"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, "does not come to its end"),
        (b"HTTP/1.1 999999 x\r\n\r\n", "not HTTP/1.1"),
        (b"\x00" * 100, "not HTTP/1.1"),
    ],
)
async def test_what_is_no_answer_is_an_error_that_repeats_nothing(site: Site, answer: bytes, said: str) -> None:
    site.answer = says(answer)

    found = await send(sender(site), site.url())

    assert (found.status, said in (found.error or "")) == (None, True), found.error


async def test_a_receiver_that_is_not_there_is_told(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    answer = await send(sender(site), f"https://{NAME}:{port}/")

    assert answer.error == "no connection: Connection refused"


@pytest.mark.parametrize("asked", ["120", "0", "soon", "-1", "1e9", "Wed, 21 Oct 2026 07:28:00 GMT"])
async def test_how_long_a_receiver_wants_to_be_left_alone_is_a_number_of_seconds(site: Site, asked: str) -> None:
    site.answer = says(b"HTTP/1.1 429 x\r\nretry-after: %b\r\ncontent-length: 0\r\n\r\n" % asked.encode())

    answer = await send(sender(site), site.url())

    assert answer.retry_after == (float(asked) if asked.isdigit() else None)


async def test_one_that_never_answers_is_given_up_in_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ATTEMPT_SECONDS", 0.3)
    site.answer = until_closed

    answer = await send(sender(site), site.url())

    assert (answer.status, answer.error, answer.lingering) == (None, "no answer within 0.3 s", None)


async def test_one_that_takes_nothing_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch, site: Site) -> None:
    monkeypatch.setattr(module, "ATTEMPT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        answer = await send(sender(site), f"https://{NAME}:{silent.getsockname()[1]}/")

    assert answer.error == "no connection within 0.3 s"


async def test_a_resolver_that_does_not_answer_costs_its_own_attempt_only(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ATTEMPT_SECONDS", 0.3)
    answers = threading.Event()

    def hanging(host: str, port: object, **_: object) -> list[tuple[Any, ...]]:
        answers.wait(30)
        return []

    way = HttpsSender(Walls.of(Floor(private=HERE, authorities=str(site.authorities)), _leads_away), hanging)
    stuck = await asyncio.gather(*(send(way, site.url()) for _ in range(100)))
    fine = await send(sender(site), site.url())

    assert {answer.error for answer in stuck} == {"the name was not resolved within 0.3 s"}
    assert fine.status == 204
    lingering = [answer.lingering for answer in stuck if answer.lingering is not None]
    assert len(lingering) == 100
    answers.set()
    await asyncio.wait_for(asyncio.gather(*lingering), 10)


def test_an_attempt_takes_what_the_specification_recommends() -> None:
    assert 15 <= webhook.ATTEMPT_SECONDS <= 30


def _count_dials(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    dialled: list[str] = []

    async def counted(address: Any, port: int) -> socket.socket:
        dialled.append(str(address))
        return await upstreams.dial(address, port)

    monkeypatch.setattr(module, "dial", counted)
    return dialled
