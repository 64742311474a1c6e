"""Reductions element by element in rank order: the bits depend on the order of the ranks and on nothing else.

Elements are folded on their own, so how a result is cut into parts or chunks, and who folds which, leaves no trace."""

from __future__ import annotations

import ctypes
import sys
from typing import Any, Final, NamedTuple, Optional

CHUNK_BYTES: Final = 262144  # of the result: it and one chunk of an input stay in a core's own cache
ALIGN_BYTES: Final = 64  # each tensor of a contribution begins at a multiple of this
OPERATIONS: Final = ("SUM", "AVG", "PRODUCT", "MIN", "MAX", "BAND", "BOR", "BXOR", "PREMUL_SUM")


class Reduction(NamedTuple):
    """What is done with the elements. `factor` is what PREMUL_SUM multiplies this rank's own contribution by."""

    name: str
    factor: Any = None


class Layout(NamedTuple):
    """Where each tensor of a contribution lies in a flat stretch of elements of one type."""

    starts: "tuple[int, ...]"
    total: int  # elements
    item: int  # bytes of one


def reduction_of(told: Any) -> Optional[Reduction]:
    """torch's `ReduceOp`, or its inner enumeration, as ours; None for one we do not know."""
    kind = getattr(told, "op", told)
    name = getattr(kind, "name", str(kind).rpartition(".")[2])
    if name not in OPERATIONS:
        return None
    return Reduction(name, told.__getstate__()[1] if name == "PREMUL_SUM" else None)


def can(reduction: Reduction, tensor: Any) -> bool:
    """Whether tensors of this kind are folded here: dense ones in host memory."""
    torch = sys.modules["torch"]
    if tensor.device.type != "cpu" or tensor.layout is not torch.strided or type(tensor) not in _plain(torch):
        return False
    if tensor.dtype.is_complex or tensor.dtype.itemsize == 0 or tensor.is_quantized:
        return False
    if reduction.name in ("BAND", "BOR", "BXOR"):
        return not tensor.dtype.is_floating_point
    return True


def lay_out(tensors: "list[Any]") -> Layout:
    """The places of tensors of one type, one behind the other."""
    item = tensors[0].dtype.itemsize
    step = max(1, ALIGN_BYTES // item)
    starts, at, total = [], 0, 0
    for tensor in tensors:
        starts.append(at)
        total = at + tensor.numel()
        at += -(-tensor.numel() // step) * step
    return Layout(tuple(starts), total, item)


def flat(address: int, dtype: Any, count: int) -> Any:
    """`count` elements at an address, as a tensor that owns nothing."""
    torch = sys.modules["torch"]
    if count == 0:
        return torch.empty(0, dtype=dtype)
    size = count * dtype.itemsize
    return torch.frombuffer((ctypes.c_char * size).from_address(address), dtype=dtype, count=count)


def lay_down(tensors: "list[Any]", layout: Layout, slot: Any, reduction: Reduction) -> None:
    """Copies a contribution into its slot."""
    torch = sys.modules["torch"]
    for tensor, start in zip(tensors, layout.starts):
        place = slot[start : start + tensor.numel()]
        if tensor.numel() == 0:
            continue
        if reduction.name == "PREMUL_SUM":
            torch.mul(tensor.detach(), reduction.factor, out=place.view(tensor.shape))
        elif tensor.is_contiguous():
            ctypes.memmove(place.data_ptr(), tensor.data_ptr(), tensor.numel() * layout.item)
        else:
            place.view(tensor.shape).copy_(tensor.detach())


def adds_up(reduction: Reduction, dtype: Any) -> bool:
    """Whether contributions may be combined one by one where the result goes, with the bits that `fold` gives."""
    return reduction.name != "PREMUL_SUM" and not (dtype.is_floating_point and dtype.itemsize == 1)


def add_own(tensors: "list[Any]", layout: Layout, total: Any, reduction: Reduction) -> None:
    """Combines a contribution with what lies there of the members before it."""
    for tensor, start in zip(tensors, layout.starts):
        add(reduction, tensor.detach(), total[start : start + tensor.numel()].view(tensor.shape))


def add(reduction: Reduction, each: Any, total: Any) -> None:
    """Combines a contribution that was laid down with what lies there of the members before it."""
    torch = sys.modules["torch"]
    _combination(torch, reduction.name, total.dtype is torch.bool)(total, each, out=total)


def finish(reduction: Reduction, total: Any, count: int) -> None:
    """The last step, once all `count` contributions are combined."""
    if reduction.name == "AVG":
        _divide(sys.modules["torch"], total, count)


def pick_up(result: Any, start: int, tensor: Any) -> None:
    """Copies one tensor's share of a result, unseen by autograd, as torch's own backends write."""
    share = result[start : start + tensor.numel()]
    if tensor.is_contiguous():
        ctypes.memmove(tensor.data_ptr(), share.data_ptr(), tensor.numel() * tensor.dtype.itemsize)
    elif tensor.numel():
        tensor.data.copy_(share.view(tensor.shape))


def fold(reduction: Reduction, inputs: "list[Any]", result: Any) -> None:
    """Folds flat inputs, given in rank order, into a flat result of their length and type.

    Only final bytes are ever written to the result: another rank may be folding the same ones, or reading them."""
    step = max(1, CHUNK_BYTES // result.dtype.itemsize)
    scratch = sys.modules["torch"].empty(min(step, result.numel()), dtype=result.dtype)
    for at in range(0, result.numel(), step):
        chunk = result[at : at + step]
        done = scratch[: chunk.numel()]
        _fold_chunk(reduction, [each[at : at + step] for each in inputs], done)
        ctypes.memmove(chunk.data_ptr(), done.data_ptr(), done.numel() * done.dtype.itemsize)


def _fold_chunk(reduction: Reduction, inputs: "list[Any]", result: Any) -> None:
    torch = sys.modules["torch"]
    if result.dtype.is_floating_point and result.dtype.itemsize == 1:
        # Arithmetic on bytes-wide floats is not there: they are widened, folded, and rounded once.
        wide = torch.empty(result.numel(), dtype=torch.float32)
        _fold_chunk(reduction, [each.to(torch.float32) for each in inputs], wide)
        result.copy_(wide)
        return
    combine = _combination(torch, reduction.name, result.dtype is torch.bool)
    if len(inputs) == 1:
        result.copy_(inputs[0])
    else:
        combine(inputs[0], inputs[1], out=result)
    for each in inputs[2:]:
        combine(result, each, out=result)
    finish(reduction, result, len(inputs))


def _divide(torch: Any, result: Any, count: int) -> None:
    if result.dtype.is_floating_point:
        result.div_(count)
    elif result.dtype is not torch.bool:
        result.div_(count, rounding_mode="trunc")


def _combination(torch: Any, name: str, logical: bool) -> Any:
    if logical:
        return {
            "PRODUCT": torch.logical_and,
            "MIN": torch.logical_and,
            "BAND": torch.logical_and,
            "BXOR": torch.logical_xor,
        }.get(name, torch.logical_or)
    return {
        "PRODUCT": torch.mul,
        "MIN": torch.minimum,
        "MAX": torch.maximum,
        "BAND": torch.bitwise_and,
        "BOR": torch.bitwise_or,
        "BXOR": torch.bitwise_xor,
    }.get(name, torch.add)


def _plain(torch: Any) -> "tuple[Any, ...]":
    return torch.Tensor, torch.nn.Parameter
