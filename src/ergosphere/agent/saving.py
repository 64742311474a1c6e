"""A cell on the rung `cooperative`: its ranks are asked to save themselves, and what they leave becomes its part.

Such a part has ranks without images: a life that is thawed from it starts the command anew, among the files it left.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Final

from ergosphere.agent import beginning, ending, freezing, identity, reserving, settling
from ergosphere.agent.keepers import Keeper, KeeperGone, KeeperRefused
from ergosphere.agent.lives import LifeFolder, LifeRecord
from ergosphere.agent.node import Dumped, Node
from ergosphere.agent.ports import Refused
from ergosphere.snapshots import gather, mapped
from ergosphere.snapshots.manifest import BEGINS_ANEW

RUNNING, ASKED = "running", "asked"  # the keys of what `left` tells

MAPPED: Final = "mapped.json"  # in the life's folder: inodes of files whose time stamps cannot be trusted
TAKEN_AWAY: Final = "the cell was taken away while it saved itself"


def left(node: Node, folder: LifeFolder) -> dict[str, list[int]]:
    """The ranks that run, and those that were asked to end. Without a keeper there are none."""
    keeper = node.keeper(folder.key)
    ranks = () if keeper is None else keeper.state().ranks
    return {
        RUNNING: [rank.rank for rank in ranks if rank.state != "exited"],
        ASKED: [rank.rank for rank in ranks if rank.asked],
    }


def ask_to_leave(node: Node, folder: LifeFolder, signal_name: str) -> None:
    """Send the signal to every rank, once: the keeper remembers it, so that no later agent sends it again."""
    keeper = node.keeper(folder.key)
    if keeper is None or left(node, folder)[ASKED]:
        return
    _note_mapped(node, folder)  # nobody can tell any more once they have ended
    keeper.signal(signal.Signals[f"SIG{signal_name}"])


def keep_files(node: Node, folder: LifeFolder, freeze_id: str) -> None:
    """Whoever still runs is killed; working copy, cache and logs as they are then are staged, to be sealed.

    Asked again while that is under way (by a caller who could not wait so long), it ends as that does.
    """
    with _alone(folder) as waited:
        if not (waited and (freeze_id, folder.key) in node.dumped):
            _stage_files(node, folder, freeze_id)


@contextmanager
def _alone(folder: LifeFolder) -> Iterator[bool]:
    """Nobody else keeps files of this cell meanwhile. Gives whether somebody did so until now."""
    try:
        descriptor = os.open(folder.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as gone:
        raise Refused(TAKEN_AWAY) from gone
    try:
        waited = False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waited = True
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield waited
    finally:
        os.close(descriptor)


def _stage_files(node: Node, folder: LifeFolder, freeze_id: str) -> None:
    record = folder.read()
    if record is None:
        raise Refused(TAKEN_AWAY)
    distrust = _note_mapped(node, folder)
    _kill(node, node.keeper(folder.key), folder)
    _forget_staged(node, folder, freeze_id)
    files = beginning.files_of(folder, record.seat)
    pool = node.pool(folder.key)
    with ExitStack() as undo:
        undo.callback(settling.drop, node, freeze_id)
        changed = reserving.changed_bytes(files, pool, distrust)
        images = freezing.room(node, folder.key, freeze_id, 0, changed, 0)
        for rank in record.seat.ranks:
            (images / f"rank{rank}").mkdir(mode=0o700, exist_ok=True)
        staged = gather.stage_cell(files, pool, distrust=distrust)
        undo.pop_all()
    node.dumped[(freeze_id, folder.key)] = Dumped(
        staged=staged,
        images=images,
        facts={rank: {BEGINS_ANEW: True} for rank in record.seat.ranks},
        mapped=(),
        followers={},
        root=_root(folder),
        identity=identity.NOBODY,
        begins_anew=True,
    )
    settling.written(node, freeze_id)


def begin_again(node: Node, folder: LifeFolder, record: LifeRecord) -> None:
    """Start the command of a cell whose files were laid out."""
    assert record.begins_anew, f"{folder.path} has images"
    beginning.launch(node, folder)


def _note_mapped(node: Node, folder: LifeFolder) -> frozenset[int]:
    """Files that ranks map now, or did when this was asked before: written down, for an agent after this one."""
    at = folder.path / MAPPED
    known: list[int] = json.loads(at.read_text()) if at.exists() else []
    record = folder.read()
    groups = [node.place.rank_group(folder.key, rank) for rank in (record.seat.ranks if record else ())]
    found = frozenset(known).union(*(mapped.writable_maps(node.freezer(group).pids()) for group in groups))
    aside = at.with_suffix(".new")
    aside.write_text(json.dumps(sorted(found)))
    aside.replace(at)
    return found


def _kill(node: Node, keeper: Keeper | None, folder: LifeFolder) -> None:
    if keeper is not None:
        with suppress(KeeperGone, KeeperRefused):
            keeper.kill()
    ending.empty_groups(node, folder.key)


def _forget_staged(node: Node, folder: LifeFolder, freeze_id: str) -> None:
    """Of a try before this one."""
    before = node.dumped.pop((freeze_id, folder.key), None)
    if before is not None:
        gather.discard(before.staged)


def _root(folder: LifeFolder) -> dict[str, Any]:
    """The mounts it was launched with: what it asked for has to be where it goes on."""
    return dict(json.loads((folder.path / "root.json").read_text()))
