"""CRIU itself, through the command lines we build: what it saves, what it refuses, and how that is said."""

import os
import shutil
import subprocess
import time

import pytest
from tests.agent import small_rank
from tests.agent.small_rank import python, wait_until

from ergosphere.agent import criu, criu_log

COUNT = """
import os, threading, time
def count(name):
    n = 0
    while True:
        n += 1
        os.write(1, b"%s %d\\n" % (name, n))
        time.sleep(0.001)
if os.fork() == 0:
    count(b"child")
threading.Thread(target=count, args=(b"thread",)).start()
count(b"main")
"""


def sequences(text):
    found = {}
    for line in text.splitlines():
        name, number = line.split()
        found.setdefault(name, []).append(int(number))
    return found


@pytest.fixture(params=[1, 2], ids=["cgroup-v1", "cgroup-v2"])
def version(request):
    from ergosphere.agent import cgroups

    if not any(h.version == request.param and cgroups.usable(h) for h in cgroups.hierarchies()):
        pytest.skip(f"no usable cgroup v{request.param} freezer here")
    return request.param


def test_a_restored_rank_runs_no_instruction_until_it_is_thawed(tmp_path, version):
    with small_rank.rank(tmp_path, version=version) as rank:
        rank.start(python(COUNT))
        wait_until(lambda: len(sequences(rank.out.read_text())) == 3, "three counters")
        rank.group.freeze()
        assert rank.dump().returncode == 0, rank.log("dump")
        assert rank.group.is_frozen()
        rank.kill()
        length = rank.out.stat().st_size

        rank.group.freeze()
        assert rank.restore().returncode == 0, rank.log("restore")
        assert rank.group.is_frozen()
        assert rank.group.pids() == set(small_rank.tree(rank.pid))
        time.sleep(0.2)
        assert rank.out.stat().st_size == length

        rank.group.thaw()
        wait_until(lambda: rank.out.stat().st_size > length + 200, "output after the thaw")
        rank.group.freeze()
        for name, numbers in sequences(rank.out.read_text()).items():
            assert numbers == list(range(1, len(numbers) + 1)), name


def spoil_by_removal(rank):
    rank.group.remove()


def spoil_by_thawing(rank):
    rank.group.thaw()


def spoil_at_the_last_moment(rank):
    """The group is there when it is looked at, and refuses the tree when that is to be moved."""
    script = rank.folder / "suspend.sh"
    script.write_text(criu.SUSPEND_SCRIPT.read_text().replace('frozen && hold "', 'CRIU_SUSPEND_GROUP=/absent; hold "'))
    script.chmod(0o700)
    rank.criu = criu.Criu(rank.criu.prefix, script)


@pytest.mark.parametrize("spoil", [spoil_by_removal, spoil_by_thawing, spoil_at_the_last_moment])
def test_a_rank_that_cannot_be_brought_back_suspended_is_not_brought_back(tmp_path, version, spoil):
    with small_rank.rank(tmp_path, version=version) as rank:
        rank.start(python(COUNT))
        rank.group.freeze()
        assert rank.dump().returncode == 0, rank.log("dump")
        rank.kill()
        rank.group.freeze()
        spoil(rank)
        length = rank.out.stat().st_size
        came_back = rank.restore().returncode == 0
        wait_until(lambda: not [pid for pid in os.listdir("/proc") if pid.isdigit() and ours(pid, rank)], "its end")
        assert rank.out.stat().st_size == length
        assert not came_back, rank.log("restore")
        if spoil is not spoil_at_the_last_moment:  # there CRIU is ended before it can say why
            assert "suspended" in criu_log.explain_file(rank.images / "restore.log").cause
        rank.group.create()


def ours(pid, rank):
    try:
        return os.path.samestat(os.stat(f"/proc/{pid}/fd/1"), rank.out.stat())
    except OSError:
        return False


def test_a_dump_leaves_the_rank_frozen_and_able_to_go_on(tmp_path):
    with small_rank.rank(tmp_path) as rank:
        rank.start(python(COUNT))
        rank.group.freeze()
        length = rank.out.stat().st_size
        assert rank.dump().returncode == 0, rank.log("dump")
        assert rank.out.stat().st_size == length
        rank.group.thaw()
        wait_until(lambda: rank.out.stat().st_size > length, "output after the thaw")


