"""What of a call passes, and as what: pure rules about a grant, a target and headers.

Refused rather than put right: whatever two servers could read differently. What is injected replaces all that the
workload sent under that name or one that some server takes for it.
"""

import base64
import re
import unicodedata
from collections.abc import Set
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote_plus, unquote_to_bytes, urlsplit

from enclave.core.grant import Grant
from enclave.egress.service.outcome import Rejection
from enclave.egress.service.scrub import Scrub, Unusable, plain

Headers = list[tuple[bytes, bytes]]

_HOP: Final = "connection keepalive te trailer trailers transferencoding upgrade contentlength"
"""About one connection (RFC 9110, 7.6.1); the framing is ours to write on each side."""

_NOT_SENT: Final = frozenset(
    f"{_HOP} host via forwarded xrealip expect"
    # The caller is the binding and nobody else: its own credentials would carry data to its own account.
    " authorization cookie cookie2"
    # What comes back must be readable, and not cut where the caller likes: a range could end within the secret.
    " acceptencoding range ifrange"
    # Some servers take these for the method or the path, behind the back of the grant.
    " xhttpmethod xhttpmethodoverride xmethodoverride xoriginalurl xrewriteurl".split()
)
_NOT_RETURNED: Final = frozenset(
    # A cookie is a credential that the secret was exchanged for; an alternative service is not the binding.
    f"{_HOP} contentencoding setcookie setcookie2 altsvc".split()
)
_NOT_SENT_PREFIXES: Final = ("proxy", "xforwarded")
_NEVER_INJECTED: Final = frozenset(f"{_HOP} host expect".split())
_NEVER_CALLED: Final = frozenset({"CONNECT", "TRACE", "TRACK"})

_TOKEN: Final = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2
_VALUE: Final = re.compile(rb"[\x21-\x7e\x80-\xff]+(?:[\t ]+[\x21-\x7e\x80-\xff]+)*")  # RFC 9110, 5.5
_BAD_ESCAPE: Final = re.compile("%(?![0-9A-Fa-f]{2})")
_AMBIGUOUS: Final = re.compile(r"[\\;\x00-\x1f\x7f]|//|%[0-9A-Fa-f]{2}|(?:^|/)[. ]+(?:/|$)")
"""In a path decoded once: separators of some servers, empty segments, a second encoding, and dots alone."""


@dataclass(frozen=True, slots=True)
class Route:
    """What a grant comes down to; `target` and `headers` say what is sent for a request."""

    grant: Grant
    tls: bool
    host: str
    port: int
    base: str
    authority: str
    header: tuple[bytes, bytes] | None
    parameter: tuple[str, str] | None
    scrub: Scrub

    def check(self, method: str, target: str) -> None:
        """Raise Rejection, saying why, unless the grant lets this call be made."""
        if method.upper() in _NEVER_CALLED or not target.startswith("/"):
            raise Rejection(400, "only requests for a path of the binding are passed on")
        path = target.partition("?")[0]
        _check_path(path)
        if "#" in target:
            raise Rejection(400, "the target has a fragment")
        if self.grant.methods and method not in self.grant.methods:
            raise Rejection(403, f"the binding allows only {', '.join(self.grant.methods)}")
        if self.grant.paths and not any(_within(path, prefix) for prefix in self.grant.paths):
            raise Rejection(403, f"the binding allows only paths below {', '.join(self.grant.paths)}")

    def target(self, target: str) -> bytes:
        """The upstream's target for one that was checked, the parameter injected."""
        path, mark, query = target.partition("?")
        if self.parameter is None:
            return f"{self.base}{path}{mark}{query}".encode()
        name, value = self.parameter
        return f"{self.base}{path}?{'&'.join([*_without(query, self.grant.parameter), f'{name}={value}'])}".encode()

    def headers(self, sent: Headers) -> Headers:
        """The headers to send for those of a request, without any framing."""
        dropped = {*_NOT_SENT, *_named_by_connection(sent), *([_folded(self.header[0])] if self.header else [])}
        passed = [(name, value) for name, value in sent if not _is_dropped(name, dropped)]
        injected = [self.header] if self.header else []
        return [(b"Host", self.authority.encode()), *passed, (b"Accept-Encoding", b"identity"), *injected]

    def returned(self, answered: Headers) -> Headers:
        """The headers to return for those of an answer, without any framing and without the secret."""
        dropped = {*_NOT_RETURNED, *_named_by_connection(answered)}
        return [
            (name, self.scrub.whole(value))
            for name, value in answered
            if not _is_dropped(name, dropped) and self.scrub.whole(name) == name
        ]


