"""Which server to talk to, and with what credential."""

import os
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from httpx2 import URL, InvalidURL
from pydantic import ValidationError

from enclave.contracts.errors import InvalidRequest, Unauthenticated
from enclave.contracts.identity import Credential
from enclave.sdk.private import home, read_private
from enclave.sdk.sign_in import SignIn, SignInFile

DEFAULT_BASE_URL: Final = "http://127.0.0.1:8088"
_NO_KEY: Final = (
    "there is no credential for {site}: set ENCLAVE_API_KEY, sign in with `enclave login`, or start a server here with "
    "`enclave serve`"
)
_NO_OPERATOR: Final = "there is no operator's credential for {site}: set ENCLAVE_OPERATOR_KEY; the server's home has it"


@dataclass(frozen=True, slots=True)
class Target:
    """A server and what it is shown: a credential, which is never printed, or a sign-in, or nothing."""

    base_url: str
    bearer: str | None = field(default=None, repr=False)
    sign_in: SignIn | None = None

    @property
    def local(self) -> bool:
        """Whether the server is this machine's own, which no proxy leads to."""
        host = URL(self.base_url).host
        try:
            return ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


def stored_path() -> Path:
    """Where `enclave serve` leaves the key of the server on this machine."""
    return home() / "credentials.json"


def operator_path() -> Path:
    """Where `enclave serve` leaves the operator's credential of the server on this machine."""
    return home() / "operator.json"


def named_base_url() -> str | None:
    """The server that the environment names, if it names one."""
    return os.environ.get("ENCLAVE_BASE_URL") or None


def is_chosen() -> bool:
    """Whether whoever calls chose a server, by naming it or by signing in to it, and would be surprised by another."""
    return named_base_url() is not None or (not os.environ.get("ENCLAVE_API_KEY") and SignInFile().path.exists())


def resolve(base_url: str | None = None, *, api_key: str | None = None, token: str | None = None) -> Target:
    """The server and the credential to use: what is given, else the environment's, else the sign-in, else the one that
    a server on this machine left. A sign-in and what was left are shown to no server but their own.

    Raises InvalidRequest for an address that is none, and Unauthenticated if there is no credential.
    """
    named = base_url or named_base_url()
    if bearer := api_key or token or os.environ.get("ENCLAVE_API_KEY"):
        return Target(_site(named), _printable(bearer))
    kept = signed_in()
    address = kept.base_url if kept and not named else _site(named)
    if kept is not None and kept.base_url == address:
        return Target(address, sign_in=kept)
    return Target(address, _printable(_key_for(address, _stored(), _NO_KEY)))


def resolve_operator(base_url: str | None = None, key: str | None = None) -> Target:
    """The server and the operator's credential: what is given, else ENCLAVE_OPERATOR_KEY, else the one that a server on
    this machine left, which is shown to no other.

    Raises InvalidRequest for an address that is none, and Unauthenticated if there is no credential.
    """
    site, bearer = base_url or named_base_url(), key or os.environ.get("ENCLAVE_OPERATOR_KEY")
    left = None if site and bearer else _left(operator_path(), read_private(operator_path()))
    address = address_of(site or (left.base_url if left else DEFAULT_BASE_URL))
    return Target(address, _printable(bearer or _key_for(address, left, _NO_OPERATOR)))


def resolve_site(base_url: str | None = None) -> str:
    """The server to sign in to: what is given, else the environment's, else the one last signed in to, else the one on
    this machine. Raises InvalidRequest for an address that is none."""
    kept = SignInFile().held().sign_in
    return _site(base_url or named_base_url() or (kept.base_url if kept else None))


def signed_in() -> SignIn | None:
    """The sign-in that is kept here, if there is one. Raises Unauthenticated for a file that is damaged or not
    private."""
    return SignInFile().read()


def address_of(text: str) -> str:
    """An address as all are compared. Raises InvalidRequest for one that is none."""
    try:
        url = URL(text)
    except InvalidURL:
        url = URL("")
    # A name or password in the address would replace the key, and show up in messages.
    if url.scheme not in ("http", "https") or not url.host or url.userinfo or (url.port or 0) > 65535:
        raise InvalidRequest(f"the base URL must look like {DEFAULT_BASE_URL}, with no user in it")
    return str(url).rstrip("/")


def _site(named: str | None) -> str:
    stored = None if named else _stored()
    return address_of(named or (stored.base_url if stored else DEFAULT_BASE_URL))


def _key_for(address: str, stored: Credential | None, otherwise: str) -> str:
    # A stored key is shown to no server but its own, whatever address the environment names.
    if stored is None or address_of(stored.base_url) != address:
        raise Unauthenticated(otherwise.format(site=address))
    return stored.api_key


def _stored() -> Credential | None:
    path = stored_path()
    try:
        return _left(path, path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unauthenticated(f"{path} cannot be read: {error.strerror}") from None


def _left(path: Path, text: bytes | None) -> Credential | None:
    try:
        return None if text is None else Credential.model_validate_json(text, extra="ignore")
    except ValidationError:
        raise Unauthenticated(f"{path} holds no credential; remove it and run `enclave serve`") from None


def _printable(bearer: str) -> str:
    if not (bearer.isascii() and bearer.isprintable() and " " not in bearer):
        raise Unauthenticated("the API key or token has characters in it that none has; was it copied whole?")
    return bearer
