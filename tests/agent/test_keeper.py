"""The keeper with real ranks: how they end, how they are held and let go, and what it does when nobody asks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from tests.agent.keeperkit import Life, Machine, wait_for
from tests.agent.naps import NAPS, SAID
from tests.agent.small_rank import python

from ergosphere.agent import cgroups, keepers, network

VERSIONS = [hierarchy.version for hierarchy in cgroups.hierarchies() if cgroups.usable(hierarchy)]
COUNT = ["sh", "-c", "n=0; while :; do n=$((n+1)); echo $n; sleep 0.01; done"]


@pytest.fixture
def machine() -> Iterator[Machine]:
    machine = Machine()
    yield machine
    machine.remove()


@pytest.fixture(params=VERSIONS, ids=lambda version: f"cgroup-v{version}")
def either(request: pytest.FixtureRequest) -> Iterator[Machine]:
    machine = Machine(request.param)
    yield machine
    machine.remove()


def counting(machine: Machine, **asked: float) -> Life:
    life = machine.life(**asked)  # type: ignore[arg-type]
    life.launch(COUNT)
    wait_for(lambda: "3\n" in life.out())
    return life


def stands_still(life: Life) -> bool:
    before = life.out()
    subprocess.run(["sleep", "0.1"], check=True)
    return life.out() == before


def goes_on(life: Life) -> None:
    before = life.out()
    wait_for(lambda: life.out() != before)
    counted = [int(line) for line in life.out().split()]
    assert counted == list(range(1, len(counted) + 1))


def outcome(machine: Machine, text: str) -> list[str]:
    """A `resolve` command whose answer can be changed."""
    answer = machine.base / "answer"
    answer.write_text(text)
    return ["cat", str(answer)]


def test_ends_are_told_apart_by_their_raw_status(machine: Machine) -> None:
    life = machine.life()
    life.launch(*(["sh", "-c", text] for text in ("true", "exit 7", "kill -9 $$", "sh -c 'kill -9 $$'; exit $?")))
    statuses = [life.exited(rank).wait_status for rank in range(4)]
    assert statuses == [0, 7 << 8, signal.SIGKILL, (128 + signal.SIGKILL) << 8]


def test_a_command_that_is_not_found_or_not_executable_is_told_by_its_errno(machine: Machine) -> None:
    life = machine.life()
    (life.folder / "work" / "text").write_text("not a program")
    life.launch(["no-such-program"], ["./text"], ["./nowhere"])
    assert [life.exited(rank).exec_errno for rank in range(3)] == [2, 13, 2]


def test_an_init_that_is_killed_counts_as_killed(machine: Machine) -> None:
    life = machine.life()
    pids = life.launch(["sleep", "1000"])
    os.kill(pids[0], signal.SIGKILL)
    ended = life.exited()
    assert (ended.wait_status, ended.asked, ended.exec_errno) == (signal.SIGKILL, False, 0)


def test_ranks_have_pids_a_name_and_processes_of_their_own(machine: Machine) -> None:
    life = machine.life()
    life.launch(["sh", "-c", "echo $$; hostname; ls -d /proc/[0-9]*; ls /proc/self/fd"])
    life.exited()
    lines = life.out().split()
    assert lines[:2] == ["2", "j1-0"]
    assert {line for line in lines if line.startswith("/proc/")} <= {"/proc/1", "/proc/2", "/proc/3"}
    assert lines[-4:] == ["0", "1", "2", "3"]  # 3: the folder that ls reads


def test_a_failed_step_is_a_sentence_and_starts_no_rank(machine: Machine) -> None:
    life = machine.life()
    good, bad = life.order(["sleep", "1000"], 0), life.order(["sleep", "1000"], 1)
    with pytest.raises(keepers.KeeperRefused, match="rank 1: cannot enter the working directory: /no/where: No such"):
        life.keeper.launch([good, replace(bad, cwd="/no/where")])
    assert life.keeper.state().ranks == ()
    assert not life.freezer(0).pids()
    life.keeper.launch([good])
    assert life.kept().state == "running"


def test_a_keeper_is_small_has_a_name_of_its_own_and_outlives_who_started_it(machine: Machine) -> None:
    program = (
        "import json, sys, time; from pathlib import Path; from ergosphere.agent import keepers\n"
        "given = json.loads(sys.argv[1])\n"
        "given.update({name: Path(given[name]) for name in ('socket', 'state', 'log')})\n"
        "spec = keepers.KeeperSpec(**given)\n"
        "keepers.start_keeper(spec); print('started', flush=True); time.sleep(1000)"
    )
    life = machine.life()
    life.keeper.leave()
    config = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(life.spec).items()}
    starter = subprocess.Popen([sys.executable, "-c", program, json.dumps(config)], stdout=subprocess.PIPE, env=_path())
    assert starter.stdout is not None and starter.stdout.readline() == b"started\n"
    starter.kill()
    starter.wait()
    starter.stdout.close()
    life.launch(["sh", "-c", "exit 3"])
    assert life.exited().wait_status == 3 << 8
    command_line = Path(f"/proc/{life.keeper.state().pid}/cmdline").read_text()
    assert "keeper" in command_line and "j1.1.0" in command_line and "ergosphere" not in command_line
    status = Path(f"/proc/{life.keeper.state().pid}/status").read_text()
    assert int(status.partition("VmRSS:")[2].split()[0]) < 15_000  # kB


def test_ends_are_written_down_when_nobody_listens(machine: Machine) -> None:
    life = machine.life()
    life.launch(["sh", "-c", "exit 5"])
    wait_for(lambda: json.loads(life.spec.state.read_text())["ranks"][0]["state"] == "exited")
    written = json.loads(life.spec.state.read_text())["ranks"][0]
    assert (written["wait_status"], written["asked"]) == (5 << 8, False) and written["exited_at_s"] > 0


def test_who_watches_a_keeper_hears_of_a_change_at_once_and_of_none_at_the_limit(machine: Machine) -> None:
    life = machine.life()
    life.launch(["sh", "-c", "while [ ! -e go ]; do sleep 0.01; done"])
    seen = life.keeper.state()
    assert life.keeper.state(after=seen.version, wait_s=0.1).version == seen.version
    with ThreadPoolExecutor() as pool:
        watching = pool.submit(life.keeper.state, after=seen.version, wait_s=60.0)
        (life.folder / "work" / "go").touch()
        assert watching.result().ranks[0].state == "exited"


def test_a_second_keeper_for_the_same_cell_is_the_first_one(machine: Machine) -> None:
    life = machine.life()
    pid = life.keeper.state().pid
    assert keepers.start_keeper(life.spec).state().pid == pid


def test_a_keeper_for_which_something_could_not_be_made_never_begins(machine: Machine) -> None:
    spec = replace(machine.life().spec, socket=machine.run / "k" / "other", cell=7)

    def fails() -> None:
        raise network.NetworkError("no bridge")

    with pytest.raises(network.NetworkError, match="no bridge"):
        keepers.start_keeper(spec, fails)
    assert not spec.socket.exists()
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert f"{spec.job}.{spec.incarnation}.7" not in running
    made: list[int] = []
    keeper = keepers.start_keeper(spec, lambda: made.append(1))
    assert made and keeper.state().cell == 7
    keeper.leave()


def test_suspended_ranks_stand_still_and_go_on_where_they_were(either: Machine) -> None:
    life = counting(either)
    life.keeper.suspend("f1", 60.0, ["false"], "kill")
    assert life.kept().state == "suspended" and stands_still(life)
    life.keeper.release("f1")
    goes_on(life)


def test_a_kill_in_a_freeze_runs_no_more_instruction_and_counts_as_asked(either: Machine) -> None:
    life = counting(either)
    life.keeper.suspend("f1", 60.0, ["false"], "kill")
    before = life.out()
    life.keeper.kill("f1")
    ended = life.kept()
    assert (ended.state, ended.wait_status, ended.asked) == ("exited", signal.SIGKILL, True)
    assert life.out() == before


def test_at_the_deadline_a_committed_freeze_kills_its_originals(either: Machine) -> None:
    life = counting(either)
    life.keeper.suspend("f1", 0.1, outcome(either, "commit\n"), "kill")
    assert life.exited().asked
    assert life.keeper.state().resolved == {"f1": "commit"}
    with pytest.raises(keepers.KeeperRefused, match="was committed"):
        life.keeper.release("f1")


def test_at_the_deadline_an_aborted_freeze_lets_them_go_on(machine: Machine) -> None:
    life = counting(machine)
    life.keeper.suspend("f1", 0.1, outcome(machine, "abort\n"), "kill")
    wait_for(lambda: life.keeper.state().resolved == {"f1": "abort"})
    goes_on(life)


def test_a_committed_snapshot_lets_its_originals_go_on(machine: Machine) -> None:
    life = counting(machine)
    life.keeper.suspend("f1", 0.1, outcome(machine, "commit\n"), "release")
    wait_for(lambda: life.keeper.state().resolved == {"f1": "commit"})
    goes_on(life)


def test_while_the_outcome_cannot_be_learnt_the_ranks_stay_suspended(machine: Machine) -> None:
    life = counting(machine)
    life.keeper.suspend("f1", 0.1, outcome(machine, "the store does not answer\n"), "kill")
    subprocess.run(["sleep", "0.5"], check=True)
    assert life.keeper.state().holds == ("f1",) and stands_still(life)
    outcome(machine, "abort\n")
    wait_for(lambda: not life.keeper.state().holds)
    goes_on(life)


def test_an_agents_lease_that_runs_out_suspends_and_a_new_one_releases(machine: Machine) -> None:
    life = counting(machine, lease_s=60.0)
    life.keeper.lease(0.1)
    wait_for(lambda: life.keeper.state().holds == ("lease",))
    assert stands_still(life)
    life.keeper.lease(60.0)
    goes_on(life)


def test_a_lease_does_not_release_what_a_freeze_holds(machine: Machine) -> None:
    life = counting(machine)
    life.keeper.suspend("f1", 60.0, ["false"], "kill")
    life.keeper.lease(0.05)
    wait_for(lambda: life.keeper.state().holds == ("f1", "lease"))
    life.keeper.lease(60.0)
    assert stands_still(life)
    life.keeper.release("f1")
    goes_on(life)


def test_a_rank_stuck_in_starting_a_program_refuses_the_freeze_and_runs_on(either: Machine) -> None:
    life = either.life()
    fork = "import ctypes; libc = ctypes.PyDLL(None)\nif libc.vfork() == 0: libc.sleep(1000)"
    life.launch(["python3", "-c", fork])
    wait_for(lambda: len(life.freezer(0).pids()) == 3)
    with pytest.raises(keepers.KeeperRefused, match="rank 0 cannot be dumped: process [0-9]+ has been starting"):
        life.keeper.suspend("f1", 60.0, ["false"], "kill")
    assert life.keeper.state().holds == () and not life.freezer(0).is_frozen()


def test_words_about_another_freeze_or_life_are_refused(machine: Machine) -> None:
    life = counting(machine)
    with pytest.raises(keepers.KeeperRefused, match="f9 does not hold"):
        life.keeper.kill("f9")
    with pytest.raises(keepers.KeeperRefused, match="1 is not newer"):
        life.keeper.end(1)
    with pytest.raises(keepers.KeeperRefused, match="would be no cut"):
        life.keeper.dump(0, ["true"], "/", 5.0)
    with pytest.raises(keepers.KeeperRefused, match="ranks are alive"):
        life.keeper.leave()
    with pytest.raises(keepers.KeeperRefused, match="a life starts once"):
        life.launch(COUNT)
    goes_on(life)


def test_a_higher_incarnation_ends_this_one_even_when_it_is_suspended(either: Machine) -> None:
    life = counting(either)
    life.keeper.lease(0.05)
    wait_for(lambda: life.keeper.state().holds == ("lease",))
    life.keeper.end(2)
    assert life.kept().state == "exited"


def test_a_signal_reaches_the_program_and_its_end_counts_as_asked(machine: Machine) -> None:
    life = machine.life()
    life.launch(["sh", "-c", "trap 'echo bye; exit 4' TERM; echo ready; while :; do sleep 0.01; done"])
    wait_for(lambda: "ready" in life.out())
    life.keeper.signal(signal.SIGTERM)
    ended = life.exited()
    assert (ended.wait_status, ended.asked) == (4 << 8, True) and "bye" in life.out()


def test_a_keeper_that_left_leaves_nothing_but_its_record(machine: Machine) -> None:
    life = machine.life()
    life.launch(["true"])
    life.exited()
    life.keeper.leave()
    wait_for(lambda: not life.spec.socket.exists())
    assert not life.freezer(0).exists() and life.spec.state.exists()
    with pytest.raises(keepers.KeeperGone):
        life.keeper.state()


class TestWithCriu:
    pytestmark = pytest.mark.criu

    def test_a_dump_leaves_the_rank_suspended_and_it_can_go_on(self, either: Machine) -> None:
        life = counting(either)
        life.keeper.suspend("f1", 60.0, ["false"], "kill")
        life.dump(either.plan())
        assert stands_still(life) and life.freezer(0).is_frozen()
        life.keeper.release("f1")
        goes_on(life)

    def test_a_rank_that_starts_programs_all_the_time_is_dumped_between_them(self, either: Machine) -> None:
        life = counting(either)
        for number in range(8):
            life.keeper.suspend(f"f{number}", 60.0, ["false"], "kill")
            shutil.rmtree(life.images(0), ignore_errors=True)
            life.dump(either.plan())
            life.keeper.release(f"f{number}")
        goes_on(life)

    def test_threads_that_slept_when_they_were_dumped_sleep_on_and_see_no_error(self, either: Machine) -> None:
        life = either.life()
        life.launch(python(NAPS))
        wait_for(lambda: "up" in life.out())
        time.sleep(0.2)
        life.keeper.suspend("f1", 60.0, ["false"], "kill")
        life.dump(either.plan())
        life.keeper.release("f1")
        wait_for(lambda: "end" in life.out())
        assert sorted(life.out().split("\n")) == SAID

    def test_a_dump_that_is_cut_off_leaves_the_rank_suspended(self, either: Machine) -> None:
        life = counting(either)
        life.keeper.suspend("f1", 60.0, ["false"], "kill")
        thaw = f"cd {life.freezer(0).path}; echo THAWED > freezer.state || echo 0 > cgroup.freeze; sleep 1000"
        slow = life.keeper.dump(0, ["sh", "-c", thaw], "/", 0.2)
        assert slow.timed_out and life.freezer(0).is_frozen()
        life.keeper.release("f1")
        goes_on(life)

    def test_at_the_deadline_a_dump_under_way_is_stopped(self, either: Machine) -> None:
        life = counting(either)
        life.keeper.suspend("f1", 0.3, outcome(either, "abort\n"), "kill")
        ran = life.keeper.dump(0, ["sleep", "1000"], "/", 60.0)
        assert ran.rc == 128 + signal.SIGKILL and not ran.timed_out
        goes_on(life)

    def test_a_restored_rank_is_suspended_then_goes_on_and_its_end_is_known(self, either: Machine) -> None:
        program = ["sh", "-c", "n=0; while [ $n -lt 60 ]; do n=$((n+1)); echo $n; sleep 0.01; done; exit 6"]
        first, second = either.life(1), either.life(2)
        first.launch(program, program)
        wait_for(lambda: "9\n" in first.out(1))
        first.keeper.suspend("f1", 60.0, ["false"], "kill")
        for rank in (0, 1):
            first.dump(either.plan(), rank)
        first.keeper.kill("f1")
        second.restore("f1", either.plan(), first, ranks=(0, 1))
        assert stands_still(second) and second.kept(1).state == "suspended"
        second.keeper.release("f1")
        for rank in (0, 1):
            assert second.exited(rank).wait_status == 6 << 8
            assert second.out(rank).split() == [str(n) for n in range(1, 61)]

    def test_a_kill_reaches_a_restore_under_way(self, machine: Machine) -> None:
        first, second = counting(machine), machine.life(2)
        first.images(0).mkdir(parents=True)
        second.take_over(first)
        stuck = replace(second.restore_order(machine.plan(), first.images(0)), argv=("sleep", "1000"))
        with ThreadPoolExecutor() as pool:
            restoring = pool.submit(second.keeper.restore, "f1", [stuck], 60.0)
            wait_for(lambda: second.keeper.state().holds == ("f1",))
            second.keeper.kill()
            with pytest.raises(keepers.KeeperRefused, match="ended with code 137"):
                restoring.result()
        second.keeper.leave()

    def test_ranks_are_dumped_at_the_same_time_without_disturbing_each_other(self, either: Machine) -> None:
        life = either.life()
        life.launch(*[COUNT] * 4)
        wait_for(lambda: "3\n" in life.out(3))
        life.keeper.suspend("f1", 60.0, ["false"], "kill")
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda rank: life.dump(either.plan(), rank), range(4)))
        assert all(life.freezer(rank).is_frozen() for rank in range(4))
        life.keeper.release("f1")
        goes_on(life)

    def test_a_rank_that_cannot_be_restored_takes_the_others_back(self, machine: Machine) -> None:
        first, second = machine.life(1), machine.life(2)
        first.launch(COUNT, COUNT)
        wait_for(lambda: "3\n" in first.out(1))
        first.keeper.suspend("f1", 60.0, ["false"], "kill")
        for rank in (0, 1):
            first.dump(machine.plan(), rank)
        (first.images(1) / "core-1.img").unlink()
        with pytest.raises(AssertionError, match="rank 1: the process that was to become it ended with code 1"):
            second.restore("f1", machine.plan(), first, ranks=(0, 1))
        assert second.keeper.state().ranks == () and second.keeper.state().holds == ()
        assert not second.freezer(0).pids() and not _children(second)
        first.keeper.release("f1")
        goes_on(first)


def _children(life: Life) -> str:
    pid = life.keeper.state().pid
    wait_for(lambda: not Path(f"/proc/{pid}/task/{pid}/children").read_text())
    return Path(f"/proc/{pid}/task/{pid}/children").read_text()


def _path() -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.defpath}
