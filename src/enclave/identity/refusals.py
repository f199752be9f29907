"""Who was refused: counted, and told in their org's trail as one now and then."""

from datetime import datetime
from typing import Final

from enclave.contracts.audit import AccessRefused, SignInsRefused
from enclave.core.tally import Tally
from enclave.identity.database import Database
from enclave.identity.outbox import post


class Refusals:
    """Sign-ins by user, and API keys by org and id, that were refused and not yet told of."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sign_ins: Tally[str] = Tally()
        self._keys: Tally[tuple[str, str]] = Tally()

    def sign_in(self, user_id: str) -> None:
        """A sign-in as a user was refused."""
        self._sign_ins.add(user_id)

    def key(self, org_id: str, key_id: str) -> None:
        """An API key of an org was given that does not hold."""
        self._keys.add((org_id, key_id))

    def note(self) -> None:
        """Post what was counted. Call it now and then."""
        with self._sign_ins.telling() as users, self._keys.telling() as keys:
            if users or keys:
                self._post(users, keys)

    def _post(self, users: dict[str, int], keys: dict[tuple[str, str], int]) -> None:
        now = self._database.now()
        with self._database.change() as connection:
            for user_id, count in users.items():
                for (org_id,) in connection.execute(_ORGS, (user_id,)).fetchall():
                    post(connection, SignInsRefused(ts=now, org_id=org_id, actor=user_id, count=count))
            for (org_id, key_id), count in keys.items():
                post(connection, _told(now, org_id, key_id, count))


def _told(at: datetime, org_id: str, key_id: str, count: int) -> AccessRefused:
    return AccessRefused(ts=at, org_id=org_id, actor=key_id, operation=None, reason="credential", count=count)


_ORGS: Final = "SELECT org_id FROM memberships WHERE user_id = ? AND removed_at IS NULL"
