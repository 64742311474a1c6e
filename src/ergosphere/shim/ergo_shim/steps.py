"""Where the steps of optimizers come by: torch wraps the step of each optimizer class by one function, and so do we."""

from __future__ import annotations

import sys
from typing import Any, Callable, Optional

_current: "list[Callable[[], Any]]" = []  # asked at each step for what it is to go through; told when it is done


def listen(current: "Callable[[], Any]", stepped: "Callable[[], None]") -> None:
    """From now on steps go through what `current` returns, if that is not None, and `stepped` is called after each."""
    _current[:] = [current, stepped]


def reroute() -> None:
    """Has the steps of all optimizer classes that come into use from now on ask where they go."""
    module: Any = sys.modules.get("torch.optim.optimizer")
    kind = getattr(module, "Optimizer", None)
    if kind is None or getattr(kind, "_ergosphere", False):
        return
    kind._ergosphere = True
    wrap = kind.profile_hook_step

    def profile_hook_step(step: Any) -> Any:
        return wrap(_through(step))

    kind.profile_hook_step = staticmethod(profile_hook_step)


def _through(step: Any) -> Any:
    import functools

    @functools.wraps(step)
    def stepping(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not _current:
            return step(self, *args, **kwargs)
        current, stepped = _current
        splice: Optional[Any] = current()
        answer = step(self, *args, **kwargs) if splice is None else splice.step(step, self, args, kwargs)
        stepped()
        return answer

    return stepping
