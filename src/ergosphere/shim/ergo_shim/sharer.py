"""One optimizer as a rank shares it, or does not: its counts, its tensors, and where they lie."""

from __future__ import annotations

import weakref
from typing import Any, Final, Optional

from . import arena, handing
from .mates import Round
from .proof import Proof

FIRST_TRY: Final = 3  # steps of an optimizer before it is looked at: by then its state is there
PERIODS: Final = (2, 16, 128)  # steps between tries, by how many have failed; after that there are none
KINDS: Final = 4  # meetings of one step: to step, to begin sharing (two), and a spare number
STEP, OFFER, ANSWER = range(3)


class Sharer:
    """One optimizer, and what of it is shared."""

    def __init__(self, number: int, optimizer: Any) -> None:
        self.number = number
        self.optimizer = weakref.ref(optimizer)
        self.proof = Proof(optimizer)
        self.refusal = self.proof.why  # why it is never shared
        self.steps = 0
        self.failures = 0
        self.inside = False
        self.is_joined = False
        self.has_parted: Optional[bool] = None  # it has left and its mates do not know yet; whether that counts
        self.unsure: Optional[str] = None  # what the last step of its own did that must not be shared
        self.seen: "list[Any]" = []  # its tensors after that
        self.tensors: "list[Any]" = []
        self.views: "list[Any]" = []  # of this rank's own region, one for each tensor
        self.region: Optional[arena.Region] = None
        self.shared: Optional[arena.Shared] = None
        self.path = ""  # of what steps hand over

    def is_due(self) -> bool:
        """Whether sharing is to be tried after this step. Equal on ranks that have made the same steps."""
        if self.refusal is not None or self.failures >= len(PERIODS) or self.steps < FIRST_TRY:
            return False
        return self.steps % PERIODS[self.failures] == 0 or self.steps == FIRST_TRY

    def round(self, kind: int) -> Round:
        """A meeting at the present step."""
        return Round(self.number + 1, self.steps * KINDS + kind)

    def part(self) -> None:
        """Takes away what only a shared step needs."""
        self.is_joined = False
        if self.shared is not None:
            self.shared.drop()
        self.shared = None

    def forget(self) -> None:
        """Removes the file of what steps hand over. Only where all mates have met since, or stand at a cut."""
        if self.path:
            handing.remove(self.path)
        self.path = ""


def lie_in(region: arena.Region, tensors: "list[Any]") -> bool:
    """Whether these are the tensors of that region, where they were."""
    if len(tensors) != len(region.plan.places):
        return False
    return all(
        tensor.numel() == 0 or tensor.data_ptr() == region.address + at
        for tensor, at in zip(tensors, region.plan.places)
    )


def unfit(sharer: Sharer, tensors: "list[Any]") -> Optional[str]:
    """Why these tensors of an optimizer cannot be moved into an arena; None if they can."""
    stay = sharer.region is not None and lie_in(sharer.region, tensors)
    ours = {view.data_ptr() for view in sharer.views}
    for tensor in tensors:
        if not arena.is_plain(tensor):
            return "it has tensors that are not plain ones in host memory"
        if not stay and not arena.is_alone(tensor, is_ours=tensor.data_ptr() in ours):
            return "memory of its parameters or state is used under other names too"
    return None if tensors else "its optimizer has no tensors"


def size_of(tensor: Any) -> int:
    """Bytes."""
    return int(tensor.numel() * tensor.dtype.itemsize)
