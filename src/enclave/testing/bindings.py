"""The examination of a keeper of service bindings: `await check_bindings(make)` passes if every promise of
`enclave.store.base.Bindings` holds."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Final

from enclave.contracts.audit import BindingDeleted
from enclave.contracts.bindings import Injection, PutBinding
from enclave.contracts.errors import Conflict, NotFound
from enclave.contracts.identity import Principal, Role
from enclave.core.audit import verify
from enclave.core.binding import MAX_BINDINGS, binding_of, put_event
from enclave.core.grant import Grant
from enclave.store.base import Bindings, Entry, Store
from enclave.testing.promise import expect, expect_error

Make = Callable[[str], Awaitable[tuple[Store, Bindings]]]
"""Opens the store of a name and the bindings beside it: empty for a new name, with what they held for an old one."""

AT: Final = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
LATER: Final = AT + timedelta(hours=1)
SECRET: Final = "tok_examined_0123456789"


async def check_bindings(make: Make) -> None:
    """Hold it against every promise; raises AssertionError, which names the first that is broken."""
    for name, promise in PROMISES.items():
        async with _opened(make, name) as (store, bindings):
            await promise(store, bindings)
    await _keeps_what_it_closed_with(make)


async def _returns_what_was_put(_: Store, bindings: Bindings) -> None:
    entry = an_entry("one", inject=Injection(kind="header", name="X-Key", template="k {secret}"), methods=("GET",))
    expect((entry.binding, True), await bindings.put(entry), "put answers with what it made")
    expect(entry.binding, await bindings.get("org_a", "one"), "a binding reads as it was put")
    expect(
        {"one": _grant(entry)}, await bindings.grants("org_a", ["one", "two"]), "a grant is the binding and its secret"
    )


async def _replaces_all_but_its_making(_: Store, bindings: Bindings) -> None:
    first, second = an_entry("one"), an_entry("one", by="other", at=LATER, url="https://b.example", secret="second")
    await bindings.put(first)
    made = {"created_at": AT, "created_by": first.binding.created_by}
    kept = second.binding.model_copy(update=made)
    expect((kept, False), await bindings.put(second), "what is replaced keeps when and by whom it was made")
    expect([kept], list(await bindings.find("org_a")), "what is replaced is there once")
    expect("second", (await bindings.grants("org_a", ["one"]))["one"].secret, "the secret is replaced")


async def _deletes(_: Store, bindings: Bindings) -> None:
    entry = an_entry("one")
    await bindings.put(entry)
    expect(entry.binding, await bindings.delete(_deletion("one")), "delete answers with what was there")
    await expect_error(bindings.get("org_a", "one"), NotFound, "what is deleted is not found")
    await expect_error(bindings.delete(_deletion("one")), NotFound, "what is deleted cannot be deleted again")
    expect({}, dict(await bindings.grants("org_a", ["one"])), "what is deleted is not granted")


async def _keeps_orgs_apart(_: Store, bindings: Bindings) -> None:
    theirs = an_entry("one", org_id="org_b")
    await bindings.put(theirs)
    await expect_error(bindings.get("org_a", "one"), NotFound, "another org's binding is not found")
    await expect_error(bindings.delete(_deletion("one")), NotFound, "another org's binding is not deleted")
    expect([], list(await bindings.find("org_a")), "another org's bindings are not listed")
    expect({}, dict(await bindings.grants("org_a", ["one"])), "another org's bindings are not granted")
    await bindings.put(an_entry("one", secret="mine"))
    expect({"one": _grant(theirs)}, dict(await bindings.grants("org_b", ["one"])), "one name serves two orgs")


async def _lists_by_name_and_page_by_page(_: Store, bindings: Bindings) -> None:
    for name in ("b", "d", "a", "c_1"):
        await bindings.put(an_entry(name))
    for after, expected in (("", "a b c_1 d"), ("b", "c_1 d"), ("d", "")):
        found = await bindings.find("org_a", after=after)
        expect(expected, " ".join(binding.name for binding in found), "bindings are listed by name")
    expect(2, len(await bindings.find("org_a", limit=2)), "no more are listed than asked for")


async def _refuses_two_names_of_one_variable(store: Store, bindings: Bindings) -> None:
    await bindings.put(an_entry("a-b"))
    await expect_error(bindings.put(an_entry("a_b")), Conflict, "two names of one variable are refused")
    expect(["a-b"], [binding.name for binding in await bindings.find("org_a")], "what is refused is not there")
    expect(1, len(await store.chain("org_a")), "what is refused leaves no event")
    await bindings.put(an_entry("a_b", org_id="org_b"))


async def _bounds_how_many_there_are(_: Store, bindings: Bindings) -> None:
    await asyncio.gather(*(bindings.put(an_entry(f"b{number}")) for number in range(MAX_BINDINGS)))
    await expect_error(bindings.put(an_entry("more")), Conflict, "an org has a most of bindings")
    await bindings.put(an_entry("b0", secret="again"))
    await bindings.put(an_entry("more", org_id="org_b"))


async def _leaves_an_event_of_each_write(store: Store, bindings: Bindings) -> None:
    entry = an_entry("one")
    await asyncio.gather(bindings.put(entry), bindings.put(entry), bindings.delete(_deletion("one")))
    chain = await store.chain("org_a")
    told = [event.model_dump(exclude={"seq", "previous", "digest"}) for event in chain]
    given = [event.model_dump(exclude={"seq", "previous", "digest"}) for event in (entry.event, _deletion("one"))]
    expect([given[0], given[0], given[1]], told, "each write leaves its event, in the order of the writes")
    expect(None, verify(chain), "the chain holds")


async def _keeps_what_it_closed_with(make: Make) -> None:
    store, bindings = await make("reopened")
    entry = an_entry("one")
    answer = bindings.put(entry)
    await store.close()
    await answer
    async with _opened(make, "reopened") as (store, bindings):
        expect({"one": _grant(entry)}, dict(await bindings.grants("org_a", ["one"])), "a binding outlives its store")


PROMISES: Final[dict[str, Callable[[Store, Bindings], Awaitable[None]]]] = {
    promise.__name__.strip("_"): promise
    for promise in (
        _returns_what_was_put,
        _replaces_all_but_its_making,
        _deletes,
        _keeps_orgs_apart,
        _lists_by_name_and_page_by_page,
        _refuses_two_names_of_one_variable,
        _bounds_how_many_there_are,
        _leaves_an_event_of_each_write,
    )
}


def an_entry(
    name: str, org_id: str = "org_a", *, by: str = "examiner", at: datetime = AT, secret: str = SECRET, **fields: object
) -> Entry:
    """A binding to be put."""
    principal = Principal(user_id=by, org_id=org_id, role=Role.OWNER, scopes=frozenset())
    request = PutBinding.model_validate(
        {"url": "https://api.example", "inject": Injection(kind="bearer"), "secret": secret, **fields}, strict=False
    )
    binding = binding_of(name, request, at=at, by=by)
    return Entry(binding, secret, put_event(principal, binding))


@asynccontextmanager
async def _opened(make: Make, name: str) -> AsyncIterator[tuple[Store, Bindings]]:
    store, bindings = await make(name)
    try:
        yield store, bindings
    finally:
        await store.close()


def _grant(entry: Entry) -> Grant:
    binding = entry.binding
    return Grant(
        name=binding.name,
        url=binding.url,
        inject=binding.inject.kind,
        secret=entry.secret,
        parameter=binding.inject.name or "",
        template=binding.inject.template or "{secret}",
        methods=binding.methods,
        paths=binding.paths,
    )


def _deletion(name: str) -> BindingDeleted:
    return BindingDeleted(ts=LATER, org_id="org_a", actor="examiner", name=name)
