"""Every operation as a conversation: what is asked of the server, and what is made of its answers. No I/O in here."""

import json
import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, TypeAlias, cast
from urllib.parse import quote

from pydantic import SecretStr, TypeAdapter, ValidationError

from enclave.contracts.audit import AuditEvent
from enclave.contracts.bindings import Binding, PutBinding
from enclave.contracts.errors import Conflict, EnclaveError, NoSuchFile, NotFound
from enclave.contracts.files import path_problem
from enclave.contracts.frames import EndFrame, StreamFrame
from enclave.contracts.identity import WhoAmI
from enclave.contracts.keys import CreateKey, Key, MadeKey
from enclave.contracts.logs import LogEntry
from enclave.contracts.members import ChangeMember, Invitation, Invite, Member, OpenInvitation
from enclave.contracts.operations import (
    CHANGE_MEMBER,
    CREATE_INVITATION,
    CREATE_KEY,
    CREATE_SESSION,
    DELETE_BINDING,
    GET_AUDIT,
    GET_BINDING,
    GET_FILE,
    GET_LOGS,
    GET_ORG_AUDIT,
    GET_RESULT,
    GET_SESSION,
    GET_USAGE,
    HEALTH,
    LIST_BINDINGS,
    LIST_INVITATIONS,
    LIST_KEYS,
    LIST_MEMBERS,
    LIST_SESSIONS,
    PUT_BINDING,
    REMOVE_MEMBER,
    REVOKE_KEY,
    STREAM_SESSION,
    TEARDOWN_SESSION,
    WHOAMI,
    WITHDRAW_INVITATION,
    Operation,
)
from enclave.contracts.sessions import CreateSessionRequest, Health, Phase, Session, SessionResult
from enclave.contracts.tenancy import OrgUsage
from enclave.contracts.wire import Page, Wire, wire_name
from enclave.sdk.problem import error_of, unreachable, unreadable
from enclave.sdk.sse import Decoder, Event, EventTooLarge
from enclave.sdk.step import Answer, Call, Deliver, Flow, Lost, Open, Pause, Read, Reply, Step

RETRY_SECONDS: Final = (0.05, 0.2, 0.5)
RESUME_SECONDS: Final = (0.0, 0.1, 0.5, 1.0, 2.0, 4.0)
PAGE_SIZE: Final = 50
MAX_RETRY_AFTER_SECONDS: Final = 5.0

_LIVE: Final = frozenset({Phase.PENDING, Phase.RUNNING})

Exchange: TypeAlias = Generator[Call | Pause, Reply, Answer]
Fetch: TypeAlias = Generator[Call | Pause, Reply, Any]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which sessions to list: in this phase, and with each of these labels."""

    phase: Phase | str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Leg:
    """One connection's part of a stream, and where it left off."""

    cursor: str | None
    opened: bool = True
    delivered: bool = False
    ended: bool = False
    failure: EnclaveError | None = None


