"""Orgs as the control plane sees them: what each may have, what it uses, and the narrowing of its own.

Which orgs there are, only the identity authority knows. So terms may be given to an org before it is there, and an org
that nobody is in uses nothing.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from secrets import token_hex
from typing import Final

from enclave.contracts.audit import OrgPolicyChanged, OrgTermsChanged, QuotaRefused
from enclave.contracts.errors import NotFound, QuotaExceeded
from enclave.contracts.identity import Principal
from enclave.contracts.operations import GET_POLICY, GET_USAGE, PUT_POLICY
from enclave.contracts.tenancy import OrgPolicy, OrgTerms, OrgUsage, PolicyView, Quotas
from enclave.core.access import authorize
from enclave.core.policy import Ceiling
from enclave.core.tally import Tally
from enclave.core.tenancy import Allowance, check_form, check_narrower, combined
from enclave.orchestrator.account import Account
from enclave.orchestrator.record import OPERATOR, PLATFORM, Ports
from enclave.store.base.replicas import Replicas

DEFAULT: Final = "default"
"""What the operator calls all orgs that were given no terms of their own."""

_ID: Final = re.compile(r"[0-9A-Za-z_-]{1,64}\Z")


class Tenancy:
    """Terms, policies and usage, each read once for an org that is seen and held from then on; where several control
    planes write them, read again as soon as it is not quite new. An org that was not seen for a while is let go."""

    def __init__(self, ports: Ports, ceiling: Ceiling) -> None:
        self._ports = ports
        self._ceiling = ceiling
        self._accounts: dict[str, Account] = {}
        self._default: OrgTerms | None = None
        self._reading = asyncio.Lock()
        self._refused: Tally[tuple[str, str]] = Tally()

    async def usage(self, principal: Principal) -> OrgUsage:
        """What the principal's org uses of each quota."""
        authorize(principal, GET_USAGE)
        return await self._usage(principal.org_id)

    async def policy(self, principal: Principal) -> PolicyView:
        """What the sessions of the principal's org may ask for."""
        authorize(principal, GET_POLICY)
        return self._view(await self.account(principal.org_id))

    async def put_policy(self, principal: Principal, policy: OrgPolicy) -> PolicyView:
        """Set the own policy of the principal's org. Raises InvalidRequest, and PolicyForbids where it is wider than
        the operator's floor is at the moment. It never widens one that is narrowed later: both are in force."""
        authorize(principal, PUT_POLICY)
        check_form(policy, self._ceiling)
        account = await self.account(principal.org_id)
        check_narrower(policy, self._terms(account).floor)
        at, org_id, by = self._ports.clock(), principal.org_id, principal.user_id
        written = self._ports.tenancy.put_policy(OrgPolicyChanged(ts=at, org_id=org_id, actor=by, policy=policy))

        def narrow() -> None:
            account.policy = policy
            account.revision += 1

        await _in_force(written, narrow)
        return self._view(account)

    async def terms_of(self, org_id: str) -> OrgTerms:
        """For the operator: what an org is granted, or with `default` every org that was given no terms."""
        return self._terms(await self.account(_known(org_id)))

    async def put_terms(self, org_id: str, terms: OrgTerms) -> OrgTerms:
        """For the operator: what an org is granted from now on; sessions that run keep what they have. Raises
        InvalidRequest."""
        check_form(terms.floor, self._ceiling, at="floor.")
        account = await self.account(_known(org_id))

        def grant() -> None:
            account.terms = terms
            account.revision += 1
            if org_id == DEFAULT:
                self._default = terms

        await _in_force(self._written(org_id, terms), grant)
        return terms

    async def usage_of(self, org_id: str) -> OrgUsage:
        """For the operator: what an org uses of each quota."""
        if org_id == DEFAULT:
            raise NotFound
        return await self._usage(_known(org_id))

    async def account(self, org_id: str) -> Account:
        """What is known of an org."""
        account = self._accounts.get(org_id)
        if account is None:
            async with self._reading:
                account = self._accounts.get(org_id) or await self._read(org_id)
        if self._ports.replicas is not None and account.is_stale(self._ports.clock()):
            async with self._reading:
                await self._renew(org_id, account, self._ports.replicas)
        return account

    def check(self, org_id: str, account: Account) -> None:
        """Pass if the org may create one more session. Raises QuotaExceeded, and counts that it did."""
        try:
            account.check(self._quotas(account), self._ports.clock(), self._ports.files.stored(org_id))
        except QuotaExceeded as error:
            self._refused.add((org_id, error.quota or ""))
            raise

    def allowance(self, account: Account) -> Allowance:
        """What the sessions of an org may have."""
        return account.allowance(self._terms(account).floor, self._ceiling)

    async def tick(self) -> None:
        """Let go of orgs that nobody asks for, and tell what was refused, as one for each org and quota. Raises
        Unavailable, and tells of the rest the next time."""
        now = self._ports.clock()
        for org_id in [org_id for org_id, account in self._accounts.items() if account.is_idle(now)]:
            del self._accounts[org_id]
        with self._refused.telling() as left:
            for org_id, quota in tuple(left):
                told = QuotaRefused(ts=now, org_id=org_id, actor=PLATFORM, quota=quota, count=left[org_id, quota])
                await self._ports.store.note(token_hex(16), told)
                del left[org_id, quota]

    async def _read(self, org_id: str) -> Account:
        if self._default is None:
            self._default = await self._ports.tenancy.default()
        now = self._ports.clock()
        account = Account(await self._ports.tenancy.standing(org_id, now.date()), now)
        self._accounts[org_id] = account
        return account

    async def _renew(self, org_id: str, account: Account, replicas: Replicas) -> None:
        now, revision = self._ports.clock(), account.revision
        if account.is_stale(now):
            default = await self._ports.tenancy.default()
            standing = await self._ports.tenancy.standing(org_id, now.date())
            elsewhere = await replicas.running(org_id)
            # What was written here meanwhile may not be in what was read.
            if account.revision == revision:
                self._default = default
                account.renew(standing, elsewhere, now)

    def _written(self, org_id: str, terms: OrgTerms) -> Awaitable[None]:
        if org_id == DEFAULT:
            return self._ports.tenancy.put_default(terms)
        told = OrgTermsChanged(ts=self._ports.clock(), org_id=org_id, actor=OPERATOR, terms=terms)
        return self._ports.tenancy.put_terms(told)

    async def _usage(self, org_id: str) -> OrgUsage:
        account = await self.account(org_id)
        return account.usage(self._quotas(account), self._ports.clock(), self._ports.files.stored(org_id))

    def _terms(self, account: Account) -> OrgTerms:
        return account.terms or self._default or OrgTerms()

    def _quotas(self, account: Account) -> Quotas:
        return self._terms(account).quotas

    def _view(self, account: Account) -> PolicyView:
        floor = self._terms(account).floor
        return PolicyView(floor=floor, own=account.policy, effective=combined(floor, account.policy))


def _known(org_id: str) -> str:
    if not _ID.match(org_id):
        raise NotFound
    return org_id


async def _in_force(written: Awaitable[None], apply: Callable[[], None]) -> None:
    """Apply what is written once it is, though whoever asked for it may have gone."""
    write = asyncio.ensure_future(written)

    def land(done: asyncio.Future[None]) -> None:
        if not done.cancelled() and done.exception() is None:
            apply()

    write.add_done_callback(land)
    await asyncio.shield(write)
