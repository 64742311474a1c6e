"""The sentences of the judgement. Every no is worded here, with its numbers, for the job's owner to read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from ergosphere.core.model import JobView, NodeId, NodeView, Phase, Placement, ProjectView, Reason, Why

NO_MEMORY: Final = "resize-no-memory"  # the wish is over: it would not come true by waiting
CANNOT_FREEZE: Final = "cannot-freeze"  # nor would it by waiting; only its owner can change that
NAMED_MAX: Final = 3  # jobs or nodes named in one sentence; the rest is counted


def name_of(job: JobView) -> str:
    """A job as its owner knows it: id, name and tier."""
    named = job.id if job.name in {"", job.id} else f"{job.id} '{job.name}'"
    return f"{named} ({job.tier})"


def listed(words: Iterable[str]) -> str:
    """The first few of `words`, and how many more there are."""
    every = list(words)
    rest = f" and {len(every) - NAMED_MAX} more" if len(every) > NAMED_MAX else ""
    return ", ".join(every[:NAMED_MAX]) + rest


def counted(number: int, noun: str) -> str:
    """`1 device`, `2 devices`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def needs(job: JobView) -> str:
    """What its gang asks for, as a clause without a subject."""
    if 0 < job.min_devices < job.ranks and job.shareable:
        most = job.devices_asked or job.ranks
        least = f"{job.min_devices} to " if job.min_devices < most else ""
        return f"needs {least}{counted(most, 'device')}"
    if len(job.cells) > 1:
        parts = " + ".join(str(len(cell.ranks)) for cell in job.cells)
        return f"needs {counted(job.ranks, 'device')} ({parts}, each part on one node)"
    if job.ranks == 1:
        return "needs 1 device"
    return f"needs {job.ranks} devices" + (" on one node" if job.cells else " at once")


def places(placement: Placement) -> str:
    """The nodes of a placement with their number of devices."""
    distinct = set(placement)
    if len({seat.node for seat in distinct}) == 1:
        return f"{placement[0].node} ({counted(len(distinct), 'device')})"
    devices = Counter([seat.node for seat in distinct])
    return listed(f"{node} ({counted(many, 'device')})" for node, many in sorted(devices.items()))


def started(job: JobView, placement: Placement) -> Reason:
    verb = "thaws" if job.phase is Phase.FROZEN else "starts"
    return Reason("placed", f"{verb} on {places(placement)}")


def cancelled() -> Reason:
    return Reason("cancelled", "cancelled by its owner")


def freeze_for_drain(nodes: Iterable[NodeId], left_s: float | None = None, remote_s: float = 0.0) -> Reason:
    """`left_s`: seconds until the first of them is gone, where that is known; `remote_s`: until its snapshot is in the
    store, as uploads there were measured.
    """
    if left_s is None:
        return Reason("drain", f"its node is being emptied ({listed(nodes)}); it goes on elsewhere by itself")
    left, needed = max(0, math.ceil(left_s)), math.ceil(remote_s)
    where = f"its node is being emptied ({listed(nodes)}, gone in {counted(left, 'second')})"
    if needed <= left:
        return Reason("drain", f"{where}; it goes on elsewhere by itself")
    late = f"what is frozen there needs about {counted(needed, 'second')} to reach the shared store"
    text = f"{where}, and {late}: unless it thaws on another node before, it goes on from an older snapshot"
    return Reason("drain-late", text, "ergo drain NODE --within with more time; --snapshot-every makes it less")


def freeze_unwanted(job: JobView) -> Reason:
    return Reason("unwanted", f"service {job.service} needs fewer replicas now; it comes back with the load")


def unwanted(job: JobView) -> Reason:
    return Reason("unwanted", f"a replica that service {job.service} does not need now; it comes back with the load")


def after(job: JobView) -> Reason:
    return Reason("after", f"waits for {listed(job.after)} to succeed")


def over_quota(job: JobView, project: ProjectView, used: int, devices: int) -> Reason:
    """Its project's limit, or its will not to borrow, stands against so many `devices` more."""
    if project.limit is not None and used + devices > project.limit:
        text = f"{needs(job)}; project {project.id} uses {used} of the {project.limit} devices it is limited to"
        return Reason("over-limit", text, f"wait for work of {project.id} to end, or ask for a higher limit")
    text = f"{needs(job)}; project {project.id} uses {used} of its {project.guarantee} devices and does not borrow"
    return Reason("over-guarantee", text, f"wait for work of {project.id} to end, or let {project.id} borrow")


