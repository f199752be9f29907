"""What is told of how the platform does, to whoever measures it. Nothing of it is about an org or what it runs."""

from typing import Protocol

from enclave.contracts.audit import AuditEvent
from enclave.contracts.sessions import Session


class Observer(Protocol):
    """Is told as things happen. It takes no time and raises nothing."""

    def told(self, event: AuditEvent, session: Session) -> None:
        """A session's event is durable; the session is what it led to."""
        ...

    def printed(self, session: Session, seconds: float) -> None:
        """A program printed for the first time, so long after its session was created."""
        ...

    def stored(self, seconds: float) -> None:
        """Something that was to be written is durable, so long after it was given to the store."""
        ...

    def answered(self, operation: str, status: int, seconds: float) -> None:
        """A request was answered, or its answer begun, so long after it came."""
        ...


class Nobody:
    """Measures nothing."""

    def told(self, event: AuditEvent, session: Session) -> None:
        """An event."""

    def printed(self, session: Session, seconds: float) -> None:
        """A first output."""

    def stored(self, seconds: float) -> None:
        """A write."""

    def answered(self, operation: str, status: int, seconds: float) -> None:
        """An answer."""
