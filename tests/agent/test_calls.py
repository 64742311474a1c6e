"""Sleeping system calls across a dump and a restore: on real processes of both freezers, and on damaged images."""

import os
import time

import pytest
from tests.agent import small_rank
from tests.agent.naps import NAPS, SAID
from tests.agent.small_rank import python, wait_until

from ergosphere.agent import calls, images

STAYS = 'os.read(os.open("/tmp/work/never", os.O_RDWR), 1)'


@pytest.mark.parametrize("version", [1, 2])
def test_a_thread_that_slept_when_it_was_dumped_sleeps_again_and_sees_no_error(tmp_path, version):
    with small_rank.rank(tmp_path, version=version) as rank:
        os.mkfifo(rank.work / "never")
        rank.start(python(NAPS + STAYS))
        time.sleep(0.2)
        rank.group.freeze()
        assert rank.dump().returncode == 0, rank.log("dump")
        rank.kill()
        assert calls.resume_calls(rank.images) == 3
        assert calls.resume_calls(rank.images) == 0
        rank.group.freeze()
        assert rank.restore().returncode == 0, rank.log("restore")
        rank.group.thaw()
        wait_until(lambda: "end" in rank.out.read_text(), "the end")
        assert sorted(rank.out.read_text().split("\n")) == SAID


@pytest.mark.parametrize("damage", [b"", b"x" * 40, calls.MAGICS + b"\x05\0\0\0\x12\x7f"])
def test_an_image_that_is_not_a_thread_is_refused(tmp_path, damage):
    (tmp_path / "core-1.img").write_bytes(damage)
    with pytest.raises(images.ImageError, match="core-1"):
        calls.resume_calls(tmp_path)
