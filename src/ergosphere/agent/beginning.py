"""How a cell of a job comes to be on this node: its copy of the files, its network, its keeper, its ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from ergosphere.agent import cache, forked, keepers, lives, network, rootfs, self_test, sharing, shim_copy, world
from ergosphere.agent.cut_port import LocalRank
from ergosphere.agent.keepers import Keeper, KeeperSpec, LaunchRank
from ergosphere.agent.lives import LifeFolder, LifeRecord
from ergosphere.agent.network import CellNet, Fleet
from ergosphere.agent.node import Node
from ergosphere.agent.place import CellKey
from ergosphere.agent.ports import Refused
from ergosphere.snapshots import thawing as files
from ergosphere.snapshots.gather import CellFiles
from ergosphere.wire.agents import CellPlan, LifePlan

STREAMS: Final = ("out", "err")
LEASE_S_MIN: Final = 0.05  # a keeper whose agent has none left suspends its ranks as soon as there are any


def build(node: Node, life: LifePlan, seat: CellPlan) -> None:
    """Everything a cell needs before its ranks run. What fails half-way is the caller's to discard."""
    folder = lives.create(node.place, LifeRecord(plan=life, cell=seat.index))
    tree = life.spec.tree.digest if life.spec.tree else None
    files.lay_out(node.store, tree, files_of(folder, seat), node.pool(folder.key))
    if original := owners_cache(life):
        cache.copy_small(original, folder.cache)
    furnish(node, folder, life, seat)
    keep(node, folder, life, seat, held=False)


def files_of(folder: LifeFolder, seat: CellPlan) -> CellFiles:
    logs = {f"rank{rank}.{stream}": folder.log(rank, stream) for rank in seat.ranks for stream in STREAMS}
    return CellFiles(work=folder.work, cache=folder.cache, logs=logs)


def furnish(node: Node, folder: LifeFolder, life: LifePlan, seat: CellPlan) -> None:
    """Each rank's own folder, seen at /run/ergo: init, shim, control file, names. Logs that are there stay."""
    known = ((cell.known_as or world.address_of(life, cell), rank) for cell in life.cells for rank in cell.ranks)
    names = {host_name(life, rank): address for address, rank in known if address}
    for rank in seat.ranks:
        own = folder.rank(rank)
        rootfs.prepare_rank(own, self_test.init_binary(), names, life.spec.network != "host")
        if not (own / "shim").exists():
            shim_copy.give(node.place.node_dir, own / "shim")
        LocalRank.create(folder.control(rank))
        if life.forked_from:
            forked.tell(own, life)
    sharing.write_tables(folder, life, seat)
    if sharing.is_one_world(life):
        sharing.shared_folder(node, life)


def host_name(life: LifePlan, rank: int) -> str:
    """A fork's processes go on under the name that they know."""
    return f"{life.known_name or life.spec.name}-{rank}"[:64]


def networks(node: Node, key: CellKey, life: LifePlan, seat: CellPlan) -> tuple[Fleet, CellNet]:
    return node.network(key, seat.address, life.spec.network, seat.known_as)


def make_network(node: Node, key: CellKey, life: LifePlan, seat: CellPlan, *, held: bool) -> None:
    fleet, net = networks(node, key, life, seat)
    if net.kind == "private" and not (node.bridged.is_set() and Path("/sys/class/net", fleet.bridge).exists()):
        for shortfall in network.ensure_fleet(fleet):
            LifeFolder(node.place.life(key)).note(shortfall)
        node.bridged.set()
    network.make(fleet, net, held)


def keep(node: Node, folder: LifeFolder, life: LifePlan, seat: CellPlan, *, held: bool) -> Keeper:
    """The cell's network, and a keeper for it, which outlives this agent."""
    _, net = networks(node, folder.key, life, seat)
    group = node.freezer(f"{node.place.group}/keepers")
    group.create()
    return keepers.start_keeper(
        KeeperSpec(
            job=life.job,
            incarnation=life.incarnation,
            cell=seat.index,
            socket=node.place.keeper_socket(folder.key),
            state=folder.keeper_state,
            log=folder.path / "keeper.log",
            keepers_group=str(group.path),
            lease_s=max(LEASE_S_MIN, node.lease_left_s),
            netns=net.netns,
            link=net.link,
        ),
        lambda: make_network(node, folder.key, life, seat, held=held),
    )


def owners_cache(life: LifePlan) -> Path | None:
    """~/.cache of the job's owner on this node, as the job's HOME names it."""
    home = life.spec.env.get("HOME")
    return Path(home, ".cache") if home else None


def root_spec(node: Node, folder: LifeFolder, life: LifePlan) -> rootfs.RootSpec:
    spec = life.spec
    original = owners_cache(life)
    shown = cache.shown(original, folder.cache) if original else ()
    return rootfs.RootSpec(
        workdir=spec.workdir,
        hidden=(str(node.place.home), str(node.place.memory.parent)),
        bound=spec.bound,
        opened=(*((path, False) for path in shown), *((mount.path, mount.writable) for mount in spec.mounts)),
        home=spec.env.get("HOME"),
        shared=sharing.is_one_world(life),
    )


def places_of(node: Node, folder: LifeFolder, rank: int) -> rootfs.Places:
    root, empty = folder.path / "root", folder.path / "empty"
    root.mkdir(exist_ok=True)
    empty.mkdir(exist_ok=True)
    shared = node.place.shared(folder.key.job, folder.key.incarnation)
    own = folder.rank(rank)
    return rootfs.Places(root=root, empty=empty, work=folder.work, rank=own, cache=folder.cache, shared=shared)


def launch(node: Node, folder: LifeFolder) -> None:
    """Start every rank of a built cell: all, or none."""
    record = folder.read()
    assert record is not None, f"{folder.path} was built"
    keeper = node.keeper(folder.key)
    if keeper is None:
        raise Refused("the keeper of the cell ended before its ranks were started")
    try:
        plan = rootfs.make_plan(root_spec(node, folder, record.plan))
    except rootfs.RootError as error:
        raise Refused(error.error, remedy=error.remedy, lasting=True) from error
    (folder.path / "root.json").write_text(json.dumps(rootfs.plan_to_json(plan)))
    keeper.launch([_launch_rank(node, folder, record, plan, rank) for rank in record.seat.ranks])
    folder.update(phase="live")
    node.changed.set()


def _launch_rank(node: Node, folder: LifeFolder, record: LifeRecord, plan: rootfs.RootPlan, rank: int) -> LaunchRank:
    life, seat = record.plan, record.seat
    _, net = networks(node, folder.key, life, seat)
    environment = world.variables(life, rank)
    cores = sharing.cores_for(node, life, seat.devices[seat.ranks.index(rank)])
    return LaunchRank(
        rank=rank,
        argv=list(world.command(life.spec, rank, environment, folder.work)),
        env=environment,
        cwd=life.spec.workdir,
        root_plan=rootfs.places_to_keeper(plan, places_of(node, folder, rank)),
        cgroup=str(rank_group(node, folder.key, rank)),
        status=str(folder.rank(rank) / "status"),
        hostname=host_name(life, rank),
        netns=net.netns,
        cpus=cores,
    )


def rank_group(node: Node, key: CellKey, rank: int) -> Path:
    """The rank's own cgroup, made; each rank is frozen by its own, never by a parent."""
    group = node.freezer(node.place.rank_group(key, rank))
    group.create()
    return group.path
