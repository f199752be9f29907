"""A binding's secret, as the one header that git sends it in."""

from base64 import b64encode
from typing import Final

from enclave.core.grant import Grant
from enclave.core.remote import Remote
from enclave.source.base import FetchFailed

_METHODS: Final = frozenset({"GET", "POST"})
"""What a clone sends (gitprotocol-http(5))."""


def header(grant: Grant, remote: Remote) -> str:
    """The header, `Name: value`. Raises FetchFailed if the binding is not for this remote, or not for git.

    Without the first check anyone in the org could have its secrets sent to a server of theirs.
    """
    if not remote.is_within(grant):
        raise FetchFailed(f"the binding {grant.name!r} is not for this url")
    if grant.methods and not set(grant.methods) >= _METHODS:
        raise FetchFailed(f"the binding {grant.name!r} does not allow GET and POST, which git sends")
    made = _made(grant)
    if not made.isprintable():
        raise FetchFailed(f"the secret of the binding {grant.name!r} cannot be sent in a header")
    return made


def _made(grant: Grant) -> str:
    match grant.inject:
        case "bearer":
            return f"Authorization: Bearer {grant.secret}"
        case "basic":
            return f"Authorization: Basic {b64encode(grant.secret.encode()).decode()}"
        case "header":
            return f"{grant.parameter}: {grant.template.replace('{secret}', grant.secret)}"
        case "query":
            raise FetchFailed(f"the binding {grant.name!r} puts its secret into the query, which git does not send")
