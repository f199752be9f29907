"""Orgs as they cross the wire: to their members, and to the operator."""

from typing import Annotated, Final

from pydantic import Field

from enclave.contracts.identity import Role
from enclave.contracts.members import Email, Invitation
from enclave.contracts.wire import Timestamp, Wire

# On terminals and in logs there is nothing in it to obey.
ORG_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$"

OrgName = Annotated[str, Field(pattern=ORG_NAME)]


class Org(Wire):
    """An org of the caller's, and what they are in it."""

    id: str
    name: str
    role: Role
    created_at: Timestamp


class CreateOrg(Wire):
    """What to call a new org; names need not differ."""

    name: OrgName


class OrgState(Wire):
    """An org as the operator sees it. One that is disabled calls nothing and runs nothing."""

    id: str
    name: str
    created_at: Timestamp
    disabled_at: Timestamp | None


class FoundOrg(Wire):
    """An org for somebody: what to call it, and who is invited to own it."""

    name: OrgName
    owner_email: Email


class FoundedOrg(Wire):
    """An org that was just made, and the invitation of its owner."""

    org: OrgState
    invitation: Invitation


class AskReset(Wire):
    """Whose password is to be set anew."""

    email: Email


class ResetCode(Wire):
    """What lets a user set their password anew: `code` is shown this once, and passes once."""

    email: str
    expires_at: Timestamp
    code: str = Field(repr=False)
