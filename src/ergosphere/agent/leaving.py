"""What an agent that is told to end clears away: all that neither a cell nor a snapshot of its node needs.

Whatever else ends an agent, its node stays as it is, and the next agent goes on with it.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from ergosphere import system
from ergosphere.agent import lives, network, reserving, settling, spilling, tending
from ergosphere.agent.cgroups import CgroupError
from ergosphere.agent.node import Node

STORE_S_MAX: Final = 4.0  # what it has not said by then is not known, and images stay
LEAVE_S_MAX: Final = 8.0  # before whoever told us to end ends us

log = logging.getLogger(__name__)


def leave(node: Node) -> None:
    """Clear away, unless a cell lives here. The last node of a home to leave takes the network's bridge along."""
    if any(_lives(folder) for folder in lives.folders(node.place)):
        return
    let_images_go(node)
    _forget_memory(node.place.memory)
    _leave_groups(node)
    if {path.name for path in node.place.memory.parent.iterdir()} <= {reserving.FOLDER}:
        shutil.rmtree(node.place.memory.parent / reserving.FOLDER, ignore_errors=True)
    if _removed(node.place.memory.parent):
        _remove_bridge(node)


def let_images_go(node: Node, store_s_max: float = STORE_S_MAX) -> None:
    """Remove what the store has as well and what came to nothing. What only this node has stays, with its files."""
    within(lambda: tending.leave(node), store_s_max, "the store was asked about images")
    settling.drop_settled(node)
    _forget_pools(node)


def within(act: Callable[[], None], limit_s: float, what: str) -> None:
    """Do it in a thread of its own, and wait no longer than that: the store may hang, and a lock may be ours."""

    def tried() -> None:
        try:
            act()
        except Exception:
            log.exception("not everything could be cleared away")

    thread = threading.Thread(target=tried, daemon=True, name="leaving")
    thread.start()
    thread.join(limit_s)
    if thread.is_alive():
        log.warning("%s for %.0f s in vain", what, limit_s)


def _lives(folder: lives.LifeFolder) -> bool:
    record = folder.read()
    return record is None or record.phase != "ended"


def _forget_pools(node: Node) -> None:
    """Files that belong to images, in memory or on disk, stay as long as those do; a life that ended needs none."""
    wanted, place = settling.jobs_with_images(node), node.place

    def unwanted() -> list[Path]:
        every = (*spilling.pools(place.memory_pools), *spilling.pools(place.disk_pools))
        return [] if wanted is None else [folder for folder in every if spilling.job_of_pool(folder) not in wanted]

    spilling.remove_pools(node, unwanted)


def _forget_memory(memory: Path) -> None:
    """All but images that are nowhere else, and files that belong to images."""
    for name in ("criu", "k", "net", "share", "thaw"):
        shutil.rmtree(memory / name, ignore_errors=True)
    for name in ("images", "pool"):
        _removed(memory / name)
    (memory / "credentials.json").unlink(missing_ok=True)
    _removed(memory)


def _leave_groups(node: Node) -> None:
    """A process cannot remove the group it is in: back to the root of the hierarchy first."""
    (node.hierarchy.mount / "cgroup.procs").write_text(str(os.getpid()))
    with suppress(CgroupError):
        node.freezer(node.place.group).remove()
    _removed(node.hierarchy.mount / node.place.group.split("/")[0])


def _remove_bridge(node: Node) -> None:
    fleet = system.fleet_id(node.place.home)
    subnet = network.choose_subnet(fleet, node.place.home / network.SUBNET_RECORD)
    network.remove_fleet(network.Fleet(fleet, subnet, node.nft))


def _removed(folder: Path) -> bool:
    """Whether the folder was there, was empty, and is gone now."""
    try:
        folder.rmdir()
    except OSError:
        return False
    return True
