"""How an examination says which promise is broken."""

from collections.abc import Awaitable


def expect(expected: object, actual: object, promise: str) -> None:
    """Raise AssertionError, naming the promise, unless the two are equal."""
    if expected != actual:
        raise AssertionError(f"{promise}: expected {expected!r}, got {actual!r}")


async def expect_error(answer: Awaitable[object], error: type[Exception], promise: str) -> None:
    """Raise AssertionError, naming the promise, unless awaiting the answer raises the error."""
    try:
        await answer
    except error:
        return
    raise AssertionError(f"{promise}: expected {error.__name__}")
