"""What a url of a repository may look like, and which of them a binding's secret may be sent to."""

import re
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import SplitResult, unquote, urlsplit

from enclave.contracts.errors import FieldProblem, InvalidRequest
from enclave.core.grant import Grant

_PORTS: Final = {"https": 443, "http": 80}
_HOST: Final = re.compile(r"[0-9A-Za-z](?:[0-9A-Za-z.-]{0,251}[0-9A-Za-z])?|[0-9A-Fa-f:.]+")
_FORM: Final = "must be https://host[:port]/path, without credentials, query or fragment"


@dataclass(frozen=True, slots=True)
class Remote:
    """Where a repository is. `host` is a name in lower case or an address, an IPv6 one without brackets."""

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """The remote of a url. Raises InvalidRequest; whatever the url holds is not repeated."""
        try:
            parts = urlsplit(url)
            remote = cls(parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0), parts.path)
        except ValueError:
            raise _refusal(_FORM) from None
        if not _is_plain(url, parts) or not _HOST.fullmatch(remote.host) or remote.scheme not in _PORTS:
            raise _refusal(_FORM)
        return remote

    @property
    def url(self) -> str:
        """The url in its one form: what git is given and what is recorded."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"

    def is_within(self, grant: Grant) -> bool:
        """Whether the grant's secret may be sent there: same scheme, host and port, and a path that it covers."""
        base = urlsplit(grant.url)
        there = (base.scheme, (base.hostname or "").lower(), base.port or _PORTS.get(base.scheme))
        if there != (self.scheme, self.host, self.port):
            return False
        root = base.path.rstrip("/")
        return any(_covers(root + prefix, self.path) for prefix in grant.paths or ("",))


def _is_plain(url: str, parts: SplitResult) -> bool:
    plain = url.isascii() and url.isprintable() and not set(" \\\"'<>^`{|}?#@") & set(url)
    return plain and parts.path.startswith("/") and not _climbs(parts.path)


def _climbs(path: str) -> bool:
    return any(unquote(part) in (".", "..") or "/" in unquote(part) for part in path.split("/"))


def _covers(prefix: str, path: str) -> bool:
    return f"{path.rstrip('/')}/".startswith(f"{prefix.rstrip('/')}/")


def _refusal(message: str) -> InvalidRequest:
    problem = FieldProblem(field="source.git.url", message=message)
    return InvalidRequest("the url of the source is malformed", errors=(problem,))
