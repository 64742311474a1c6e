"""The agent's own cgroup module, loaded from beside this folder: the keeper has no `ergosphere` to import it from."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any, Final


def _load() -> ModuleType:
    path = Path(__file__).resolve().parent.parent / "cgroups.py"
    spec = importlib.util.spec_from_file_location("cgroups", path)
    assert spec is not None and spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_cgroups = _load()
FAILURES: Final[tuple[type[Exception], ...]] = (_cgroups.CgroupError, OSError)  # of freezing, killing, removing


def of_path(path: Path) -> Any:
    """The freezer whose directory `path` is."""
    return _cgroups.of_path(path)
