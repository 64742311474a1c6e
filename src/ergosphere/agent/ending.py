"""How a cell leaves this node: stopped in an orderly way with its results brought home, or swept away."""

from __future__ import annotations

import shutil
import signal
from contextlib import suppress
from typing import Any, Final

from ergosphere.agent import beginning, hints, network, sharing
from ergosphere.agent.cgroups import CgroupError
from ergosphere.agent.keepers import Keeper, KeeperGone, KeeperRefused
from ergosphere.agent.lives import LifeFolder, LifeRecord
from ergosphere.agent.node import Node
from ergosphere.agent.place import CellKey
from ergosphere.snapshots import results

EXIT_POLL_S: Final = 0.02
FLUSH_S_MAX: Final = 60.0  # a server that is away for longer has the logs up to where it went


def end(node: Node, folder: LifeFolder, grace_s: float, collect: bool) -> dict[str, Any]:
    """Stop what is left of the cell. With `collect` its files become the job's results and its logs are shipped.

    Errors: those of `results.save_result`; nothing runs any more then, the files are still here, and it can be asked
    for again.
    """
    record = folder.read()
    if record is None:
        return {"results": None, "notes": []}
    if record.phase != "ended":
        keeper = node.keeper(folder.key)
        if keeper is not None:
            _stop(node, keeper, grace_s)
        if collect:
            _note_hint(folder, record, keeper)
        _take_down(node, folder.key, record)
        collected = _collect(node, folder, record) if collect else None
        record = folder.update(phase="ended", results=collected)
        node.changed.set()
    node.shipper.flush(folder, FLUSH_S_MAX)  # after the answer the server may say forget
    return {"results": record.results, "notes": list(record.notes)}


def give_up(node: Node, folder: LifeFolder, why: str) -> None:
    """Kill the ranks without having been asked to: the server sees a lost life and brings back the last snapshot."""
    folder.note(f"killed, to go on from the last snapshot: {why}")
    empty_groups(node, folder.key)


def _stop(node: Node, keeper: Keeper, grace_s: float) -> None:
    try:
        if grace_s > 0 and _running(keeper):
            keeper.signal(signal.SIGTERM)
            deadline = node.clock.monotonic() + grace_s
            while _running(keeper) and node.clock.monotonic() < deadline:
                node.clock.sleep(EXIT_POLL_S)
        keeper.kill()
    except (KeeperGone, KeeperRefused):
        return  # the cgroup is emptied by _take_down whatever the keeper does


def _running(keeper: Keeper) -> bool:
    return any(rank.state != "exited" for rank in keeper.state().ranks)


def _note_hint(folder: LifeFolder, record: LifeRecord, keeper: Keeper | None) -> None:
    """Tell the owner of a rank that failed by itself what would have helped: to open a path, to ask for no terminal."""
    with suppress(KeeperGone, KeeperRefused):
        failed = [rank.rank for rank in (keeper.state().ranks if keeper else ()) if rank.wait_status and not rank.asked]
        logs = [folder.log(rank, stream) for rank in failed for stream in ("err", "out")]
        hint = hints.hint_of(logs)
        if hint is not None:
            folder.note(hint)


def _collect(node: Node, folder: LifeFolder, record: LifeRecord) -> str:
    files = beginning.files_of(folder, record.seat)
    life = (record.plan.job, record.plan.incarnation, record.cell)
    return results.save_result(life, files, node.store, node.pool(folder.key), bound=record.plan.spec.bound)


def _take_down(node: Node, key: CellKey, record: LifeRecord | None) -> None:
    """Processes, network and cgroups of a cell; the folder with its files stays."""
    keeper = node.keeper(key)
    if keeper is not None:
        with suppress(KeeperGone, KeeperRefused):
            keeper.kill()
    empty_groups(node, key)
    if keeper is not None:
        with suppress(KeeperGone, KeeperRefused):
            keeper.leave()
    if record is not None:
        _, net = beginning.networks(node, key, record.plan, record.seat)
        network.remove(net)
    node.place.keeper_socket(key).unlink(missing_ok=True)
    _remove_groups(node, key)


def empty_groups(node: Node, key: CellKey) -> None:
    """Kill every process of a cell, whoever keeps it."""
    group = node.freezer(f"{node.place.group}/{key}")
    if group.exists():
        group.kill()


def _remove_groups(node: Node, key: CellKey) -> None:
    group = node.freezer(f"{node.place.group}/{key}")
    try:
        if group.exists():
            group.remove()
    except CgroupError:
        return  # a task that is still dying keeps it a moment longer; the next discard removes it


def discard(node: Node, key: CellKey) -> None:
    """Remove every trace of a cell, however far it had come."""
    folder = LifeFolder(node.place.life(key))
    record = folder.read()
    _take_down(node, key, record)
    node.shipper.forget(key)
    shutil.rmtree(node.place.memory / "thaw" / str(key), ignore_errors=True)
    folder.remove()
    sharing.sweep_shared(node)  # after the folder: of two cells that leave at once, the later one sees nobody
    node.changed.set()
