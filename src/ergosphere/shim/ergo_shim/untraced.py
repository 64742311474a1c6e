"""Keeps `torch.compile` out of our own functions: it would trace, or refuse, whatever Python runs under it."""

from __future__ import annotations

from typing import Any


def leave_alone(*classes: Any) -> None:
    """Marks every function of the classes, and all that they call, as not to be traced."""
    functions = [value for kind in classes for value in vars(kind).values() if hasattr(value, "__code__")]
    for function in functions:
        function._torchdynamo_disable = True
        function._torchdynamo_disable_msg = "held by ergosphere"
    try:
        from torch._C._dynamo import eval_frame

        skip = eval_frame._FrameAction.SKIP
        for function in functions:
            eval_frame.set_code_exec_strategy(function.__code__, eval_frame._FrameExecStrategy(skip, skip))
    except Exception:  # a torch without these: functions are traced, and mostly nothing is lost
        pass
