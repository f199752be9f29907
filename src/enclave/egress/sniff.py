"""For whom the first bytes of a connection are: the server name of a TLS client hello, or the Host of an HTTP request.

Both readers are strict: what a server might understand in another way than we do is refused. Formats: RFC 8446
section 4.1.2, RFC 6066 section 3, RFC 9112 section 3.
"""

from typing import Final

MAX_HELLO: Final = 16 * 1024

_HANDSHAKE, _CLIENT_HELLO, _HOST_NAME = 22, 1, 0
_SERVER_NAME, _ENCRYPTED_HELLO = 0, 0xFE0D
_MOST_RECORDS: Final = 16
"""Each piece that comes is read anew; what OpenSSL makes is in one record, browsers' in two at most."""
_TOKEN: Final = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_BREAKS: Final = frozenset(b"\0\r\n")
_MAX_METHOD: Final = 32
_METHOD: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ-")


class Unreadable(Exception):
    """What came names nobody, or not in a way that can only be understood in one way."""


def named(data: bytes) -> str | None:
    """The name that the bytes so far are for, as it stands there; None while that cannot be told. Raises Unreadable."""
    if not data:
        return None
    if data[0] == _HANDSHAKE:
        hello = _hello(data)
        return None if hello is None else _server_name(hello)
    head = _head(data)
    return None if head is None else _host(head)


# -- TLS -----------------------------------------------------------------------------------------------------------


class _Reader:
    """Fields of a message in their order; a field that is not there in full is Unreadable."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, length: int) -> bytes:
        if len(self._data) - self._at < length:
            raise Unreadable("the TLS client hello is cut short")
        taken = self._data[self._at : self._at + length]
        self._at += length
        return taken

    def number(self, length: int) -> int:
        return int.from_bytes(self.take(length), "big")

    def vector(self, length: int) -> bytes:
        return self.take(self.number(length))

    @property
    def done(self) -> bool:
        return self._at == len(self._data)


def _hello(data: bytes) -> bytes | None:
    """The body of the client hello, gathered from its records; None if there are more to come."""
    gathered, at, records = b"", 0, 0
    while at + 5 <= len(data):
        kind, length = data[at], int.from_bytes(data[at + 3 : at + 5], "big")
        if kind != _HANDSHAKE or data[at + 1] != 3 or not 0 < length <= MAX_HELLO:
            raise Unreadable("this is not a TLS client hello")
        if (records := records + 1) > _MOST_RECORDS:
            raise Unreadable("the TLS client hello is in too many pieces")
        gathered += data[at + 5 : at + 5 + length]
        at += 5 + length
        if at > len(data):
            break
        if (body := _whole(gathered)) is not None:
            return body
    if gathered and gathered[0] != _CLIENT_HELLO:
        raise Unreadable("this is not a TLS client hello")
    return None


def _whole(gathered: bytes) -> bytes | None:
    if gathered[0] != _CLIENT_HELLO:
        raise Unreadable("this is not a TLS client hello")
    if len(gathered) < 4 or len(gathered) - 4 < (length := int.from_bytes(gathered[1:4], "big")):
        return None
    if len(gathered) - 4 > length:
        raise Unreadable("something follows the TLS client hello")
    return gathered[4:]


def _server_name(hello: bytes) -> str:
    reader = _Reader(hello)
    reader.take(2 + 32)
    reader.vector(1)
    reader.vector(2)
    reader.vector(1)
    if reader.done:
        raise Unreadable("the TLS client hello names no server (SNI)")
    extensions = _extensions(reader.vector(2))
    if not reader.done:
        raise Unreadable("something follows the extensions of the TLS client hello")
    if _ENCRYPTED_HELLO in extensions:
        raise Unreadable("the TLS client hello is encrypted (ECH): whom it is for cannot be checked")
    if _SERVER_NAME not in extensions:
        raise Unreadable("the TLS client hello names no server (SNI)")
    return _only_name(extensions[_SERVER_NAME])


def _extensions(block: bytes) -> dict[int, bytes]:
    reader, found = _Reader(block), dict[int, bytes]()
    while not reader.done:
        kind = reader.number(2)
        if kind in found:
            raise Unreadable("the TLS client hello has an extension twice")
        found[kind] = reader.vector(2)
    return found


def _only_name(extension: bytes) -> str:
    reader = _Reader(extension)
    names = _Reader(reader.vector(2))
    kind, name = names.number(1), names.vector(2)
    if kind != _HOST_NAME or not names.done or not reader.done:
        raise Unreadable("the TLS client hello names more than one server")
    return _text(name)


# -- HTTP ----------------------------------------------------------------------------------------------------------


def _head(data: bytes) -> bytes | None:
    """The head of an HTTP request; None if it goes on."""
    # Methods are case-sensitive, and every one that is registered is in capitals (RFC 9110, section 16.1).
    method = data[: _MAX_METHOD + 1].split(b" ", 1)[0]
    if len(method) > _MAX_METHOD or not all(byte in _METHOD for byte in method):
        raise Unreadable("this is neither TLS nor HTTP, which is all that a rule on names lets through")
    head, end, _ = data.partition(b"\r\n\r\n")
    return head if end else None


def _is_method(word: bytes) -> bool:
    return 0 < len(word) <= _MAX_METHOD and all(byte in _METHOD for byte in word)


def _host(head: bytes) -> str:
    request, *fields = head.split(b"\r\n")
    parts = request.split(b" ")
    if len(parts) != 3 or not _is_method(parts[0]) or parts[2] not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise Unreadable("the HTTP request line is malformed")
    hosts = [value for name, value in map(_field, fields) if name == b"host"]
    if len(hosts) != 1:
        raise Unreadable("the HTTP request does not have just one Host")
    # A line feed or a tab within the target would end it to a server that is not as strict (RFC 9112, section 2.2).
    visible = all(0x21 <= byte < 0x7F for byte in parts[1])
    if not visible or (not parts[1].startswith(b"/") and parts[1] != b"*"):
        raise Unreadable("the HTTP request is not for a path")
    return _text(_without_port(hosts[0]))


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not colon or not name or not all(byte in _TOKEN for byte in name) or _BREAKS.intersection(value):
        raise Unreadable("a header of the HTTP request is malformed")
    return name.lower(), value.strip(b" \t")


def _without_port(host: bytes) -> bytes:
    name, colon, port = host.partition(b":")
    if colon and not port.isdigit():
        raise Unreadable("the Host of the HTTP request is malformed")
    return name


def _text(name: bytes) -> str:
    if not name or len(name) > 254 or not name.isascii() or not name.decode("ascii").isprintable():
        raise Unreadable("the name that is asked for is malformed")
    return name.decode("ascii")
