"""Members, invitations and sign-ins as they cross the wire."""

from typing import Annotated, Final

from pydantic import Field, SecretStr

from enclave.contracts.identity import Role
from enclave.contracts.wire import OrgId, Timestamp, Wire

# A place to write to, not a proof that there is one; nothing in it that a terminal or a log would obey.
EMAIL: Final = r"^[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9.-]{1,128}$"
MIN_PASSWORD: Final = 12
"""NIST SP 800-63B asks for 8 at least, and 15 where a password is all there is."""
MAX_PASSWORD: Final = 256

Email = Annotated[str, Field(pattern=EMAIL)]
Password = Annotated[SecretStr, Field(min_length=1, max_length=MAX_PASSWORD)]
Ticket = Annotated[SecretStr, Field(min_length=1, max_length=128)]


class Member(Wire):
    """A user in an org."""

    id: str
    email: str
    role: Role
    joined_at: Timestamp | None


class ChangeMember(Wire):
    """What a member is to be."""

    role: Role


class Invite(Wire):
    """Whom to ask into the org, as what, and for how many hours the invitation holds."""

    email: Email
    role: Role
    hours: int = Field(default=72, ge=1, le=720)


class OpenInvitation(Wire):
    """An invitation that waits to be accepted."""

    id: str
    email: str
    role: Role
    expires_at: Timestamp


class Invitation(OpenInvitation):
    """An invitation as it was just made: `code` is shown this once, and passes once."""

    code: str = Field(repr=False)


class AcceptInvitation(Wire):
    """The code, and a password: the one of whoever has an account, else the one that the new account gets."""

    code: Ticket
    password: Password


class Login(Wire):
    """Who signs in, and to which of their orgs; the first that they joined without."""

    email: Annotated[str, Field(min_length=1, max_length=256)]
    password: Password
    org_id: OrgId | None = None


class Refresh(Wire):
    """The refresh token that was given last."""

    refresh_token: Ticket


class Switch(Wire):
    """The refresh token that was given last, and which other of the user's orgs to sign in to."""

    refresh_token: Ticket
    org_id: OrgId


class ChangePassword(Wire):
    """A user's password as it is, and as it shall be."""

    current: Password
    new: Password


class ResetPassword(Wire):
    """A code that the operator gave out, and the password as it shall be."""

    code: Ticket
    password: Password


class Tokens(Wire):
    """A user token for the `Authorization` header, valid until `expires_at`, and what gets the next one, once."""

    token: str = Field(repr=False)
    expires_at: Timestamp
    refresh_token: str = Field(repr=False)
    org_id: OrgId
    role: Role


class Done(Wire):
    """Said where there is nothing else to say, whether or not there was anything to do."""

    ok: bool = True
