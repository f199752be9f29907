"""A session that was started, and what happens in it, as clients see them."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from enclave.contracts.audit import AuditEvent
from enclave.contracts.files import SessionFile
from enclave.contracts.frames import StreamFrame
from enclave.contracts.logs import LogEntry
from enclave.contracts.sessions import Session, SessionResult
from enclave.contracts.wire import Page
from enclave.sdk.download import written
from enclave.sdk.flow import Api, result_of
from enclave.sdk.step import Flow
from enclave.sdk.transport import AsyncDriver, Driver


class SessionHandle:
    """A session you started; `session` is the last that was seen of it."""

    def __init__(self, api: Api, driver: Driver, session: Session) -> None:
        self._api = api
        self._driver = driver
        self.session = session

    @property
    def id(self) -> str:
        """The session's id."""
        return self.session.id

    def refresh(self) -> Session:
        """The session as it is now."""
        self.session = self._driver.run(self._api.get(self.id))
        return self.session

    def logs(self, after: str | None = None) -> Page[LogEntry]:
        """What the program printed, behind a `next_cursor`; that is None when there is nothing to come any more."""
        return self._driver.run(self._api.logs(self.id, after))

    def stream(self) -> "FrameStream":
        """Everything that happens in the session, live and from its start."""
        return FrameStream(self._driver, self._api.follow(self.id, None))

    def result(self, timeout: float | None = None) -> SessionResult:
        """How the program ended, as soon as it has. Raises TimeoutError; the program then goes on."""
        self.session = self._driver.run(self._api.settle(self.session), timeout)
        return result_of(self.session)

    def files(self, timeout: float | None = None) -> tuple[SessionFile, ...]:
        """What the program left in `out`, as soon as it is over. Raises TimeoutError; the program then goes on."""
        return (self.result(timeout)).files

    def download(self, path: str, *, to: str | Path | None = None) -> bytes:
        """The content of one of `files`; with `to`, also written to that file.

        Raises Conflict while the session is not over, and NoSuchFile.
        """
        return written(self._driver.run(self._api.download(self.id, path)), to)

    def audit(self) -> tuple[AuditEvent, ...]:
        """The session's whole audit trail, oldest first."""
        return self._driver.run(self._api.audit(self.id))

    def teardown(self) -> Session:
        """Stop the session if it runs and reclaim all that belongs to it; it may be done twice."""
        self.session = self._driver.run(self._api.teardown(self.id))
        return self.session

    def __repr__(self) -> str:
        return f"SessionHandle({self.id!r}, {self.session.phase})"


class FrameStream(Iterator[StreamFrame]):
    """The frames of a session; a connection that breaks is taken up again where it broke, without gap or repeat.

    `cursor` is where `Enclave.stream` can go on from, after the last frame taken.
    """

    def __init__(self, driver: Driver, flow: Flow[StreamFrame], cursor: str | None = None) -> None:
        self._deliveries = driver.iterate(flow)
        self.cursor = cursor

    def __next__(self) -> StreamFrame:
        delivery = next(self._deliveries)
        self.cursor = delivery.cursor
        return delivery.item

    def close(self) -> None:
        """Stop listening."""
        self._deliveries.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class AsyncSessionHandle:
    """A session you started; `session` is the last that was seen of it."""

    def __init__(self, api: Api, driver: AsyncDriver, session: Session) -> None:
        self._api = api
        self._driver = driver
        self.session = session

    @property
    def id(self) -> str:
        """The session's id."""
        return self.session.id

    async def refresh(self) -> Session:
        """The session as it is now."""
        self.session = await self._driver.run(self._api.get(self.id))
        return self.session

    async def logs(self, after: str | None = None) -> Page[LogEntry]:
        """What the program printed, behind a `next_cursor`; that is None when there is nothing to come any more."""
        return await self._driver.run(self._api.logs(self.id, after))

    def stream(self) -> "AsyncFrameStream":
        """Everything that happens in the session, live and from its start."""
        return AsyncFrameStream(self._driver, self._api.follow(self.id, None))

    async def result(self, timeout: float | None = None) -> SessionResult:  # noqa: ASYNC109  as in `SessionHandle`
        """How the program ended, as soon as it has. Raises TimeoutError; the program then goes on."""
        self.session = await self._driver.run(self._api.settle(self.session), timeout)
        return result_of(self.session)

    async def files(self, timeout: float | None = None) -> tuple[SessionFile, ...]:  # noqa: ASYNC109
        """What the program left in `out`, as soon as it is over. Raises TimeoutError; the program then goes on."""
        return (await self.result(timeout)).files

    async def download(self, path: str, *, to: str | Path | None = None) -> bytes:
        """The content of one of `files`; with `to`, also written to that file.

        Raises Conflict while the session is not over, and NoSuchFile.
        """
        return written(await self._driver.run(self._api.download(self.id, path)), to)

    async def audit(self) -> tuple[AuditEvent, ...]:
        """The session's whole audit trail, oldest first."""
        return await self._driver.run(self._api.audit(self.id))

    async def teardown(self) -> Session:
        """Stop the session if it runs and reclaim all that belongs to it; it may be done twice."""
        self.session = await self._driver.run(self._api.teardown(self.id))
        return self.session

    def __repr__(self) -> str:
        return f"AsyncSessionHandle({self.id!r}, {self.session.phase})"


class AsyncFrameStream(AsyncIterator[StreamFrame]):
    """The frames of a session, as `FrameStream` gives them; leave it early through `async with` or `aclose`."""

    def __init__(self, driver: AsyncDriver, flow: Flow[StreamFrame], cursor: str | None = None) -> None:
        self._deliveries = driver.iterate(flow)
        self.cursor = cursor

    async def __anext__(self) -> StreamFrame:
        delivery = await anext(self._deliveries)
        self.cursor = delivery.cursor
        return delivery.item

    async def aclose(self) -> None:
        """Stop listening."""
        await self._deliveries.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()