@dataclass(frozen=True, slots=True)
class Api:
    """The operations of the server at `site`; `retry` and `resume` are the pauses before each further attempt."""

    site: str
    retry: tuple[float, ...] = RETRY_SECONDS
    resume: tuple[float, ...] = RESUME_SECONDS

    def health(self) -> Flow[Health]:
        """Whether the server and its backend work."""
        return self.ask(HEALTH)

    def create(self, request: CreateSessionRequest, wait: float | None) -> Flow[Session]:
        """Start a session."""
        call = Call(
            operation=CREATE_SESSION,
            path=CREATE_SESSION.path,
            headers={"Content-Type": "application/json"} | ({} if wait is None else _prefer(wait)),
            body=request.model_dump_json(exclude_unset=True).encode(),
            patience_seconds=wait or 0.0,
        )
        yield Deliver((yield from self.fetch(call)))

    def get(self, session_id: str) -> Flow[Session]:
        """One session."""
        return self.ask(GET_SESSION, session_id)

    def result(self, session_id: str) -> Flow[SessionResult]:
        """The result of a session that has one."""
        return self.ask(GET_RESULT, session_id)

    def download(self, session_id: str, path: str) -> Flow[bytes]:
        """The content of a file that the session's program left."""
        answer = yield from self._send(_file_call(session_id, path))
        yield Deliver(answer.body)

    def teardown(self, session_id: str) -> Flow[Session]:
        """The session after it was torn down."""
        return self.ask(TEARDOWN_SESSION, session_id)

    def page(self, wanted: Wanted, cursor: str | None, limit: int) -> Flow[Page[Session]]:
        """One page of sessions."""
        yield Deliver((yield from self.fetch(_page_call(wanted, cursor, limit))))

    def sessions(self, wanted: Wanted, limit: int | None) -> Flow[Session]:
        """Session after session, at most `limit`, page by page."""
        left, cursor = math.inf if limit is None else limit, None
        while left > 0:
            page = yield from self.fetch(_page_call(wanted, cursor, int(min(left, PAGE_SIZE))))
            for session in page.items[: int(min(left, len(page.items)))]:
                yield Deliver(session)
            left -= len(page.items)
            if page.next_cursor in (None, cursor):
                return
            cursor = page.next_cursor

    def audit(self, session_id: str) -> Flow[tuple[AuditEvent, ...]]:
        """The whole trail of a session."""
        trail: list[AuditEvent] = []
        cursor = None
        while True:
            page = yield from self.fetch(_call(GET_AUDIT, session_id, cursor))
            trail.extend(page.items)
            if page.next_cursor in (None, cursor):
                break
            cursor = page.next_cursor
        yield Deliver(tuple(trail))

    def logs(self, session_id: str, after: str | None) -> Flow[Page[LogEntry]]:
        """One page of what a session printed."""
        query = () if after is None else (("after", after),)
        yield Deliver((yield from self.fetch(Call(operation=GET_LOGS, path=_place(GET_LOGS, session_id), query=query))))

    def put_binding(self, name: str, request: PutBinding) -> Flow[Binding]:
        """A binding after it was made or replaced."""
        return self.ask(PUT_BINDING, name, request)

    def binding(self, name: str) -> Flow[Binding]:
        """One binding."""
        return self.ask(GET_BINDING, name)

    def delete_binding(self, name: str) -> Flow[Binding]:
        """A binding as it was before it was deleted."""
        return self.ask(DELETE_BINDING, name)

    def bindings(self) -> Flow[Binding]:
        """Binding after binding, page by page."""
        return self.pages(LIST_BINDINGS)

    def org_audit(self) -> Flow[AuditEvent]:
        """Event after event of the org, page by page."""
        return self.pages(GET_ORG_AUDIT)

    def usage(self) -> Flow[OrgUsage]:
        """What the org uses."""
        return self.ask(GET_USAGE)

    def whoami(self) -> Flow[WhoAmI]:
        """Who the client's credential is for."""
        return self.ask(WHOAMI)

    def create_key(self, request: CreateKey) -> Flow[MadeKey]:
        """A key that was just made."""
        return self.ask(CREATE_KEY, body=request)

    def keys(self) -> Flow[Key]:
        """Key after key, page by page."""
        return self.pages(LIST_KEYS)

    def revoke_key(self, key_id: str) -> Flow[Key]:
        """A key after it was revoked."""
        return self.ask(REVOKE_KEY, key_id)

    def members(self) -> Flow[Member]:
        """Member after member, page by page."""
        return self.pages(LIST_MEMBERS)

    def invite(self, request: Invite) -> Flow[Invitation]:
        """An invitation that was just made."""
        return self.ask(CREATE_INVITATION, body=request)

    def change_member(self, user_id: str, request: ChangeMember) -> Flow[Member]:
        """A member after they were changed."""
        return self.ask(CHANGE_MEMBER, user_id, request)

    def remove_member(self, user_id: str) -> Flow[Member]:
        """A member as they were before they were removed."""
        return self.ask(REMOVE_MEMBER, user_id)

    def invitations(self) -> Flow[OpenInvitation]:
        """Invitation after invitation that waits, page by page."""
        return self.pages(LIST_INVITATIONS)

    def withdraw(self, invitation_id: str) -> Flow[OpenInvitation]:
        """An invitation as it was before it was taken back."""
        return self.ask(WITHDRAW_INVITATION, invitation_id)

    def ask(self, operation: Operation, key: str | None = None, body: Wire | None = None) -> Flow[Any]:
        """The answer to one request; `key` is the id or the name in its path."""
        yield Deliver((yield from self.fetch(calling(operation, key, body))))

    def pages(self, operation: Operation, wanted: tuple[tuple[str, str], ...] = ()) -> Flow[Any]:
        """Item after item of a list, page by page."""
        cursor = None
        while True:
            query = wanted if cursor is None else (*wanted, ("cursor", cursor))
            page = yield from self.fetch(Call(operation=operation, path=operation.path, query=query))
            for item in page.items:
                yield Deliver(item)
            if page.next_cursor in (None, cursor):
                return
            cursor = page.next_cursor

    def settle(self, session: Session) -> Flow[Session]:
        """The session once it is over and has its result; asks nothing if it already is."""
        if session.phase in _LIVE:
            yield from _unheard(self.follow(session.id, None))
        if session.phase in _LIVE or session.result is None:
            session = yield from self.fetch(_call(GET_SESSION, session.id))
        yield Deliver(session)

    def follow(self, session_id: str, after: str | None) -> Flow[StreamFrame]:
        """Frame after frame from a cursor to the end, over any number of connections: none twice, none left out."""
        cursor, misses, pauses = after, 0, self.retry
        while True:
            leg = yield from self._leg(session_id, cursor)
            if leg.ended:
                return
            misses = 0 if leg.cursor != cursor else misses + 1
            cursor, pauses = leg.cursor, self.resume if leg.opened else pauses
            if misses > len(pauses) or (leg.delivered and cursor is None):
                raise leg.failure or unreadable(self.site)
            yield Pause(pauses[max(misses, 1) - 1] if pauses else 0.0)

    def _leg(self, session_id: str, cursor: str | None) -> Generator[Step[StreamFrame], Reply, Leg]:
        refused = yield from self._open(session_id, cursor)
        if refused is not None:
            return Leg(cursor, opened=False, failure=refused)
        decoder, delivered = Decoder(), False
        while isinstance(data := (yield Read()), bytes) and data:
            for event in self._events(decoder, data):
                cursor = event.id or cursor
                frame = self._frame(event)
                if frame is not None:
                    yield Deliver(frame, cursor)
                    delivered = True
                if isinstance(frame, EndFrame):
                    # The server closes the stream now; once that is read, the connection serves again.
                    yield Read()
                    return Leg(cursor, ended=True)
        lost = data if isinstance(data, Lost) else Lost("the stream ended early")
        return Leg(cursor, delivered=delivered, failure=unreachable(lost, self.site))

    def _open(self, session_id: str, cursor: str | None) -> Generator[Open, Reply, EnclaveError | None]:
        headers = {"Accept": "text/event-stream"} | ({} if cursor is None else {"Last-Event-ID": cursor})
        reply = cast(Answer | Lost, (yield Open(_call(STREAM_SESSION, session_id, headers=headers))))
        if isinstance(reply, Lost):
            return unreachable(reply, self.site)
        if reply.streams:
            return None
        refusal = unreadable(self.site) if reply.status < 300 else error_of(reply, self.site)
        if reply.status == 503:
            return refusal
        raise refusal

    def _events(self, decoder: Decoder, data: bytes) -> Generator[Event, None, None]:
        try:
            yield from decoder.feed(data)
        except EventTooLarge:
            raise unreadable(self.site) from None

    def _frame(self, event: Event) -> StreamFrame | None:
        if not event.data:
            return None
        try:
            return cast(StreamFrame, _shape(STREAM_SESSION.result).validate_json(event.data, extra="ignore"))
        except ValidationError as error:
            if _of_unknown_kind(error):
                return None
            raise unreadable(self.site) from None

    def fetch(self, call: Call) -> Fetch:
        """What the server answers, as part of a flow. Raises EnclaveError."""
        answer = yield from self._send(call)
        try:
            return _shape(call.operation.result).validate_json(answer.body, extra="ignore")
        except ValidationError:
            raise unreadable(self.site) from None

    def _send(self, call: Call) -> Exchange:
        for pause in (*self.retry, None):
            reply = cast(Answer | Lost, (yield call))
            if pause is None or not _may_repeat(call.operation, reply):
                break
            yield Pause(max(pause, _asked_pause(reply)))
        if isinstance(reply, Lost):
            raise unreachable(reply, self.site)
        if not 200 <= reply.status < 300:
            raise error_of(reply, self.site)
        return reply


