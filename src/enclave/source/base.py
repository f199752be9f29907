"""What fetches a session's source.

A fetcher brings the tree of one commit to a directory on this machine, from which a backend shows it read-only to one
sandbox. Nothing of a secret is in the tree, in what it is told by, or in any error.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from enclave.contracts.sessions import GitSource
from enclave.core.grant import Grant


class FetchFailed(Exception):
    """The source could not be fetched; `detail` says why in one line, in our own words, and holds no secret."""

    def __init__(self, detail: str) -> None:
        self.detail = detail
        super().__init__(detail)


@dataclass(frozen=True, slots=True)
class Tree:
    """The files of one commit, in `path`. `files` counts regular files and links, `bytes` what the files hold.

    `omitted` counts the symbolic links that led out of the tree and are not there.
    """

    path: Path
    commit: str
    files: int
    bytes: int
    omitted: int
    seconds: float


class SourceFetcher(Protocol):
    """A way to fetch sources; whoever fetched a tree releases it."""

    async def fetch(self, source: GitSource, grant: Grant | None) -> Tree:
        """The tree of a source. Raises FetchFailed; then, and when cancelled, nothing of it is left behind."""
        ...

    async def release(self, tree: Tree) -> None:
        """Remove a tree; it may be done twice. No sandbox may have it any more."""
        ...
