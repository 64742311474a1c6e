"""Reading and mending CRIU's images: on images of real processes, on invented ones, and on damaged ones."""

import random
import struct
import time
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.agent import small_rank
from tests.agent.small_rank import python, wait_until

from ergosphere.agent import images

TICKS = """
import ctypes, os, select, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
fd = libc.timerfd_create(1, 0)
first, every = float(sys.argv[1]), float(sys.argv[2])
parts = [int(every), int(every % 1 * 1e9), int(first), int(first % 1 * 1e9)]
libc.timerfd_settime(fd, 0, struct.pack("4q", *parts), None)
os.write(1, b"up\\n")
while True:
    n = int.from_bytes(os.read(fd, 8), sys.byteorder)
    os.write(1, b"tick %d\\n" % n)
"""


def test_a_periodic_timer_that_was_saved_disarmed_fires_again(tmp_path):
    with small_rank.rank(tmp_path) as rank:
        rank.start([*python(TICKS), "0.02", "0.02"])
        wait_until(lambda: rank.out.read_text().count("tick") > 2, "ticks")
        rank.group.freeze()
        time.sleep(0.1)  # it expires while nobody can read it
        assert rank.dump().returncode == 0, rank.log("dump")
        rank.kill()
        assert images.mend_timers(rank.images) == 1
        assert images.mend_timers(rank.images) == 0
        length = rank.out.stat().st_size
        rank.group.freeze()
        assert rank.restore().returncode == 0, rank.log("restore")
        rank.group.thaw()
        wait_until(lambda: rank.out.stat().st_size > length + 30, "ticks after the thaw")


def test_a_timer_that_needs_no_mending_is_left_as_it_is(tmp_path):
    with small_rank.rank(tmp_path) as rank:
        rank.start([*python(TICKS), "1000", "1000"])
        rank.group.freeze()
        assert rank.dump().returncode == 0, rank.log("dump")
        before = (rank.images / images.FILES).read_bytes()
        assert images.mend_timers(rank.images) == 0
        assert (rank.images / images.FILES).read_bytes() == before


OUTWARD = """
import os, socket, time
inner = socket.create_server(("127.0.0.1", 0))
a = socket.create_connection(inner.getsockname()); b, _ = inner.accept()
outer = socket.create_server(("10.77.0.1", 8080))
c = socket.create_connection(("10.77.0.1", 8080)); d, _ = outer.accept()
os.write(1, b"up\\n")
while not os.path.exists("/tmp/work/go"):
    time.sleep(0.01)
a.sendall(b"still here")
os.write(1, b.recv(100) + b"\\n")
for end in (c, d):
    try:
        end.sendall(b"x")
        os.write(1, b"sent\\n")
    except OSError as error:
        os.write(1, type(error).__name__.encode() + b"\\n")
os.write(1, b"end\\n")
time.sleep(1000)
"""


@pytest.fixture
def outward(tmp_path):
    """A dumped and ended rank with one connection over loopback and one, by its address, to the outside."""
    with small_rank.netns() as net, small_rank.rank(tmp_path) as rank:
        small_rank.in_net(net, ["ip", "address", "add", "10.77.0.1/32", "dev", "lo"])
        rank.start(python(OUTWARD), net)
        rank.group.freeze()
        assert rank.dump(net).returncode == 0, rank.log("dump")
        rank.kill()
        yield rank


def test_connections_to_the_outside_are_told_from_those_inside(outward):
    seen = images.outside_connections(outward.images, [])
    assert {connection.peer for connection in seen} == {ip_address("10.77.0.1")}
    assert 8080 in {connection.port for connection in seen} and 8080 in {connection.peer_port for connection in seen}
    assert len(seen) == 2
    assert images.outside_connections(outward.images, [ip_network("10.77.0.0/24")]) == ()


def test_only_the_connections_to_the_outside_are_closed(outward):
    assert images.close_outside(outward.images, [ip_network("10.77.0.0/24")]) == 0
    assert images.close_outside(outward.images, []) == 2
    assert images.outside_connections(outward.images, []) == ()
    with small_rank.netns() as fresh:
        small_rank.in_net(fresh, ["ip", "address", "add", "10.77.0.1/32", "dev", "lo"])
        outward.group.freeze()
        assert outward.restore(fresh).returncode == 0, outward.log("restore")
        (outward.work / "go").touch()
        outward.group.thaw()
        wait_until(lambda: outward.out.read_text().endswith("end\n") or outward.err.read_text(), "the end")
    lines = outward.out.read_text().splitlines()
    assert lines[1] == "still here", outward.err.read_text()
    assert all(line == "BrokenPipeError" for line in lines[2:4]), lines


# --- the wire format ---------------------------------------------------------------------------------------------

timers = st.fixed_dictionaries(
    {5: st.integers(0, 3), 7: st.integers(0, 2), 8: st.integers(0, 2), 9: st.integers(0, 2), 10: st.integers(0, 2)}
)


def image_of(timer, before=b"", after=b""):
    message = b"".join(images.varint_field(number, value).raw for number, value in sorted(timer.items()))
    entry = images.varint_field(1, 17).raw + before + images.bytes_field(12, message).raw + after
    return images.MAGICS + struct.pack("<I", len(entry)) + entry


def timer_in(image):
    entry = images.parse(image[12:])
    (field,) = [field for field in entry if field.number == 12]
    return {field.number: field.value for field in images.parse(field.payload)}


@given(timers)
def test_exactly_the_disarmed_periodic_timers_are_armed(tmp_path_factory, timer):
    folder = tmp_path_factory.mktemp("image")
    kept = (images.bytes_field(99, b"kept").raw, images.varint_field(98, 1 << 40).raw)
    (folder / images.FILES).write_bytes(image_of(timer, *kept))
    disarmed = timer[7] == timer[8] == 0 and (timer[9] or timer[10]) and timer[5]
    assert images.mend_timers(folder) == bool(disarmed)
    image = (folder / images.FILES).read_bytes()
    assert timer_in(image) == (timer | {8: 1, 5: timer[5] - 1} if disarmed else timer)
    assert all(part in image for part in kept)


@given(st.lists(st.tuples(st.integers(1, 2**29 - 1), st.one_of(st.integers(0, 2**64 - 1), st.binary(max_size=300)))))
def test_every_message_is_parsed_into_the_bytes_it_was_made_of(parts):
    made = [images.varint_field(n, v) if isinstance(v, int) else images.bytes_field(n, v) for n, v in parts]
    message = b"".join(field.raw for field in made)
    assert images.parse(message) == made


@given(st.binary(max_size=60))
def test_no_bytes_at_all_break_the_parser(message):
    try:
        assert b"".join(field.raw for field in images.parse(message)) == message
    except images.ImageError:
        pass


def test_a_damaged_image_is_refused_and_left_as_it_is(tmp_path):
    good = image_of({5: 1, 7: 0, 8: 0, 9: 1, 10: 0})
    dice = random.Random(4)
    bad = [b"", good[:-1], good[:10], b"\0" * 20, good[:8] + b"\xff\xff\xff\x7f" + good[12:], good[:12] + b"\xff" * 11]
    bad += [good[: dice.randrange(1, 12)] for _ in range(5)]
    path = tmp_path / images.FILES
    for image in bad:
        if image == good[:8]:
            continue  # a list of no files is a good one
        path.write_bytes(image)
        with pytest.raises(images.ImageError):
            images.mend_timers(tmp_path)
        assert path.read_bytes() == image