SERVER = """
import os, socket
s = socket.create_server(("127.0.0.1", 29500))
os.write(1, b"up\\n")
c, _ = s.accept()
n = 0
while True:
    n += 1
    c.sendall(b"%020d" % n + b"x" * 50000)
    got = b""
    while len(got) < 20:
        got += c.recv(20 - len(got)) or exit(1)
    assert int(got) == n
    os.write(1, b"server %d\\n" % n)
"""
CLIENT = """
import os, socket
c = socket.create_connection(("127.0.0.1", 29500))
n = 0
while True:
    n += 1
    got = bytearray()
    while len(got) < 50020:
        got += c.recv(50020 - len(got)) or exit(1)
    assert int(got[:20]) == n and not got[20:].strip(b"x")
    os.write(1, b"client %d\\n" % n)
    c.sendall(b"%020d" % n)
"""


def test_a_connection_between_two_ranks_lives_on_when_their_network_is_held(tmp_path):
    hold, release = ["ip", "link", "set", "lo", "down"], ["ip", "link", "set", "lo", "up"]
    with (
        small_rank.netns() as net,
        small_rank.netns() as fresh,
        small_rank.rank(tmp_path, "server") as server,
        small_rank.rank(tmp_path, "client") as client,
    ):
        ranks = (server, client)
        server.start(python(SERVER), net)
        client.start(python(CLIENT), net)
        wait_until(lambda: client.out.stat().st_size > 500, "some exchanges")
        for rank in ranks:
            rank.group.freeze()
        small_rank.in_net(net, hold)
        for rank in ranks:
            assert rank.dump(net).returncode == 0, rank.log("dump")
        for rank in ranks:
            rank.kill()
            rank.group.freeze()
        small_rank.in_net(fresh, hold)
        for rank in reversed(ranks):
            assert rank.restore(fresh).returncode == 0, rank.log("restore")
        length = client.out.stat().st_size
        small_rank.in_net(fresh, release)
        for rank in ranks:
            rank.group.thaw()
        wait_until(lambda: client.out.stat().st_size > length + 200 or client.err.read_text(), "more exchanges")
        for rank in ranks:
            rank.group.freeze()
            assert rank.err.read_text() == ""
        for name, numbers in sequences(server.out.read_text().replace("up\n", "")).items():
            assert numbers == list(range(1, len(numbers) + 1)), name


IO_URING = """
import ctypes, os, time
fd = ctypes.CDLL(None).syscall(425, 4, ctypes.create_string_buffer(120))
n = 0
while True:
    n += 1
    os.write(1, b"%d %d\\n" % (fd, n))
    time.sleep(0.01)
"""


def test_what_cannot_be_saved_is_named_in_plain_words_and_the_rank_runs_on(tmp_path):
    with small_rank.rank(tmp_path) as rank:
        rank.start(python(IO_URING))
        if rank.out.read_text().startswith("-1"):
            pytest.skip("io_uring is off in this kernel")
        rank.group.freeze()
        ended = rank.dump()
        assert ended.returncode != 0
        assert "io_uring" in criu_log.explain_file(rank.images / "dump.log", ended.returncode).cause
        length = rank.out.stat().st_size
        rank.group.thaw()
        wait_until(lambda: rank.out.stat().st_size > length, "output after the failed dump")


FILLED = "import os, time\nkeep = os.urandom(4 << 20)\nwhile True:\n os.write(1, b'x'); time.sleep(0.01)"


def test_a_full_disk_fails_the_dump_in_plain_words_and_the_rank_runs_on(tmp_path):
    with small_rank.rank(tmp_path) as rank:
        rank.start(python(FILLED))
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", rank.images], check=True)
        try:
            rank.group.freeze()
            ended = rank.dump()
            assert ended.returncode != 0
            failure = criu_log.explain_file(rank.images / "dump.log", ended.returncode)
        finally:
            subprocess.run(["umount", rank.images], check=True)
        assert "full" in failure.cause, failure
        length = rank.out.stat().st_size
        rank.group.thaw()
        wait_until(lambda: rank.out.stat().st_size > length, "output after the failed dump")


def test_the_staged_criu_runs_from_a_folder_with_a_space_and_names_nothing_else(tmp_path):
    tool = small_rank.tool()
    folder = tmp_path / "on tmpfs"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
    try:
        staged = criu.stage(tool.argv_prefix, tool.private_root, folder)
        criu.warm(staged, tmp_path)
        assert (tmp_path / "cpuinfo.img").exists()
        if tool.private_root is not None:
            assert str(tool.private_root) not in " ".join(staged.prefix)
        if not criu.is_tmpfs(criu.Path("/run")):
            assert (folder / "run" / "criu.kdat").exists()
        with small_rank.rank(tmp_path) as rank:
            rank.criu = staged
            rank.start(python(COUNT))
            rank.group.freeze()
            assert rank.dump().returncode == 0, rank.log("dump")
            rank.kill()
            length = rank.out.stat().st_size
            rank.group.freeze()
            assert rank.restore().returncode == 0, rank.log("restore")
            assert rank.group.is_frozen() and rank.out.stat().st_size == length
            rank.kill()
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_cpu_that_lacks_something_is_refused_before_the_restore(tmp_path):
    here = criu.Criu(small_rank.tool().argv_prefix)
    image = bytearray(here.cpuinfo_dump(tmp_path))
    here.cpuinfo_check(tmp_path)
    image[-8:] = bytes(255 if i % 2 == 0 else b for i, b in enumerate(image[-8:]))
    (tmp_path / "cpuinfo.img").write_bytes(bytes(image))
    with pytest.raises(criu.CriuError) as refused:
        here.cpuinfo_check(tmp_path)
    assert refused.value.cause


