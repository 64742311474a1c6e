"""What every cell of this node shares: folders, store, tools, network, and the freezes in progress."""

from __future__ import annotations

import shutil
import threading
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from ergosphere import system
from ergosphere.agent import cgroups, network, reserving
from ergosphere.agent.criu import Criu
from ergosphere.agent.identity import Identity
from ergosphere.agent.keepers import Keeper, KeeperGone
from ergosphere.agent.logs import LogShipper
from ergosphere.agent.place import CellKey, Place
from ergosphere.agent.reserving import Reserve
from ergosphere.agent.world import Cores
from ergosphere.agent.written import WrittenFile
from ergosphere.snapshots.depot import Depot
from ergosphere.snapshots.digests import Follower
from ergosphere.snapshots.gather import StagedCell
from ergosphere.snapshots.manifest import MappedFile
from ergosphere.snapshots.pool import INCOMING, Pool
from ergosphere.snapshots.store import Store
from ergosphere.system import Clock
from ergosphere.wire.agents import Cost, SnapshotState


@dataclass(slots=True)
class Dumped:
    """A cell whose freeze has no verdict yet: what `seal` needs from `dump`, and then what it has made of it."""

    staged: StagedCell
    images: Path
    facts: dict[int, dict[str, object]]
    mapped: tuple[MappedFile, ...]
    followers: dict[int, Follower]
    root: dict[str, object]
    identity: Identity
    written: tuple[WrittenFile, ...] = ()  # open for writing where the host keeps them
    begins_anew: bool = False  # no images: see `saving`
    part: dict[str, Any] | None = None  # once it is sealed


@dataclass(slots=True)
class Upload:
    """A snapshot's way from here to the shared store; `began_s` (monotonic) is that of the last try."""

    began_s: float
    job: str = ""
    running: bool = True
    done_bytes: int = 0
    total_bytes: int = 0
    cost: Cost | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    trouble: str = ""  # why the last try that has ended did not get there


@dataclass(slots=True)
class Node:
    """One agent's world. Only the lease, `dumping`, `dumped`, `pools`, `durable`, uploads and what is weighed change.

    Orders, uploads, reports and whoever looks after images do so at the same time. Whoever goes through one of these
    goes through a copy; what must hold between two looks is looked at and done under `opening`, never slowly.
    """

    place: Place
    depot: Depot
    store: Store  # the depot's
    store_url: str
    criu: Criu
    nft: tuple[str, ...] | None
    cores: Cores
    clock: Clock
    shipper: LogShipper
    hierarchy: cgroups.Hierarchy
    python: str
    memory_bytes: int = 0  # what its ranks may hold together; 0 = not known
    lease_s: float = 10.0  # as the server gave it last
    lease_until_s: float = 0.0  # until when (monotonic) ranks of this node may run
    criu_version: str = ""
    dumping: set[str] = field(default_factory=set)  # freezes that write images now
    dumped: dict[tuple[str, CellKey], Dumped] = field(default_factory=dict)
    pools: dict[str, Pool] = field(default_factory=dict)
    opening: threading.Lock = field(default_factory=threading.Lock)
    uploads: dict[str, Upload] = field(default_factory=dict)  # by snapshot
    uploading: threading.Lock = field(default_factory=threading.Lock)
    image_bytes_max: int | None = None  # of memory, for images; None: as far as the machine's own limits go
    cpuinfo: bytes = b""  # what CRIU says of this CPU, once it was asked
    weighed: dict[str, str] = field(default_factory=dict)  # snapshot → why this node cannot thaw it, "" if it can
    weighed_s: dict[str, float] = field(default_factory=dict)  # when (monotonic) that was looked at last
    weighing: threading.Lock = field(default_factory=threading.Lock)
    bridged: threading.Event = field(default_factory=threading.Event)  # the fleet's bridge and NAT were made
    durable: dict[str, SnapshotState] = field(default_factory=dict)
    changed: threading.Event = field(default_factory=threading.Event)

    @property
    def reserve(self) -> Reserve:
        """Memory set aside by the freezes of all nodes on this machine."""
        return Reserve(self.place.memory.parent / reserving.FOLDER, self.clock)

    @property
    def lease_left_s(self) -> float:
        """How long the ranks of this node may run without another word; never more than the server trusts us for."""
        return max(0.0, self.lease_until_s - self.clock.monotonic())

    def freezer(self, group: str) -> cgroups.Freezer:
        return cgroups.freezer(group, self.hierarchy)

    def keeper(self, key: CellKey) -> Keeper | None:
        """The keeper of a cell, or None where none answers."""
        try:
            return Keeper.connect(self.place.keeper_socket(key))
        except KeeperGone:
            return None

    def pool(self, key: CellKey) -> Pool:
        """The cell's pool of file contents, in memory or where `spilling` has brought it; one object for all lives of
        the cell on this node. A life is written down before its pool is asked for.
        """
        name = f"{key.job}.{key.cell}"
        with self.opening:
            on_disk = self.place.disk_pools / name
            folder = on_disk if on_disk.is_dir() else self.place.memory_pools / name
            if name not in self.pools or self.pools[name].folder != folder:
                shutil.rmtree(folder / INCOMING, ignore_errors=True)  # of an agent that died between dump and seal
                self.pools[name] = Pool.create(folder)
            return self.pools[name]

    def images(self, freeze_id: str) -> Path:
        return self.place.memory / "images" / freeze_id

    def network(
        self, key: CellKey, address: str, kind: network.Kind, known_as: str = ""
    ) -> tuple[network.Fleet, network.CellNet]:
        """The fleet's network and this cell's place in it; nothing is made yet."""
        subnet = IPv4Network(f"{address}/16", strict=False)
        fleet = network.Fleet(system.fleet_id(self.place.home), subnet, self.nft)
        name = f"{self.place.node}/{key}"
        net = network.cell_net(fleet, name, address, kind, self.place.memory / "net")
        return fleet, replace(net, known_as=known_as)
