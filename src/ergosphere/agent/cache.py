"""The job's own copy of its owner's ~/.cache: small entries are copied, large ones shown read-only as they are."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

COPIED_BYTES_MAX: Final = 64 << 20  # of all entries together: what programs rewrite (fonts, settings, compiled code)
COPIED_FILES_MAX: Final = 5_000


def copy_small(original: Path, copy: Path) -> None:
    """Copy the entries of `original` into `copy`, smallest first, as far as the limits allow."""
    bytes_left, files_left = COPIED_BYTES_MAX, COPIED_FILES_MAX
    sized = [(_size(entry), entry) for entry in _entries(original)]
    for (size, files), entry in sorted(sized, key=lambda each: (each[0], each[1])):
        if size > bytes_left or files > files_left:
            return
        bytes_left, files_left = bytes_left - size, files_left - files
        _copy(entry, copy / entry.name)


def shown(original: Path, copy: Path) -> tuple[str, ...]:
    """The entries of `original` that were not copied: to be bound read-only at their own paths."""
    return tuple(str(entry) for entry in _entries(original) if not os.path.lexists(copy / entry.name))


def _entries(original: Path) -> list[Path]:
    try:
        return sorted(entry for entry in original.iterdir() if entry.is_dir() or entry.is_file())
    except OSError:
        return []  # no cache, or none that we may read


def _size(entry: Path) -> tuple[int, int]:
    """(bytes, files) of an entry; counting stops where it is too large anyway."""
    if not entry.is_dir() or entry.is_symlink():
        return entry.lstat().st_size, 1
    total, files = 0, 0
    for folder, _, names in os.walk(entry):
        for name in names:
            files += 1
            total += os.lstat(Path(folder, name)).st_size
            if total > COPIED_BYTES_MAX or files > COPIED_FILES_MAX:
                return total, files
    return total, files


def _copy(entry: Path, to: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.copytree(entry, to, symlinks=True)
    else:
        shutil.copy2(entry, to, follow_symlinks=False)
