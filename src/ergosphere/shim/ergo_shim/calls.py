"""Reads the calls by which torch asks for a reduction: what is contributed, what is wanted, and how it is folded."""

from __future__ import annotations

from typing import Any, Final, NamedTuple, Optional

from .fold import Reduction, can, reduction_of


class Asked(NamedTuple):
    """A reduction asked for. `gives`: which contributed tensor's result goes into which tensor of the caller's."""

    reduction: Reduction
    takes: "list[Any]"
    gives: "list[tuple[int, Any]]"
    root: int  # who alone is given the result; -1: everyone


BASES: Final = ("_reduce_scatter_base", "reduce_scatter_single")
COALESCED_BASES: Final = ("reduce_scatter_single_coalesced", "reduce_scatter_tensor_coalesced")
NAMES: Final = ("allreduce", "allreduce_coalesced", "reduce", "reduce_scatter", *BASES, *COALESCED_BASES)


def read(name: str, args: Any, kwargs: Any, me: int, size: int) -> Optional[Asked]:
    """The reduction that a call of a process group's method asks for; None for one that is left to torch."""
    try:
        asked = _read(name, list(args), dict(kwargs), me, size)
    except (TypeError, ValueError, IndexError, KeyError, AttributeError):
        return None  # not a call that we know: whatever is wrong with it, torch says so
    if asked is None or not asked.takes or not all(can(asked.reduction, each) for each in asked.takes):
        return None
    alike = len({tensor.dtype for tensor in [*asked.takes, *[given for _, given in asked.gives]]}) == 1
    fits = all(can(asked.reduction, given) and given.numel() == asked.takes[at].numel() for at, given in asked.gives)
    return asked if fits and alike else None


def _read(name: str, args: "list[Any]", kwargs: "dict[str, Any]", me: int, size: int) -> Optional[Asked]:
    tensors = 1 if name in ("allreduce", "allreduce_coalesced", "reduce") else 2
    rest = args[tensors:]
    told: Any = kwargs.get("opts", rest[0] if rest else None)
    if name == "reduce" and not hasattr(told, "reduceOp"):
        root, told = int(told), kwargs.get("op", rest[1] if len(rest) > 1 else None)
    else:
        root = getattr(told, "rootRank", -1)
    reduction = _reduction(told if told is not None else kwargs.get("op"))
    if reduction is None:
        return None
    first = args[0]
    if name in ("allreduce", "allreduce_coalesced"):
        given = _listed(first)
        return Asked(reduction, given, list(enumerate(given)), -1)
    if name == "reduce":
        given = _listed(first)
        return Asked(reduction, given, list(enumerate(given)) if root == me else [], root)
    return _scattered(name, reduction, args, me, size)


def _scattered(name: str, reduction: Reduction, args: "list[Any]", me: int, size: int) -> Optional[Asked]:
    takes: "list[Any]" = []
    gives = []
    if name == "reduce_scatter":
        outputs, inputs = _listed(args[0]), args[1] if isinstance(args[1][0], (list, tuple)) else [args[1]]
    else:
        outputs = _listed(args[0])
        inputs = [whole.contiguous().view(-1).chunk(size) for whole in _listed(args[1])]
    for output, chunks in zip(outputs, inputs):
        if len(chunks) != size or len(outputs) != len(inputs):
            return None
        gives.append((len(takes) + me, output))
        takes.extend(chunks)
    return Asked(reduction, takes, gives, -1)


def _reduction(told: Any) -> Optional[Reduction]:
    if told is None:
        return Reduction("SUM")
    return reduction_of(getattr(told, "reduceOp", told))


def _listed(tensors: Any) -> "list[Any]":
    return list(tensors) if isinstance(tensors, (list, tuple)) else [tensors]
