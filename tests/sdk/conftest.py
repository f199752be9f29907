"""Both clients, put through the same script."""

import asyncio
import inspect
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

from enclave import AsyncEnclave, Enclave

Script = Callable[[Any], Generator[Any, Any, Any]]
Play = Callable[[str, Script], Any]


@pytest.fixture(params=["blocking", "async"])
def play(request: pytest.FixtureRequest) -> Play:
    """Runs a script, a generator that yields what a client's methods give and is sent what came of it."""
    return _blocking if request.param == "blocking" else lambda url, script: asyncio.run(_awaiting(url, script))


def _blocking(url: str, script: Script) -> Any:
    with Enclave(url, api_key="ek_1_secret") as client:
        steps, value = script(client), None
        while True:
            try:
                value = steps.send(value)
            except StopIteration as end:
                return end.value
            value = list(value) if isinstance(value, Iterator) else value


async def _awaiting(url: str, script: Script) -> Any:
    async with AsyncEnclave(url, api_key="ek_1_secret") as client:
        steps, value = script(client), None
        while True:
            try:
                value = await _taken(steps.send(value))
            except StopIteration as end:
                return end.value


async def _taken(value: Any) -> Any:
    if inspect.isawaitable(value):
        return await value
    return [item async for item in value] if hasattr(value, "__aiter__") else value
