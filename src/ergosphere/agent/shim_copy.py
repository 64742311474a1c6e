"""The shim as ranks get it: compiled once by this machine's Python, for compiling it costs a rank about 90 ms."""

from __future__ import annotations

import compileall
import hashlib
import shutil
from functools import cache
from pathlib import Path
from typing import Final

from ergosphere import shim

SOURCE: Final = Path(shim.__file__).parent
SEEN_AT: Final = "/run/ergo/shim"


def compile_for(node_dir: Path) -> None:
    """Lay a compiled copy down beside a node's other files. Ranks of another Python compile for themselves."""
    copy = _copy(node_dir)
    for left in node_dir.glob("shim-*"):
        if left != copy:
            shutil.rmtree(left, ignore_errors=True)
    if copy.exists():
        return
    fresh = copy.with_suffix(".new")
    shutil.copytree(SOURCE, fresh, ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(fresh, quiet=2, stripdir=str(fresh), prependdir=SEEN_AT)
    fresh.rename(copy)


def give(node_dir: Path, folder: Path) -> None:
    """The shim in a rank's own folder: from the compiled copy where there is one, else as it came."""
    compiled = _copy(node_dir)
    if compiled.exists():
        shutil.copytree(compiled, folder)
    else:
        shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("__pycache__"))


def _copy(node_dir: Path) -> Path:
    """Named after what is in it, so that no agent gives its ranks another version's."""
    return node_dir / f"shim-{_digest()}"


@cache
def _digest() -> str:
    digest = hashlib.blake2s(digest_size=8)
    for path in sorted(SOURCE.rglob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
