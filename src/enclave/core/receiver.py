"""Where a webhook goes: what two parsers may read in two ways is refused."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from enclave.core.address import Network
from enclave.core.name import unreachable
from enclave.core.upstream import Malformed, place

# RFC 3986, sections 3.3 and 3.4.
_PATH: Final = re.compile(r"/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*")
_QUERY: Final = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/?]|%[0-9A-Fa-f]{2})*")


@dataclass(frozen=True, slots=True)
class Receiver:
    """A receiver's URL in its parts. `host` is a name or an address without brackets, `target` the path and query."""

    origin: str
    host: str
    port: int
    target: str

    @classmethod
    def parse(cls, url: str, private: Sequence[Network]) -> Self:
        """The receiver at `https://host[:port][/path][?query]`. Raises Malformed, which does not repeat the URL.

        A literal address must be public, or inside one of the `private` networks; plain http is for the latter alone.
        """
        base, mark, query = url.partition("?")
        if "#" in url or "@" in base.partition("://")[2].partition("/")[0]:
            raise Malformed("must not have a user, a password or a fragment")
        found = place(base, private)
        if isinstance(found.host, str) and (why := unreachable(found.host)):
            raise Malformed(f"the host {why}")
        if not _PATH.fullmatch(found.path or "/") or not _QUERY.fullmatch(query):
            raise Malformed("has a character that no path or query has")
        return cls(found.origin, str(found.host), found.port, f"{found.path or '/'}{mark}{query}")

    @property
    def url(self) -> str:
        """The whole of it."""
        return f"{self.origin}{self.target}"

    @property
    def secure(self) -> bool:
        """Whether it is spoken to in TLS."""
        return self.origin.startswith("https:")

    @property
    def authority(self) -> str:
        """The host as a request's `Host` has it."""
        return self.origin.partition("://")[2]
