"""Whether something is there, as far as we may look: what cannot be looked at is not there. No exceptions, no words.

`Path` raises where a folder is closed to us, or a word is too long to be a path; a command's arguments may be both.
"""

from __future__ import annotations

import os
from pathlib import Path


def is_there(path: Path) -> bool:
    """Something is there."""
    return os.path.exists(path)  # noqa: PTH110


def is_file(path: Path) -> bool:
    """A file is there."""
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: Path) -> bool:
    """A folder is there."""
    return os.path.isdir(path)  # noqa: PTH112
