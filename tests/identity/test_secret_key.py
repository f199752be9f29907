"""The key that stored secrets are sealed with: made once, private, and never silently another one."""

import base64
import stat
from pathlib import Path

import pytest

from enclave.contracts.errors import Unavailable
from enclave.core.key import KEY_BYTES, read, written
from enclave.identity.home import KEY_FILE, private_home, secret_key_of


@pytest.fixture
def home(tmp_path: Path) -> Path:
    private_home(tmp_path / "home")
    return tmp_path / "home"


def test_it_is_made_once_for_its_owner_alone(home: Path) -> None:
    made = secret_key_of(home)

    assert len(made) == KEY_BYTES
    assert secret_key_of(home) == made
    assert stat.S_IMODE((home / KEY_FILE).stat().st_mode) == 0o600
    assert read((home / KEY_FILE).read_text()) == made


def test_one_that_others_can_read_is_refused(home: Path) -> None:
    secret_key_of(home)
    (home / KEY_FILE).chmod(0o640)

    with pytest.raises(Unavailable, match="others can read"):
        secret_key_of(home)


@pytest.mark.parametrize("text", ["", "x", "c2hvcnQ=", base64.b64encode(bytes(33)).decode(), "\xff\xfe"])
def test_a_damaged_one_is_told_and_kept(home: Path, text: str) -> None:
    path = home / KEY_FILE
    path.write_bytes(text.encode("latin-1"))
    path.chmod(0o600)

    with pytest.raises(Unavailable, match="damaged"):
        secret_key_of(home)
    assert path.read_bytes() == text.encode("latin-1")


def test_it_is_written_as_it_is_read() -> None:
    assert read(f" {written(bytes(range(32)))}\n") == bytes(range(32))
