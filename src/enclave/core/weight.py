"""What JSON text would take to parse, before it is parsed: small elements take fifty times their bytes."""


def weight(raw: bytes, enough: int) -> int:
    """How many elements there are, an array or object counted as four. What is over `enough` may be an estimate."""
    # No more than every other quote of a string can look as if it were escaped.
    if (strings := raw.count(b'"') - raw.count(b'\\"')) > 4 * enough:
        return strings
    if _count(raw) > enough:
        # What stands in strings is no element.
        raw = b"".join(raw.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    return _count(raw)


def _count(raw: bytes) -> int:
    return raw.count(b",") + 4 * (raw.count(b"[") + raw.count(b"{"))
