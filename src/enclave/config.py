"""What an operator can set, and what each setting is when it is left out."""

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final, Self

from enclave.contracts.errors import InvalidRequest
from enclave.core import key
from enclave.core.address import Network
from enclave.core.egress import Floor, parse_rule

DEFAULT_PORT: Final = 8088
LEAST_SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one server; `from_env` reads them, `VARIABLES` names the environment's.

    `home` holds the database and the keys, and the templates unless `templates` names another directory. `pool` is the
    most sandboxes of each language that wait ready, None for the backend's own choice. Without a `jwt_secret` the one
    that was made with the home is used, and likewise without a `secret_key`, the 32 bytes that secrets are sealed with.
    `egress_private` are the private and loopback networks that allowed names, the upstreams of service bindings and the
    servers of sources may be in, `egress_deny` rules that deny whatever a session allows, `egress_ca` a PEM file of
    certificates that upstreams are trusted by beside the system's. `file_retention` is how many seconds the files that
    a session left, and the journal of its output, are kept, unless it is torn down before. `checkpoints` is the file or
    the URL that signed checkpoints of the audit trail go to, every `checkpoint_seconds` and when the server ends.
    """

    home: Path
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    jwt_secret: str | None = field(default=None, repr=False)
    max_concurrency: int = 256
    pool: int | None = None
    backend: str = "local"
    templates: Path | None = None
    secret_key: bytes | None = field(default=None, repr=False)
    egress_private: tuple[Network, ...] = ()
    egress_deny: tuple[str, ...] = ()
    egress_ca: Path | None = None
    file_retention: int = 86400
    checkpoints: str | None = None
    checkpoint_seconds: int = 3600

    @property
    def egress_floor(self) -> Floor:
        """What every session's egress is bounded by."""
        private = tuple(str(network) for network in self.egress_private)
        authorities = None if self.egress_ca is None else str(self.egress_ca)
        return Floor(deny=self.egress_deny, private=private, authorities=authorities)

    @property
    def template_directory(self) -> Path:
        """Where templates are kept."""
        return self.templates or self.home / "templates"

    @property
    def checkpoint_file(self) -> Path | None:
        """The file that checkpoints are added to; None if they are posted."""
        if self.checkpoints is None:
            return self.home / "audit-checkpoints.jsonl"
        return None if _is_url(self.checkpoints) else Path(self.checkpoints).expanduser()

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
    "secret_key": "ENCLAVE_SECRET_KEY",
    "egress_private": "ENCLAVE_EGRESS_PRIVATE",
    "egress_deny": "ENCLAVE_EGRESS_DENY",
    "egress_ca": "ENCLAVE_EGRESS_CA",
    "file_retention": "ENCLAVE_FILE_RETENTION",
    "checkpoints": "ENCLAVE_AUDIT_CHECKPOINTS",
    "checkpoint_seconds": "ENCLAVE_AUDIT_CHECKPOINT_SECONDS",
}
"""The environment variable of each setting."""


def _whole(variable: str) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise InvalidRequest(f"{variable} must be a whole number")
        return int(text)

    return read


def _key(text: str) -> bytes:
    found = key.read(text)
    if found is None:
        raise InvalidRequest("ENCLAVE_SECRET_KEY must be 32 bytes in base64; try `openssl rand -base64 32`")
    return found


def _networks(text: str) -> tuple[Network, ...]:
    try:
        return tuple(ip_network(one.strip()) for one in text.split(",") if one.strip())
    except ValueError:
        raise InvalidRequest(
            "ENCLAVE_EGRESS_PRIVATE must be CIDRs with commas between, as 10.0.0.0/8,::1/128"
        ) from None


def _rules(text: str) -> tuple[str, ...]:
    rules = tuple(one.strip() for one in text.split(",") if one.strip())
    for rule in rules:
        try:
            parse_rule(rule)
        except ValueError as error:
            raise InvalidRequest(f"ENCLAVE_EGRESS_DENY: {rule}: {error}") from None
    return rules


def _file(text: str) -> Path:
    path = Path(text).expanduser()
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError:  # ssl.SSLError is one
        raise InvalidRequest("ENCLAVE_EGRESS_CA must be a file of certificates in PEM form") from None
    return path


_READ: Final[Mapping[str, Callable[[str], object]]] = {
    "home": lambda text: Path(text).expanduser(),
    "host": str,
    "port": _whole("ENCLAVE_PORT"),
    "jwt_secret": str,
    "max_concurrency": _whole("ENCLAVE_MAX_CONCURRENCY"),
    "pool": _whole("ENCLAVE_POOL"),
    "backend": str,
    "secret_key": _key,
    "egress_private": _networks,
    "egress_deny": _rules,
    "egress_ca": _file,
    "file_retention": _whole("ENCLAVE_FILE_RETENTION"),
    "checkpoints": str,
    "checkpoint_seconds": _whole("ENCLAVE_AUDIT_CHECKPOINT_SECONDS"),
}


def _check(settings: Settings) -> None:
    _demand(0 <= settings.port <= 65535, "the port (ENCLAVE_PORT) must be between 0 and 65535")
    _demand(settings.checkpoint_seconds >= 1, "ENCLAVE_AUDIT_CHECKPOINT_SECONDS must be at least 1")
    _demand(settings.max_concurrency >= 1, "ENCLAVE_MAX_CONCURRENCY must be at least 1")
    secret = settings.jwt_secret
    _demand(
        secret is None or len(secret.encode(errors="surrogateescape")) >= LEAST_SECRET_BYTES,
        f"ENCLAVE_JWT_SECRET must have at least {LEAST_SECRET_BYTES} bytes",
    )


def _is_url(text: str) -> bool:
    return text.startswith(("https://", "http://"))


def _demand(holds: bool, message: str) -> None:
    if not holds:
        raise InvalidRequest(message)
