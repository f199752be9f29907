"""The key that stored secrets are sealed with, as it is written down."""

from base64 import b64decode, b64encode
from typing import Final

KEY_BYTES: Final = 32
"""AES-256."""


def written(key: bytes) -> str:
    """The key as base64, which `ENCLAVE_SECRET_KEY` and the file in the home hold."""
    return b64encode(key).decode()


def read(text: str) -> bytes | None:
    """The key in a text; None if there is none in it."""
    try:
        key = b64decode(text.strip(), validate=True)
    except ValueError:
        return None
    return key if len(key) == KEY_BYTES else None
