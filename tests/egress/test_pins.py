"""Names and their addresses: asked for once, filtered, kept. What the resolver of a machine says is given here."""

import asyncio
from collections.abc import Sequence
from ipaddress import IPv4Address, ip_address

import pytest

from enclave.core.egress import parse_rules
from enclave.egress import pins
from enclave.egress.pins import Address, Pins, Unresolved

pytestmark = pytest.mark.anyio

PUBLIC = "198.51.100.7"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that were asked for; each has its addresses in KNOWN, or the public one."""
    names: list[str] = []

    async def resolve(name: str) -> tuple[Address, ...]:
        names.append(name)
        await asyncio.sleep(0)
        if name.startswith("none."):
            raise Unresolved(name)
        return tuple(ip_address(address) for address in KNOWN.get(name, (PUBLIC,)))

    monkeypatch.setattr(pins, "resolve", resolve)
    return names


KNOWN: dict[str, Sequence[str]] = {
    "mixed.test": ("169.254.169.254", "127.0.0.1", "10.0.0.1", "198.51.100.99", PUBLIC, "fe80::1", "2606:4700::1"),
    "inside.test": ("10.0.0.1",),
    "many.test": [f"198.51.100.{n}" for n in range(1, 20)],
}


def pinned(*allow: str, deny: Sequence[str] = ()) -> Pins:
    return Pins(parse_rules(allow, deny), lambda address: address != IPv4Address("198.51.100.99"))


async def test_only_names_that_a_rule_allows_are_looked_up() -> None:
    held = pinned("api.test", "*.example.test")

    assert held.allowed("API.test") == "api.test"
    assert held.allowed("a.example.test") == "a.example.test"
    assert [held.allowed(name) for name in ("example.test", "apixtest", "api.test.evil", "", "a b", "..")] == [None] * 6


async def test_addresses_that_may_not_be_reached_are_not_told(asked: list[str]) -> None:
    held = pinned("mixed.test", "inside.test")

    assert [str(address) for address in await held.addresses("mixed.test")] == [PUBLIC, "2606:4700::1"]
    with pytest.raises(Unresolved):
        await held.addresses("inside.test")
    assert held.names(ip_address("10.0.0.1")) == held.names(ip_address("198.51.100.99")) == frozenset()


async def test_a_denied_address_is_not_told(asked: list[str]) -> None:
    held = pinned("mixed.test", deny=[PUBLIC])

    assert [str(address) for address in await held.addresses("mixed.test")] == ["2606:4700::1"]


async def test_a_name_is_asked_for_once_by_however_many(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    held = pinned("api.test")

    first = await asyncio.gather(*(held.addresses("api.test") for _ in range(10)))
    monkeypatch.setitem(KNOWN, "api.test", ("203.0.113.1",))
    later = await held.addresses("api.test")

    assert asked == ["api.test"]
    assert {tuple(found) for found in [*first, later]} == {(ip_address(PUBLIC),)}


async def test_what_does_not_resolve_is_asked_for_again(asked: list[str]) -> None:
    held = pinned("*.api.test", "none.test")

    for _ in range(2):
        with pytest.raises(Unresolved):
            await held.addresses("none.test")

    assert asked == ["none.test"] * 2


async def test_an_address_has_all_of_its_names_and_a_name_few_addresses(asked: list[str]) -> None:
    held = pinned("one.test", "two.test", "many.test")
    for name in ("one.test", "two.test"):
        await held.addresses(name)

    assert held.names(ip_address(PUBLIC)) == {"one.test", "two.test"}
    assert len(await held.addresses("many.test")) == 8


async def test_names_are_bounded(asked: list[str]) -> None:
    held = pinned("*.api.test")
    for number in range(256):
        await held.addresses(f"n{number}.api.test")

    with pytest.raises(Unresolved):
        await held.addresses("another.api.test")
    assert len(asked) == 256
    assert await held.addresses("n0.api.test")


async def test_one_who_gives_up_takes_it_from_nobody_else(asked: list[str]) -> None:
    held = pinned("api.test")
    impatient = asyncio.ensure_future(held.addresses("api.test"))
    patient = asyncio.ensure_future(held.addresses("api.test"))
    await asyncio.sleep(0)
    impatient.cancel()

    assert await patient == (ip_address(PUBLIC),)
