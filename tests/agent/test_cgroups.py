"""One conformance suite for both freezers, v1 and v2, on the real kernel."""

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.agent.small_rank import wait_until

from ergosphere.agent import cgroups


@pytest.fixture(params=[1, 2], ids=["v1", "v2"])
def hierarchy(request):
    for found in cgroups.hierarchies():
        if found.version == request.param and cgroups.usable(found):
            return found
    pytest.skip(f"no usable cgroup v{request.param} freezer here")


@pytest.fixture
def top(hierarchy):
    group = cgroups.freezer(f"ergo-test-cg{os.getpid()}", hierarchy)
    group.create()
    yield group
    group.kill()
    group.remove()


@pytest.fixture
def below(top, hierarchy):
    def make(name):
        group = cgroups.freezer(f"{top.path.name}/{name}", hierarchy)
        group.create()
        return group

    return make


class Counter:
    """A process that counts in a file as fast as it can be seen to."""

    SCRIPT = 'n=0; while :; do n=$((n+1)); echo $n >>"$0"; sleep 0.002; done'

    def __init__(self, path, *groups, script=SCRIPT):
        self.path = path
        join = "".join(f"echo $$ >{group.path}/cgroup.procs; " for group in groups)
        self.process = subprocess.Popen(["sh", "-c", join + script, str(path)])
        wait_until(lambda: self.length(), "a first line")

    def length(self):
        return self.path.stat().st_size if self.path.exists() else 0

    def moves(self):
        before = self.length()
        for _ in range(100):
            time.sleep(0.002)
            if self.length() != before:
                return True
        return False

    def reap(self):
        return self.process.wait(10)


@pytest.fixture
def count(tmp_path, top):
    started = []

    def start(*groups, **options):
        counter = Counter(tmp_path / f"count{len(started)}", *groups, **options)
        started.append(counter)
        return counter

    yield start
    top.kill()  # a frozen v1 process does not die before it is thawed
    for counter in started:
        counter.process.kill()
        counter.reap()


def test_a_group_is_made_with_those_above_it_and_twice_is_no_error(top, below):
    group = below("job-3-1/rank0")
    assert group.exists() and group.pids() == frozenset()
    group.create()
    group.remove()
    assert not group.exists() and top.exists()
    group.remove()


def test_a_frozen_group_stands_still_until_it_is_thawed(top, count):
    counter = count(top)
    assert counter.moves()
    top.freeze()
    assert top.is_frozen() and not counter.moves()
    top.freeze()
    top.thaw()
    assert counter.moves() and not top.is_frozen()
    top.thaw()


def test_an_empty_group_can_be_frozen_and_freezes_whoever_comes(top, count):
    counter = count()
    top.freeze()
    assert top.is_frozen()
    top.add(counter.process.pid)
    wait_until(top.is_frozen, "the newcomer is at rest")
    wait_until(lambda: not counter.moves(), "the newcomer stands still")
    top.thaw()
    assert counter.moves()


def test_pids_are_those_of_the_group_and_all_below(top, below, count):
    first, second = count(below("a")), count(below("b/c"))
    assert {first.process.pid, second.process.pid} <= top.pids()
    assert second.process.pid not in below("a").pids()


def test_freezing_a_group_freezes_those_below_and_thawing_frees_them(top, below, count):
    counter = count(below("a"))
    top.freeze()
    assert below("a").is_frozen() and not counter.moves()
    top.thaw()
    wait_until(lambda: not below("a").is_frozen(), "the group below follows")
    assert counter.moves()


def test_a_group_below_a_frozen_one_waits_for_it(top, below, count):
    inner = below("a")
    counter = count(inner)
    top.freeze()
    inner.thaw()
    assert inner.is_frozen() and not counter.moves()
    top.thaw()
    assert counter.moves()


def test_a_group_with_a_wish_of_its_own_stays_frozen_when_the_one_above_is_thawed(top, below, count):
    inner, other = below("a"), below("b")
    held, free = count(inner), count(other)
    inner.freeze()
    top.freeze()
    top.thaw()
    assert inner.is_frozen() and not held.moves()
    assert free.moves()


