"""Whom the first bytes of a connection are for: hellos that OpenSSL made and OpenSSL reads, and heads of HTTP."""

import contextlib
import functools
import ssl

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave.egress.sniff import MAX_HELLO, Unreadable, named

NAME = "api.example.test"
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


# -- TLS -----------------------------------------------------------------------------------------------------------


@functools.cache
def client_hello(
    name: str | None = NAME, version: ssl.TLSVersion | None = None, alpn: tuple[str, ...] = ("h2", "http/1.1")
) -> bytes:
    """What a client of this Python says first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if alpn:
        context.set_alpn_protocols(list(alpn))
    said = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), said, server_hostname=name).do_handshake()
    return said.read()


@functools.cache
def served_by() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert(NAME).configure_cert(context)
    return context


def as_openssl_reads(said: bytes) -> list[str | None]:
    """The server name that OpenSSL understands, if it gets as far; a list of none if it refuses the hello first."""
    names: list[str | None] = []
    served_by().sni_callback = lambda _, name, __: names.append(name)
    heard = ssl.MemoryBIO()
    heard.write(said)
    with contextlib.suppress(ssl.SSLError):
        served_by().wrap_bio(heard, ssl.MemoryBIO(), server_side=True).do_handshake()
    return names


def vector(data: bytes, length: int = 2) -> bytes:
    return len(data).to_bytes(length, "big") + data


def extension(kind: int, data: bytes) -> bytes:
    return kind.to_bytes(2, "big") + vector(data)


def server_names(*names: bytes, kind: int = 0) -> bytes:
    return extension(0, vector(b"".join(bytes([kind]) + vector(name) for name in names)))


def records(message: bytes, size: int = 1 << 14) -> bytes:
    parts = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + vector(part) for part in parts)


def message(extensions: bytes | None, after: bytes = b"") -> bytes:
    """A client hello of our own making."""
    body = b"\x03\x03" + bytes(32) + vector(bytes(32), 1) + vector(b"\x13\x01\xc0\x2f") + vector(b"\0", 1)
    body += (b"" if extensions is None else vector(extensions)) + after
    return b"\x01" + vector(body, 3)


def hello(extensions: bytes | None, after: bytes = b"") -> bytes:
    return records(message(extensions, after))


def refused(data: bytes) -> str:
    with pytest.raises(Unreadable) as caught:
        named(data)
    return str(caught.value)


SNI = server_names(NAME.encode())


@pytest.mark.parametrize("version", [None, *VERSIONS])
@pytest.mark.parametrize("alpn", [(), ("h2", "http/1.1"), tuple(f"protocol-{n}" for n in range(100))])
def test_a_hello_is_read_when_it_is_whole(version: ssl.TLSVersion | None, alpn: tuple[str, ...]) -> None:
    said = client_hello(NAME, version, alpn)

    assert {named(said[:length]) for length in range(len(said))} == {None}
    assert named(said) == NAME
    assert named(said + b"\x14\x03\x03\x00\x01\x01") == NAME


@pytest.mark.parametrize("size", [40, 100, 200])
def test_a_hello_in_many_records_is_read_when_it_is_whole(size: int) -> None:
    said = records(client_hello()[5:], size)

    assert {named(said[:length]) for length in range(len(said))} == {None}
    assert named(said) == NAME


@pytest.mark.parametrize("size", [1, 2, 7])
def test_a_hello_in_too_many_records_is_not_read_on_and_on(size: int) -> None:
    assert "too many pieces" in refused(records(client_hello()[5:], size))


@pytest.mark.parametrize("version", [None, *VERSIONS])
def test_a_hello_without_a_name_is_for_nobody(version: ssl.TLSVersion | None) -> None:
    assert "names no server" in refused(client_hello(None, version))
    assert "names no server" in refused(client_hello("192.0.2.7", version))
    assert "names no server" in refused(hello(None))
    assert "names no server" in refused(hello(b""))


def test_extensions_that_nobody_knows_are_passed_over() -> None:
    grease = b"".join(extension(0x0A0A + 0x1010 * n, bytes(n)) for n in range(16))

    assert named(hello(grease + SNI + extension(0xFFFF, b""))) == NAME


REFUSED = {
    "the extension twice": hello(SNI + SNI),
    "another extension twice": hello(SNI + extension(5, b"") * 2),
    "two names": hello(server_names(NAME.encode(), b"other.example.test")),
    "no name": hello(server_names()),
    "an empty name": hello(server_names(b"")),
    "a name of another kind": hello(server_names(NAME.encode(), kind=1)),
    "a null byte": hello(server_names(NAME.encode() + b"\0.other.example.test")),
    "a line feed": hello(server_names(NAME.encode() + b"\n")),
    "not ASCII": hello(server_names("bücher.example".encode())),
    "a name that is too long": hello(server_names(b"a" * 255)),
    "something after the name": hello(extension(0, vector(b"\0" + vector(NAME.encode())) + b"x")),
    "a list that is too short": hello(extension(0, b"\0\3\0" + vector(NAME.encode()))),
    "an encrypted hello": hello(SNI + extension(0xFE0D, bytes(8))),
    "something after the extensions": hello(SNI, b"x"),
    "half an extension": hello(SNI + b"\0\5\0"),
    "something after the message": records(message(SNI) + b"\x01"),
    "no body": records(b"\x01\0\0\0"),
    "a server's hello": records(b"\x02" + message(SNI)[1:]),
    "an empty record": b"\x16\x03\x01\0\0" + hello(SNI),
    "an empty record within": records(message(SNI)[:9]) + b"\x16\x03\x01\0\0" + records(message(SNI)[9:]),
    "a record too long": b"\x16\x03\x01" + vector(bytes(MAX_HELLO + 1)),
    "another kind of record within": records(message(SNI)[:9]) + b"\x15\x03\x01\0\2\1\0" + records(message(SNI)[9:]),
    "another protocol": b"\x16\x02\x01" + hello(SNI)[3:],
    "a hello of SSL 2": b"\x80\x2e\x01\x03\x01\0\x15\0\0\0\x10" + bytes(37),
}


@pytest.mark.parametrize("said", REFUSED.values(), ids=REFUSED)
def test_a_hello_that_might_be_read_in_two_ways_is_refused(said: bytes) -> None:
    refused(said)


def test_a_hello_of_our_own_making_is_read_by_openssl_as_by_us() -> None:
    """What the cases above change is therefore all that is wrong with them."""
    algorithms = extension(13, vector(b"\4\1\4\3\x08\4")) + extension(10, vector(b"\0\x17\0\x1d"))

    assert as_openssl_reads(hello(SNI + algorithms)) == [named(hello(SNI + algorithms))] == [NAME]


def agree(said: bytes) -> None:
    """We read nothing that OpenSSL, if it takes the hello at all, reads in another way."""
    try:
        ours = named(said)
    except Unreadable:
        return
    theirs = as_openssl_reads(said)
    assert theirs == [] or ours is not None, "OpenSSL was done before us: it would be answered while we wait"
    assert theirs in ([], [ours])


edits = st.lists(
    st.tuples(st.integers(0, 600), st.integers(0, 3), st.binary(max_size=6)).filter(lambda edit: edit[1] or edit[2]),
    min_size=1,
    max_size=3,
)


@given(st.sampled_from([None, *VERSIONS]), st.sampled_from([NAME, None, "a"]), edits, st.integers(1, 600))
@settings(deadline=None, max_examples=400)
def test_a_changed_hello_is_never_read_otherwise_than_openssl_reads_it(
    version: ssl.TLSVersion | None, name: str | None, changes: list[tuple[int, int, bytes]], size: int
) -> None:
    body = client_hello(name, version)[5:]
    for at, gone, put in changes:
        body = body[:at] + put + body[at + gone :]

    agree(records(body, size))
    agree(client_hello(name, version)[:5] + body)


extensions = st.lists(
    st.one_of(
        st.just(SNI),
        st.lists(st.sampled_from([b"", b"a", b"b.test", b"a\0b", b"\xff"]), max_size=2).map(lambda n: server_names(*n)),
        st.binary(max_size=9).map(lambda data: extension(0, data)),
        st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=9)).map(lambda one: extension(*one)),
        st.binary(max_size=5),
    ),
    max_size=4,
).map(b"".join)


@given(extensions, st.binary(max_size=3), st.integers(1, 300))
@settings(deadline=None, max_examples=400)
def test_a_hello_of_any_extensions_is_never_read_otherwise_than_openssl_reads_it(
    held: bytes, after: bytes, size: int
) -> None:
    agree(records(message(held, after), size))


# -- HTTP ----------------------------------------------------------------------------------------------------------


def head(*lines: str, request: str = "GET /a?b=c HTTP/1.1") -> bytes:
    return "\r\n".join([request, *lines, "", ""]).encode("latin-1")


HOST = f"Host: {NAME}"


@pytest.mark.parametrize(
    "said",
    [
        head(HOST),
        head("Accept: */*", f"hOST:\t {NAME} \t", "X: "),
        head(f"Host: {NAME}:8080"),
        head(HOST, request="OPTIONS * HTTP/1.0"),
        head(HOST, request="VERSION-CONTROL / HTTP/1.1"),
        head(HOST, request="GET //elsewhere.test/ HTTP/1.1"),
        head(HOST, "X-Forwarded-Host: elsewhere.test") + b"Host: elsewhere.test\r\n\r\n",
    ],
)
def test_a_request_is_read_when_its_head_is_whole(said: bytes) -> None:
    whole = said.index(b"\r\n\r\n") + 4

    assert {named(said[:length]) for length in range(whole)} == {None}
    assert {named(said[:length]) for length in range(whole, len(said) + 1)} == {NAME}


REFUSED_HEADS = {
    "no Host": head("Accept: */*"),
    "two": head(HOST, HOST),
    "two, spelled otherwise": head(HOST, "hOsT: elsewhere.test"),
    "two in one": head(f"Host: {NAME}:80, elsewhere.test"),
    "an empty one": head("Host:"),
    "an empty one with a port": head("Host: :80"),
    "a continued one": head(HOST, " .elsewhere.test"),
    "a continued line": head("X: a", "\tb", HOST),
    "a line before all others that is continued": head(" X: a", HOST),
    "a space before the colon": head(f"Host : {NAME}", HOST),
    "a line without a colon": head("Host", HOST),
    "a line without a name": head(": a", HOST),
    "a name that is no token": head("H\x00st: a", HOST),
    "a port that is none": head(f"Host: {NAME}:80a"),
    "no port": head(f"Host: {NAME}:"),
    "an address of IPv6": head("Host: [2001:db8::1]:80"),
    "a user": head(f"Host: elsewhere.test:80@{NAME}"),
    "a null byte in the name": head(f"Host: {NAME}\x00"),
    "a null byte elsewhere": head("X: a\x00b", HOST),
    "not ASCII": head("Host: bücher.example"),
    "a carriage return": head("X: a\rHost: elsewhere.test", HOST),
    "a line feed": head("X: a\nHost: elsewhere.test", HOST),
    "a line feed in the name": head(f"Host: {NAME}\nX: a"),
    "a URL": head(HOST, request="GET http://elsewhere.test/ HTTP/1.1"),
    "no path": head(HOST, request=f"CONNECT {NAME}:443 HTTP/1.1"),
    "something after the asterisk": head(HOST, request="OPTIONS *.elsewhere.test HTTP/1.1"),
    "HTTP/0.9": head(HOST, request="GET /"),
    "HTTP/2": head(HOST, request="PRI * HTTP/2.0"),
    "two spaces": head(HOST, request="GET  / HTTP/1.1"),
    "a tab": head(HOST, request="GET /\tHTTP/1.1"),
    "a method in small letters": head(HOST, request="get / HTTP/1.1"),
    "no method": head(HOST, request=" / HTTP/1.1"),
    "an empty line first": b"\r\n" + head(HOST),
    "a whole request within the target": head(HOST, request="GET /\tHTTP/1.1\nHost:elsewhere.test\n\n HTTP/1.1"),
    "a null byte in the target": head(HOST, request="GET /\x00 HTTP/1.1"),
    "a whole request within the method": head(
        HOST, request=f"{'A' * 32}\t/\tHTTP/1.1\nHost:elsewhere.test\n\n / HTTP/1.1"
    ),
    "a method that is too long": head(HOST, request=f"{'A' * 33} / HTTP/1.1"),
    "something else": b"SSH-2.0-OpenSSH_9.9\r\n",
    "something in small letters": b"ehlo there\r\n",
}


@pytest.mark.parametrize("said", REFUSED_HEADS.values(), ids=REFUSED_HEADS)
def test_a_head_that_might_be_read_in_two_ways_is_refused(said: bytes) -> None:
    refused(said)


def as_a_lenient_server_reads(said: bytes) -> list[bytes]:
    """Every host that a server may understand which takes a line feed for an end, and any space for a separator."""
    lines = said.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\0", b"").split(b"\n")
    fields = [line.partition(b":") for line in lines[1:] if line.strip()]
    return [value.strip() for name, _, value in fields if name.strip().lower() == b"host"]


pieces = st.lists(
    st.sampled_from(
        [b"GET", b"POST", b"A" * 31, b" ", b"/", b"*", b"HTTP/1.1", b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\t", b"\0",
         b"Host:", b"host: ", b"a.test", b"b.test", b":80", b"X: y", b",", b"\x0b", b"http://b.test/"]
    ),
    max_size=9,
).map(b"".join)  # fmt: skip


@given(pieces, pieces, pieces, st.sampled_from([b"GET", b"A" * 32]))
@settings(deadline=None, max_examples=600)
def test_a_head_that_is_read_has_one_host_to_everybody(first: bytes, second: bytes, last: bytes, method: bytes) -> None:
    said = method + first + b" /" + second + b" HTTP/1.1\r\nHost: a.test" + last + b"\r\n\r\n"
    try:
        name = named(said)
    except Unreadable:
        return
    assert name is not None
    heads = said[: said.index(b"\r\n\r\n")]
    assert [host.partition(b":")[0].decode() for host in as_a_lenient_server_reads(heads)] == [name]


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda data: b"\x16\x03\x01" + data))
@settings(deadline=None)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(Unreadable):
        name = named(data)
        assert name is None or (name.isascii() and name.isprintable() and 0 < len(name) <= 254)


TWO_HOSTS = {
    "a line feed in the target": b"GET /\tHTTP/1.1\nHost:evil.test\nX: HTTP/1.1\r\nHost: api.example.test\r\n\r\n",
    "a line feed behind a long method": b"X" * 32
    + b"\nHost:evil.test\nX: / HTTP/1.1\r\nHost: api.example.test\r\n\r\n",
    "a tab in the target": b"GET /\tx HTTP/1.1\r\nHost: api.example.test\r\n\r\n",
    "a zero byte in the target": b"GET /\0 HTTP/1.1\r\nHost: api.example.test\r\n\r\n",
}


@pytest.mark.parametrize("sent", TWO_HOSTS.values(), ids=TWO_HOSTS.keys())
def test_a_request_line_is_read_in_one_way_only(sent: bytes) -> None:
    with pytest.raises(Unreadable):
        named(sent)
