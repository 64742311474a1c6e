"""What an optimizer keeps: its tensors in a fixed order, its settings, and what of it could not be handed over."""

from __future__ import annotations

import sys
from typing import Any, Final, Optional

# Attributes every optimizer has, or is given by torch's schedulers and scalers; the rest is a class's own.
USUAL: Final = frozenset(
    (
        *("defaults", "state", "param_groups", "step", "_zero_grad_profile_name", "_opt_called"),
        *("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"),
        *("_optimizer_state_dict_pre_hooks", "_optimizer_state_dict_post_hooks"),
        *("_optimizer_load_state_dict_pre_hooks", "_optimizer_load_state_dict_post_hooks"),
        *("_warned_capturable_if_run_uncaptured", "_step_supports_amp_scaling", "_need_device_dtype_check_for_fused"),
    )
)
GIVEN: Final = ("grad_scale", "found_inf")  # tensors a GradScaler leaves for a fused step
SCALARS: Final = (int, float, bool, str, type(None), complex)


def parameters(optimizer: Any) -> "list[Any]":
    """All parameters, in the order of their groups."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def tensors(optimizer: Any) -> "list[Any]":
    """Parameters and the tensors of their state, each once."""
    found = parameters(optimizer)
    for parameter in list(found):
        state = state_of(optimizer, parameter)
        found.extend(state[key] for key in state if is_tensor(state[key]))
    return list({id(tensor): tensor for tensor in found}.values())


def settings(optimizer: Any) -> "list[Any]":
    """What besides tensors of state decides about a step."""
    groups = [[(key, group[key]) for key in group if key != "params"] for group in optimizer.param_groups]
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    return [groups, sizes, _scalars(optimizer), own(optimizer)]


def oddity(optimizer: Any, is_torchs: bool) -> Optional[str]:
    """What it keeps that could not be handed over; None if it can all be."""
    held = set(parameters(optimizer))
    if any(key not in held for key in optimizer.state):
        return "it keeps state that belongs to no parameter"
    for each in optimizer.state.values():
        if any(not is_tensor(value) and not is_plain(value) for value in each.values()):
            return "its state holds more than tensors and plain values"
    if any(not is_plain(value) for name, value in own(optimizer).items() if name not in GIVEN):
        return "the optimizer keeps more than tensors of state and plain values"
    if any(hasattr(type(optimizer), name) for name in own(optimizer)):
        return "a part of its class was replaced"
    if not is_torchs and any(is_tensor(value) for group in optimizer.param_groups for value in group.values()):
        return "its parameter groups hold tensors"
    if any(group.get("differentiable") for group in optimizer.param_groups):
        return "its steps are differentiated themselves"
    return None


def state_of(optimizer: Any, parameter: Any) -> "dict[str, Any]":
    """A copy of a parameter's state; asking a defaultdict for what it lacks would make it."""
    return dict(optimizer.state[parameter]) if parameter in optimizer.state else {}


def own(optimizer: Any) -> "dict[str, Any]":
    """Attributes that other optimizers do not have."""
    return {name: value for name, value in vars(optimizer).items() if name not in USUAL}


def own_plain(optimizer: Any) -> "dict[str, Any]":
    """A copy of those that are plain."""
    return {name: copied(value) for name, value in own(optimizer).items() if is_plain(value)}


def group_plain(group: Any) -> "dict[str, Any]":
    """A copy of what is plain in a group."""
    return {key: copied(group[key]) for key in group if key != "params" and is_plain(group[key])}


def copied(value: Any) -> Any:
    """A plain value that shares nothing with this one."""
    if type(value) is dict:
        return {key: copied(each) for key, each in value.items()}
    return type(value)(copied(each) for each in value) if type(value) in (list, tuple) else value


def is_plain(value: Any) -> bool:
    """Whether it is a number, a word, or a container of such, with nothing more to it."""
    if type(value) is dict:
        return all(is_plain(each) for pair in value.items() for each in pair)
    if type(value) in (list, tuple):
        return all(is_plain(each) for each in value)
    return type(value) in SCALARS or (isinstance(value, SCALARS) and type(value).__module__ == "numpy")


def is_tensor(value: Any) -> bool:
    """Whether it is one of torch's."""
    return isinstance(value, sys.modules["torch"].Tensor)


def _scalars(optimizer: Any) -> "list[Any]":
    return [
        [(key, value) for key, value in optimizer.state[each].items() if not is_tensor(value)]
        if each in optimizer.state
        else None
        for each in parameters(optimizer)
    ]
