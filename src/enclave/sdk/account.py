"""Signing in: `Account` blocks, `AsyncAccount` awaits. What they keep, `Enclave()` takes up."""

from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

from pydantic import SecretStr, ValidationError

from enclave.contracts.members import AcceptInvitation, ChangePassword, Done, Login, ResetPassword
from enclave.sdk.credential import Target, resolve_site
from enclave.sdk.flow import Api
from enclave.sdk.request import invalid
from enclave.sdk.sign_in import SignIn
from enclave.sdk.signing import Signing
from enclave.sdk.step import Flow
from enclave.sdk.transport import AsyncDriver, Driver

T = TypeVar("T")


class Account:
    """A user's account at a server; signing in needs no credential.

    There is one sign-in on a machine for each ENCLAVE_HOME, in its `sign-in.json`, and another takes its place.
    `base_url` is by default ENCLAVE_BASE_URL, else the server last signed in to, else the one on this machine.
    Everything that goes wrong is an `enclave.contracts.errors.EnclaveError`.
    """

    def __init__(self, base_url: str | None = None, *, timeout: float = 30.0) -> None:
        target = Target(resolve_site(base_url))
        self._api = AccountApi(Api(target.base_url))
        self._driver = Driver(target, timeout)

    @property
    def base_url(self) -> str:
        """The server that is talked to."""
        return self._api.site

    def login(self, email: str, password: str, org_id: str | None = None) -> SignIn:
        """Sign in, to one of the user's orgs or the first that they joined.

        Raises Unauthenticated, QuotaExceeded after too many failures, and Forbidden to one who is in no such org.
        """
        return self._driver.run(self._api.login(email, password, org_id))

    def join(self, code: str, password: str) -> SignIn:
        """Accept an invitation and sign in; the password is the account's, or what a new one gets."""
        return self._driver.run(self._api.join(code, password))

    def change_password(self, current: str, new: str) -> SignIn:
        """Set another password; all the user's other sign-ins end."""
        return self._driver.run(self._api.change_password(current, new))

    def reset_password(self, code: str, password: str) -> Done:
        """Set a password anew with a code that the operator gave out; all the user's sign-ins end."""
        return self._driver.run(self._api.reset_password(code, password))

    def logout(self) -> bool:
        """Forget the sign-in, then end it; answers whether there was one."""
        return self._driver.run(self._api.logout())

    def close(self) -> None:
        """Drop all connections."""
        self._driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Account({self.base_url!r})"


class AsyncAccount:
    """`Account` for asyncio: the same arguments, the same methods, awaited. Use it in an `async with`."""

    def __init__(self, base_url: str | None = None, *, timeout: float = 30.0) -> None:
        target = Target(resolve_site(base_url))
        self._api = AccountApi(Api(target.base_url))
        self._driver = AsyncDriver(target, timeout)

    @property
    def base_url(self) -> str:
        """The server that is talked to."""
        return self._api.site

    async def login(self, email: str, password: str, org_id: str | None = None) -> SignIn:
        """Sign in, to one of the user's orgs or the first that they joined.

        Raises Unauthenticated, QuotaExceeded after too many failures, and Forbidden to one who is in no such org.
        """
        return await self._driver.run(self._api.login(email, password, org_id))

    async def join(self, code: str, password: str) -> SignIn:
        """Accept an invitation and sign in; the password is the account's, or what a new one gets."""
        return await self._driver.run(self._api.join(code, password))

    async def change_password(self, current: str, new: str) -> SignIn:
        """Set another password; all the user's other sign-ins end."""
        return await self._driver.run(self._api.change_password(current, new))

    async def reset_password(self, code: str, password: str) -> Done:
        """Set a password anew with a code that the operator gave out; all the user's sign-ins end."""
        return await self._driver.run(self._api.reset_password(code, password))

    async def logout(self) -> bool:
        """Forget the sign-in, then end it; answers whether there was one."""
        return await self._driver.run(self._api.logout())

    async def aclose(self) -> None:
        """Drop all connections."""
        await self._driver.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"AsyncAccount({self.base_url!r})"


class AccountApi:
    """What both say, as conversations. Raises InvalidRequest, which repeats no password."""

    def __init__(self, api: Api) -> None:
        self._signing = Signing(api)
        self.site = api.site

    def login(self, email: str, password: str, org_id: str | None) -> Flow[SignIn]:
        """A sign-in that was just made."""
        chosen = {} if org_id is None else {"org_id": org_id}
        return self._signing.login(_checked(lambda: Login(email=email, password=SecretStr(password), **chosen)))

    def join(self, code: str, password: str) -> Flow[SignIn]:
        """The same by an invitation."""
        return self._signing.join(
            _checked(lambda: AcceptInvitation(code=SecretStr(code), password=SecretStr(password)))
        )

    def change_password(self, current: str, new: str) -> Flow[SignIn]:
        """The sign-in that is left."""
        asked = _checked(lambda: ChangePassword(current=SecretStr(current), new=SecretStr(new)))
        return self._signing.change_password(asked)

    def reset_password(self, code: str, password: str) -> Flow[Done]:
        """Said when it is done."""
        asked = _checked(lambda: ResetPassword(code=SecretStr(code), password=SecretStr(password)))
        return self._signing.reset_password(asked)

    def logout(self) -> Flow[bool]:
        """Whether there was a sign-in."""
        return self._signing.logout()


def _checked(make: Callable[[], T]) -> T:
    try:
        return make()
    except ValidationError as error:
        raise invalid(error) from None
