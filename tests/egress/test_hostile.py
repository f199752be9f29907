"""What hostile code sends, and what a hostile upstream answers: never past the broker, and never a hang."""

import asyncio
import dataclasses
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.egress.rig import PLAIN, QUICK, Script, Upstream, parsed, read_request, request, rig

pytestmark = pytest.mark.anyio

POST = b"POST /v1 HTTP/1.1\r\nHost: x\r\n"
GET = b"GET /v1 HTTP/1.1\r\nHost: x\r\n"
NEXT = b"GET /admin HTTP/1.1\r\nHost: x\r\n\r\n"

SMUGGLING = {
    "length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + NEXT,
    "chunks and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + NEXT,
    "two lengths": POST + b"Content-Length: 0\r\nContent-Length: 5\r\n\r\nhello",
    "the same length twice": POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "a list of lengths": POST + b"Content-Length: 5, 5\r\n\r\nhello",
    "a signed length": POST + b"Content-Length: +5\r\n\r\nhello",
    "a negative length": POST + b"Content-Length: -5\r\n\r\nhello",
    "a hexadecimal length": POST + b"Content-Length: 0x5\r\n\r\nhello",
    "a length with an underscore": POST + b"Content-Length: 1_0\r\n\r\nhellohello",
    "an empty length": POST + b"Content-Length:\r\n\r\nhello",
    "an endless length": POST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\nhello",
    "a length in other digits": POST + "Content-Length: ٥\r\n\r\nhello".encode(),
    "a blank before the colon": POST + b"Content-Length : 5\r\n\r\nhello",
    "chunks, blank before the colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "chunks twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks in a list": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunks and identity": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "gzip, chunks": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "x-chunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "quoted chunks": POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "chunks after a vertical tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "chunks, folded": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "chunks of HTTP/1.0": b"POST /v1 HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + NEXT,
    "a folded header": GET + b"X: y\r\n z\r\n\r\n",
    "a header folded by a tab": GET + b"X: y\r\n\tz\r\n\r\n",
    "a first header that is folded": b"GET /v1 HTTP/1.1\r\n Host: x\r\n\r\n",
    "bare line feeds": b"GET /v1 HTTP/1.1\nHost: x\n\n\r\n\r\n",
    "a bare line feed in a header": GET + b"X: y\nContent-Length: 5\r\n\r\nhello",
    "a bare carriage return": GET + b"X: y\rContent-Length: 5\r\n\r\nhello",
    "a zero byte": GET + b"X: y\0z\r\n\r\n",
    "a control character": GET + b"X: y\x01z\r\n\r\n",
    "a control character in a name": GET + b"X\x7f: y\r\n\r\n",
    "a header without a name": GET + b": y\r\n\r\n",
    "a header without a colon": GET + b"X\r\n\r\n",
    "no host": b"GET /v1 HTTP/1.1\r\n\r\n",
    "two hosts": GET + b"Host: y\r\n\r\n",
    "two blanks": b"GET  /v1 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a tab as blank": b"GET\t/v1 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a blank in the target": b"GET /v1 /admin HTTP/1.1\r\nHost: x\r\n\r\n",
    "a target that is not ASCII": b"GET /v1/\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n",
    "an empty line first": b"\r\n" + GET + b"\r\n",
    "HTTP/0.9": b"GET /v1\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/1.2": b"GET /v1 HTTP/1.2\r\nHost: x\r\n\r\n",
    "HTTP/1.10": b"GET /v1 HTTP/1.10\r\nHost: x\r\n\r\n",
    "lower case": b"GET /v1 http/1.1\r\nHost: x\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "SOCKS": b"\x05\x01\x00\r\n\r\n",
    "an absolute target": b"GET http://evil.test/v1 HTTP/1.1\r\nHost: evil.test\r\n\r\n",
    "CONNECT": b"CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n",
    "TRACE": b"TRACE /v1 HTTP/1.1\r\nHost: x\r\n\r\n",
    "OPTIONS *": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    "Upgrade": GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "h2c": GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
    "an endless line": b"GET /" + b"a" * 100_000,
    "an endless header": GET + b"X: " + b"a" * 100_000,
    "endless headers": GET + b"X: y\r\n" * 20_000,
    "a long header": GET + b"X: " + b"a" * 65_536 + b"\r\n\r\n",
    "101 headers": GET + b"X: y\r\n" * 100 + b"\r\n",
    "a head of 65 KiB": GET + b"X: y\r\n" * 11_000 + b"\r\n",
}


@pytest.mark.parametrize("sent", SMUGGLING.values(), ids=SMUGGLING.keys())
async def test_what_two_parsers_could_read_differently_is_refused(sent: bytes) -> None:
    async with rig(paths=("/v1",)) as at:
        said = await at.say(sent, half_close=True)

    assert re.findall(rb"HTTP/1.1 \d+", said) == [b"HTTP/1.1 400"]
    assert at.upstream.heads == []
    assert [call.status for call in at.calls if call.error] == [400]


@pytest.mark.parametrize("endless", [b"GET /", GET + b"X: "])
async def test_a_head_without_end_is_answered_before_it_ends(endless: bytes) -> None:
    async with rig() as at:
        reader, writer = await at.open()
        writer.write(endless + b"a" * 100_000)
        answer = await reader.readuntil(b"}")
        writer.close()

    assert answer.startswith(b"HTTP/1.1 400")
    assert b"more than 64 KiB" in answer


