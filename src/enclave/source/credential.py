"""A binding's secret, as the one header that git sends it in."""

from base64 import b64encode

from enclave.core.binding import Grant
from enclave.core.remote import Remote
from enclave.source.base import FetchFailed


def header(grant: Grant, remote: Remote) -> str:
    """The header, `Name: value`. Raises FetchFailed if the binding is not for this remote, or not for git.

    Without the first check anyone in the org could have its secrets sent to a server of theirs.
    """
    if not remote.is_within(grant):
        raise FetchFailed(f"the binding {grant.name!r} is not for this url")
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
