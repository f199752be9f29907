"""Calls through a binding, over real sockets and real TLS: what reaches the upstream, and what comes back."""

import asyncio
import base64
import dataclasses
import gzip
import json
import socket
import ssl

import pytest

from enclave.core.grant import Grant
from enclave.egress.service.binding import Binding, Call, Connect, Refused, Services, trust
from tests.egress.rig import (
    GRANT,
    HOST,
    PLAIN,
    QUICK,
    SECRET,
    Script,
    Upstream,
    answering,
    chunked,
    noted,
    ok,
    over,
    parsed,
    read_request,
    request,
    rig,
    trusting,
)

pytestmark = pytest.mark.anyio


def told(call: Call) -> tuple[str, str, int | None, int, int]:
    return call.method, call.path, call.status, call.sent, call.received


async def test_a_call_carries_the_secret_and_its_answer_comes_back() -> None:
    async with rig() as at:
        answer = await at.get("/v1/items?a=1", "Authorization: Bearer mine", "Accept: */*")

        assert (answer.status, answer.body, answer.complete) == (200, b"hello", True)
        assert at.upstream.heads == [
            f"GET /v1/items?a=1 HTTP/1.1\r\nHost: {HOST}\r\nAccept: */*\r\n"
            f"Accept-Encoding: identity\r\nAuthorization: Bearer {PLAIN}\r\n\r\n".encode()
        ]
        assert at.upstream.protocols == ["http/1.1"]
        assert [told(call) for call in at.calls] == [("GET", "/v1/items", 200, 0, 5)]
        assert (at.calls[0].binding, at.calls[0].error) == ("bank", None)


async def test_bodies_go_both_ways_however_they_are_framed() -> None:
    body = bytes(range(256)) * 800
    async with rig(answering(ok(body[::-1]), chunked([body[:7], body[7:]], trailers=b"X-T: 1\r\n"))) as at:
        framed = "".join(f"{len(part):x}\r\n{part.decode('latin-1')}\r\n" for part in (body[:100], body[100:]))
        with_length = await at.get("/", method="POST", body=body)
        in_chunks = parsed(
            await at.say(
                request("/", "Transfer-Encoding: chunked", method="PUT")
                + framed.encode("latin-1")
                + b"0\r\nX-Trailer: dropped\r\n\r\n"
            )
        )

    assert (with_length.body, in_chunks.body) == (body[::-1], body)
    assert at.upstream.bodies == [body, body]
    assert b"X-T" not in in_chunks.raw
    assert [told(call) for call in at.calls] == [
        ("POST", "/", 200, len(body), len(body)),
        ("PUT", "/", 200, len(body), len(body)),
    ]


async def test_calls_follow_each_other_on_both_connections() -> None:
    async with rig() as at:
        reader, writer = await at.open()
        for _ in range(3):
            writer.write(request(close=False))
            assert await reader.readuntil(b"0\r\n\r\n")
        writer.close()
        await at.get()

    assert (at.upstream.connections, len(at.upstream.heads)) == (1, 4)


async def test_pipelined_requests_are_answered_in_turn() -> None:
    async with rig(answering(ok(b"one"), ok(b"two"), ok(b"three"))) as at:
        said = await at.say(
            request("/1", close=False) + request("/2", method="POST", body=b"x", close=False) + request("/3")
        )

    assert [head.split()[1] for head in at.upstream.heads] == [b"/1", b"/2", b"/3"]
    assert said.index(b"one") < said.index(b"two") < said.index(b"three")
    assert at.upstream.bodies == [b"", b"x", b""]


async def test_byte_by_byte_it_is_the_same() -> None:
    whole = request("/slow", method="POST", body=b"body") + b""
    async with rig() as at:
        answer = parsed(await at.say(*(whole[at : at + 1] for at in range(len(whole)))), "POST")

    assert (answer.status, at.upstream.bodies) == (200, [b"body"])


async def test_a_client_of_http_1_0_is_answered_until_the_connection_ends() -> None:
    async with rig(answering(chunked([b"he", b"llo"]))) as at:
        said = await at.say(b"GET / HTTP/1.0\r\n\r\n")

    assert said.startswith(b"HTTP/1.1 200 OK\r\n")
    assert said.endswith(b"\r\n\r\nhello")
    assert b"chunked" not in said


