"""What the parts of the authority write in."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from enclave.identity.database import Database
from enclave.identity.outbox import Outbox


@dataclass(frozen=True, slots=True)
class Books:
    """The database, the events that are written beside it, the key of its hashes, and whom to tell when what a
    credential may has changed."""

    database: Database
    outbox: Outbox
    pepper: bytes = field(repr=False)
    forget: Callable[[], None]

    async def settle(self, *, changed: bool = True) -> None:
        """What was just written holds for every credential from now on, if it `changed` what one may, and is told."""
        if changed:
            self.forget()
        await self.outbox.deliver()

    def told(self, org_id: str, actor: str) -> dict[str, Any]:
        """What every event says that belongs to no session."""
        return {"ts": self.database.now(), "org_id": org_id, "session_id": None, "actor": actor}