def result_of(session: Session) -> SessionResult:
    """The result of a session that is over. Raises Conflict if it ended without one."""
    if session.result is None:
        raise Conflict(f"{session.id} is {session.phase} and has no result")
    return session.result


def calling(operation: Operation, key: str | None = None, body: Wire | None = None, bearer: str | None = None) -> Call:
    """The request of an operation. Raises NotFound for an id or a name that can be none."""
    path = operation.path if key is None else _place(operation, key)
    if body is None:
        return Call(operation=operation, path=path, bearer=bearer)
    kind = {"Content-Type": "application/json"}
    return Call(operation=operation, path=path, headers=kind, body=_revealed(body), bearer=bearer)


def _call(operation: Operation, key: str, cursor: str | None = None, headers: Mapping[str, str] | None = None) -> Call:
    query = () if cursor is None else (("cursor", cursor),)
    return Call(operation=operation, path=_place(operation, key), query=query, headers=headers or {})


def _file_call(session_id: str, path: str) -> Call:
    if path_problem(path):
        raise NoSuchFile
    return Call(operation=GET_FILE, path=_place(GET_FILE, session_id, path))


def _place(operation: Operation, key: str, path: str = "") -> str:
    # "." and ".." would be resolved away on the way to the server.
    if not key.strip("."):
        raise NotFound
    quoted = quote(key, safe="")
    return operation.path.format(id=quoted, name=quoted, path=quote(path))