BAD_BODIES = {
    "a chunk size that is none": b"zz\r\nhello\r\n0\r\n\r\n",
    "a negative chunk": b"-5\r\nhello\r\n0\r\n\r\n",
    "a prefixed chunk": b"0x5\r\nhello\r\n0\r\n\r\n",
    "a chunk size that overflows": b"f" * 21 + b"\r\nhello\r\n0\r\n\r\n",
    "a chunk longer than it says": b"5\r\nhello!!!\r\n0\r\n\r\n",
    "a chunk without an end": b"5\r\nhello0\r\n\r\n",
    "chunks cut off": b"5\r\nhel",
    "an endless chunk line": b"5;" + b"x" * 100_000,
    "endless trailers": b"0\r\n" + b"X: y\r\n" * 20_000,
    "a bad trailer": b"0\r\nno trailer\r\n\r\n",
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
async def test_a_body_that_is_none_ends_the_call(body: bytes) -> None:
    async with rig() as at:
        said = await at.say(POST + b"Transfer-Encoding: chunked\r\n\r\n" + body, half_close=True)

    assert parsed(said, "POST").status == 400
    assert at.calls[0].error is not None
    assert at.upstream.bodies == []


async def test_a_request_that_breaks_off_ends_an_answer_that_has_begun() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n")
        await reader.read()

    async with rig(lambda _: script, limits=dataclasses.replace(QUICK, idle_seconds=1000)) as at:
        reader, writer = await at.open()
        writer.write(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        await reader.readuntil(b"begun\r\n")
        writer.write(b"zz\r\n")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()

    assert (at.calls[0].status, at.calls[0].error) == (200, "the request is not valid HTTP/1.1")


async def test_a_chunk_extension_goes_no_further() -> None:
    async with rig() as at:
        sent = POST + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\rc\r\nhello\r\n0\r\n\r\n"
        answer = parsed(await at.say(sent), "POST")

    assert (answer.status, at.upstream.bodies) == (200, [b"hello"])


async def test_many_chunks_of_one_byte_are_one_body() -> None:
    async with rig() as at:
        sent = POST + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n"
        answer = parsed(await at.say(sent), "POST")

    assert (answer.status, at.upstream.bodies) == (200, [b"x" * 5000])


async def test_expectations_of_other_kinds_fail() -> None:
    async with rig() as at:
        assert (await at.get("/", "Expect: 200-ok")).status == 417


async def test_what_is_beyond_the_length_is_the_next_request() -> None:
    async with rig(paths=("/v1",)) as at:
        said = await at.say(POST + b"Content-Length: 5\r\n\r\nhello" + NEXT, half_close=True)

    assert said.count(b"HTTP/1.1 200") == 1
    assert said.count(b"HTTP/1.1 403") == 1
    assert [head.split()[1] for head in at.upstream.heads] == [b"/v1"]


async def test_a_header_cannot_be_spelled_past_the_injected_one() -> None:
    spelled = ["AUTHORIZATION: Bearer mine", "Authorization_: Bearer mine", "Connection: authorization, host"]
    async with rig() as at:
        await at.get("/", *spelled)

    assert b"mine" not in at.upstream.heads[0]
    assert at.upstream.heads[0].count(f"Authorization: Bearer {PLAIN}".encode()) == 1


FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SHORT = dataclasses.replace(QUICK, request_seconds=0.5, answer_seconds=0.5, idle_seconds=0.5)
FRAGMENTS = st.sampled_from(
    [
        b"GET /v1 HTTP/1.1\r\n",
        b"POST / HTTP/1.1\r\n",
        b"Host: x\r\n",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"Expect: 100-continue\r\n",
        b"\r\n",
        b"3\r\nabc\r\n",
        b"0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 304 X\r\n",
        b"Content-Encoding: gzip\r\n",
        b"Set-Cookie: a\r\n",
        PLAIN.encode(),
        PLAIN[:7].encode(),
        PLAIN[7:].encode(),
        b"X-Y: ",
    ]
)
NOISE = st.lists(FRAGMENTS | st.binary(max_size=20), max_size=12)


@given(NOISE)
@FEW
async def test_whatever_is_sent_nothing_is_raised(noise: list[bytes]) -> None:
    async with rig(limits=SHORT) as at:
        said = await at.say(*noise, half_close=True)

    assert PLAIN not in repr(at.calls)
    assert PLAIN.encode() not in said


@given(NOISE)
@FEW
async def test_whatever_is_answered_nothing_is_raised_and_nothing_told(noise: list[bytes]) -> None:
    def script(upstream: Upstream) -> Script:
        async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(upstream, reader)
            for piece in noise:
                writer.write(piece)
                await writer.drain()

        return answered

    async with rig(script, limits=SHORT) as at:
        said = await at.say(request("/", method="PUT", body=b"body"), half_close=True)

    assert PLAIN.encode() not in said
    assert not said or PLAIN.encode() not in parsed(said, "PUT").body
    assert PLAIN not in repr(at.calls)
    assert len(at.calls) == 1
