"""Requests with a key: accepted once, however often and wherever they are made at once."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from weakref import WeakValueDictionary

from enclave.contracts.errors import KeyReused
from enclave.core.claim import Claim, held_since
from enclave.store.base import Store


class Claims:
    """Who has a key, for each org. Use it from one event loop."""

    def __init__(self, store: Store, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._clock = clock
        self._turns: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def once(self, org_id: str, claim: Claim, make: Callable[[], Awaitable[str]]) -> tuple[str, bool]:
        """The session that has the key, and whether it was made for this; made by `make`, which returns when it is
        durable, if none has. Raises KeyReused if it was another request that took it, and what `make` raises."""
        turn = self._turns.setdefault((org_id, claim.key), asyncio.Lock())
        async with turn:
            if (held := await self._holder(org_id, claim)) is not None:
                return held, False
            try:
                return await make(), True
            except KeyReused:
                # Another control plane was first.
                if (held := await self._holder(org_id, claim)) is not None:
                    return held, False
                raise

    async def _holder(self, org_id: str, claim: Claim) -> str | None:
        found = await self._store.claimed(org_id, claim.key, held_since(self._clock()))
        if found is not None and found.digest != claim.digest:
            raise KeyReused
        return None if found is None else found.session_id
