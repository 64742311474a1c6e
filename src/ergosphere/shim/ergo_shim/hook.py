"""The import hook: does nothing until parts of torch are imported, then patches them once.

Imported by every Python program of a rank, so it imports nothing that is not there already, `typing` included."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

GROUPS = "torch.distributed.distributed_c10d"
OPTIMIZERS = "torch.optim.optimizer"
PATH_DEFAULT = "/run/ergo/control"


class _Finder:
    """First on `sys.meta_path`; finds a watched module with the finders behind it and patches it once executed."""

    def __init__(self) -> None:
        self.watched = {GROUPS, OPTIMIZERS}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in self.watched:
            return None
        self.watched.discard(name)
        if not self.watched:
            disarm()
        for finder in [each for each in sys.meta_path if each is not self]:
            find = getattr(finder, "find_spec", None)
            spec = find(name, path, target) if find is not None else None
            if spec is not None:
                _patch_after_loading(name, spec.loader)
                return spec
        return None


_finder = _Finder()


def arm() -> None:
    """Watches for `torch.distributed`, if this program has a control file at all."""
    if os.path.exists(control_path()):
        sys.meta_path.insert(0, _finder)


def disarm() -> None:
    """Stops watching."""
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)


def control_path() -> str:
    """Where this rank's control file is."""
    return os.environ.get("ERGO_CONTROL", PATH_DEFAULT)


def _patch_after_loading(name: str, loader: Any) -> None:
    load = loader.exec_module

    def load_and_patch(module: Any) -> None:
        load(module)
        try:
            if name == GROUPS:
                from . import patch

                patch.install(module, control_path())
            else:
                from . import steps

                steps.reroute()
        except Exception:  # without the patch the program is an ordinary one
            pass

    loader.exec_module = load_and_patch
