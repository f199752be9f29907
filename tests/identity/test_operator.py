"""The operator: a credential of their own, and what it is good for."""

from pathlib import Path

import pytest

from enclave.contracts.errors import Forbidden, Unauthenticated
from enclave.contracts.identity import Credential
from enclave.identity.apikey import OPERATOR, ApiKey, new_api_key
from enclave.identity.bootstrap import bootstrap
from enclave.identity.service import Identity
from tests.identity.test_sign_in import contents

pytestmark = pytest.mark.anyio

URL = "http://127.0.0.1:8088"


def left(home: Path) -> str:
    return Credential.model_validate_json((home / "operator.json").read_bytes()).api_key


async def test_the_first_start_leaves_the_operators_credential_and_later_ones_keep_it(
    identity: Identity, tmp_path: Path
) -> None:
    bootstrap(tmp_path, URL, identity.authority)
    first = left(tmp_path)
    bootstrap(tmp_path, URL, identity.authority)

    assert left(tmp_path) == first
    assert (tmp_path / "operator.json").stat().st_mode & 0o777 == 0o600
    await identity.authority.authenticate_operator(first)
    assert first[-43:].encode() not in contents(tmp_path)


async def test_where_the_file_is_gone_another_is_made_and_the_one_before_is_refused(
    identity: Identity, tmp_path: Path
) -> None:
    bootstrap(tmp_path, URL, identity.authority)
    first = left(tmp_path)
    (tmp_path / "operator.json").unlink()
    bootstrap(tmp_path, URL, identity.authority)

    await identity.authority.authenticate_operator(left(tmp_path))
    with pytest.raises(Unauthenticated):
        await identity.authority.authenticate_operator(first)
    with pytest.raises(Unauthenticated):
        identity.authority.identify(first)


async def test_an_org_and_the_operator_are_told_apart(identity: Identity, tmp_path: Path) -> None:
    credential = bootstrap(tmp_path, URL, identity.authority)
    with pytest.raises(Forbidden, match=r"operator\.json"):
        await identity.authority.authenticate_operator(credential.api_key)
    with pytest.raises(Forbidden, match="acts in no org"):
        await identity.authority.authenticate(left(tmp_path))


async def test_what_is_no_credential_is_refused(identity: Identity, tmp_path: Path) -> None:
    bootstrap(tmp_path, URL, identity.authority)
    right = left(tmp_path)
    for wrong in (
        "",
        "x",
        "eo_" + "a" * 9000,
        right[:-1],
        right + "\0",
        right.replace("eo_", "ek_"),
        str(ApiKey(right[3:19], new_api_key().secret, OPERATOR)),
        str(new_api_key(OPERATOR)),
        "eo_é",
    ):
        with pytest.raises(Unauthenticated):
            await identity.authority.authenticate_operator(wrong)
        with pytest.raises(Unauthenticated):
            await identity.authority.authenticate(wrong)
