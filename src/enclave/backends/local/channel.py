"""The result channel: length-prefixed JSON from the hostile side, bounded before anything is kept."""

from typing import Final

from enclave.contracts.sessions import MAX_RESULT_BYTES

MAX_TOTAL_BYTES: Final = 8 * MAX_RESULT_BYTES
"""How much is taken over a program's life; the last value counts, so there is no use in more."""

_HEADER: Final = 4


class ResultChannel:
    """Takes bytes as they come and keeps the last whole value; never more than one value and its successor's part."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._total = 0
        self._value: bytes | None = None
        self._error: str | None = None

    @property
    def closed(self) -> bool:
        """Whether nothing more is taken."""
        return self._error is not None

    def feed(self, data: bytes) -> None:
        """More bytes from the guest; after a mistake nothing more is taken."""
        if self._error is not None:
            return
        self._total += len(data)
        self._pending += data
        if self._total > MAX_TOTAL_BYTES:
            self._refuse(f"more than {MAX_TOTAL_BYTES} bytes of results were handed over")
        self._take()

    def close(self) -> tuple[bytes | None, str | None]:
        """The value, and why there is none although something was sent."""
        if self._error is None and self._pending and self._value is None:
            self._error = "the value was cut short"
        return (self._value, None) if self._error is None else (None, self._error)

    def _take(self) -> None:
        start = 0
        while len(self._pending) - start >= _HEADER:
            first = start + _HEADER
            length = int.from_bytes(self._pending[start:first], "little")
            if not 0 < length <= MAX_RESULT_BYTES:
                self._refuse(f"the value is {length} bytes of JSON; at most {MAX_RESULT_BYTES} are taken")
                return
            if len(self._pending) < first + length:
                break
            self._value = bytes(self._pending[first : first + length])
            start = first + length
        del self._pending[:start]

    def _refuse(self, why: str) -> None:
        self._error = why
        self._pending.clear()
