"""The addresses of upstreams, in the one form in which each can be compared: everything a parser may read in two ways
is refused, not mended."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

from enclave.core.address import Address, Network, inside, may_call
from enclave.core.name import normalise_name

# RFC 3986, section 3, without what an upstream cannot have: user information, a query and a fragment.
_URL: Final = re.compile(r"(?i:(https?))://(\[[0-9A-Fa-f:.]+\]|[^/:\[\]]+)(:[0-9]+)?(/.*)?")
# pchar of RFC 3986, section 3.3.
_PATH: Final = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*")
# A dot, a slash, a backslash, a percent sign, control characters, and the first byte of an overlong form (RFC 3629,
# section 3) of them: what one server decodes and another does not.
_TRICK: Final = re.compile(r"%(?:2[eEfF5]|5[cC]|[01][0-9A-Fa-f]|7[fF]|[cC][01])")
_ESCAPE: Final = re.compile(r"%[0-9A-Fa-f]{2}")
_DEFAULT_PORTS: Final = {"https": 443, "http": 80}


class Malformed(ValueError):
    """Why an address is refused; it never repeats the address, which may hold a secret."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an https or http URL without a query leads."""

    scheme: str
    host: Address | str
    port: int
    path: str

    @property
    def origin(self) -> str:
        """All before the path, in its one form: lower case, no default port."""
        shown = f"[{self.host}]" if isinstance(self.host, IPv6Address) else str(self.host)
        return f"{self.scheme}://{shown}{'' if self.port == _DEFAULT_PORTS[self.scheme] else f':{self.port}'}"


def upstream(url: str, private: Sequence[Network]) -> str:
    """The URL of an upstream in its one form: lower case, no default port, no slash at the end. Raises Malformed.

    A literal address must be public, or inside one of the `private` networks; plain http is for the latter alone.
    """
    found = place(url, private)
    return f"{found.origin}{path_prefix(found.path or '/').removesuffix('/')}"


def place(url: str, private: Sequence[Network]) -> Place:
    """Where a URL leads, its path as it came. Raises Malformed as `upstream` does."""
    _check_parts(url)
    found = _URL.fullmatch(url)
    if found is None:
        raise Malformed("must be https://host[:port][/path]")
    scheme, host = found[1].lower(), _host(found[2])
    port = _port(found[3]) or _DEFAULT_PORTS[scheme]
    _check_host(scheme, host, private)
    return Place(scheme, host, port, found[4] or "")


def path_prefix(path: str) -> str:
    """A prefix of whole segments, in its one form: no slash at the end but that of `/` itself. Raises Malformed."""
    if not path.startswith("/"):
        raise Malformed("must begin with /")
    if not _PATH.fullmatch(path) or _TRICK.search(path):
        raise Malformed("has a character that no path has, or an escape of . / \\ % or a control character")
    segments = path.removesuffix("/").split("/")[1:]
    # What follows a semicolon is a parameter to some servers and part of the name to others.
    if any(segment.partition(";")[0] in ("", ".", "..") for segment in segments):
        raise Malformed("has an empty segment, or one of dots")
    return _ESCAPE.sub(lambda escape: escape[0].upper(), "/" + "/".join(segments))


def _check_parts(url: str) -> None:
    if not (url.isascii() and url.isprintable()) or " " in url or "\\" in url:
        raise Malformed("must be visible ASCII; write an international name in its xn-- form")
    authority = url.partition("://")[2].partition("/")[0]
    if "@" in authority:
        raise Malformed("must not have a user or a password; they belong in the secret, with inject.kind basic")
    if "?" in url or "#" in url:
        raise Malformed("must not have a query or a fragment")


def _host(text: str) -> Address | str:
    try:
        if text.startswith("["):
            return IPv6Address(text[1:-1])
        return IPv4Address(text)
    except AddressValueError:
        pass
    try:
        return normalise_name(text)
    except ValueError:
        raise Malformed("has no valid host") from None


def _port(text: str | None) -> int | None:
    if text is None:
        return None
    if len(text) > 6 or not 1 <= int(text[1:]) <= 65535:
        raise Malformed("the port must be between 1 and 65535")
    return int(text[1:])


def _check_host(scheme: str, host: Address | str, private: Sequence[Network]) -> None:
    if isinstance(host, str):
        if host == "localhost" or host.endswith(".localhost"):
            raise Malformed("names this machine; write 127.0.0.1 or [::1], for which the operator must give leave")
        if scheme == "http":
            raise Malformed("must be https; plain http is only for addresses inside ENCLAVE_EGRESS_PRIVATE")
    elif not may_call(host, private):
        raise Malformed("is a private, local or reserved address that is not inside ENCLAVE_EGRESS_PRIVATE")
    elif scheme == "http" and not inside(host, private):
        raise Malformed("must be https; plain http is only for addresses inside ENCLAVE_EGRESS_PRIVATE")
