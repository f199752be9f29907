"""What an operator can set, and what each setting is when it is left out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final, Self

from enclave.contracts.errors import InvalidRequest

DEFAULT_PORT: Final = 8088
LEAST_SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one server; `from_env` reads them, `VARIABLES` names the environment's.

    `home` holds the database and the keys, and the templates unless `templates` names another directory. `pool` is the
    most sandboxes of each language that wait ready, None for the backend's own choice. Without a `jwt_secret` the one
    that was made with the home is used. `egress_private` are CIDRs of addresses that are not on the public internet
    and may be connected to all the same.
    """

    home: Path
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    jwt_secret: str | None = field(default=None, repr=False)
    max_concurrency: int = 256
    pool: int | None = None
    backend: str = "local"
    templates: Path | None = None
    egress_private: tuple[str, ...] = ()

    @property
    def template_directory(self) -> Path:
        """Where templates are kept."""
        return self.templates or self.home / "templates"

    @property
    def source_directory(self) -> Path:
        """Where the sources of sessions are while they last."""
        return self.home.absolute() / "sources"

    @classmethod
    def from_env(cls, environ: Mapping[str, str], **overrides: object) -> Self:
        """The settings an environment asks for; overrides that are not None win. Raises InvalidRequest, in one line."""
        chosen: dict[str, Any] = {"home": Path.home() / ".enclave"}
        for name, variable in VARIABLES.items():
            if text := environ.get(variable):
                chosen[name] = _READ[name](text)
        chosen |= {name: value for name, value in overrides.items() if value is not None}
        settings = cls(**chosen)
        _check(settings)
        return settings


VARIABLES: Final[Mapping[str, str]] = {
    "home": "ENCLAVE_HOME",
    "host": "ENCLAVE_HOST",
    "port": "ENCLAVE_PORT",
    "jwt_secret": "ENCLAVE_JWT_SECRET",
    "max_concurrency": "ENCLAVE_MAX_CONCURRENCY",
    "pool": "ENCLAVE_POOL",
    "backend": "ENCLAVE_BACKEND",
    "egress_private": "ENCLAVE_EGRESS_PRIVATE",
}
"""The environment variable of each setting."""


def _whole(variable: str) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise InvalidRequest(f"{variable} must be a whole number")
        return int(text)

    return read


def _networks(text: str) -> tuple[str, ...]:
    cidrs = tuple(part.strip() for part in text.split(",") if part.strip())
    try:
        return tuple(str(ip_network(cidr, strict=False)) for cidr in cidrs)
    except ValueError:
        raise InvalidRequest("ENCLAVE_EGRESS_PRIVATE must be CIDRs, separated by commas") from None


_READ: Final[Mapping[str, Callable[[str], object]]] = {
    "home": lambda text: Path(text).expanduser(),
    "host": str,
    "port": _whole("ENCLAVE_PORT"),
    "jwt_secret": str,
    "max_concurrency": _whole("ENCLAVE_MAX_CONCURRENCY"),
    "pool": _whole("ENCLAVE_POOL"),
    "backend": str,
    "egress_private": _networks,
}


def _check(settings: Settings) -> None:
    _demand(0 <= settings.port <= 65535, "the port (ENCLAVE_PORT) must be between 0 and 65535")
    _demand(settings.max_concurrency >= 1, "ENCLAVE_MAX_CONCURRENCY must be at least 1")
    secret = settings.jwt_secret
    _demand(
        secret is None or len(secret.encode(errors="surrogateescape")) >= LEAST_SECRET_BYTES,
        f"ENCLAVE_JWT_SECRET must have at least {LEAST_SECRET_BYTES} bytes",
    )


def _demand(holds: bool, message: str) -> None:
    if not holds:
        raise InvalidRequest(message)
