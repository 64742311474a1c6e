"""How many devices a job has, what its owner asked for, and the cores of one. Who gets how many is the policy's."""

from __future__ import annotations

from ergosphere.control.ledger.change import Change
from ergosphere.control.ledger.tables import JobRow, NodeRow


def note_size(change: Change, job: JobRow) -> None:
    """It has been given devices: is that what its owner asked for?"""
    job.resized_s = change.now_s
    job.resize_asked = job.resize_asked and devices_of(job) != (job.devices_asked or job.ranks)


def devices_of(job: JobRow) -> int:
    """How many devices its seats are on."""
    return len({(node, device) for node, device in job.seats})


def forget_size(job: JobRow) -> None:
    """What its owner asked for failed: it stays with the devices that it has."""
    job.resize_asked, job.devices_asked = False, devices_of(job)


def threads_on(node: NodeRow | None) -> int:
    """The cores of one device where there is at least one each, else all cores."""
    if node is None or node.cores <= 0:
        return 1
    return node.cores // node.devices if node.cores >= node.devices else node.cores
