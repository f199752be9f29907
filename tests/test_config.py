"""Settings: what the environment can say, and what it may not."""

from pathlib import Path

import pytest

from enclave.config import VARIABLES, Settings
from enclave.contracts.errors import InvalidRequest


def test_without_an_environment_there_are_defaults() -> None:
    assert Settings.from_env({}) == Settings(home=Path.home() / ".enclave")


def test_the_environment_sets_everything_and_overrides_win() -> None:
    environ = {
        "ENCLAVE_HOME": "/a",
        "ENCLAVE_HOST": "::1",
        "ENCLAVE_PORT": "1",
        "ENCLAVE_JWT_SECRET": "s" * 32,
        "ENCLAVE_MAX_CONCURRENCY": "7",
        "ENCLAVE_POOL": "0",
        "ENCLAVE_BACKEND": "other",
        "ENCLAVE_EGRESS_PRIVATE": "10.0.0.0/8, fd00::1",
    }
    assert set(environ) == set(VARIABLES.values())
    assert Settings.from_env(environ, port=0, home=None) == Settings(
        home=Path("/a"),
        host="::1",
        port=0,
        jwt_secret="s" * 32,
        max_concurrency=7,
        pool=0,
        backend="other",
        egress_private=("10.0.0.0/8", "fd00::1/128"),
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ENCLAVE_PORT", "x"),
        ("ENCLAVE_PORT", "65536"),
        ("ENCLAVE_PORT", "-1"),
        ("ENCLAVE_MAX_CONCURRENCY", "0"),
        ("ENCLAVE_POOL", "1.5"),
        ("ENCLAVE_JWT_SECRET", "short"),
        ("ENCLAVE_EGRESS_PRIVATE", "10.0.0.0/8 10.1.0.0/16"),
    ],
)
def test_a_bad_value_is_one_clear_line(name: str, value: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Settings.from_env({name: value})
    assert name in refused.value.detail
    assert "\n" not in refused.value.detail


def test_templates_are_in_the_home_unless_another_place_is_named() -> None:
    assert Settings(home=Path("/a")).template_directory == Path("/a/templates")
    assert Settings(home=Path("/a"), templates=Path("/b")).template_directory == Path("/b")


def test_a_secret_is_not_shown() -> None:
    assert "s" * 32 not in repr(Settings.from_env({"ENCLAVE_JWT_SECRET": "s" * 32}))
