"""What an operator can set, and what each setting is when it is left out."""

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final, Literal, Self, get_args
from urllib.parse import urlsplit

from enclave.contracts.errors import InvalidRequest
from enclave.core import key
from enclave.core.address import Network
from enclave.core.egress import Floor, parse_rule

DEFAULT_PORT: Final = 8088
DEFAULT_IDENTITY_PORT: Final = 8089
DEFAULT_INTERNAL_PORT: Final = 8090
DEFAULT_IDENTITY_HOME: Final = ".enclave-identity"
SERVICE_FILE: Final = "service.json"
LEAST_SECRET_BYTES: Final = 32
LEAST_RETENTION: Final = 86400

Style = Literal["text", "json"]
"""How the log is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one server; `from_env` reads them, `VARIABLES` names the environment's.

    `home` holds the database and the keys, and the templates unless `templates` names another directory. `pool` is the
    most sandboxes of each language that wait ready, None for the backend's own choice. Without a `jwt_secret` the one
    that was made with the home is used, and likewise without a `secret_key`, the 32 bytes that secrets are sealed with.
    `egress_private` are the private and loopback networks that allowed names, the upstreams of service bindings, the
    servers of sources and the receivers of webhooks may be in, `egress_deny` rules that deny whatever a session allows
    and webhooks as well, `egress_ca` a PEM file of certificates that upstreams and receivers are trusted by beside the
    system's. `file_retention` is how many seconds the files that a session left, and the journal of its output, are
    kept, unless it is torn down before. `checkpoints` is the file or the URL that signed checkpoints of the audit trail
    go to, every `checkpoint_seconds` and when the server ends. `database_url` is the PostgreSQL database that sessions
    and their audit trails are in, which several servers may share, each with a home of its own; without one they are in
    a file in the home. `log` is how the log is written.
    Sessions are removed `session_retention` seconds after they were created, if they are over, and entries of the audit
    trail `audit_retention` seconds after they were written; without, they are kept. A user may make `orgs_per_user`
    orgs; 0 leaves that to the operator.
    With an `identity_url`, as http://127.0.0.1:8090, https://host or unix:/path, callers are known by the identity
    service whose internal listener that is, and `identity_key_file` holds what it is asked with. Its answers are used
    for `identity_cache_seconds`, and while there are no others for `identity_grace_seconds`, if they were yes.
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
    database_url: str | None = field(default=None, repr=False)
    checkpoints: str | None = None
    checkpoint_seconds: int = 3600
    log: Style = "text"
    session_retention: int | None = None
    audit_retention: int | None = None
    orgs_per_user: int = 10
    identity_url: str | None = None
    identity_key_file: Path | None = None
    identity_cache_seconds: int = 10
    identity_grace_seconds: int = 60

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

    @property
    def identity_key_path(self) -> Path:
        """The file with the credential for the identity service."""
        return self.identity_key_file or Path.home() / DEFAULT_IDENTITY_HOME / SERVICE_FILE

    @classmethod
    def from_env(cls, environ: Mapping[str, str], **overrides: object) -> Self:
        """The settings an environment asks for; overrides that are not None win. Raises InvalidRequest, in one line."""
        chosen = {"home": Path.home() / ".enclave"} | _chosen(environ, VARIABLES, _READ, overrides)
        settings = cls(**chosen)
        _check(settings)
        return settings


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentitySettings:
    """The settings of an identity service of its own; `from_env` reads them, `IDENTITY_VARIABLES` names the
    environment's.

    `host` and `port` are of the listener that callers may reach; `internal_host` and `internal_port`, or the path of a
    socket, `internal_socket`, of the one for control planes. `control_plane` is the URL of the control plane, which the
    credentials that are left in the home name. `jwt_secret`, `orgs_per_user` and `log` as of `Settings`.
    """

    home: Path
    host: str = "127.0.0.1"
    port: int = DEFAULT_IDENTITY_PORT
    internal_host: str = "127.0.0.1"
    internal_port: int = DEFAULT_INTERNAL_PORT
    internal_socket: Path | None = None
    control_plane: str = f"http://127.0.0.1:{DEFAULT_PORT}"
    jwt_secret: str | None = field(default=None, repr=False)
    orgs_per_user: int = 10
    log: Style = "text"

    @classmethod
    def from_env(cls, environ: Mapping[str, str], **overrides: object) -> Self:
        """The settings an environment asks for; overrides that are not None win. Raises InvalidRequest, in one line."""
        chosen = {"home": Path.home() / DEFAULT_IDENTITY_HOME} | _chosen(
            environ, IDENTITY_VARIABLES, _READ_IDENTITY, overrides
        )
        settings = cls(**chosen)
        _check_port(settings.port, "ENCLAVE_IDENTITY_PORT")
        _check_port(settings.internal_port, "ENCLAVE_IDENTITY_INTERNAL_PORT")
        _check_secret(settings.jwt_secret)
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
    "database_url": "ENCLAVE_DATABASE_URL",
    "checkpoints": "ENCLAVE_AUDIT_CHECKPOINTS",
    "log": "ENCLAVE_LOG",
    "session_retention": "ENCLAVE_SESSION_RETENTION",
    "audit_retention": "ENCLAVE_AUDIT_RETENTION",
    "checkpoint_seconds": "ENCLAVE_AUDIT_CHECKPOINT_SECONDS",
    "orgs_per_user": "ENCLAVE_ORGS_PER_USER",
    "identity_url": "ENCLAVE_IDENTITY_URL",
    "identity_key_file": "ENCLAVE_IDENTITY_KEY_FILE",
    "identity_cache_seconds": "ENCLAVE_IDENTITY_CACHE_SECONDS",
    "identity_grace_seconds": "ENCLAVE_IDENTITY_GRACE_SECONDS",
}
"""The environment variable of each setting."""

IDENTITY_VARIABLES: Final[Mapping[str, str]] = {
    "home": "ENCLAVE_IDENTITY_HOME",
    "host": "ENCLAVE_IDENTITY_HOST",
    "port": "ENCLAVE_IDENTITY_PORT",
    "internal_host": "ENCLAVE_IDENTITY_INTERNAL_HOST",
    "internal_port": "ENCLAVE_IDENTITY_INTERNAL_PORT",
    "internal_socket": "ENCLAVE_IDENTITY_INTERNAL_SOCKET",
    "control_plane": "ENCLAVE_BASE_URL",
    "jwt_secret": "ENCLAVE_JWT_SECRET",
    "orgs_per_user": "ENCLAVE_ORGS_PER_USER",
    "log": "ENCLAVE_LOG",
}
"""The environment variable of each setting of an identity service of its own."""


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


def _postgres(text: str) -> str:
    if not text.startswith(("postgresql://", "postgres://")):
        raise InvalidRequest("ENCLAVE_DATABASE_URL must be like postgresql://user:password@host/database")
    return text


def _style(text: str) -> str:
    if text not in get_args(Style):
        raise InvalidRequest(f"ENCLAVE_LOG must be one of: {', '.join(get_args(Style))}")
    return text


def _file(text: str) -> Path:
    path = Path(text).expanduser()
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError:  # ssl.SSLError is one
        raise InvalidRequest("ENCLAVE_EGRESS_CA must be a file of certificates in PEM form") from None
    return path


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _place(text: str) -> str:
    parts = urlsplit(text)
    there = parts.path.startswith("/") if parts.scheme == "unix" else parts.hostname
    fits = parts.scheme in ("unix", "http", "https") and not (parts.query or parts.fragment or parts.username)
    _demand(
        fits and bool(there), "ENCLAVE_IDENTITY_URL must be as http://127.0.0.1:8090, https://host or unix:/run/a.sock"
    )
    return text


_READ: Final[Mapping[str, Callable[[str], object]]] = {
    "home": _path,
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
    "database_url": _postgres,
    "checkpoints": str,
    "log": _style,
    "session_retention": _whole("ENCLAVE_SESSION_RETENTION"),
    "audit_retention": _whole("ENCLAVE_AUDIT_RETENTION"),
    "checkpoint_seconds": _whole("ENCLAVE_AUDIT_CHECKPOINT_SECONDS"),
    "orgs_per_user": _whole("ENCLAVE_ORGS_PER_USER"),
    "identity_url": _place,
    "identity_key_file": _path,
    "identity_cache_seconds": _whole("ENCLAVE_IDENTITY_CACHE_SECONDS"),
    "identity_grace_seconds": _whole("ENCLAVE_IDENTITY_GRACE_SECONDS"),
}

_READ_IDENTITY: Final[Mapping[str, Callable[[str], object]]] = {
    "home": _path,
    "host": str,
    "port": _whole("ENCLAVE_IDENTITY_PORT"),
    "internal_host": str,
    "internal_port": _whole("ENCLAVE_IDENTITY_INTERNAL_PORT"),
    "internal_socket": _path,
    "control_plane": str,
    "jwt_secret": str,
    "orgs_per_user": _whole("ENCLAVE_ORGS_PER_USER"),
    "log": _style,
}

Readers = Mapping[str, Callable[[str], object]]


def _chosen(
    environ: Mapping[str, str], variables: Mapping[str, str], readers: Readers, overrides: Mapping[str, object]
) -> dict[str, Any]:
    read = {name: readers[name](text) for name, variable in variables.items() if (text := environ.get(variable))}
    return read | {name: value for name, value in overrides.items() if value is not None}


def _check(settings: Settings) -> None:
    _check_port(settings.port, "ENCLAVE_PORT")
    _demand(settings.checkpoint_seconds >= 1, "ENCLAVE_AUDIT_CHECKPOINT_SECONDS must be at least 1")
    for name in ("session_retention", "audit_retention"):
        # Within a day a request may be repeated with its key, and then gets its session.
        age = getattr(settings, name)
        _demand(age is None or age >= LEAST_RETENTION, f"{VARIABLES[name]} must be at least {LEAST_RETENTION} (a day)")
    _demand(settings.max_concurrency >= 1, "ENCLAVE_MAX_CONCURRENCY must be at least 1")
    _check_secret(settings.jwt_secret)


def _check_port(port: int, variable: str) -> None:
    _demand(0 <= port <= 65535, f"the port ({variable}) must be between 0 and 65535")


def _check_secret(secret: str | None) -> None:
    _demand(
        secret is None or len(secret.encode(errors="surrogateescape")) >= LEAST_SECRET_BYTES,
        f"ENCLAVE_JWT_SECRET must have at least {LEAST_SECRET_BYTES} bytes",
    )


def _is_url(text: str) -> bool:
    return text.startswith(("https://", "http://"))


def _demand(holds: bool, message: str) -> None:
    if not holds:
        raise InvalidRequest(message)
