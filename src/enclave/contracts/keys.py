"""API keys as they cross the wire: what is asked for, what is shown, and the one time a key itself is."""

from typing import Annotated, Final

from pydantic import Field

from enclave.contracts.identity import Role, Scope
from enclave.contracts.wire import Timestamp, Wire

# On terminals and in logs there is nothing in it to obey.
KEY_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9 ._@:/-]{0,63}$"

KeyName = Annotated[str, Field(pattern=KEY_NAME)]


class CreateKey(Wire):
    """What is asked for to make a key: without a role its maker's, without scopes all that the maker has of the role's.

    A key may never more than its maker, and one that a key makes ends with that key at the latest.
    """

    name: KeyName
    role: Role | None = None
    scopes: tuple[Scope, ...] | None = Field(default=None, min_length=1, max_length=len(Scope))
    expires_at: Timestamp | None = None


class Key(Wire):
    """An API key without what makes it one. `last_used_at` is true to within a minute; `created_by` as in a session."""

    id: str
    name: str
    role: Role
    scopes: tuple[Scope, ...]
    created_by: str
    created_at: Timestamp
    expires_at: Timestamp | None
    last_used_at: Timestamp | None
    revoked_at: Timestamp | None


class MadeKey(Key):
    """A key that was just made: `api_key` is shown this once, and kept nowhere."""

    api_key: str = Field(repr=False)