def _revealed(request: Wire) -> bytes:
    """The one place where a secret leaves its type: on the way to the server that it is for."""
    fields = request.model_dump(mode="json", exclude_unset=True)
    secrets = {wire_name(name): one.get_secret_value() for name, one in request if isinstance(one, SecretStr)}
    return json.dumps(fields | secrets).encode()


def _page_call(wanted: Wanted, cursor: str | None, limit: int) -> Call:
    query = [("limit", str(limit))]
    query += [] if wanted.phase is None else [("phase", str(wanted.phase))]
    query += [("label", f"{name}:{value}") for name, value in wanted.labels.items()]
    query += [] if cursor is None else [("cursor", cursor)]
    return Call(operation=LIST_SESSIONS, path=LIST_SESSIONS.path, query=tuple(query))


def _prefer(wait: float) -> dict[str, str]:
    return {"Prefer": f"wait={math.ceil(wait)}"}


def _may_repeat(operation: Operation, reply: Answer | Lost) -> bool:
    """Whether asking again can help, and cannot do anything twice."""
    if isinstance(reply, Lost) and reply.unsent:
        return not reply.late
    failed = not reply.late if isinstance(reply, Lost) else reply.status == 503
    return failed and operation.method in ("GET", "DELETE")


def _asked_pause(reply: Answer | Lost) -> float:
    asked = reply.retry_after if isinstance(reply, Answer) else None
    return min(asked or 0.0, MAX_RETRY_AFTER_SECONDS)


def _of_unknown_kind(error: ValidationError) -> bool:
    """Whether a newer server says something that this client has no word for."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    return all(problem["type"] == "union_tag_invalid" for problem in problems)


def _unheard(flow: Flow[Any]) -> Generator[Step[Any], Reply, None]:
    """A flow whose deliveries nobody takes."""
    reply: Reply = None
    while True:
        try:
            step = flow.send(reply)
        except StopIteration:
            return
        reply = None if isinstance(step, Deliver) else (yield step)


@cache
def _shape(result: Any) -> TypeAdapter[Any]:
    return TypeAdapter(result)