def route(grant: Grant) -> Route:
    """What the grant comes down to; raises Unusable, saying why, without the secret."""
    scrub = Scrub(plain(grant))
    scheme, host, port, base = _upstream(grant.url)
    tls = scheme == "https"
    named = f"[{host}]" if ":" in host else host
    usual = port in (None, 443 if tls else 80)
    return Route(
        grant=grant,
        tls=tls,
        host=host,
        port=port or (443 if tls else 80),
        base=base,
        authority=named if usual else f"{named}:{port}",
        header=_header(grant),
        parameter=_parameter(grant),
        scrub=scrub,
    )


def _upstream(url: str) -> tuple[str, str, int | None, str]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Unusable("the url is malformed") from None
    base = parts.path.rstrip("/")
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isascii():
        raise Unusable("the url must be https://host[:port][/path] or http://")
    if parts.username is not None or parts.query or parts.fragment or not base.isprintable() or " " in base:
        raise Unusable("the url must have no user, query, fragment or blank")
    try:
        _check_path(base or "/")
    except Rejection as rejection:
        raise Unusable(f"the url: {rejection.why}") from None
    return parts.scheme, parts.hostname, port, base


def _header(grant: Grant) -> tuple[bytes, bytes] | None:
    if grant.inject == "query":
        return None
    name, text = {
        "bearer": ("Authorization", f"Bearer {grant.secret}"),
        "basic": ("Authorization", f"Basic {base64.b64encode(grant.secret.encode()).decode()}"),
        "header": (grant.parameter, grant.template.replace("{secret}", grant.secret)),
    }[grant.inject]
    value = text.encode()
    if not _VALUE.fullmatch(value):
        raise Unusable("the secret or the template holds what no header can")
    if _folded(_token(name).encode()) in _NEVER_INJECTED:
        raise Unusable(f"{name} cannot be injected")
    return name.encode(), value


def _parameter(grant: Grant) -> tuple[str, str] | None:
    if grant.inject != "query":
        return None
    if not grant.parameter:
        raise Unusable("the parameter has no name")
    return quote(grant.parameter, safe=""), quote(grant.secret, safe="")


def _token(name: str) -> str:
    if not _TOKEN.fullmatch(name):
        raise Unusable("the parameter is not a name")
    return name


def _check_path(path: str) -> None:
    decoded = unquote_to_bytes(path)
    try:
        # Compatibility forms too: some servers take a full-width dot or slash for the plain one.
        text = unicodedata.normalize("NFKC", decoded.decode())
    except UnicodeDecodeError:
        raise Rejection(400, "the path is not UTF-8") from None
    if _BAD_ESCAPE.search(path) or _AMBIGUOUS.search(text) or text.count("/") != path.count("/"):
        raise Rejection(400, "the path could be read in more than one way")


def _within(path: str, prefix: str) -> bool:
    """Whether the path, as it is spelled, is the prefix or below it."""
    wanted = "/" + quote(prefix.strip("/"), safe="/%:@!$&'()*+,=~")
    return path == wanted or path.startswith(wanted.rstrip("/") + "/")


def _without(query: str, name: str) -> list[str]:
    """The parameters of a query, without those that some server could take for the one of that name."""
    parameters = [part for part in re.split("[&;]", query) if part]
    folded = _folded(name.encode())
    kept = [one for one in parameters if _folded(_name_of(one)) != folded]
    return kept if len(kept) < len(parameters) else [query] if query else []


def _name_of(parameter: str) -> bytes:
    name = unquote_plus(parameter.partition("=")[0])
    return name.partition("[")[0].encode(errors="replace")


def _named_by_connection(headers: Headers) -> Set[str]:
    lists = [value for name, value in headers if name.lower() == b"connection"]
    return {_folded(name) for value in lists for name in value.split(b",")}


def _is_dropped(name: bytes, dropped: Set[str]) -> bool:
    folded = _folded(name)
    return folded in dropped or folded.startswith(_NOT_SENT_PREFIXES)


def _folded(name: bytes) -> str:
    """A name without what servers make no difference of: case, `-`, `_` and every other sign."""
    return re.sub(rb"[^a-z0-9]", b"", name.lower()).decode()
