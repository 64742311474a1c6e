"""Each thing that cannot be frozen, made for real in a rank, is found by looking; what can be is left in peace."""

import os
import subprocess
from pathlib import Path

import pytest
from tests.agent import small_rank
from tests.agent.small_rank import python, wait_until

from ergosphere.agent import criu_log, obstacles

BEGIN = "import ctypes, mmap, os, socket, sys, threading, time\nlibc = ctypes.CDLL(None, use_errno=True)\n"
END = "\nos.write(1, b'ok\\n' if ok else b'absent\\n')\nwhile True: time.sleep(1)\n"

MAKERS = {  # name: (code that sets `ok`, words of the cause)
    "io_uring": ("fd = libc.syscall(425, 4, ctypes.create_string_buffer(120)); ok = fd >= 0", "io_uring"),
    "userfaultfd": ("fd = libc.syscall(323, 0); ok = fd >= 0", "userfaultfd"),
    "perf event": (
        "import struct; a = ctypes.create_string_buffer(struct.pack('2I', 1, 128) + bytes(120), 128)\n"
        "fd = libc.syscall(298, a, 0, -1, -1, 0); ok = fd >= 0",
        "perf event",
    ),
    "BPF map": (
        "import struct; a = ctypes.create_string_buffer(struct.pack('4I', 2, 4, 4, 1) + bytes(56), 72)\n"
        "fd = libc.syscall(321, 0, a, 72); ok = fd >= 0",
        "BPF",
    ),
    "Landlock": ("a = (ctypes.c_uint64 * 1)(1); fd = libc.syscall(444, a, 8, 0); ok = fd >= 0", "Landlock"),
    "secret memory": ("fd = libc.syscall(447, 0); ok = fd >= 0", "secret memory"),
    "vsock": (
        "try: keep = socket.socket(40, socket.SOCK_STREAM); ok = True\nexcept OSError: ok = False",
        "socket of kind AF_VSOCK",
    ),
    "AF_ALG": (
        "try: keep = socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET); ok = True\nexcept OSError: ok = False",
        "socket of kind ALG",
    ),
    "device": ("try: fd = os.open('/dev/fuse', os.O_RDWR); ok = True\nexcept OSError: ok = False", "/dev/fuse"),
    "message queue": (
        "rt = ctypes.CDLL('libc.so.6'); fd = rt.mq_open(b'/q', os.O_CREAT | os.O_RDWR, 0o600, None); ok = fd >= 0",
        "message queue /q",
    ),
    "mount namespace of a child": (
        "r, w = os.pipe()\nchild = os.fork()\n"
        "if not child:\n libc.unshare(0x20000)\n os.write(w, b'x')\n time.sleep(1000)\n"
        "ok = os.read(r, 1) == b'x'",
        "mount namespace of its own",
    ),
    "network namespace of a thread": (
        "r, w = os.pipe()\n"
        "away = lambda: (libc.unshare(0x40000000), os.write(w, b'x'), time.sleep(1000))\n"
        "threading.Thread(target=away, daemon=True).start()\n"
        "ok = os.read(r, 1) == b'x'",
        "network namespace of its own",
    ),
    "user namespace of a child": (
        "r, w = os.pipe()\nchild = os.fork()\n"
        "if not child:\n libc.unshare(0x10000000)\n os.write(w, b'x')\n time.sleep(1000)\n"
        "ok = os.read(r, 1) == b'x'",
        "user namespace of its own",
    ),
    "PID namespace for children": ("ok = libc.unshare(0x20000000) == 0", "PID namespace of its own"),
}


def found(rank):
    return obstacles.obstacles(rank.pid, rank.group.pids())


@pytest.mark.parametrize("name", MAKERS)
def test_what_cannot_be_frozen_is_found_before_the_freeze(tmp_path, name):
    code, words = MAKERS[name]
    with small_rank.rank(tmp_path) as rank:
        rank.start(python(BEGIN + code + END))
        if rank.out.read_text() == "absent\n":
            pytest.skip(f"this kernel has no {name}")
        seen = found(rank)
        assert [obstacle for obstacle in seen if words in obstacle.cause], (rank.err.read_text(), seen)
        assert all(o.remedy and o.command.startswith("python") and o.pid in rank.group.pids() for o in seen)


ALLOWED = """
import signal, select, multiprocessing.shared_memory, subprocess, tempfile, fcntl
keep = [os.eventfd(0), select.epoll(), os.pidfd_open(os.getpid()), os.memfd_create('m'), os.pipe()]
keep += [socket.socketpair(), socket.socket(), socket.socket(socket.AF_INET6), socket.socket(type=socket.SOCK_DGRAM)]
keep += [socket.socket(socket.AF_NETLINK, socket.SOCK_RAW), socket.socket(socket.AF_PACKET, socket.SOCK_RAW)]
keep += [libc.timerfd_create(1, 0), libc.inotify_init1(0), tempfile.TemporaryFile(), open('/dev/urandom', 'rb')]
keep += [open('/proc/self/status'), mmap.mmap(-1, 4096), open('/tmp/work/f', 'w'), libc.signalfd(-1, b'\\0' * 128, 0)]
subprocess.Popen(['sleep', '1000'])
ok = True
"""


def test_what_can_be_frozen_is_not_complained_about_and_is_indeed_frozen(tmp_path):
    with small_rank.rank(tmp_path) as rank:
        rank.start(python(BEGIN + ALLOWED + END))
        assert found(rank) == ()
        rank.group.freeze()
        assert found(rank) == ()
        assert rank.dump().returncode == 0, rank.log("dump")[-2000:]


def test_a_traced_process_is_found_with_the_name_of_its_tracer(tmp_path):
    with small_rank.rank(tmp_path) as rank:
        rank.start(python(BEGIN + "ok = True" + END))
        target = max(small_rank.tree(rank.pid))
        tracer = subprocess.Popen(
            python(
                f"import ctypes, time; print(ctypes.CDLL(None).ptrace(0x4206, {target}, 0, 0), flush=True)\n"
                "time.sleep(60)"
            ),
            stdout=subprocess.PIPE,
        )
        try:
            assert tracer.stdout.readline() == b"0\n"
            (seen,) = found(rank)
            assert "traced by python" in seen.cause and f"(process {tracer.pid})" in seen.cause
            assert seen.passes, "whoever looks in from outside will be gone soon"
        finally:
            tracer.kill()
            tracer.wait()


def test_a_process_that_ends_meanwhile_is_no_obstacle():
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert obstacles.obstacles(os.getpid(), [gone.pid]) == ()


def test_a_zombie_is_no_obstacle():
    zombie = subprocess.Popen(["true"])
    wait_until(lambda: Path(f"/proc/{zombie.pid}/stat").read_text().split()[2] == "Z", "a zombie")
    assert obstacles.obstacles(os.getpid(), [zombie.pid]) == ()
    zombie.wait()


def test_what_is_advised_is_something_that_helps():
    advised = [obstacles._CLOSE, obstacles._device_remedy("/dev/nvidia0"), obstacles._device_remedy("/dev/fuse")]
    advised += [known.remedy for known in criu_log._KNOWN]
    assert not [words for words in advised if "cooperative" in words or "570" in words]
