"""The clients: `Enclave` blocks, `AsyncEnclave` awaits, and both say the same with the same flows."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from enclave.contracts.audit import AuditEvent
from enclave.contracts.identity import WhoAmI
from enclave.contracts.logs import LogEntry
from enclave.contracts.sessions import CreateSessionRequest, Health, Phase, Session, SessionResult
from enclave.contracts.tenancy import OrgUsage
from enclave.contracts.wire import Page
from enclave.sdk.bindings import AsyncBindings, Bindings
from enclave.sdk.credential import resolve
from enclave.sdk.download import written
from enclave.sdk.flow import PAGE_SIZE, RETRY_SECONDS, Api, Wanted
from enclave.sdk.keys import AsyncKeys, Keys
from enclave.sdk.members import AsyncMembers, Members
from enclave.sdk.orgs import AsyncOrgs, Orgs
from enclave.sdk.policy import AsyncPolicy, Policy
from enclave.sdk.request import Terms, request_of
from enclave.sdk.session import AsyncFrameStream, AsyncSessionHandle, FrameStream, SessionHandle
from enclave.sdk.transport import AsyncDriver, Driver
from enclave.sdk.webhooks import AsyncWebhooks, Webhooks

_NO_LABELS: Mapping[str, str] = {}


class Enclave:
    """A client of an Enclave server.

    With no arguments it finds its server and key in ENCLAVE_BASE_URL and ENCLAVE_API_KEY, else in the sign-in that
    `enclave login` or `Account` keeps in ~/.enclave, else in what `enclave serve` left there. `api_key` wins over
    `token`, a user's JWT. A sign-in is renewed as it goes, and shared with all other processes. `timeout` is how many
    seconds one answer may take. `retry` repeats what can safely be asked twice when a connection fails. `bindings` are
    the org's service bindings, `keys` its API keys, `members` who is in it, `policy` what its sessions may ask for,
    `webhooks` what is posted when they are over, and `orgs` the orgs of whoever calls.
    Everything that goes wrong is an `enclave.contracts.errors.EnclaveError`. Close it, or use it in a `with`; it may be
    shared by threads.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        token: str | None = None,
        timeout: float = 30.0,
        retry: bool = True,
    ) -> None:
        target = resolve(base_url, api_key=api_key, token=token)
        self._api = Api(target.base_url, RETRY_SECONDS if retry else ())
        self._driver = Driver(target, timeout)
        self.bindings = Bindings(self._api, self._driver)
        self.keys = Keys(self._api, self._driver)
        self.members = Members(self._api, self._driver)
        self.orgs = Orgs(self._api, self._driver)
        self.policy = Policy(self._api, self._driver)
        self.webhooks = Webhooks(self._api, self._driver)

    @property
    def base_url(self) -> str:
        """The server that is talked to."""
        return self._api.site

    def run(
        self, code: str | CreateSessionRequest | None = None, *, wait: float | None = None, **terms: Unpack[Terms]
    ) -> SessionHandle:
        """Start a program and return at once, or, with `wait`, when it is over or that many seconds have passed.

        Without code it is the entry point of a `source`.
        """
        session = self._driver.run(self._api.create(request_of(code, terms), wait))
        return SessionHandle(self._api, self._driver, session)

    def get(self, session_id: str) -> Session:
        """A session as it is now."""
        return self._driver.run(self._api.get(session_id))

    def list(
        self, *, phase: Phase | None = None, labels: Mapping[str, str] = _NO_LABELS, limit: int | None = None
    ) -> Iterator[Session]:
        """The org's sessions, newest first, without results; further pages are fetched as you get to them."""
        deliveries = self._driver.iterate(self._api.sessions(Wanted(phase, labels), limit))
        return (delivery.item for delivery in deliveries)

    def page(
        self,
        *,
        phase: Phase | None = None,
        labels: Mapping[str, str] = _NO_LABELS,
        cursor: str | None = None,
        limit: int = PAGE_SIZE,
    ) -> Page[Session]:
        """One page of what `list` goes through; its `next_cursor` fetches the page that follows."""
        return self._driver.run(self._api.page(Wanted(phase, labels), cursor, limit))

    def result(self, session_id: str) -> SessionResult:
        """The result of a session that is over. Raises Conflict while it is not."""
        return self._driver.run(self._api.result(session_id))

    def download(self, session_id: str, path: str, *, to: str | Path | None = None) -> bytes:
        """The content of a file that the session's program left in `out`; with `to`, also written to that file.

        Raises Conflict while the session is not over, and NoSuchFile.
        """
        return written(self._driver.run(self._api.download(session_id, path)), to)

    def audit(self, session_id: str) -> tuple[AuditEvent, ...]:
        """The session's whole audit trail, oldest first."""
        return self._driver.run(self._api.audit(session_id))

    def logs(self, session_id: str, after: str | None = None) -> Page[LogEntry]:
        """What the program printed, behind a `next_cursor`; that is None when there is nothing to come any more."""
        return self._driver.run(self._api.logs(session_id, after))

    def stream(self, session_id: str, after: str | None = None) -> FrameStream:
        """Everything that happens in the session, live, from its start or from after a `cursor` of such a stream."""
        return FrameStream(self._driver, self._api.follow(session_id, after), after)

    def teardown(self, session_id: str) -> Session:
        """Stop the session if it runs and reclaim all that belongs to it; it may be done twice."""
        return self._driver.run(self._api.teardown(session_id))

    def org_audit(self) -> Iterator[AuditEvent]:
        """The org's whole audit trail, oldest first; further pages are fetched as you get to them."""
        return (delivery.item for delivery in self._driver.iterate(self._api.org_audit()))

    def usage(self) -> OrgUsage:
        """What the org uses of each quota at the moment."""
        return self._driver.run(self._api.usage())

    def whoami(self) -> WhoAmI:
        """Who the client's credential is for: org, role and scopes."""
        return self._driver.run(self._api.whoami())

    def health(self) -> Health:
        """Whether the server and its backend work."""
        return self._driver.run(self._api.health())

    def close(self) -> None:
        """Drop all connections."""
        self._driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Enclave({self.base_url!r})"


