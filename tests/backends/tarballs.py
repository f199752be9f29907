"""Packages for npm made on the spot, so that a template can be built of them without a registry."""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path


def tarball(where: Path, name: str, files: Mapping[str, str], **about: object) -> str:
    """A package as `npm pack` makes it, with more in its package.json if given; answers with its path."""
    where.mkdir(exist_ok=True)
    path = where / f"{name}-1.0.0.tgz"
    manifest = json.dumps({"name": name, "version": "1.0.0", **about})
    with tarfile.open(path, "w:gz") as archive:
        for inside, text in {"package.json": manifest, **files}.items():
            data = text.encode()
            entry = tarfile.TarInfo(f"package/{inside}")
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
    return str(path)


def script(where: Path, name: str, source: str) -> str:
    """A package of one CommonJS module."""
    return tarball(where, name, {"index.js": source})
