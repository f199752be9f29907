"""What a server does now and then, whatever one time comes to."""

import asyncio

import pytest

from enclave.system import _repeating

pytestmark = pytest.mark.anyio


async def test_what_fails_keeps_neither_the_others_nor_the_next_time_from_their_work(
    caplog: pytest.LogCaptureFixture,
) -> None:
    done = 0
    twice = asyncio.Event()

    async def breaks() -> None:
        raise AttributeError("'bytes' object has no attribute 'encode'")

    async def works() -> None:
        nonlocal done
        done += 1
        if done == 2:
            twice.set()

    end = _repeating(0, breaks, works)
    async with asyncio.timeout(10):
        await twice.wait()
    end()
    assert "has no attribute 'encode'" in caplog.text
