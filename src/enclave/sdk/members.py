"""Members of the org as a client sees them: `client.members`."""

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

from pydantic import ValidationError

from enclave.contracts.identity import Role
from enclave.contracts.members import ChangeMember, Invitation, Invite, Member, OpenInvitation
from enclave.sdk.flow import Api
from enclave.sdk.request import invalid
from enclave.sdk.transport import AsyncDriver, Driver


class Members:
    """Who is in the org, and as what."""

    def __init__(self, api: Api, driver: Driver) -> None:
        self._api = api
        self._driver = driver

    def list(self) -> Iterator[Member]:
        """The org's members; further pages are fetched as you get to them."""
        return (delivery.item for delivery in self._driver.iterate(self._api.members()))

    def invite(self, email: str, role: Role | str, *, hours: int = 72) -> Invitation:
        """Ask somebody in. The `code` that lets them in is in the answer, and nowhere after."""
        return self._driver.run(self._api.invite(invite_request(email, role, hours)))

    def change(self, user_id: str, role: Role | str) -> Member:
        """Give a member another role."""
        return self._driver.run(self._api.change_member(user_id, change_request(role)))

    def remove(self, user_id: str) -> Member:
        """Remove a member, with their keys and sign-ins; the answer is what they were."""
        return self._driver.run(self._api.remove_member(user_id))

    def invitations(self) -> Iterator[OpenInvitation]:
        """The org's invitations that wait; further pages are fetched as you get to them."""
        return (delivery.item for delivery in self._driver.iterate(self._api.invitations()))

    def withdraw(self, invitation_id: str) -> OpenInvitation:
        """Take an invitation back that waits; its code passes no more."""
        return self._driver.run(self._api.withdraw(invitation_id))


class AsyncMembers:
    """`Members`, awaited."""

    def __init__(self, api: Api, driver: AsyncDriver) -> None:
        self._api = api
        self._driver = driver

    async def list(self) -> AsyncIterator[Member]:
        """The org's members; further pages are fetched as you get to them."""
        async with aclosing(self._driver.iterate(self._api.members())) as deliveries:
            async for delivery in deliveries:
                yield delivery.item

    async def invite(self, email: str, role: Role | str, *, hours: int = 72) -> Invitation:
        """Ask somebody in. The `code` that lets them in is in the answer, and nowhere after."""
        return await self._driver.run(self._api.invite(invite_request(email, role, hours)))

    async def change(self, user_id: str, role: Role | str) -> Member:
        """Give a member another role."""
        return await self._driver.run(self._api.change_member(user_id, change_request(role)))

    async def remove(self, user_id: str) -> Member:
        """Remove a member, with their keys and sign-ins; the answer is what they were."""
        return await self._driver.run(self._api.remove_member(user_id))

    async def invitations(self) -> AsyncIterator[OpenInvitation]:
        """The org's invitations that wait; further pages are fetched as you get to them."""
        async with aclosing(self._driver.iterate(self._api.invitations())) as deliveries:
            async for delivery in deliveries:
                yield delivery.item

    async def withdraw(self, invitation_id: str) -> OpenInvitation:
        """Take an invitation back that waits; its code passes no more."""
        return await self._driver.run(self._api.withdraw(invitation_id))


def invite_request(email: str, role: Role | str, hours: int) -> Invite:
    """The request that these make. Raises InvalidRequest, naming the fields."""
    try:
        return Invite.model_validate({"email": email, "role": role, "hours": hours}, strict=False)
    except ValidationError as error:
        raise invalid(error) from None


def change_request(role: Role | str) -> ChangeMember:
    """The request that this makes. Raises InvalidRequest."""
    try:
        return ChangeMember.model_validate({"role": role}, strict=False)
    except ValidationError as error:
        raise invalid(error) from None
