"""A service binding as a session holds it: where calls go, what is injected, and which calls may be made.

The broker reads it, so it needs the standard library only.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What the broker has to know of a binding.

    `url` is the upstream's base, `https://host[:port][/path]` (or `http://`). The secret is injected as `inject` says:
    `bearer` as `Authorization: Bearer SECRET`; `basic` as basic authentication, the secret being `user:password`;
    `header` as the header `parameter`, whose value is `template` with `{secret}` replaced; `query` as the query
    parameter `parameter`. `methods` and `paths` (prefixes, relative to the base, on whole segments) bound the calls;
    empty means any. Never printed, logged or kept: it holds the secret.
    """

    name: str
    url: str
    inject: Literal["bearer", "basic", "header", "query"]
    secret: str = field(repr=False)
    parameter: str = ""
    template: str = "{secret}"
    methods: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()

    def to_fields(self) -> dict[str, Any]:
        """As JSON can carry it, the secret among it; for the broker alone."""
        return asdict(self)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """The grant that `to_fields` told of."""
        return cls(**{**fields, "methods": tuple(fields["methods"]), "paths": tuple(fields["paths"])})