def test_a_group_made_below_a_frozen_one_is_frozen(top, below):
    top.freeze()
    wait_until(below("late").is_frozen, "it inherits")
    top.thaw()


@pytest.mark.parametrize("frozen", [False, True], ids=["running", "frozen"])
def test_kill_ends_all_and_nothing_runs_on_first(top, below, count, frozen):
    counters = [count(below("a")), count(below("b"))]
    if frozen:
        below("a").freeze()
        top.freeze()
    lengths = [counter.length() for counter in counters]
    top.kill()
    assert [counter.reap() for counter in counters] == [-9, -9]
    assert top.pids() == frozenset()
    if frozen:
        assert [counter.length() for counter in counters] == lengths


def test_kill_keeps_up_with_a_program_that_forks_all_the_time(top, count):
    counter = count(top, script='echo 1 >"$0"; while :; do (sleep 5) & sleep 0.005; done')
    top.kill()
    assert counter.reap() == -9 and top.pids() == frozenset()


def test_a_group_of_threads_and_forks_is_frozen_within_the_deadline(top, count):
    code = (
        "import os, sys, threading, time\n"
        "def spin():\n while True: time.sleep(0)\n"
        "[threading.Thread(target=spin, daemon=True).start() for _ in range(8)]\n"
        "while True:\n open(sys.argv[1], 'a').write('x')\n if os.fork() == 0: os._exit(0)\n os.wait()\n"
    )
    counter = count(top, script=f'exec {os.path.realpath(sys.executable)} -I -S -c "{code}" "$0"')
    for _ in range(5):
        top.freeze()
        assert not counter.moves()
        top.thaw()


def test_a_group_that_is_not_empty_is_not_removed_and_says_who_is_there(top, count):
    counter = count(top)
    with pytest.raises(cgroups.CgroupError, match=str(counter.process.pid)):
        top.remove(deadline_s=0.05)


def test_a_process_that_is_gone_cannot_be_added(top):
    gone = subprocess.Popen(["true"])
    gone.wait()
    with pytest.raises(ProcessLookupError):
        top.add(gone.pid)


def test_the_freezer_is_found_again_from_its_folder(top):
    again = cgroups.of_path(top.path)
    assert (again.version, again.path) == (top.version, top.path)
    with pytest.raises(cgroups.CgroupError):
        cgroups.of_path(Path("/tmp/x"))


def test_a_group_is_always_below_its_hierarchy(hierarchy):
    for group in ("/absolute", "../up", ""):
        with pytest.raises(ValueError):
            cgroups.freezer(group, hierarchy)


def test_the_version_can_be_chosen_and_an_absent_one_is_a_clear_error(hierarchy):
    assert cgroups.choose(hierarchy.version) == hierarchy
    with pytest.raises(cgroups.CgroupError, match="v3"):
        cgroups.choose(3)


def test_hierarchies_are_read_from_the_mount_table_v2_first(tmp_path):
    table = tmp_path / "mountinfo"
    table.write_text(
        "30 24 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
        "31 30 0:27 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n"
        "32 30 0:28 / /sys/fs/cgroup/fr\\040z rw,relatime shared:9 master:1 - cgroup cgroup rw,freezer,pids\n"
        "33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n"
    )
    assert cgroups.hierarchies(table) == (
        cgroups.Hierarchy(2, Path("/sys/fs/cgroup/unified")),
        cgroups.Hierarchy(1, Path("/sys/fs/cgroup/fr z")),
    )


LOADER = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("cgroups", sys.argv[1])
module = importlib.util.module_from_spec(spec)
sys.modules["cgroups"] = module
spec.loader.exec_module(module)
group = module.of_path(Path(sys.argv[2]))
group.freeze()
print(group.is_frozen())
group.thaw()
"""


def test_the_keeper_can_load_this_module_without_our_package(top):
    path = Path(importlib.util.find_spec("ergosphere.agent.cgroups").origin)
    argv = [os.path.realpath(sys.executable), "-E", "-s", "-S", "-c", LOADER, str(path), str(top.path)]
    assert subprocess.run(argv, capture_output=True, text=True, timeout=20, cwd="/").stdout == "True\n"