async def test_an_upstream_of_http_1_0_ends_its_body_by_closing() -> None:
    async with rig(answering(b"HTTP/1.0 200 OK\r\n\r\nhello", close=True)) as at:
        answer = await at.get()

    assert (answer.body, answer.complete, at.calls[0].error) == (b"hello", True, None)


@pytest.mark.parametrize(
    ("method", "answer", "status"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n", 200),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", 204),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 999\r\n\r\n", 304),
    ],
)
async def test_answers_without_a_body_leave_the_connections_open(method: str, answer: bytes, status: int) -> None:
    async with rig(answering(answer)) as at:
        reader, writer = await at.open()
        for _ in range(2):
            writer.write(request(method=method, close=False))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 %d " % status)
            assert (b"999" in head) == (b"999" in answer)
        writer.close()

    assert at.upstream.connections == 1


async def test_a_client_that_waits_for_100_is_told_to_go_on() -> None:
    async with rig() as at:
        reader, writer = await at.open()
        head = request("/", "Expect: 100-continue", "Content-Length: 4", method="POST")
        writer.write(head)
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"body")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        writer.close()

    assert at.upstream.bodies == [b"body"]
    assert b"expect" not in at.upstream.heads[0].lower()


async def test_what_is_refused_is_refused_before_the_body_is_sent() -> None:
    async with rig(paths=("/v1",)) as at:
        reader, writer = await at.open()
        writer.write(request("/v2", "Expect: 100-continue", "Content-Length: 4", method="POST", close=False))
        head = await reader.readuntil(b"\r\n\r\n")
        writer.close()

    assert head.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert b"Connection: close" in head


async def test_a_refusal_reaches_a_client_that_still_sends() -> None:
    async with rig(paths=("/v1",)) as at:
        reader, writer = await at.open()
        writer.write(request("/v2", method="POST", body=b"x" * (4 << 20)))
        await writer.drain()
        answer = parsed(await reader.read(), "POST")
        writer.close()

    assert answer.status == 403


async def test_a_refusal_says_why_and_the_next_call_may_pass() -> None:
    async with rig(paths=("/v1",), methods=("GET",)) as at:
        said = await at.say(request("/v2", close=False) + request("/v1"))

    refusal = parsed(said)
    problem = json.loads(refusal.body)
    assert (refusal.status, problem["status"], problem["code"]) == (403, 403, "binding_call_refused")
    assert problem["detail"] == "the binding allows only paths below /v1"
    assert refusal.values(b"content-type") == [b"application/problem+json"]
    assert [told(call) for call in at.calls] == [("GET", "/v2", 403, 0, 0), ("GET", "/v1", 200, 0, 5)]
    assert at.calls[0].error == problem["detail"]
    assert len(at.upstream.heads) == 1


async def test_a_refused_head_request_has_no_body() -> None:
    async with rig(methods=("GET",)) as at:
        said = await at.say(request(method="HEAD", close=False) + request("/next"))

    assert said.startswith(b"HTTP/1.1 403")
    assert b"binding_call" not in said
    assert said.count(b"HTTP/1.1 200") == 1


async def test_interim_answers_are_swallowed() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
    async with rig(answering(early + ok())) as at:
        answer = await at.get()

    assert answer.raw.startswith(b"HTTP/1.1 200 OK\r\n")


async def test_redirects_are_passed_on_not_followed() -> None:
    moved = f"HTTP/1.1 302 Found\r\nLocation: https://evil.test/?t={PLAIN}\r\nContent-Length: 0\r\n\r\n".encode()
    async with rig(answering(moved)) as at:
        answer = await at.get()

    assert answer.values(b"location") == [b"https://evil.test/?t=[secret]"]
    assert len(at.upstream.heads) == 1


