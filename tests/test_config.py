"""Settings: what the environment can say, and what it may not."""

import base64
from ipaddress import ip_network
from pathlib import Path

import pytest
import trustme

from enclave.config import IDENTITY_VARIABLES, VARIABLES, IdentitySettings, Settings
from enclave.contracts.errors import InvalidRequest

KEY = base64.b64encode(bytes(range(32))).decode()


def test_without_an_environment_there_are_defaults() -> None:
    assert Settings.from_env({}) == Settings(home=Path.home() / ".enclave")


def test_the_environment_sets_everything_and_overrides_win(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(authority))
    environ = {
        "ENCLAVE_HOME": "/a",
        "ENCLAVE_HOST": "::1",
        "ENCLAVE_PORT": "1",
        "ENCLAVE_JWT_SECRET": "s" * 32,
        "ENCLAVE_MAX_CONCURRENCY": "7",
        "ENCLAVE_POOL": "0",
        "ENCLAVE_BACKEND": "other",
        "ENCLAVE_SECRET_KEY": KEY,
        "ENCLAVE_EGRESS_PRIVATE": "10.0.0.0/8, ::1/128",
        "ENCLAVE_EGRESS_DENY": "*.example.org, 10.1.0.0/16:22",
        "ENCLAVE_EGRESS_CA": str(authority),
        "ENCLAVE_FILE_RETENTION": "60",
        "ENCLAVE_AUDIT_CHECKPOINTS": "/c.jsonl",
        "ENCLAVE_AUDIT_CHECKPOINT_SECONDS": "5",
        "ENCLAVE_LOG": "json",
        "ENCLAVE_SESSION_RETENTION": "86400",
        "ENCLAVE_AUDIT_RETENTION": "90000",
        "ENCLAVE_ORGS_PER_USER": "3",
        "ENCLAVE_IDENTITY_URL": "unix:/run/identity.sock",
        "ENCLAVE_IDENTITY_KEY_FILE": "/run/service.json",
        "ENCLAVE_IDENTITY_CACHE_SECONDS": "1",
        "ENCLAVE_IDENTITY_GRACE_SECONDS": "0",
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
        secret_key=bytes(range(32)),
        egress_private=(ip_network("10.0.0.0/8"), ip_network("::1/128")),
        egress_deny=("*.example.org", "10.1.0.0/16:22"),
        egress_ca=authority,
        file_retention=60,
        checkpoints="/c.jsonl",
        checkpoint_seconds=5,
        log="json",
        session_retention=86400,
        audit_retention=90000,
        orgs_per_user=3,
        identity_url="unix:/run/identity.sock",
        identity_key_file=Path("/run/service.json"),
        identity_cache_seconds=1,
        identity_grace_seconds=0,
    )


def test_an_identity_service_has_settings_of_its_own() -> None:
    environ = {
        "ENCLAVE_IDENTITY_HOME": "/a",
        "ENCLAVE_IDENTITY_HOST": "::1",
        "ENCLAVE_IDENTITY_PORT": "1",
        "ENCLAVE_IDENTITY_INTERNAL_HOST": "10.0.0.1",
        "ENCLAVE_IDENTITY_INTERNAL_PORT": "2",
        "ENCLAVE_IDENTITY_INTERNAL_SOCKET": "/run/identity.sock",
        "ENCLAVE_BASE_URL": "https://enclave.example.org",
        "ENCLAVE_JWT_SECRET": "s" * 32,
        "ENCLAVE_ORGS_PER_USER": "0",
        "ENCLAVE_LOG": "json",
    }
    assert set(environ) == set(IDENTITY_VARIABLES.values())
    assert IdentitySettings.from_env(environ, internal_port=3) == IdentitySettings(
        home=Path("/a"),
        host="::1",
        port=1,
        internal_host="10.0.0.1",
        internal_port=3,
        internal_socket=Path("/run/identity.sock"),
        control_plane="https://enclave.example.org",
        jwt_secret="s" * 32,
        orgs_per_user=0,
        log="json",
    )
    assert IdentitySettings.from_env({}).home != Settings.from_env({}).home


@pytest.mark.parametrize("name", ["ENCLAVE_IDENTITY_PORT", "ENCLAVE_IDENTITY_INTERNAL_PORT", "ENCLAVE_JWT_SECRET"])
def test_a_bad_value_for_an_identity_service_is_one_clear_line(name: str) -> None:
    with pytest.raises(InvalidRequest, match=name):
        IdentitySettings.from_env({name: "99999"})


@pytest.mark.parametrize(
    "url", ["identity", "ftp://a", "http://", "unix:relative", "http://key@a", "http://a/?b", "http://a#b"]
)
def test_an_identity_service_is_somewhere(url: str) -> None:
    with pytest.raises(InvalidRequest, match="ENCLAVE_IDENTITY_URL"):
        Settings.from_env({"ENCLAVE_IDENTITY_URL": url})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ENCLAVE_PORT", "x"),
        ("ENCLAVE_PORT", "65536"),
        ("ENCLAVE_PORT", "-1"),
        ("ENCLAVE_MAX_CONCURRENCY", "0"),
        ("ENCLAVE_SESSION_RETENTION", "86399"),
        ("ENCLAVE_AUDIT_RETENTION", "0"),
        ("ENCLAVE_POOL", "1.5"),
        ("ENCLAVE_JWT_SECRET", "short"),
        ("ENCLAVE_SECRET_KEY", "c2hvcnQ="),
        ("ENCLAVE_SECRET_KEY", f"{KEY}!"),
        ("ENCLAVE_EGRESS_PRIVATE", "10.0.0.1/8"),
        ("ENCLAVE_EGRESS_PRIVATE", "internal"),
        ("ENCLAVE_EGRESS_DENY", "*.com"),
        ("ENCLAVE_EGRESS_CA", "/nowhere"),
        ("ENCLAVE_EGRESS_CA", __file__),
        ("ENCLAVE_EGRESS_PRIVATE", "10.0.0.0/8 10.1.0.0/16"),
    ],
)
def test_a_bad_value_is_one_clear_line(name: str, value: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Settings.from_env({name: value})
    assert name in refused.value.detail
    assert len(value) < 8 or value not in refused.value.detail
    assert "\n" not in refused.value.detail


def test_templates_are_in_the_home_unless_another_place_is_named() -> None:
    assert Settings(home=Path("/a")).template_directory == Path("/a/templates")
    assert Settings(home=Path("/a"), templates=Path("/b")).template_directory == Path("/b")


def test_a_secret_is_not_shown() -> None:
    shown = repr(Settings.from_env({"ENCLAVE_JWT_SECRET": "s" * 32, "ENCLAVE_SECRET_KEY": KEY}))

    assert "s" * 32 not in shown
    assert KEY not in shown
    assert r"\x00\x01" not in shown
