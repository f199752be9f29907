"""What a store is besides, if several control planes share it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Wish:
    """That somebody wants a session torn down which another control plane runs, or whose files it keeps."""

    org_id: str
    session_id: str
    actor: str


class Replicas(Protocol):
    """What a Store is besides, if several control planes share it: how they hear of one another.

    Nothing depends on being woken: whoever waits looks now and then by itself.
    """

    def changed(self, session_id: str) -> asyncio.Future[None]:
        """Done when a commit told of the session, anyone's. It is shared: wait for it, never cancel it."""
        ...

    async def running(self, org_id: str) -> int:
        """How many of an org's sessions others run."""
        ...

    async def wish(self, wish: Wish) -> None:
        """Ask whoever runs the session, or ran it, to tear it down; durable. Of two wishes for one the first counts."""
        ...

    async def wishes(self) -> Sequence[Wish]:
        """What this control plane is asked to tear down."""
        ...

    def wished(self) -> asyncio.Future[None]:
        """Done when there may be a new wish. It is shared: wait for it, never cancel it."""
        ...

    async def honoured(self, wish: Wish) -> None:
        """A wish is no more to be told of."""
        ...
