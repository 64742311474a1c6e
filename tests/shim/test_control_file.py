"""The control file: what one side posts the other reads, torn or not, mapped or not."""

from __future__ import annotations

import threading
import time

import pytest

from ergosphere.agent.cut_port import LocalRank
from ergosphere.agent.cut_view import RankState
from ergosphere.shim.ergo_shim import control_file
from ergosphere.shim.ergo_shim.control_file import ORDERS, REPLY, Brief, Mapped


@pytest.fixture
def path(tmp_path):
    control_file.create(str(tmp_path / "control"))
    return str(tmp_path / "control")


def test_a_fresh_file_says_nothing(path):
    assert control_file.is_ours(path)
    assert control_file.fetch(Brief(path), ORDERS) == (control_file.Head(0, 0, 0), None)
    assert LocalRank(path).view().state is RankState.NONE


def test_a_file_that_is_not_ours_is_refused(tmp_path):
    (tmp_path / "other").write_bytes(b"x" * control_file.FILE_BYTES)
    with pytest.raises(FileNotFoundError):
        LocalRank(tmp_path / "other")


def test_what_is_posted_mapped_is_read_without_a_mapping_and_the_other_way_round(path):
    mapped = Mapped(path)
    control_file.post(mapped, REPLY, 3, {"a": [1]})
    assert control_file.fetch(Brief(path), REPLY)[1] == {"a": [1]}
    control_file.post(Brief(path), ORDERS, 4, {"b": 2})
    assert control_file.fetch(mapped, ORDERS) == (control_file.head(mapped, ORDERS), {"b": 2})
    mapped.close()


def test_the_two_boards_and_the_counts_do_not_overlap(path):
    mapped = Mapped(path)
    longest = "x" * (ORDERS.body_bytes_max - 2)
    control_file.post(mapped, REPLY, 1, "kept")
    mapped.slots[control_file.SLOTS_MAX - 1] = 2**63
    control_file.post(mapped, ORDERS, 1, longest)
    assert control_file.fetch(mapped, REPLY)[1] == "kept"
    assert control_file.fetch(mapped, ORDERS)[1] == longest
    assert mapped.slots[control_file.SLOTS_MAX - 1] == 2**63
    with pytest.raises(ValueError, match="the board holds"):
        control_file.post(mapped, ORDERS, 1, longest + "x")
    mapped.close()


def test_a_reader_never_sees_half_a_message(path):
    writer, stop = Mapped(path), threading.Event()

    def write():
        turn = 0
        while not stop.is_set():
            turn += 1
            control_file.post(writer, REPLY, turn, [turn] * (turn % 900 + 1))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        seen, end_s = [], time.monotonic() + 60.0
        while (len(seen) < 500 or not any(seen)) and time.monotonic() < end_s:
            seen.append(control_file.fetch(Brief(path), REPLY)[1])
    finally:
        stop.set()
        thread.join()
        writer.close()
    assert all(message is None or len(message) == message[0] % 900 + 1 for message in seen)
    assert any(seen)


def test_a_sleeper_is_woken_by_a_post(path):
    sleeper, poster, woken = Mapped(path), Mapped(path), threading.Event()
    seen = control_file.head(sleeper, ORDERS)

    def sleep():
        while control_file.head(sleeper, ORDERS) == seen:
            sleeper.sleep(ORDERS, seen, None, 0.01)
        woken.set()

    thread = threading.Thread(target=sleep)
    thread.start()
    control_file.post(poster, ORDERS, 1, {})
    poster.wake(ORDERS)
    assert woken.wait(20)
    thread.join()
    sleeper.close()
    poster.close()