def unsuited(job: JobView) -> Reason:
    """No device of the fleet is what it asks for."""
    asks = [f"type {' or '.join(name for name, _ in job.speeds)}"] if job.speeds else []
    asks += [f"{job.device_bytes / 2**30:.0f} GiB each"] if job.device_bytes else []
    asks += [f"region {' or '.join(job.regions)}"] if job.regions else []
    remedy = "it waits until the fleet has some; `ergo nodes` shows what there is"
    return Reason("unsuited", f"{needs(job)} ({', '.join(asks)}), and the fleet has none like that", remedy)


def freeze_for_resize(job: JobView, placement: Placement) -> Reason:
    many = counted(len(set(placement)), "device")
    return Reason("resize", f"goes on with {many} on {places(placement)}: not all of them are where it is now")


def resize_for_owner(job: JobView, placement: Placement) -> Reason:
    return Reason("resize", f"{_from_to(job, placement)}, as its owner asked")


def grown(job: JobView, placement: Placement) -> Reason:
    return Reason("grown", f"{_from_to(job, placement)}: nobody needs them now")


def shrunk_for(victim: JobView, placement: Placement, winner: JobView) -> Reason:
    return Reason(
        "shrunk",
        f"{_from_to(victim, placement)} to make room for {name_of(winner)}, which {needs(winner)}; "
        "it grows again when devices are free",
    )


def _from_to(job: JobView, placement: Placement) -> str:
    return f"goes from {len(set(job.seats))} to {counted(len(set(placement)), 'device')}"


def resize_no_room(job: JobView, free: int) -> Reason:
    return Reason(
        "resize-no-room",
        f"has {counted(len(set(job.seats)), 'device')} and its owner asked for {job.devices_asked or job.ranks}; "
        f"{counted(free, 'device')} could be had, and not where it would help: it grows when there is room",
    )


def resize_no_memory(job: JobView, node: NodeId, needed: int, there: int) -> Reason:
    return Reason(
        NO_MEMORY,
        f"{node} has {there / 2**30:.1f} GiB of memory, and would need {needed / 2**30:.1f} GiB by what the ranks that "
        "would come to it and those that are there were measured to hold",
        "ergo resize JOB with more devices",
    )


def resize_back_off(job: JobView, now_s: float) -> Reason:
    left_s = math.ceil(job.not_before_s - now_s)
    return Reason("back-off", f"the last try failed; the resize is tried again in {counted(left_s, 'second')}")


def grows_elsewhere(job: JobView, placement: Placement) -> Reason:
    devices = counted(len(set(placement)), "device")
    return Reason("grown", f"moves to {places(placement)} to go on with {devices}, which nobody needs now")


def freeze_to_grow(job: JobView, devices: int) -> Reason:
    text = f"has {devices} of the {job.ranks} devices that its {job.tier} promise is about"
    return Reason("whole", f"{text}; it goes on where it gets them")


def freeze_for_packing(job: JobView, winner: JobView, placement: Placement, cost_device_s: float) -> Reason:
    text = f"moves to {places(placement)} so that {name_of(winner)}, which {needs(winner)}, finds them together"
    return Reason("packed", f"{text}; the move costs {cost_device_s:.1f} device-seconds")


def freeze_for_move(placement: Placement) -> Reason:
    return Reason("move", f"moves to {places(placement)}, as its owner asked")


def freeze_for_room(victim: JobView, winner: JobView, cost_device_s: float) -> Reason:
    return Reason(
        "preempted",
        f"makes room for {name_of(winner)}, which {needs(winner)}: of the weaker jobs it costs least to pause "
        f"({cost_device_s:.1f} device-seconds for {name_of(victim)}); it goes on by itself when there is room",
    )


def freeze_on_claim(victim: JobView, winner: JobView) -> Reason:
    if winner.service:
        because = f"training yields to services of its tier, and service {winner.service} needs this replica"
    else:
        because = "that has waited for it since before this job began, so this one had the devices on loan"
    return Reason(
        "preempted",
        f"makes room for {name_of(winner)}, which {needs(winner)}: {because}; it goes on by itself when there is room",
    )


def paused(job: JobView) -> Reason:
    if job.by_shutdown:
        return Reason("held", "the service is being shut down; it goes on with the next start")
    return Reason("paused", "paused by its owner", "ergo resume JOB")


def back_off(job: JobView, now_s: float) -> Reason:
    left_s = math.ceil(job.not_before_s - now_s)
    because = f": {job.try_failed}" if job.try_failed else ""
    return Reason("back-off", f"its last try failed{because}; it is tried again in {counted(left_s, 'second')}")


