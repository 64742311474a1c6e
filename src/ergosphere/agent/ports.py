"""What a coordinator asks of one cell, wherever it sits, and the ways in which the answer can be no."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from ergosphere.agent.cut_port import RankPort
from ergosphere.wire.agents import CellPlan, LifePlan

SUSPEND_S_MAX: Final = 300.0  # a keeper resolves a freeze by itself after this: a dump of 300 GB at 1 GB/s


class Refused(Exception):
    """An order that cannot be carried out; the job is as it was before. `lasting`: asking again would fail again.

    `exit_code`: what a shell would say of a command that can never run.
    """

    def __init__(self, text: str, *, remedy: str = "", lasting: bool = False, exit_code: int | None = None) -> None:
        super().__init__(text)
        self.remedy = remedy
        self.lasting = lasting
        self.exit_code = exit_code


class DamagedSnapshot(Refused):
    """An image, file or manifest is not what was written; the snapshot before it may still be whole."""


class NotUnderstood(Refused):
    """What an agent of another version asks means nothing to this one. Nothing is wrong with the job."""


class CellPort(Protocol):
    """One cell of a life. Bodies are JSON values, so that a cell of another node is reached by mail."""

    @property
    def seat(self) -> CellPlan: ...

    def phase(self) -> str:
        """`absent`, `building`, `going`, `live` or `ended`."""
        ...

    def begun(self) -> tuple[int, str] | None:
        """Generation and snapshot of a thaw whose ranks were let go already; None where nothing runs yet."""
        ...

    def begin(self, generation: int) -> None:
        """The point of no return of a thaw, on disk: what ranks do from here on cannot be undone."""
        ...

    def build(self, life: LifePlan) -> None:
        """Work copy, network namespace and keeper of a fresh start; nothing runs yet."""
        ...

    def launch(self) -> None:
        """Start every rank of the cell."""
        ...

    def fetch(self, life: LifePlan, manifest: dict[str, Any]) -> None:
        """Bring images and files of a snapshot here and prepare the cell; raises DamagedSnapshot."""
        ...

    def restore(self, manifest: dict[str, Any]) -> None:
        """Bring every rank back, suspended."""
        ...

    def run(self, generation: int) -> None:
        """Let restored ranks go, and mark the cell live. Asked again, it finishes what is left of that."""
        ...

    def discard(self) -> None:
        """Kill what there is of the cell and remove every trace."""
        ...

    def rank_ports(self) -> Mapping[int, RankPort]:
        """Every rank, to be held at a cut; raises Refused when one has ended already."""
        ...

    def suspend(self, freeze_id: str, deadline_s: float, on_commit: str) -> None: ...

    def examine(self) -> None:
        """Look for what cannot be frozen or would thaw wrong; raises Refused with cause and remedy."""
        ...

    def dump(self, freeze_id: str, periodic: bool, newcomer_bytes: int) -> None:
        """Images to memory, changed files copied, log lengths noted: all that is done while the cell stands still.

        `periodic`: the job goes on right after, so that nothing else may be done meanwhile. `newcomer_bytes` of memory
        are set aside for whoever gets the place.
        """
        ...

    def seal(self, freeze_id: str) -> dict[str, Any]:
        """Hash what `dump` left behind; the cell's part of the manifest."""
        ...

    def left(self) -> dict[str, list[int]]:
        """`running`: the ranks that run; `asked`: those that were asked to end."""
        ...

    def ask_to_leave(self, signal: str) -> None:
        """Send the signal ("TERM") to every rank, once in its life."""
        ...

    def keep_files(self, freeze_id: str) -> None:
        """Instead of `dump`: kill who still runs, and stage the files that are left. May be done twice."""
        ...

    def held(self) -> list[str]:
        """The freezes that hold the cell now."""
        ...

    def release(self, freeze_id: str) -> None: ...

    def forget(self, freeze_id: str) -> None:
        """A freeze came to nothing: its images and what was copied for it go."""
        ...

    def retire(self, freeze_id: str) -> None:
        """After the commit: take the network away, kill the originals, free the devices."""
        ...

    def arrange(self) -> None:
        """At a cut: its ranks compute on the devices of this plan from the next `go` on. May be done twice."""
        ...

    def arrangement(self) -> int:
        """The number of the arrangement that the cell has."""
        ...

    def settle(self, freeze_id: str) -> None:
        """Upload the snapshot to the shared store, behind the job's back."""
        ...

    def give_up(self, why: str) -> None:
        """Kill the ranks: their life is lost, and the job goes on from its last snapshot."""
        ...

    def end(self, grace_s: float, collect: bool) -> dict[str, Any]:
        """Stop what is left; with `collect` bring files and logs home first."""
        ...
