"""The result channel: length-prefixed JSON from the hostile side, bounded before anything is kept."""

from enclave.contracts.sessions import MAX_RESULT_BYTES

_HEADER = 4


class ResultChannel:
    """Takes bytes as they come and keeps the last whole value; never more than one value and its successor's part."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._value: bytes | None = None
        self._error: str | None = None

    def feed(self, data: bytes) -> None:
        """More bytes from the guest; after a value that is too large nothing more is taken."""
        if self._error is None:
            self._pending += data
            while self._take_one():
                pass

    def close(self) -> tuple[bytes | None, str | None]:
        """The value, and why there is none although something was sent."""
        if self._error is None and self._pending and self._value is None:
            self._error = "the value was cut short"
        return (self._value, None) if self._error is None else (None, self._error)

    def _take_one(self) -> bool:
        if len(self._pending) < _HEADER:
            return False
        length = int.from_bytes(self._pending[:_HEADER], "little")
        if length > MAX_RESULT_BYTES:
            self._error = f"the value is {length} bytes of JSON; at most {MAX_RESULT_BYTES} are taken"
            self._pending.clear()
            return False
        if len(self._pending) < _HEADER + length:
            return False
        self._value = bytes(self._pending[_HEADER : _HEADER + length])
        del self._pending[: _HEADER + length]
        return True
