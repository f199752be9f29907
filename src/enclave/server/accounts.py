"""How the operations of the identity authority are answered."""

from collections.abc import Mapping
from typing import Final

from starlette.requests import Request
from starlette.types import ASGIApp

from enclave.contracts.keys import CreateKey
from enclave.contracts.members import (
    AcceptInvitation,
    ChangeMember,
    ChangePassword,
    Done,
    Invite,
    Login,
    Refresh,
    ResetPassword,
    Switch,
)
from enclave.contracts.operations import (
    ACCEPT_INVITATION,
    CHANGE_MEMBER,
    CHANGE_PASSWORD,
    CREATE_INVITATION,
    CREATE_KEY,
    CREATE_ORG,
    LIST_INVITATIONS,
    LIST_KEYS,
    LIST_MEMBERS,
    LIST_ORGS,
    LOGIN,
    LOGOUT,
    REFRESH_TOKEN,
    REMOVE_MEMBER,
    RESET_PASSWORD,
    REVOKE_KEY,
    SWITCH_ORG,
    WITHDRAW_INVITATION,
)
from enclave.contracts.orgs import CreateOrg
from enclave.contracts.wire import Wire
from enclave.server.call import Call, Platform, Respond, RespondToAnyone, address
from enclave.server.reading import SMALL_BYTES, read_body


async def create_key(call: Call) -> ASGIApp:
    """POST /keys."""
    call.query()
    body = await read_body(call.request, CreateKey, call.platform.room, SMALL_BYTES)
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
    body = await read_body(call.request, ChangeMember, call.platform.room, SMALL_BYTES)
    return call.answer(await call.platform.accounts.members.change(call.principal, call.id, body))


async def remove_member(call: Call) -> ASGIApp:
    """DELETE /members/{id}."""
    call.query()
    return call.answer(await call.platform.accounts.members.remove(call.principal, call.id))


async def create_invitation(call: Call) -> ASGIApp:
    """POST /invitations."""
    call.query()
    body = await read_body(call.request, Invite, call.platform.room, SMALL_BYTES)
    return call.answer(await call.platform.accounts.members.invite(call.principal, body))


async def list_invitations(call: Call) -> ASGIApp:
    """GET /invitations."""
    query, members = call.query(), call.platform.accounts.members
    return call.answer(await members.list_invitations(call.principal, cursor=query.cursor(), limit=query.limit()))


async def withdraw_invitation(call: Call) -> ASGIApp:
    """DELETE /invitations/{id}."""
    call.query()
    return call.answer(await call.platform.accounts.members.withdraw(call.principal, call.id))


async def list_orgs(call: Call) -> ASGIApp:
    """GET /orgs."""
    query, orgs = call.query(), call.platform.accounts.orgs
    return call.answer(await orgs.list(call.principal, cursor=query.cursor(), limit=query.limit()))


async def create_org(call: Call) -> ASGIApp:
    """POST /orgs."""
    call.query()
    body = await read_body(call.request, CreateOrg, call.platform.room, SMALL_BYTES)
    return call.answer(await call.platform.accounts.orgs.create(call.principal, body))


async def change_password(call: Call) -> ASGIApp:
    """POST /password."""
    call.query()
    body = await read_body(call.request, ChangePassword, call.platform.room, SMALL_BYTES)
    return call.answer(await call.platform.accounts.passwords.change(call.principal, body, address(call.request)))


async def accept_invitation(platform: Platform, request: Request) -> Wire:
    """POST /invitations/accept."""
    body = await read_body(request, AcceptInvitation, platform.room, SMALL_BYTES)
    return await platform.accounts.members.accept(body, address(request))


async def login(platform: Platform, request: Request) -> Wire:
    """POST /login."""
    body = await read_body(request, Login, platform.room, SMALL_BYTES)
    return await platform.accounts.sign_ins.login(body, address(request))


async def refresh_token(platform: Platform, request: Request) -> Wire:
    """POST /token/refresh."""
    return await platform.accounts.sign_ins.refresh(await read_body(request, Refresh, platform.room, SMALL_BYTES))


async def switch_org(platform: Platform, request: Request) -> Wire:
    """POST /token/switch."""
    return await platform.accounts.sign_ins.switch(await read_body(request, Switch, platform.room, SMALL_BYTES))


async def reset_password(platform: Platform, request: Request) -> Wire:
    """POST /password/reset."""
    body = await read_body(request, ResetPassword, platform.room, SMALL_BYTES)
    await platform.accounts.passwords.reset(body, address(request))
    return Done()


async def logout(platform: Platform, request: Request) -> Wire:
    """POST /logout."""
    await platform.accounts.sign_ins.logout(await read_body(request, Refresh, platform.room, SMALL_BYTES))
    return Done()


RESPONSES: Final[Mapping[str, Respond]] = {
    CREATE_KEY.name: create_key,
    LIST_KEYS.name: list_keys,
    REVOKE_KEY.name: revoke_key,
    LIST_MEMBERS.name: list_members,
    CHANGE_MEMBER.name: change_member,
    REMOVE_MEMBER.name: remove_member,
    CREATE_INVITATION.name: create_invitation,
    LIST_INVITATIONS.name: list_invitations,
    WITHDRAW_INVITATION.name: withdraw_invitation,
    LIST_ORGS.name: list_orgs,
    CREATE_ORG.name: create_org,
    CHANGE_PASSWORD.name: change_password,
}

PUBLIC: Final[Mapping[str, RespondToAnyone]] = {
    ACCEPT_INVITATION.name: accept_invitation,
    LOGIN.name: login,
    REFRESH_TOKEN.name: refresh_token,
    SWITCH_ORG.name: switch_org,
    RESET_PASSWORD.name: reset_password,
    LOGOUT.name: logout,
}