def no_node(nodes: Sequence[NodeView]) -> Reason:
    if not nodes:
        return Reason("no-node", "the fleet has no node", "ergo up")
    silent = sorted(node.id for node in nodes if not node.ready)
    draining = sorted(node.id for node in nodes if node.ready and node.draining)
    causes = [f"not answering: {listed(silent)}"] if silent else []
    causes += [f"being drained: {listed(draining)}"] if draining else []
    remedy = f"ergo undrain {draining[0]}" if draining else "ergo status shows what the nodes are doing"
    return Reason("no-node", f"no node can take it: {'; '.join(causes)}", remedy)


def too_large(job: JobView, most: int, whole: int) -> Reason:
    """`most`: what the present nodes could hold; `whole`: what they could if every node answered and none drained."""
    text = f"{needs(job)}, but the nodes that are there now could hold {most} at most"
    if whole > most:
        return Reason("too-large", f"{text} ({whole} with all nodes back)", "wait for the nodes, or ergo undrain NODE")
    return Reason("too-large", text, "it waits until the fleet grows; cancel it and submit it with fewer ranks")


def unfit(job: JobView) -> Reason:
    """Nodes with room there are, but none of them can bring its snapshot back."""
    why = "; ".join(f"{node}: {cause}" for node, cause in job.unfit[:NAMED_MAX])
    remedy = "put back what has changed there, or let a node like the one it was frozen on come back"
    return Reason("unfit", f"{needs(job)}; no node with room can thaw its snapshot ({why})", remedy)


def room_coming(job: JobView, placement: Placement, leaving: Sequence[JobView]) -> Reason:
    whom = f": waits for {listed(map(name_of, leaving))} to leave" if leaving else ""
    return Reason("room-coming", f"{needs(job)}; room on {places(placement)} is being made and held for it{whom}")


def min_run(job: JobView, victims: Sequence[JobView], left_s: float) -> Reason:
    return Reason(
        "min-run",
        f"{needs(job)}; {listed(map(name_of, victims))} can make room in {counted(math.ceil(left_s), 'second')}: "
        "who has just started or thawed is left alone for a while",
        "a premium job would not have to wait for that",
    )


def no_room(job: JobView, free: int, held: int, total: int, first: Sequence[JobView], ahead: int) -> Reason:
    """`free` devices are free, `held` more are free but held for jobs ahead, of `total` that could be used.

    `ahead` jobs are served before it, `first` of them are named.
    """
    text = f"{needs(job)}; {free} of {total} {'is' if free == 1 else 'are'} free"
    if held:
        text += f", {held} more {'is' if held == 1 else 'are'} held for jobs ahead of it"
    if free >= (job.min_devices or job.ranks):
        code, text = "fragmented", text + ", but no node has enough of them together"
    else:
        code = "held" if free + held >= (job.min_devices or job.ranks) else "full"
    more = f" and {ahead - len(first)} more" if ahead > len(first) else ""
    text += f"; ahead of it: {', '.join(map(name_of, first))}{more}" if first else "; nobody is ahead of it"
    text += "; no job of a weaker tier can make the room"
    return Reason(code, text, "it goes on by itself when there is room")


def kept_whole(job: JobView, reason: Reason) -> Reason:
    """Why it does not start on fewer devices although it could run on them."""
    text = f"{reason.text}; on fewer devices it could not keep its {job.tier} promise"
    return Reason(reason.code, text, reason.remedy)


def unreachable(nodes: Iterable[NodeId], why: Why) -> Reason:
    return Reason("unreachable", f"the {why} waits for a node that does not answer: {listed(nodes)}")


def cannot_freeze(job: JobView, why: Why) -> Reason:
    verbs = {Why.PAUSE: "paused", Why.MOVE: "moved", Why.DRAIN: "moved off its node", Why.RESIZE: "resized"}
    verb = verbs.get(why, "frozen")
    because = job.not_freezable_because or "a freeze of it failed for a lasting cause"
    remedy = "it runs on; once the cause is gone `ergo pause JOB` tries again; `ergo cancel JOB` if it must leave"
    return Reason(CANNOT_FREEZE, f"cannot be {verb}: {because}", remedy)


def freeze_back_off(job: JobView, why: Why, now_s: float) -> Reason:
    left_s = math.ceil(job.not_before_s - now_s)
    return Reason("back-off", f"the last freeze failed; the {why} is tried again in {counted(left_s, 'second')}")


def move_no_room(job: JobView, free: int) -> Reason:
    where = listed(job.destination) if job.destination else "the other nodes"
    return Reason(
        "move-no-room",
        f"{needs(job)}; {counted(free, 'device')} of {where} could be had: it stays where it is and moves when it fits",
        "ergo migrate JOB without a node takes any place",
    )