def echoing(upstream: Upstream) -> Script:
    """An upstream that tells what it was told, everywhere."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await read_request(upstream, reader):
            said = upstream.heads[-1].split(b"\r\n\r\n")[0]
            [secret] = [line.split(b" ")[-1] for line in said.split(b"\r\n") if line.startswith(b"Authorization")]
            headers = [b"Location: /" + secret, b"Set-Cookie: t=" + secret, b"X-Echo: " + secret]
            pieces = [said[at : at + 1] for at in range(len(said))]
            answer = chunked(pieces, *headers, trailers=b"X-Trailer: " + secret + b"\r\n")
            writer.write(answer.replace(b"200 OK", b"200 " + secret))

    return script


@pytest.mark.parametrize("inject", ["bearer", "basic"])
async def test_an_echo_holds_no_secret_anywhere(inject: str) -> None:
    secret = PLAIN if inject == "bearer" else f"user:{PLAIN}"
    async with rig(echoing, inject=inject, secret=secret) as at:
        answer = await at.get()

    sent = base64.b64encode(secret.encode()) if inject == "basic" else secret.encode()
    assert sent in at.upstream.heads[0]
    assert answer.complete
    assert b"[secret]" in answer.body
    assert answer.values(b"location")[0].startswith(b"/[secret]")
    for hidden in (PLAIN.encode(), sent.rstrip(b"=")):
        assert hidden not in answer.raw
        assert hidden not in answer.body
    assert PLAIN not in repr(at.calls)


async def test_a_secret_in_the_query_is_out_of_the_body_and_of_the_record() -> None:
    async with rig(answering(ok(f"bad key {PLAIN}".encode())), inject="query", parameter="key") as at:
        answer = await at.get(f"/{PLAIN}?key=mine&a=1")

    assert at.upstream.heads[0].startswith(f"GET /{PLAIN}?a=1&key={PLAIN} ".encode())
    assert answer.body == b"bad key [secret]"
    assert at.calls[0].path == "/[secret]"


@pytest.mark.parametrize("cut", range(len(PLAIN) + 2))
async def test_a_secret_cut_at_any_place_is_found(cut: int) -> None:
    body = f"-{PLAIN}-".encode()
    async with rig(answering(chunked([body[:cut], body[cut:]]))) as at:
        assert (await at.get()).body == b"-[secret]-"


async def test_what_only_begins_like_a_secret_is_passed_on() -> None:
    body = f"it begins with {PLAIN[:7]}".encode()
    async with rig(answering(ok(body))) as at:
        assert (await at.get()).body == body


async def test_a_compressed_answer_is_refused() -> None:
    body = gzip.compress(PLAIN.encode())
    async with rig(answering(ok(body, b"Content-Encoding: gzip"), ok(b"plain", b"Content-Encoding: identity"))) as at:
        refused, passed = await at.get(), await at.get("/", "Accept-Encoding: gzip")

    assert (refused.status, body in refused.raw) == (502, False)
    assert passed.body == b"plain"
    assert at.calls[0].error == "the upstream's answer is compressed, though it was asked not to be"
    assert b"gzip" not in b"".join(at.upstream.heads)


BROKEN = {
    "nothing": b"",
    "garbage": b"\x16\x03\x01 nonsense\r\n\r\n",
    "ssh": b"SSH-2.0-OpenSSH_9.6\r\n",
    "half a head": b"HTTP/1.1 200 OK\r\nX-Half",
    "endless header": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000,
    "endless headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 12_000 + b"\r\n",
    "bare line feeds": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi",
    "folded": b"HTTP/1.1 200 OK\r\nX: y\r\n z\r\nContent-Length: 0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi!",
    "length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "gzip, chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    "101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "206": b"HTTP/1.1 206 Partial Content\r\nContent-Length: 2\r\n\r\nhi",
    "099": b"HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n",
    "600": b"HTTP/1.1 600 High\r\nContent-Length: 0\r\n\r\n",
    "http/2": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "echo in a bad line": b"HTTP/1.1 200 OK\r\n" + PLAIN.encode() + b"\r\n\r\n",
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN.keys())
async def test_a_broken_answer_is_a_502(answer: bytes) -> None:
    async with rig(answering(answer, close=True)) as at:
        said = await at.get()

    assert said.status == 502
    assert at.calls[0].status == 502
    assert at.calls[0].error is not None
    assert PLAIN not in said.raw.decode() + at.calls[0].error


CUT_OFF = {
    "dies in a body with a length": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhi",
    "dies in a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhi",
    "dies between chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n",
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\nzz\r\n",
    "bad chunk end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi!!",
    "endless trailers": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n" + b"X: y\r\n" * 20_000,
    "endless chunk line": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n1;" + b"x" * 90_000,
}


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("answer", CUT_OFF.values(), ids=CUT_OFF.keys())
async def test_an_answer_that_is_cut_off_does_not_look_complete(answer: bytes, version: bytes) -> None:
    async with rig(answering(answer, close=True)) as at:
        reader, writer = await at.open()
        writer.write(b"GET / HTTP/%s\r\nHost: x\r\n\r\n" % version)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()

    assert at.calls[0].status == 200
    assert at.calls[0].error is not None


async def test_a_body_that_tls_did_not_end_is_not_complete() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nhello")
        await writer.drain()
        writer.transport.abort()

    async with rig(lambda _: script) as at:
        await at.say(request())

    assert at.calls[0].error == "the upstream's answer was cut off"


async def test_an_answer_may_come_before_the_request_is_through() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")

    async with rig(lambda _: script) as at:
        reader, writer = await at.open()
        writer.write(request("/", "Content-Length: 100000000", method="POST") + b"x" * 100_000)
        answer = parsed(await reader.read(), "POST")
        writer.close()

    assert (answer.status, answer.body) == (413, b"big")
    assert at.calls[0].error is None


async def test_an_upstream_that_streams_is_heard_at_once() -> None:
    heard = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n")
        await heard.wait()
        writer.write(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")

    async with rig(lambda _: script) as at:
        reader, writer = await at.open()
        writer.write(request())
        await reader.readuntil(b"data: 1\n\n\r\n")
        heard.set()
        await reader.readuntil(b"data: 2\n\n\r\n0\r\n\r\n")
        writer.close()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n", 408),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab", 408),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", 408),
    ],
)
async def test_a_request_that_never_ends_is_given_up(sent: bytes, status: int) -> None:
    async with rig(limits=dataclasses.replace(QUICK, request_seconds=0.05, idle_seconds=0.05)) as at:
        answer = parsed(await at.say(sent))

    assert (answer.status, at.calls[0].status) == (status, status)


async def test_a_connection_without_a_request_is_ended_without_a_word() -> None:
    async with rig(limits=dataclasses.replace(QUICK, request_seconds=0.05)) as at:
        assert await at.say(b"") == b""

    assert at.calls == []


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read(-1)


async def test_an_upstream_that_never_answers_is_given_up() -> None:
    async with rig(lambda _: silent, limits=dataclasses.replace(QUICK, answer_seconds=0.05)) as at:
        answer = await at.get()

    assert answer.status == 504
    assert at.calls[0].error == "the upstream's answer did not come within 0.05 s"


async def test_an_upstream_that_falls_silent_is_given_up() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhi")
        await reader.read(-1)

    async with rig(lambda _: script, limits=dataclasses.replace(QUICK, idle_seconds=0.05)) as at:
        await at.say(request())

    assert (at.calls[0].status, at.calls[0].error) == (200, "the upstream's answer did not come within 0.05 s")


async def test_an_upstream_that_never_shakes_hands_is_given_up() -> None:
    async with rig(
        lambda _: silent, limits=dataclasses.replace(QUICK, connect_seconds=0.05), url=f"http://{HOST}"
    ) as at:
        binding = Binding(GRANT, context=trusting(), limits=dataclasses.replace(QUICK, connect_seconds=0.05))
        at.binding._pool = binding._pool  # TLS towards an upstream that speaks none
        answer = await at.get()

    assert answer.status == 504


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_certificate_for_another_name_or_of_another_authority_is_refused(trusted: bool) -> None:
    context = trusting() if trusted else ssl.create_default_context()
    async with rig(host="other.test", context=context) as at:
        answer = await at.get()

    assert (answer.status, at.upstream.heads) == (502, [])
    assert str(at.calls[0].error).startswith("the certificate of upstream.test is not trusted: ")


def test_only_tls_1_2_or_newer_is_spoken() -> None:
    assert trusting().minimum_version is ssl.TLSVersion.TLSv1_2
    assert trusting().verify_mode is ssl.CERT_REQUIRED
    assert trusting().check_hostname


@pytest.mark.parametrize(
    ("failure", "status", "error"),
    [
        (Refused("it is a private address"), 403, "upstream.test may not be connected to: it is a private address"),
        (
            ConnectionRefusedError(111, "Connection refused"),
            502,
            "no connection to upstream.test:443: Connection refused",
        ),
        (socket.gaierror(-2, "Name not known"), 502, "no connection to upstream.test:443: Name not known"),
        (OSError("odd"), 502, "no connection to upstream.test:443: OSError"),
    ],
)
async def test_a_connection_that_cannot_be_made(failure: Exception, status: int, error: str) -> None:
    async def connect(host: str, port: int) -> socket.socket:
        raise failure

    calls, answer = await served_alone(GRANT, connect, request())

    assert (parsed(answer).status, json.loads(parsed(answer).body)["detail"]) == (status, error)
    assert (calls[0].status, calls[0].error) == (status, error)


async def served_alone(grant: Grant, connect: Connect, sent: bytes) -> tuple[list[Call], bytes]:
    """What the services of a session with one grant report and answer."""
    calls, tasks = list[Call](), set[asyncio.Task[object]]()
    services = Services({"127.77.0.1": grant}, trust(), connect, calls.append)

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        noted(tasks)
        await services.serve("127.77.0.1", reader, writer)

    async with await asyncio.start_server(served, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(sent)
        answer = await reader.read()
        writer.close()
        await over(tasks)
    services.close()
    return calls, answer


async def nowhere(host: str, port: int) -> socket.socket:
    raise AssertionError


async def test_a_grant_that_cannot_be_used_is_answered_with_why() -> None:
    calls, answer = await served_alone(dataclasses.replace(GRANT, secret="a\r\nb: c"), nowhere, request())

    assert parsed(answer).status == 502
    assert b"the secret or the template holds what no header can" in answer
    assert b"b: c" not in answer
    assert [(call.status, call.path) for call in calls] == [(502, "")]


async def test_a_kept_connection_that_was_closed_is_not_used() -> None:
    async with rig(answering(ok(), close=True)) as at:
        answers = [await at.get(method="POST", body=b"x") for _ in range(3)]

    assert [answer.status for answer in answers] == [200, 200, 200]
    assert at.upstream.connections == 3


async def closing_at_the_second(upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(upstream, reader)
    writer.write(ok())
    await read_request(upstream, reader)


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("POST", 502)])
async def test_only_what_may_be_repeated_is_asked_again(method: str, status: int) -> None:
    async with rig(lambda upstream: lambda reader, writer: closing_at_the_second(upstream, reader, writer)) as at:
        first, second = await at.get(), await at.get(method=method)

    assert (first.status, second.status) == (200, status)
    assert len(at.upstream.heads) == (3 if method == "GET" else 2)


async def test_what_an_upstream_says_unasked_is_no_answer() -> None:
    """An answer that was sent ahead would be taken for the next call's."""
    async with rig(answering(ok() + ok(b"unasked"), ok(b"asked"))) as at:
        answers = [await at.get(), await at.get()]

    assert [answer.body for answer in answers] == [b"hello", b"asked"]
    assert at.upstream.connections == 2


