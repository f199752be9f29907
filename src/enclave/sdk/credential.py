"""Which server to talk to, and with what key."""

import os
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from httpx2 import URL, InvalidURL
from pydantic import ValidationError

from enclave.contracts.errors import InvalidRequest, Unauthenticated
from enclave.contracts.identity import Credential

DEFAULT_BASE_URL: Final = "http://127.0.0.1:8088"
_NO_KEY: Final = "there is no API key for {site}: set ENCLAVE_API_KEY, or start a server here with `enclave serve`"


@dataclass(frozen=True, slots=True)
class Target:
    """A server and the credential it is shown; the credential is never printed."""

    base_url: str
    bearer: str = field(repr=False)

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
    return Path(os.environ.get("ENCLAVE_HOME") or Path.home() / ".enclave").expanduser() / "credentials.json"


def named_base_url() -> str | None:
    """The server that the environment names, if it names one."""
    return os.environ.get("ENCLAVE_BASE_URL") or None


def resolve(base_url: str | None = None, *, api_key: str | None = None, token: str | None = None) -> Target:
    """The server and the credential to use: what is given, else the environment's, else the stored one.

    Raises InvalidRequest for an address that is none, and Unauthenticated if there is no credential.
    """
    bearer = api_key or token or os.environ.get("ENCLAVE_API_KEY")
    site = base_url or named_base_url()
    stored = None if site and bearer else _stored()
    address = _address(site or (stored.base_url if stored else DEFAULT_BASE_URL))
    return Target(address, _printable(bearer or _key_for(address, stored)))


def _key_for(address: str, stored: Credential | None) -> str:
    # A stored key is shown to no server but its own, whatever address the environment names.
    if stored is None or _address(stored.base_url) != address:
        raise Unauthenticated(_NO_KEY.format(site=address))
    return stored.api_key


def _stored() -> Credential | None:
    path = stored_path()
    try:
        return Credential.model_validate_json(path.read_bytes(), extra="ignore")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unauthenticated(f"{path} cannot be read: {error.strerror}") from None
    except ValidationError:
        raise Unauthenticated(f"{path} holds no credential; remove it and run `enclave serve`") from None


def _address(text: str) -> str:
    try:
        url = URL(text)
    except InvalidURL:
        url = URL("")
    # A name or password in the address would replace the key, and show up in messages.
    if url.scheme not in ("http", "https") or not url.host or url.userinfo or (url.port or 0) > 65535:
        raise InvalidRequest(f"the base URL must look like {DEFAULT_BASE_URL}, with no user in it")
    return str(url).rstrip("/")


def _printable(bearer: str) -> str:
    if not (bearer.isascii() and bearer.isprintable() and " " not in bearer):
        raise Unauthenticated("the API key or token has characters in it that none has; was it copied whole?")
    return bearer
