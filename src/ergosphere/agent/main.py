"""The agent: one process per node. Wires the parts together and keeps its loops going: inbox, watch, logs, and two that
look after images.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from ergosphere import system
from ergosphere.agent import cells, cgroups, leaving, network, provision, shim_copy
from ergosphere.agent.conduct import Conductor
from ergosphere.agent.criu import CriuError, stage
from ergosphere.agent.link import ServerAway, ServerLink
from ergosphere.agent.logs import PERIOD_S, LogShipper
from ergosphere.agent.mailbox import Mailbox
from ergosphere.agent.node import Node
from ergosphere.agent.orders import Orders
from ergosphere.agent.place import Place
from ergosphere.agent.remote import RemoteCell
from ergosphere.agent.tending import TEND_EVERY_S, Tending
from ergosphere.agent.watch import TICK_S, Watch
from ergosphere.agent.world import Cores
from ergosphere.snapshots.depot import Depot, open_depot
from ergosphere.snapshots.errors import SnapshotError
from ergosphere.wire.agents import LifePlan

log = logging.getLogger(__name__)
LOCK_TAKEN: Final = 3  # exit status: another agent has this node
AGENT_NICE: Final = -5  # idle but for freezes, and then a job stands still


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="ergosphere-agent", description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--node", required=True)
    parser.add_argument("--devices", type=int, required=True)
    parser.add_argument("--cores", default="", help="comma-separated; default: all that this process may use")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    place = Place(options.home, options.node)
    _own_memory(place.memory.parent)
    for folder in (place.node_dir, place.lives, place.memory, place.memory / "k", place.memory / "images"):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = _only_one(place)
    if lock is None:
        print(f"error: another agent serves {place.node}", file=sys.stderr)
        return LOCK_TAKEN
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, AGENT_NICE)
    node = _node(place, _cores(options.cores), options.devices)
    _join_group(node)
    signal.signal(signal.SIGTERM, lambda _signum, _frame: _leave(node))
    _serve(node)
    return 0


def _leave(node: Node) -> None:
    """Nothing of ours is worth saving: cells and keepers go on without us.

    A signal comes in the middle of anything, and whatever lock the main thread holds then it holds for ever.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    leaving.within(lambda: leaving.leave(node), leaving.LEAVE_S_MAX, "this node was cleared away")
    os._exit(0)


def _own_memory(folder: Path) -> None:
    """The home's folder in memory, ours alone: in /dev/shm anybody may make one, and what lies in it runs as root."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        sys.exit(f"error: {folder} belongs to somebody else\nremedy: find out who made it, and remove it")
    folder.chmod(0o700)


def _only_one(place: Place) -> int | None:
    descriptor = os.open(place.node_dir / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    os.truncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    return descriptor


def _cores(named: str) -> tuple[int, ...]:
    if named:
        return tuple(int(core) for core in named.split(","))
    return tuple(sorted(os.sched_getaffinity(0)))


def _node(place: Place, cores: tuple[int, ...], devices: int) -> Node:
    tool = provision.find(place.home / "criu")
    if tool is None:
        sys.exit("error: there is no CRIU that works in this home\nremedy: run `ergo setup`")
    criu = stage(tool.argv_prefix, tool.private_root, place.memory / "criu")
    clock = system.SystemClock()
    depot = _depot(place)
    return Node(
        place=place,
        depot=depot,
        store=depot.store,
        store_url=depot.url,
        image_bytes_max=depot.settings.image_bytes_max,
        criu=criu,
        criu_version=tool.version,
        nft=tool.nft,
        cores=Cores(cores, devices),
        clock=clock,
        shipper=LogShipper(place, ServerLink(place.home, place.node), clock),
        hierarchy=cgroups.choose(system.freezer_version()),
        python=sys.executable,
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
    )


def _depot(place: Place) -> Depot:
    place.credentials.unlink(missing_ok=True)
    if secrets := system.object_store_settings():
        with os.fdopen(os.open(place.credentials, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(secrets, file)
    try:
        return open_depot(place.home, place.node_dir / "cache", place.node_dir)
    except SnapshotError as error:
        sys.exit(f"error: {error.cause}\nremedy: {error.remedy}")


def _join_group(node: Node) -> None:
    """The agent is part of its node: who kills the node's group kills it too."""
    group = node.freezer(f"{node.place.group}/agent")
    group.create()
    group.add(os.getpid())


def _serve(node: Node) -> None:
    link = node.shipper.link
    local = cells.LocalCells(node)
    mailbox = Mailbox(link, local.serve)

    def cells_of(life: LifePlan) -> list[cells.LocalCell | RemoteCell]:
        return [
            local.cell(life, seat.index) if seat.node == node.place.node else RemoteCell(mailbox, life, seat)
            for seat in life.cells
        ]

    conductor = Conductor(cells_of, node.store, node.clock, node.criu_version)
    orders = Orders(link, mailbox, conductor, node.clock)
    watch = Watch(node, link, local.forget, local.faults)
    local.recover()
    _bridge(node)
    threading.Thread(target=_warm, args=(node,), daemon=True, name="warm").start()
    threading.Thread(target=orders.poll_forever, daemon=True, name="inbox").start()
    tended = Tending(node)
    for name, period_s, act in (
        ("logs", PERIOD_S, node.shipper.ship_all),
        ("store", TEND_EVERY_S, tended.ask),
        ("room", TEND_EVERY_S, tended.clear),
    ):
        threading.Thread(target=_every, args=(node, period_s, act), daemon=True, name=name).start()
    log.info("node %s: %d devices", node.place.node, node.cores.devices)
    _every(node, TICK_S, watch.tick)


def _bridge(node: Node) -> None:
    """The fleet's network is there before its first job, so that no other home on this machine takes the same one."""
    fleet = system.fleet_id(node.place.home)
    try:
        subnet = network.choose_subnet(fleet, node.place.home / network.SUBNET_RECORD)
        network.ensure_fleet(network.Fleet(fleet, subnet, node.nft))
    except network.NetworkError as error:
        log.warning("%s", error)  # jobs without a network of their own run all the same; the others are told


def _warm(node: Node) -> None:
    """CRIU learns the kernel now, so that the first freeze need not wait for it; and the shim is compiled."""
    try:
        shim_copy.compile_for(node.place.node_dir)
    except OSError as error:
        log.warning("the shim could not be compiled: %s", error)  # each rank does it for itself
    scratch = node.place.memory / "criu" / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        node.cpuinfo = node.criu.cpuinfo_dump(scratch)
    except CriuError as error:
        log.warning("CRIU could not be asked about this machine: %s", error)


def _every(node: Node, period_s: float, act: Callable[[], None]) -> None:
    while True:
        try:
            act()
        except ServerAway:
            node.clock.sleep(0.5)
        except Exception:
            log.exception("a round failed; the next one tries again")
            node.clock.sleep(1.0)
        node.clock.sleep(period_s)


if __name__ == "__main__":
    sys.exit(main())
