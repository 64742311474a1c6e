"""Seats that stay held for jobs until those sit there: the rooms of the last plan, by job and by node."""

from __future__ import annotations

from collections.abc import Mapping

from ergosphere.core.model import JobId, NodeId, Placement
from ergosphere.core.policy.entry import Masks, all_of, masks_of
from ergosphere.core.policy.layers import Node


class Promises:
    """Kept beside a board."""

    def __init__(self) -> None:
        self.rooms: dict[JobId, Placement] = {}
        self.on: dict[NodeId, dict[JobId, int]] = {}  # devices, as bits
        self.masks: dict[JobId, Masks] = {}  # of each room
        self.devices = 0  # of all rooms together
        self.idle: dict[NodeId, int] = {}  # of these, devices that nobody holds; whatever a turn marks
        self.idle_devices = 0

    def outdated(self, rooms: Mapping[JobId, Placement]) -> list[JobId]:
        """Who has a room that is not the one in `rooms`."""
        return [job_id for job_id, room in self.rooms.items() if room != rooms.get(job_id)]

    def add(self, job_id: JobId, room: Placement) -> Masks:
        """It is held from now on; gives the devices, node by node."""
        self.rooms[job_id] = room
        self.devices += len(set(room))
        masks = self.masks[job_id] = masks_of(room)
        for name, mask in masks.items():
            self.on.setdefault(name, {})[job_id] = mask
        return masks

    def drop(self, job_id: JobId) -> Masks:
        """Nothing is held for it any more; gives what was."""
        room = self.rooms.pop(job_id)
        self.devices -= len(set(room))
        masks = self.masks.pop(job_id)
        for name in masks:
            del self.on[name][job_id]
            if not self.on[name]:
                del self.on[name]
        return masks

    def count_idle(self, node: Node) -> None:
        """Who sits there, or what is promised there, has changed."""
        number = (node.promised & node.full & ~(node.held | node.leaving)).bit_count()
        self.idle_devices += number - self.idle.pop(node.id, 0)
        if number:
            self.idle[node.id] = number

    def mask(self, name: NodeId) -> int:
        """The devices of a node that are held for somebody."""
        return all_of(self.on.get(name))
