"""The shim as ranks get it: compiled once by this machine's Python, for compiling it costs a rank about 90 ms."""

from __future__ import annotations

import compileall
import shutil
from pathlib import Path
from typing import Final

from ergosphere import shim

SOURCE: Final = Path(shim.__file__).parent
SEEN_AT: Final = "/run/ergo/shim"


def compile_for(node_dir: Path) -> None:
    """Lay a compiled copy down beside a node's other files. Ranks of another Python compile for themselves."""
    copy = _copy(node_dir)
    fresh, gone = copy.with_suffix(".new"), copy.with_suffix(".old")
    for left in (fresh, gone):
        shutil.rmtree(left, ignore_errors=True)
    shutil.copytree(SOURCE, fresh, ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(fresh, quiet=2, stripdir=str(fresh), prependdir=SEEN_AT)
    if copy.exists():
        copy.rename(gone)
    fresh.rename(copy)
    shutil.rmtree(gone, ignore_errors=True)


def give(node_dir: Path, folder: Path) -> None:
    """The shim in a rank's own folder: from the compiled copy where there is one, else as it came."""
    try:
        shutil.copytree(_copy(node_dir), folder)
    except OSError:  # not there yet, or being replaced
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("__pycache__"))


def _copy(node_dir: Path) -> Path:
    return node_dir / "shim"