SEEN = [  # (line as CRIU wrote it, what the cause must say)
    ("(00.1) Error (criu/files.c:1): Unknown shit 600 (anon_inode:[io_uring])", "io_uring"),
    ("Error (files-ext.c:98): Can't dump file 3 of that type [600] (anon anon_inode:[userfaultfd])", "userfaultfd"),
    ("Error (criu/files-ext.c:98): Can't dump file 3 of that type [600] (anon anon_inode:bpf-map)", "BPF"),
    ("Error (criu/files-ext.c:98): Can't dump file 5 of that type [20600] (chr 10:229)", "10:229"),
    ("Error (criu/sk-queue.c:1): BUG! Unknown socket collected (family 40)", "vsock"),
    ("Error (criu/files-reg.c:1): Can't lookup mount=82 for fd=3 path=/x (deleted)", "/x"),
    ("Error (criu/sk-unix.c:1): unix: Can't dump half of stream unix connection.", "outside the job"),
    ("Error (compel/src/lib/infect.c:1): Unseizable non-zombie 77 found, state S, err -1/1", "traced"),
    ("Error (criu/namespaces.c:1): Can't dump nested pid namespace for 12", "pid namespace"),
    ("Error (criu/sockets.c:1): sockets: Can't get 1:16 opt: Operation not supported", "too old"),
    ("Error (criu/files-reg.c:1): File home/x/a.txt has bad size 94 (expect 89)", "home/x/a.txt"),
    ("Error (criu/files-reg.c:1): File usr/lib/l.so has bad build-ID", "another build"),
    ("Error (criu/files-reg.c:1): Can't open file x/y.txt on restore: No such file or directory", "x/y.txt"),
    ("Error (criu/sk-inet.c:1): inet: Can't bind inet socket (id 18): Address already in use", "port"),
    ("Error (soccr/soccr.c:529): Can't connect inet socket back: Cannot assign requested address", "connection"),
    ("Error (criu/cr-restore.c:1): Can't fork for 16224: File exists", "16224"),
    ("Error (criu/cpu.c:1): cpu: CPU instruction capabilities do not match run time", "CPU"),
    ("Error (criu/rlimit.c:1): Can't get rlimit 0: Operation not permitted", "CAP_SYS_RESOURCE"),
    ("Error (criu/namespaces.c:1): Can't restore sub-task in NS (cflags 20000)", "namespaces of its own"),
    ("Error (criu/util.c:1): Can't write: No space left on device", "full"),
    ("Error (criu/action-scripts.c:94): Script /x/suspend.sh exited with -1", "not frozen"),
    ("Error (criu/new.c:1): something nobody has seen", "something nobody has seen"),
]


@pytest.mark.parametrize(("line", "words"), SEEN, ids=[words for _, words in SEEN])
def test_every_text_of_criu_has_a_cause_in_plain_words(line, words):
    noise = "(00.0) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted\n"
    failure = criu_log.explain(noise + line + "\n(00.2) Error (criu/cr-dump.c:2): Dumping FAILED.\n", 1)
    assert words in failure.cause
    assert "{" not in failure.cause
    assert failure.remedy
    assert not any("RLIMIT_NOFILE" in kept for kept in failure.lines)


def test_a_silent_end_is_told_by_its_status(tmp_path):
    assert "signal 9" in criu_log.explain_file(tmp_path / "absent.log", -9).cause


def test_no_tool_of_the_host_is_left_in_the_rank(tmp_path):
    """The tests' own ranks leave nothing behind: no process, mount or cgroup of theirs outlives them."""
    with small_rank.rank(tmp_path) as rank:
        rank.start(python(COUNT))
        pid, group = rank.pid, rank.group.path
    assert not os.path.exists(f"/proc/{pid}") and not group.exists()
    shutil.rmtree(tmp_path)
