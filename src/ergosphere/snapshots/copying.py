"""Copies of single files: by link or reflink where the filesystem can, else inside the kernel; holes stay
holes.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

FICLONE: Final = 0x40049409  # ioctl: share the blocks of another file (btrfs, xfs, bcachefs)
PRIVATE_MODE: Final = 0o600
COPY_STEP: Final = 64 * 1024 * 1024  # bytes per system call
BLOCK_SIZE: Final = 4096  # bytes; the grain of holes
_CANNOT: Final = {
    errno.EXDEV,
    errno.EINVAL,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.ENOTTY,
    errno.EBADF,
    errno.EPERM,
}


def is_no_room(error: OSError) -> bool:
    """Whether a disk or somebody's share of it is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def link_or_copy(source: Path, dest: Path) -> None:
    """Make `dest` (absent) the same bytes as `source`: a hard link if possible.

    Neither may be written to afterwards.
    """
    try:
        os.link(source, dest, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
            raise
        copy_file(source, dest)


def copy_file(source: Path, dest: Path) -> None:
    """Copy bytes and holes to `dest` (absent), mode 0600. On failure nothing is left at `dest`."""
    with source.open("rb", buffering=0) as reader:
        target = os.open(dest, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_MODE)
        try:
            copy_content(reader.fileno(), target)
        except BaseException:
            dest.unlink()
            raise
        finally:
            os.close(target)


def copy_content(source: int, target: int) -> None:
    """Copy all of one open file into another, empty one."""
    if _cloned(source, target):
        return
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    for start, end in data_ranges(source):
        _copy_range(source, target, start, end)


def data_ranges(descriptor: int) -> Iterator[tuple[int, int]]:
    """The [start, end) ranges of a file that are not holes."""
    status = os.fstat(descriptor)
    if status.st_blocks * 512 >= status.st_size:
        if status.st_size:
            yield 0, status.st_size
        return
    position = 0
    while position < status.st_size:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            raise
        position = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, position


def is_sparse(descriptor: int) -> bool:
    """Whether a file has holes."""
    size = os.fstat(descriptor).st_size
    return sum(end - start for start, end in data_ranges(descriptor)) < size


def make_sparse(path: Path) -> None:
    """Write a file anew without its blocks of zeros (a store may have filled its holes)."""
    aside = path.with_name(f".{path.name[:200]}.sparse")
    zeros = bytes(BLOCK_SIZE)
    with path.open("rb") as reader, aside.open("xb", buffering=0) as writer:
        os.ftruncate(writer.fileno(), os.fstat(reader.fileno()).st_size)
        offset = 0
        while block := reader.read(BLOCK_SIZE):
            if block != zeros[: len(block)]:
                os.pwrite(writer.fileno(), block, offset)
            offset += len(block)
    aside.replace(path)


def _cloned(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, FICLONE, source)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        return False
    return True


def _copy_range(source: int, target: int, start: int, end: int) -> None:
    os.lseek(target, start, os.SEEK_SET)
    while start < end:
        count = _copy_some(source, target, start, min(end - start, COPY_STEP))
        if count == 0:  # the file shrank: its reader sees that by its stat
            return
        start += count


def _copy_some(source: int, target: int, start: int, count: int) -> int:
    try:
        return os.sendfile(target, source, start, count)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    return os.write(target, os.pread(source, min(count, 1 << 20), start))
