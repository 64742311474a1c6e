"""One step that the first rank of a device makes for all: what each brings to it, how it is made, what comes of it."""

from __future__ import annotations

import ctypes
import sys
from typing import Any, Callable, Optional

from . import adopt, arena, handing
from .pages import Writes
from .record import Record
from .sharer import Sharer, size_of

Step = Callable[..., Any]


def changed(sharer: Sharer, optimizer: Any, writes: Writes) -> Optional[str]:
    """What is not as it was when this rank last stepped together with its mates; None if all is."""
    region = sharer.region
    assert region is not None
    tensors = adopt.tensors(optimizer)
    if len(tensors) != len(sharer.tensors) or any(a is not b for a, b in zip(tensors, sharer.tensors)):
        return "the optimizer has other tensors than before"
    for tensor, at, (shape, stride, dtype) in zip(tensors, region.plan.places, region.plan.shapes):
        moved = tensor.numel() and tensor.data_ptr() != region.address + at
        if moved or tuple(tensor.shape) != shape or tensor.stride() != stride or tensor.dtype != dtype:
            return "a tensor of the optimizer was replaced"
    if writes.any(region.address, region.plan.size):
        return "weights or optimizer state were changed outside the optimizer's step"
    return None


def fill(record: Record, sharer: Sharer, optimizer: Any) -> Optional[str]:
    """Puts into the record what the step depends on. What of it cannot be compared; None if all can."""
    torch = sys.modules["torch"]
    outside = sharer.proof.outside()
    if outside is None:
        return "what its step uses from outside has changed"
    modes = (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype())
    record.add((sharer.steps, torch.get_num_threads(), modes, outside))
    record.add(adopt.settings(optimizer))
    held = [(parameter.requires_grad, parameter.grad) for parameter in adopt.parameters(optimizer)]
    record.add([(wanted, None if gradient is None else gradient.requires_grad) for wanted, gradient in held])
    for _, gradient in held:
        if gradient is not None and not arena.is_plain(gradient):
            return "it has gradients that are not plain tensors in host memory"
        if gradient is not None:
            record.add_tensor(gradient)
    return None if record.is_known else "its settings are more than plain values"


def lead(sharer: Sharer, own: Step, optimizer: Any, surroundings: "Callable[[], Any]", opened: int) -> Any:
    """The program's step, on the shared pages, and the handing over of all that came of it besides, to `opened`."""
    handing.begin(opened)
    thorough = not sharer.proof.is_torchs
    before = handing.snapshot(optimizer, thorough)
    around = surroundings() if thorough else None
    answer, error = None, None
    try:
        _swap_in(sharer)
        answer = own(optimizer)
    except Exception as raised:
        error = raised
    finally:
        replaced = _swap_back(sharer)
    if thorough and around != surroundings():
        raise handing.Lost("the optimizer's step drew random numbers or spoke to other ranks")
    odd = adopt.oddity(optimizer, sharer.proof.is_torchs) if thorough else None
    if odd is not None:
        raise handing.Lost(odd)
    told = handing.changes(optimizer, before, thorough)
    told = told._replace(tensors=replaced, error=error, answer=handing.told_of(answer))
    handing.hand_over(opened, told, optimizer)
    if error is not None:
        raise error
    return answer


def follow(sharer: Sharer, optimizer: Any, opened: int) -> Any:
    """What a step comes to in a rank that did not make it."""
    if sharer.tensors:
        sys.modules["torch"].autograd.graph.increment_version(sharer.tensors)
    return handing.take_over(optimizer, opened, sharer.tensors)


def _swap_in(sharer: Sharer) -> None:
    assert sharer.shared is not None
    for tensor, shared in zip(sharer.tensors, sharer.shared.tensors):
        tensor.data = shared


def _swap_back(sharer: Sharer) -> "list[Any]":
    """Puts this rank's own view in place again. Tensors that the step gave another shape: their place and content."""
    assert sharer.shared is not None
    replaced = []
    for place, (tensor, shared, view) in enumerate(zip(sharer.tensors, sharer.shared.tensors, sharer.views)):
        if _is_back(tensor, shared):
            tensor.data = view
        else:
            replaced.append((place, handing.packed(tensor)))
    return replaced


def _is_back(tensor: Any, shared: Any) -> bool:
    """Copies the content of memory that the step put in place of what was there. False if it is of another shape."""
    if tensor.shape != shared.shape or tensor.dtype != shared.dtype or tensor.stride() != shared.stride():
        return False
    if tensor.data_ptr() == shared.data_ptr():
        return True
    if not arena.is_plain(tensor) or not arena.is_alone(tensor):
        raise handing.Lost("the optimizer's step put memory in place of a parameter that has other names too")
    ctypes.memmove(shared.data_ptr(), tensor.data_ptr(), size_of(tensor))
    return True