class AsyncEnclave:
    """`Enclave` for asyncio: the same arguments, the same methods, awaited. Use it in an `async with`."""

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        token: str | None = None,
        timeout: float = 30.0,
        retry: bool = True,
    ) -> None:
        target = resolve(base_url, api_key=api_key, token=token)
        self._api = Api(target.base_url, RETRY_SECONDS if retry else ())
        self._driver = AsyncDriver(target, timeout)
        self.bindings = AsyncBindings(self._api, self._driver)
        self.keys = AsyncKeys(self._api, self._driver)
        self.members = AsyncMembers(self._api, self._driver)
        self.orgs = AsyncOrgs(self._api, self._driver)
        self.policy = AsyncPolicy(self._api, self._driver)
        self.webhooks = AsyncWebhooks(self._api, self._driver)

    @property
    def base_url(self) -> str:
        """The server that is talked to."""
        return self._api.site

    async def run(
        self, code: str | CreateSessionRequest | None = None, *, wait: float | None = None, **terms: Unpack[Terms]
    ) -> AsyncSessionHandle:
        """Start a program and return at once, or, with `wait`, when it is over or that many seconds have passed.

        Without code it is the entry point of a `source`.
        """
        session = await self._driver.run(self._api.create(request_of(code, terms), wait))
        return AsyncSessionHandle(self._api, self._driver, session)

    async def get(self, session_id: str) -> Session:
        """A session as it is now."""
        return await self._driver.run(self._api.get(session_id))

    async def list(
        self, *, phase: Phase | None = None, labels: Mapping[str, str] = _NO_LABELS, limit: int | None = None
    ) -> AsyncIterator[Session]:
        """The org's sessions, newest first, without results; further pages are fetched as you get to them."""
        async with aclosing(self._driver.iterate(self._api.sessions(Wanted(phase, labels), limit))) as deliveries:
            async for delivery in deliveries:
                yield delivery.item

    async def page(
        self,
        *,
        phase: Phase | None = None,
        labels: Mapping[str, str] = _NO_LABELS,
        cursor: str | None = None,
        limit: int = PAGE_SIZE,
    ) -> Page[Session]:
        """One page of what `list` goes through; its `next_cursor` fetches the page that follows."""
        return await self._driver.run(self._api.page(Wanted(phase, labels), cursor, limit))

    async def result(self, session_id: str) -> SessionResult:
        """The result of a session that is over. Raises Conflict while it is not."""
        return await self._driver.run(self._api.result(session_id))

    async def download(self, session_id: str, path: str, *, to: str | Path | None = None) -> bytes:
        """The content of a file that the session's program left in `out`; with `to`, also written to that file.

        Raises Conflict while the session is not over, and NoSuchFile.
        """
        return written(await self._driver.run(self._api.download(session_id, path)), to)

    async def audit(self, session_id: str) -> tuple[AuditEvent, ...]:
        """The session's whole audit trail, oldest first."""
        return await self._driver.run(self._api.audit(session_id))

    async def logs(self, session_id: str, after: str | None = None) -> Page[LogEntry]:
        """What the program printed, behind a `next_cursor`; that is None when there is nothing to come any more."""
        return await self._driver.run(self._api.logs(session_id, after))

    def stream(self, session_id: str, after: str | None = None) -> AsyncFrameStream:
        """Everything that happens in the session, live, from its start or from after a `cursor` of such a stream."""
        return AsyncFrameStream(self._driver, self._api.follow(session_id, after), after)

    async def teardown(self, session_id: str) -> Session:
        """Stop the session if it runs and reclaim all that belongs to it; it may be done twice."""
        return await self._driver.run(self._api.teardown(session_id))

    async def org_audit(self) -> AsyncIterator[AuditEvent]:
        """The org's whole audit trail, oldest first; further pages are fetched as you get to them."""
        async with aclosing(self._driver.iterate(self._api.org_audit())) as deliveries:
            async for delivery in deliveries:
                yield delivery.item

    async def usage(self) -> OrgUsage:
        """What the org uses of each quota at the moment."""
        return await self._driver.run(self._api.usage())

    async def whoami(self) -> WhoAmI:
        """Who the client's credential is for: org, role and scopes."""
        return await self._driver.run(self._api.whoami())

    async def health(self) -> Health:
        """Whether the server and its backend work."""
        return await self._driver.run(self._api.health())

    async def aclose(self) -> None:
        """Drop all connections."""
        await self._driver.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"AsyncEnclave({self.base_url!r})"
