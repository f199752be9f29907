"""The command line in this process, against a server that plays recorded answers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from enclave.cli import main


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


Command = Callable[..., Ran]


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is configured, and the home is empty."""
    monkeypatch.delenv("ENCLAVE_BASE_URL", raising=False)
    monkeypatch.setenv("ENCLAVE_HOME", str(tmp_path))
    monkeypatch.setenv("ENCLAVE_API_KEY", "ek_1_secret")
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture
def enclave(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the command against a server, which the environment names."""

    def command(base_url: str | None, *args: str) -> Ran:
        if base_url is not None:
            monkeypatch.setenv("ENCLAVE_BASE_URL", base_url)
        with pytest.raises(SystemExit) as caught:
            main(args)
        out, err = capfd.readouterr()
        code = caught.value.code
        return Ran(code if isinstance(code, int) else 0, out, err)

    return command
