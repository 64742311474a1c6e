"""How the coordinator of a cut reaches one rank: the port, and the rank of this node behind its control file.

What to order, and when, is decided in `cut`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ergosphere.agent.cut_view import Kind, RankState, RankView, SequenceView, Want
from ergosphere.shim.ergo_shim import control_file
from ergosphere.shim.ergo_shim.control_file import ORDERS, REPLY, Brief, Mapped

_STATES = {state.value: state for state in RankState} | {"dropping": RankState.HELD}


class RankPort(Protocol):
    """One rank, here or on another node. Orders are posted and return at once; `view` tells when they are obeyed."""

    def view(self) -> RankView: ...

    def hold(self, limits: Mapping[str, int]) -> None:
        """Operations beyond the limits wait from now on."""

    def settle(self) -> None:
        """Finish what was launched."""

    def quiesce(self, orphans: Sequence[str]) -> None:
        """Drop the process groups and say ready; groups named `orphans` are not to be rebuilt."""

    def go(self, generation: int) -> None:
        """Rebuild the groups under that generation and go on."""

    def release(self, token: str) -> None:
        """Go on as if nothing had been asked; `token` names the rendezvous if groups were dropped already."""

    def verdict(self, word: str) -> None:
        """Let out the callers that are kept inside a failed collective."""


class LocalRank:
    """The rank behind a control file on this node. The file need not have been used by anyone yet."""

    def __init__(self, path: Path, ended: bool = False) -> None:
        """`ended`: the keeper says the rank's processes are gone. Raises OSError if there is no control file."""
        self._path = str(path)
        self._ended = ended
        if not control_file.is_ours(self._path):
            raise FileNotFoundError(f"{path} is no control file; it is made when the rank is launched")

    @classmethod
    def create(cls, path: Path) -> LocalRank:
        """A fresh control file at `path`, for a rank about to be launched or thawed."""
        control_file.create(str(path))
        return cls(path)

    def view(self) -> RankView:
        file = Brief(self._path)
        _, told = control_file.fetch(file, REPLY)
        if self._ended:
            return RankView(state=RankState.GONE)
        if told is None:
            return RankView(others=control_file.others(file))
        _, order = control_file.fetch(file, ORDERS)
        answered = told["ack"] == (order["id"] if order is not None else 0)
        return _view(told, answered, control_file.others(file), _in_words(order))

    def hold(self, limits: Mapping[str, int]) -> None:
        self._post("hold", limits=dict(limits))

    def settle(self) -> None:
        self._post("settle")

    def quiesce(self, orphans: Sequence[str]) -> None:
        self._post("quiesce", orphans=list(orphans))

    def go(self, generation: int) -> None:
        self._post("go", generation=generation)

    def release(self, token: str) -> None:
        self._post("release", token=token)

    def verdict(self, word: str) -> None:
        self._post("verdict", word=word)

    def _post(self, order: str, **terms: Any) -> None:
        file = Mapped(self._path)
        try:
            sequence = control_file.head(file, ORDERS).sequence + 1 & 0xFFFFFFFF
            control_file.post(file, ORDERS, sequence, {"order": order, "id": sequence, **terms})
            file.wake(ORDERS)
        finally:
            file.close()


def _in_words(order: Mapping[str, Any] | None) -> str:
    if order is None:
        return ""
    return " ".join(str(order[term]) for term in ("order", "generation", "token") if term in order)


def _view(told: Mapping[str, Any], answered: bool, others: int, ordered: str) -> RankView:
    sequences = tuple(
        SequenceView(id, group, Kind(kind), tuple(members), peer, count, tags)
        for id, group, kind, members, peer, count, tags, _slot in told.get("sequences", ())
    )
    return RankView(
        state=_STATES[told["state"]],
        answered=answered or told["state"] == "gone",
        settled=told.get("settled", False),
        generation=told.get("generation", 0),
        world=told.get("world", ""),
        rank=told.get("rank", -1),
        sequences=sequences,
        wants=tuple(Want(*want) for want in told.get("wants", ())),
        retired=tuple(told.get("retired", ())),
        fault=told.get("fault"),
        error=told.get("error"),
        unmanaged=tuple(told.get("unmanaged", ())),
        others=others,
        steps=told.get("steps", False),
        at_step=told.get("at_step", False),
        told=ordered,
    )


def collectives_launched(path: Path) -> dict[str, int]:
    """How many collectives each group of the rank has launched by now, read without waking it. For show only."""
    file = Brief(str(path))
    _, told = control_file.fetch(file, REPLY)
    counts: dict[str, int] = {}
    for id, _group, kind, *_, slot in () if told is None else told.get("sequences", ()):
        if kind == Kind.ALL:
            at = control_file.SLOTS_AT + 8 * slot
            counts[id] = int.from_bytes(file.read(at, 8), "little")
    return counts
