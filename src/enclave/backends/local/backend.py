"""The local backend: a launcher for the bare interpreters, and one for each template that is in use."""

import asyncio
import itertools
import logging
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from enclave.backends.base import Check, LaunchSpec, Pool, Sandbox
from enclave.backends.local import machine, plan, template
from enclave.backends.local.broker import Broker
from enclave.backends.local.station import Station
from enclave.contracts.errors import Unavailable
from enclave.contracts.policy import Guarantee, Language
from enclave.core.egress import Floor
from enclave.egress import raw

_ENFORCED: Final = frozenset(
    {
        Guarantee.ISOLATION,
        Guarantee.MEMORY_LIMIT,
        Guarantee.CPU_BUDGET,
        Guarantee.CPU_RATE,
        Guarantee.PIDS_LIMIT,
        Guarantee.WALL_CLOCK_LIMIT,
        Guarantee.DISK_LIMIT,
        Guarantee.EGRESS_DENY,
        Guarantee.EGRESS_ALLOWLIST,
        Guarantee.SERVICE_BINDINGS,
        Guarantee.PYTHON,
        Guarantee.FILES,
    }
)

_BY_CGROUP: Final = frozenset({Guarantee.MEMORY_LIMIT, Guarantee.CPU_BUDGET, Guarantee.CPU_RATE, Guarantee.PIDS_LIMIT})

log = logging.getLogger(__name__)


class LocalBackend:
    """Sandboxes of this machine. `pool` is the most of them, of each language and template, that are kept ready.

    `sources` is the directory below which the trees are that sessions may be given; without it they are given none.
    """

    name = "local"

    def __init__(
        self,
        *,
        home: Path,
        pool: int | None = None,
        templates: Path | None = None,
        egress: Floor | None = None,
        sources: Path | None = None,
    ) -> None:
        self._kept_in = templates or home / "templates"
        self._sources = sources
        self._pool = pool
        self.broker = Broker(egress or Floor())
        self._bare: Station | None = None
        self._templates: dict[str, tuple[int, Station]] = {}
        self._retired: list[Station] = []
        self._launchers = itertools.count()
        self._guarantees: frozenset[Guarantee] = frozenset()
        self._sweeping: asyncio.Task[None] | None = None

    @property
    def guarantees(self) -> frozenset[Guarantee]:
        """What it enforces here; empty before `start`."""
        return self._guarantees

    @property
    def bare(self) -> Station:
        """The launcher of sessions without a template. Raises Unavailable before `start`."""
        if self._bare is None:
            raise Unavailable("the backend has not been started")
        return self._bare

    def probe(self) -> tuple[Check, ...]:
        """What this machine can enforce."""
        return machine.checks()

    async def start(self) -> None:
        """Start the launcher. Where it cannot stand, the reason is logged and the guarantees say what is missing."""
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        node = await asyncio.to_thread(machine.node)
        python = await asyncio.to_thread(machine.python)
        self._sweeping = asyncio.get_running_loop().create_task(machine.sweep())
        self._bare = Station(plan.bare(python, node, self._share()), self.broker, lasts=True)
        try:
            await asyncio.gather(self.broker.open(), self._bare.open())
        except Unavailable as error:
            log.error("%s", error)
            self._guarantees = _ENFORCED - (_BY_CGROUP if machine.lacks_cgroups() else _ENFORCED)
        else:
            more = (
                (Guarantee.NODE, node),
                (Guarantee.GIT_SOURCE, self._sources),
                (Guarantee.EGRESS_ADDRESSES, raw.available() or None),
            )
            self._guarantees = _ENFORCED | {guarantee for guarantee, given in more if given is not None}

    async def close(self) -> None:
        """End every sandbox and the launchers, and remove what they used."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        for station in self._stations():
            await station.close()
        await self.broker.close()
        self._templates.clear()
        self._retired.clear()

    def healthy(self) -> bool:
        """Whether the launcher of sessions without a template stands."""
        return self._bare is not None and self._bare.stands

    def templates(self) -> Mapping[str, Language]:
        """The templates that are built, by name."""
        return template.offered(self._kept_in)

    def pools(self) -> Mapping[str, Pool]:
        """Its pools, by template and language."""
        named = {name: station for name, (_, station) in self._templates.items()}
        all_of = {**named, **({} if self._bare is None else {"bare": self._bare})}
        return {
            f"{name}/{language}": pool for name, station in all_of.items() for language, pool in station.pools.items()
        }

    async def launch(self, spec: LaunchSpec) -> Sandbox:
        """A sandbox for the session; it is taken from the pool when its program is given."""
        if spec.template is None:
            await self.bare.ready()
            return self.bare.launch(spec)
        station = await self.station(spec.template)
        return station.launch(spec)

    async def live(self) -> frozenset[str]:
        """The ids of the sessions that have a sandbox."""
        return frozenset[str]().union(*(station.live() for station in self._stations()))

    async def station(self, name: str) -> Station:
        """The launcher of a template, started if none stands. Raises Unavailable, saying why it cannot be."""
        await self._retire()
        kept = template.find(self._kept_in, name)
        if kept is None:
            raise Unavailable(f"there is no template {name!r} any more")
        if name not in self._templates:
            made = Station(plan.of_template(kept, self._share()), self.broker, lasts=False)
            self._templates[name] = kept.edition, made
        station = self._templates[name][1]
        await station.open()
        return station

    async def _retire(self) -> None:
        """Give no more sessions to launchers of templates that were removed, and end those that have none left."""
        for name, (edition, station) in tuple(self._templates.items()):
            kept = template.find(self._kept_in, name)
            if kept is None or kept.edition != edition:
                del self._templates[name]
                self._retired.append(station)
        idle = [station for station in self._retired if not station.live()]
        self._retired = [station for station in self._retired if station not in idle]
        for station in idle:
            await station.close()

    def _share(self) -> plan.Share:
        sources = None if self._sources is None else str(self._sources)
        return plan.Share(self._pool, next(self._launchers), sources)

    def _stations(self) -> tuple[Station, ...]:
        bare = () if self._bare is None else (self._bare,)
        return (*(station for _, station in self._templates.values()), *self._retired, *bare)
