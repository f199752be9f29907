"""What sends webhooks: one attempt at a time, whoever the receiver is."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Post:
    """A message as it is posted to a URL, and the headers that are its own."""

    url: str = field(repr=False)
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of an attempt: the receiver's status, or why there is none.

    `retry_after` is how many seconds it asked to be left alone. `lingering` is what of the attempt cannot be ended and
    still takes a place; whoever counts attempts counts it until it is done.
    """

    status: int | None = None
    error: str | None = None
    retry_after: float | None = None
    lingering: asyncio.Future[None] | None = None


class Sender(Protocol):
    """Posts messages to receivers that nobody vouches for."""

    async def send(self, post: Post) -> Answer:
        """Post a message, once, within `core.webhook.ATTEMPT_SECONDS`. Whatever the receiver does, there is an answer,
        and nothing that it said is in it but numbers. Redirects are answers as others are."""
        ...