async def test_kept_connections_are_bounded_and_expire() -> None:
    ended = asyncio.Semaphore(0)

    def script(upstream: Upstream) -> Script:
        async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await answering(ok())(upstream)(reader, writer)
            ended.release()

        return answered

    async with rig(script, limits=dataclasses.replace(QUICK, kept=2, kept_seconds=0.05)) as at:
        await asyncio.gather(*(at.get() for _ in range(5)))
        assert len(at.binding._pool._kept) <= 2
        for _ in range(at.upstream.connections):
            await ended.acquire()
        assert at.binding._pool._kept == []


async def test_calls_at_once_are_bounded() -> None:
    limits = dataclasses.replace(QUICK, calls=1, connect_seconds=0.2, answer_seconds=0.6)
    async with rig(lambda _: silent, limits=limits) as at:
        answers = await asyncio.gather(at.get(), at.get())

    assert sorted(answer.status for answer in answers) == [503, 504]


async def test_plain_http_upstreams_are_served_too() -> None:
    async with rig(url=f"http://{HOST}:80/base") as at:
        answers = [await at.get("/x") for _ in range(2)]

    assert [answer.body for answer in answers] == [b"hello", b"hello"]
    assert at.upstream.heads[0].startswith(f"GET /base/x HTTP/1.1\r\nHost: {HOST}\r\n".encode())
    assert at.upstream.connections == 1


async def test_a_secret_of_other_alphabets() -> None:
    async with rig(echoing, secret=SECRET) as at:
        answer = await at.get()

    assert f"Bearer {SECRET}".encode() in at.upstream.heads[0]
    assert SECRET.encode() not in answer.raw + answer.body
