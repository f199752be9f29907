"""What was downloaded, on the caller's disk."""

from pathlib import Path


def written(content: bytes, to: str | Path | None) -> bytes:
    """The content, after it was written to a file if one is named. Raises OSError."""
    if to is not None:
        Path(to).write_bytes(content)
    return content
