"""Passwords, kept as argon2id of them."""

import asyncio
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from enclave.identity.turns import Turns

NOBODYS: Final = "$argon2id$v=19$m=19456,t=2,p=1$tOqacA3jL2bdGFf1l/bldg$mGmcOR+Z09FikDGIOO9k4hDVGii7Z+aiBR1jjKv4Wz8"
"""What is compared where there is no password, so that it takes as long: of a password that nobody knows."""

# OWASP Password Storage Cheat Sheet: argon2id with 19 MiB, two passes, one lane.
_MEMORY_KIB: Final = 19456
_PASSES: Final = 2
_AT_ONCE: Final = 2


class Passwords:
    """Hashes and compares passwords, few at once and never on the event loop. `place` is where one calls from: however
    much is asked for from there, others wait behind one of it."""

    def __init__(self) -> None:
        self.hasher = PasswordHasher(time_cost=_PASSES, memory_cost=_MEMORY_KIB, parallelism=1)
        self._strangers = Turns(_AT_ONCE)
        self._known = Turns(1)

    async def hash(self, password: str, place: str) -> str:
        """What is kept of it."""
        async with self._strangers.of(place):
            return await asyncio.to_thread(self.hasher.hash, password)

    async def fits(self, password: str, kept: str | None, place: str, *, known: bool = False) -> bool:
        """Whether it is the one; with nothing kept it takes as long to say no. Who is `known` to have signed in from
        where they call does not wait behind strangers, however many of those guess."""
        async with (self._known if known else self._strangers).of(place):
            return await asyncio.to_thread(self._compare, kept or NOBODYS, password) and kept is not None

    def _compare(self, kept: str, password: str) -> bool:
        try:
            return self.hasher.verify(kept, password)
        except (VerificationError, InvalidHashError):
            return False
