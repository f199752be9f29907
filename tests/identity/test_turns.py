"""Turns, in the order in which they come."""

import asyncio

import pytest

from enclave.identity.turns import Turns

pytestmark = pytest.mark.anyio


class Queue:
    """Those who ask for a turn, each of which ends once the next may come."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self.order: list[str] = []

    async def ask(self, place: str) -> None:
        async with self._turns.of(place):
            self.order.append(place)
            await asyncio.sleep(0)

    def begin(self, *places: str) -> list["asyncio.Task[None]"]:
        return [asyncio.create_task(self.ask(place)) for place in places]


async def test_who_asks_once_waits_behind_one_of_those_who_ask_often() -> None:
    queue = Queue(Turns(1))

    await asyncio.gather(*queue.begin(*["often"] * 100, "once", "another"))

    assert queue.order[:4] == ["often", "often", "once", "another"]
    assert len(queue.order) == 102


async def test_no_more_than_so_many_have_a_turn_at_once() -> None:
    turns, held, most = Turns(2), 0, 0

    async def ask(place: str) -> None:
        nonlocal held, most
        async with turns.of(place):
            held += 1
            most = max(most, held)
            await asyncio.sleep(0)
            held -= 1

    await asyncio.gather(*(ask(f"{at % 3}") for at in range(30)))

    assert most == 2


@pytest.mark.parametrize("steps", range(6))
async def test_a_turn_of_one_who_left_is_anothers(steps: int) -> None:
    turns = Turns(1)
    first, second, third = Queue(turns).begin("a", "b", "c")
    for _ in range(steps):
        await asyncio.sleep(0)

    for left in (first, second):
        left.cancel()
    await asyncio.gather(first, second, third, return_exceptions=True)

    assert not third.cancelled()
    await asyncio.wait_for(Queue(turns).ask("d"), 5)
