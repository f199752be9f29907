"""A session's output as a list that is read page by page."""

from typing import Literal

from enclave.contracts.wire import Timestamp, Wire


class LogEntry(Wire):
    """Some of what the program printed; `offset` is how many characters of its channel lie before it."""

    channel: Literal["stdout", "stderr"]
    text: str
    offset: int
    ts: Timestamp
