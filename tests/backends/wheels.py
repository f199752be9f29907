"""Packages made on the spot, so that a template can be built of them without a registry."""

import zipfile
from pathlib import Path


def wheel(where: Path, name: str, source: str, version: str = "1") -> str:
    """A wheel of one module; answers with its path."""
    where.mkdir(exist_ok=True)
    path = where / f"{name}-{version}-py3-none-any.whl"
    about = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", source)
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return str(path)
