"""How the operations of the identity authority are answered."""

from collections.abc import Mapping
from typing import Final

from starlette.requests import Request
from starlette.types import ASGIApp

from enclave.contracts.keys import CreateKey
from enclave.contracts.members import AcceptInvitation, ChangeMember, Done, Invite, Login, Refresh
from enclave.contracts.operations import (
    ACCEPT_INVITATION,
    CHANGE_MEMBER,
    CREATE_INVITATION,
    CREATE_KEY,
    LIST_KEYS,
    LIST_MEMBERS,
    LOGIN,
    LOGOUT,
    REFRESH_TOKEN,
    REMOVE_MEMBER,
    REVOKE_KEY,
)
from enclave.contracts.wire import Wire
from enclave.server.call import Call, Platform, Respond, RespondToAnyone, address
from enclave.server.reading import read_body


async def create_key(call: Call) -> ASGIApp:
    """POST /keys."""
    call.query()
    body = await read_body(call.request, CreateKey, call.platform.room)
    key = await call.platform.accounts.keys.create(call.principal, body)
    return call.answer(key)


async def list_keys(call: Call) -> ASGIApp:
    """GET /keys."""
    query = call.query()
    return call.answer(
        await call.platform.accounts.keys.list(call.principal, cursor=query.cursor(), limit=query.limit())
    )


async def revoke_key(call: Call) -> ASGIApp:
    """DELETE /keys/{id}."""
    call.query()
    return call.answer(await call.platform.accounts.keys.revoke(call.principal, call.id))


async def list_members(call: Call) -> ASGIApp:
    """GET /members."""
    query, members = call.query(), call.platform.accounts.members
    return call.answer(await members.list(call.principal, cursor=query.cursor(), limit=query.limit()))


async def change_member(call: Call) -> ASGIApp:
    """PUT /members/{id}."""
    call.query()
    body = await read_body(call.request, ChangeMember, call.platform.room)
    return call.answer(await call.platform.accounts.members.change(call.principal, call.id, body))


async def remove_member(call: Call) -> ASGIApp:
    """DELETE /members/{id}."""
    call.query()
    return call.answer(await call.platform.accounts.members.remove(call.principal, call.id))


async def create_invitation(call: Call) -> ASGIApp:
    """POST /invitations."""
    call.query()
    body = await read_body(call.request, Invite, call.platform.room)
    return call.answer(await call.platform.accounts.members.invite(call.principal, body))


async def accept_invitation(platform: Platform, request: Request) -> Wire:
    """POST /invitations/accept."""
    body = await read_body(request, AcceptInvitation, platform.room)
    return await platform.accounts.members.accept(body, address(request))


async def login(platform: Platform, request: Request) -> Wire:
    """POST /login."""
    body = await read_body(request, Login, platform.room)
    return await platform.accounts.sign_ins.login(body, address(request))


async def refresh_token(platform: Platform, request: Request) -> Wire:
    """POST /token/refresh."""
    return await platform.accounts.sign_ins.refresh(await read_body(request, Refresh, platform.room))


async def logout(platform: Platform, request: Request) -> Wire:
    """POST /logout."""
    await platform.accounts.sign_ins.logout(await read_body(request, Refresh, platform.room))
    return Done()


RESPONSES: Final[Mapping[str, Respond]] = {
    CREATE_KEY.name: create_key,
    LIST_KEYS.name: list_keys,
    REVOKE_KEY.name: revoke_key,
    LIST_MEMBERS.name: list_members,
    CHANGE_MEMBER.name: change_member,
    REMOVE_MEMBER.name: remove_member,
    CREATE_INVITATION.name: create_invitation,
}

PUBLIC: Final[Mapping[str, RespondToAnyone]] = {
    ACCEPT_INVITATION.name: accept_invitation,
    LOGIN.name: login,
    REFRESH_TOKEN.name: refresh_token,
    LOGOUT.name: logout,
}
