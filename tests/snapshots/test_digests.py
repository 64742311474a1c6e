"""Digests are blake3 whatever way they are computed, also of files still being written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from blake3 import blake3

from ergosphere.snapshots.digests import (
    FOLLOW_STEP,
    READ_SIZE,
    WINDOW_SIZE,
    Follower,
    digest_bytes,
    digest_file,
    digest_image,
)

SIZES = [0, 1, 4095, 4097, READ_SIZE, READ_SIZE + 1, 3_000_000]

# Grows page images as CRIU does: spliced from a pipe to the end of the file, which is never touched again.
SPLICER = """
import os, sys
folder, names, megabytes = sys.argv[1], sys.argv[2].split(","), int(sys.argv[3])
reader, writer = os.pipe()
for name in names:
    image = os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for _ in range(megabytes * 16 + 1):
        left = os.write(writer, os.urandom(65536))
        while left:
            left -= os.splice(reader, image, left)
    os.close(image)
"""


@pytest.mark.parametrize("size", SIZES)
def test_every_way_gives_the_same_digest(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    expected = blake3(content).hexdigest()
    assert digest_bytes(content) == digest_file(tmp_path / "file") == digest_image(tmp_path / "file") == expected


def test_a_file_of_several_windows_has_the_same_digest(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(2 * WINDOW_SIZE + 12_345)
        for offset in (0, WINDOW_SIZE - 3, 2 * WINDOW_SIZE + 7):
            file.seek(offset)
            file.write(b"island")
    assert digest_image(tmp_path / "file") == digest_file(tmp_path / "file")


def test_a_follower_is_right_about_images_that_grow_before_its_eyes(tmp_path: Path) -> None:
    follower = Follower(tmp_path)
    names = ["pages-1.img", "pages-2.img"]
    megabytes = 3 * FOLLOW_STEP // (1 << 20)
    subprocess.run([sys.executable, "-c", SPLICER, tmp_path, ",".join(names), str(megabytes)], check=True, timeout=60)
    (tmp_path / "core-1.img").write_bytes(b"not followed: CRIU rewrites these")
    assert follower.finish() == {name: digest_image(tmp_path / name) for name in names}


def test_a_follower_of_a_finished_or_empty_folder_is_right_too(tmp_path: Path) -> None:
    assert Follower(tmp_path).finish() == {}
    (tmp_path / "pages-1.img").write_bytes(b"")
    (tmp_path / "pages-2.img").write_bytes(b"x" * 5000)
    follower = Follower(tmp_path)
    assert follower.finish() == {name: digest_image(tmp_path / name) for name in ("pages-1.img", "pages-2.img")}


def test_a_follower_hashes_a_file_that_shrank_again(tmp_path: Path) -> None:
    path = tmp_path / "pages-1.img"
    path.write_bytes(os.urandom(FOLLOW_STEP))
    follower = Follower(tmp_path)
    while not any(f.done for f in list(follower._followed.values())):
        pass
    os.truncate(path, 4096)
    assert follower.finish() == {"pages-1.img": digest_image(path)}


def test_a_follower_that_is_stopped_leaves_no_thread_and_no_open_file(tmp_path: Path) -> None:
    (tmp_path / "pages-1.img").write_bytes(b"x" * FOLLOW_STEP)
    follower = Follower(tmp_path)
    follower.stop()
    assert not follower._thread.is_alive()
    assert [path for path in map(opened, os.listdir("/proc/self/fd")) if path.startswith(str(tmp_path))] == []


def opened(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except FileNotFoundError:  # another test's thread has closed it meanwhile
        return ""
