"""Jobs through the whole service: submitted, run, paused, moved, preempted, lost, recovered, ended."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from tests.control.conftest import Service, User, wait_for
from tests.fake_agent import World, line

from ergosphere.control.logs import LogFiles


def whole_log(rank: int, lines: int) -> bytes:
    return "".join(line(rank, n) for n in range(1, lines + 1)).encode()


def recovered(world: World, user: User, job: str) -> int:
    """Wait for the next life, let it end soon; how many lines there will be."""
    wait_for(lambda: user.job(job)["recoveries"] and user.job(job)["phase"] == "running", "it is recovered")
    return world.finish(job)


def test_a_job_is_submitted_runs_and_brings_its_results_home(world: World, user: User) -> None:
    job = user.submit("digits", lines=20, ranks=2)
    ended = user.until(job, "ended")
    assert (ended["phase"], ended["exit_code"]) == ("succeeded", 0), ended
    assert user.log(job, rank=1) == whole_log(1, 20)
    copies = user.get(f"/v1/jobs/{job}/results")["copies"]
    assert [file["path"] for file in copies[0]["files"]] == ["result.txt"]
    content = user.server.client().get(f"/v1/jobs/{job}/results/file", params={"path": "result.txt"}).content
    assert content == f"job {job} cell 0\n".encode()
    kinds = [event["kind"] for event in user.events(job)]
    assert kinds == ["submitted", "start-ordered", "started", "outcome-known", "ended-succeeded"]
    wait_for(lambda: not world.agents["node-0"].told().cells, "its cells are forgotten")


def test_a_program_that_fails_by_itself_is_a_failed_job(world: World, user: User) -> None:
    ended = user.until(user.submit(lines=5, code=7), "ended")
    assert (ended["phase"], ended["exit_code"]) == ("failed", 7), ended
    assert "status 7" in ended["reason"]
    assert ended["recoveries"] == 0


def test_threads_and_addresses_are_fixed_at_the_first_start(world: World, user: User) -> None:
    job = user.submit(ranks=3)
    user.until(job, "running")
    first = world.running(job).plan
    assert first.threads == 2, "4 cores, 2 devices"
    assert len({cell.address for cell in first.cells}) == len(first.cells) == 2
    assert user.post(f"/v1/jobs/{job}/pause", {"wait_s": 60})["done"]
    user.post(f"/v1/jobs/{job}/resume", {"wait_s": 60})
    later = world.running(job).plan
    assert [cell.address for cell in later.cells] == [cell.address for cell in first.cells]
    assert (later.threads, later.incarnation) == (first.threads, first.incarnation + 1)


def test_pause_frees_the_device_and_resume_loses_nothing(world: World, user: User) -> None:
    job = user.submit()
    user.until(job, "running")
    paused = user.post(f"/v1/jobs/{job}/pause", {"wait_s": 60})
    assert paused["done"] and paused["job"]["phase"] == "frozen" and paused["job"]["paused"]
    assert all(holder is None for node in user.get("/v1/nodes") for holder in node["used"])
    time.sleep(0.3)
    assert user.job(job)["phase"] == "frozen"
    assert user.post(f"/v1/jobs/{job}/resume", {"wait_s": 60})["job"]["phase"] == "running"
    lines = world.finish(job)
    ended = user.until(job, "ended")
    assert ended["phase"] == "succeeded"
    assert (ended["pauses"], ended["lost_lines"], ended["lost_s"]) == (1, 0, 0.0)
    assert ended["paused_total_s"] > 0.3
    assert user.log(job) == whole_log(0, lines)


def test_migrate_moves_a_job_and_counts_it(world: World, user: User) -> None:
    job = user.submit()
    here = user.until(job, "running")["nodes"][0]
    there = "node-1" if here == "node-0" else "node-0"
    moved = user.post(f"/v1/jobs/{job}/migrate", {"wait_s": 60, "to": [there]})
    assert moved["done"] and moved["job"]["nodes"] == [there] and moved["job"]["moves"] == 1, moved
    lines = world.finish(job)
    ended = user.until(job, "ended")
    assert (ended["phase"], ended["lost_lines"]) == ("succeeded", 0)
    assert user.log(job) == whole_log(0, lines)


def test_a_premium_job_makes_room_and_the_basic_job_thaws_by_itself(world: World, user: User) -> None:
    basic = [user.submit(f"basic-{n}", tier="basic", ranks=2) for n in range(2)]
    for job in basic:
        user.until(job, "running")
    premium = user.submit("premium", tier="premium", ranks=2, lines=30)
    assert user.until(premium, "ended")["phase"] == "succeeded"
    victim = next(job for job in basic if user.job(job)["pauses"] or user.job(job)["phase"] != "running")
    assert user.until(victim, "running")["phase"] == "running"
    assert any("premium" in event["text"] for event in user.events(victim)), user.events(victim)


def test_a_waiting_job_has_a_reason_that_explain_prints(world: World, user: User) -> None:
    for n in range(2):
        user.until(user.submit(f"holder-{n}", ranks=2), "running")
    waiting = user.submit("late", ranks=1)
    reason = wait_for(lambda: user.job(waiting)["reason"], "a reason")
    explained = user.get("/v1/jobs/late/explain")
    assert explained["reason"] and explained["phase"] == "waiting"
    assert any(event["text"] == reason for event in user.events(waiting))


def test_a_killed_rank_is_recovered_from_the_last_snapshot(world: World, user: User) -> None:
    job = user.submit(ranks=2)
    user.until(job, "running")
    taken = user.post(f"/v1/jobs/{job}/snapshot", {"wait_s": 60})
    assert taken["done"] and taken["snapshot"]
    kept = world.snapshots[taken["snapshot"]].number
    wait_for(lambda: user.log(job).count(b"\n") >= kept + 5, "lines beyond the snapshot")
    world.kill_rank(job, 1)
    lines = recovered(world, user, job)
    ended = user.until(job, "ended")
    assert (ended["phase"], ended["recoveries"]) == ("succeeded", 1), ended
    assert ended["lost_lines"] >= 5 and ended["lost_s"] > 0
    assert user.log(job) == whole_log(0, lines)
    assert user.log(job, rank=1) == whole_log(1, lines)


def test_a_job_lost_without_a_snapshot_starts_again_and_says_so(world: World, user: User) -> None:
    job = user.submit()
    user.until(job, "running")
    wait_for(lambda: user.log(job).count(b"\n") >= 3, "some lines")
    world.kill_rank(job, 0)
    lines = recovered(world, user, job)
    ended = user.until(job, "ended")
    assert (ended["phase"], ended["recoveries"]) == ("succeeded", 1)
    assert any("FROM ITS BEGINNING" in event["text"] for event in user.events(job))
    assert user.log(job) == whole_log(0, lines)


def test_beyond_the_restart_limit_a_lost_job_has_failed(world: World, user: User) -> None:
    job = user.submit(max_restarts=0)
    user.until(job, "running")
    world.kill_rank(job, 0)
    ended = user.until(job, "ended")
    assert ended["phase"] == "failed"
    assert ended["exit_code"] == 137
    assert "--max-restarts" in ended["reason"]


def test_a_vanished_node_loses_its_jobs_to_the_other_node(world: World, user: User) -> None:
    job = user.submit()
    here = user.until(job, "running")["nodes"][0]
    user.post(f"/v1/jobs/{job}/snapshot", {"wait_s": 60})
    world.agents[here].vanish()
    moved = wait_for(
        lambda: (seen := user.job(job))["phase"] == "running" and seen["incarnation"] == 2 and seen, "thawed"
    )
    assert moved["nodes"] != [here]
    assert moved["recoveries"] == 1
    world.agents[here].come_back()
    wait_for(lambda: not world.agents[here].told().cells, "the stale life is removed there")
    lines = world.finish(job)
    ended = user.until(job, "ended")
    assert ended["phase"] == "succeeded"
    assert user.log(job) == whole_log(0, lines)


def test_a_damaged_snapshot_is_marked_and_the_one_before_is_used(world: World, user: User) -> None:
    job = user.submit()
    user.until(job, "running")
    older = user.post(f"/v1/jobs/{job}/snapshot", {"wait_s": 60})["snapshot"]
    newer = user.post(f"/v1/jobs/{job}/snapshot", {"wait_s": 60})["snapshot"]
    world.damaged.add(newer)
    world.kill_rank(job, 0)
    lines = recovered(world, user, job)
    assert user.until(job, "ended")["phase"] == "succeeded"
    said = next(event["text"] for event in user.events(job) if event["kind"] == "snapshot-damaged")
    assert newer in said and older in said
    assert user.log(job) == whole_log(0, lines)


def test_a_job_whose_snapshots_are_all_damaged_goes_back_to_its_beginning(world: World, user: User) -> None:
    job = user.submit()
    user.until(job, "running")
    taken = user.post(f"/v1/jobs/{job}/pause", {"wait_s": 60})
    world.damaged.update(world.snapshots)
    resumed = user.post(f"/v1/jobs/{job}/resume", {"wait_s": 60})
    assert "of its work are done again" in resumed["text"] and job in resumed["text"]
    lines = world.finish(job)
    assert user.until(job, "ended")["phase"] == "succeeded", taken
    kinds = [event["kind"] for event in user.events(job)]
    assert "snapshot-damaged" in kinds and "snapshots-spoilt" in kinds
    spoilt = next(event["text"] for event in user.events(job) if event["kind"] == "snapshots-spoilt")
    assert "FROM ITS BEGINNING" in spoilt and "elsewhere" not in spoilt
    assert user.log(job) == whole_log(0, lines)


def test_a_pause_that_fails_is_said_and_the_job_runs_on(world: World, user: User) -> None:
    job = user.submit()
    user.until(job, "running")
    world.freeze_fails = {"error": "the tmpfs is full", "remedy": "free some memory"}
    refused = user.post(f"/v1/jobs/{job}/pause", {"wait_s": 60}, 409)
    assert "the tmpfs is full" in refused["error"] and refused["remedy"] == "free some memory"
    seen = user.job(job)
    assert (seen["phase"], seen["paused"], seen["rung"]) == ("running", False, "transparent")
    world.freeze_fails = None
    assert user.post(f"/v1/jobs/{job}/pause", {"wait_s": 60})["done"]


def test_a_lasting_obstacle_takes_the_job_a_rung_down_with_the_reason(world: World, user: User) -> None:
    job = user.submit(snapshot_every_s=0.3)
    user.until(job, "running")
    world.freeze_fails = {"error": "rank 0 has a raw socket open", "lasting": True}
    seen = wait_for(lambda: (now := user.job(job))["rung"] != "transparent" and now, "a lower rung")
    assert "raw socket" in seen["rung_because"]
    orders = len(world.orders)
    time.sleep(1.0)
    assert len(world.orders) == orders, "periodic snapshots have stopped"
    assert "raw socket" in user.post(f"/v1/jobs/{job}/pause", {"wait_s": 60}, 409)["error"]


def test_periodic_snapshots_are_taken_and_old_ones_dropped(world: World, user: User) -> None:
    job = user.submit(snapshot_every_s=0.2)
    node = user.until(job, "running")["nodes"][0]

    def own() -> set[str]:
        return {one.id for one in list(world.snapshots.values()) if one.job == job}

    wait_for(lambda: len(own()) >= 5, "five snapshots")
    wait_for(lambda: world.agents[node].dropped & own(), "old ones are dropped")
    seen = user.job(job)
    assert seen["phase"] == "running" and 1 <= len(seen["snapshots"]) <= 3
    assert all(one["why"] == "periodic" for one in seen["snapshots"])


def test_a_job_is_cancelled_in_every_state(world: World, user: User) -> None:
    running, paused = user.submit("running"), user.submit("paused")
    user.until(running, "running")
    user.until(paused, "running")
    user.post(f"/v1/jobs/{paused}/pause", {"wait_s": 60})
    holders = [user.submit(f"holder-{n}") for n in range(3)]
    for holder in holders:
        user.until(holder, "running")
    waiting = user.submit("waiting", ranks=4)
    for job in (running, paused, waiting):
        ended = user.post(f"/v1/jobs/{job}/cancel", {"wait_s": 60})
        assert ended["done"] and ended["job"]["phase"] == "cancelled", ended


def test_drain_empties_a_node(world: World, user: User) -> None:
    job = user.submit()
    here = user.until(job, "running")["nodes"][0]
    drained = user.post(f"/v1/nodes/{here}/drain", {"wait_s": 60})
    assert drained["done"] and not drained["jobs"]
    wait_for(lambda: (now := user.job(job))["phase"] == "running" and now["nodes"] != [here], "it runs elsewhere")
    assert next(node for node in user.get("/v1/nodes") if node["id"] == here)["draining"]
    user.post(f"/v1/nodes/{here}/undrain")


def test_a_start_that_can_never_work_fails_the_job_with_the_reason(world: World, user: User) -> None:
    world.start_fails = {"error": "the mount /data does not exist on the node", "lasting": True}
    ended = user.until(user.submit(), "ended")
    assert ended["phase"] == "failed" and "/data" in ended["reason"]


def test_last_words_of_an_earlier_life_do_not_explain_that_a_later_one_never_began(own: Service) -> None:
    user, world = own.user, own.world
    job = user.submit()
    user.until(job, "running")
    world.start_fails = {"error": "the mount /data does not exist on the node", "lasting": True}
    LogFiles(own.server.home / "server/logs").write(job, "rank0.err", 0, b"RuntimeError: of the life before\n")
    world.kill_rank(job, 0)
    assert "/data" in user.until(job, "ended")["reason"]
    assert user.get(f"/v1/jobs/{job}/explain")["last_words"] is None


def test_the_server_is_killed_and_goes_on_where_it_was(own: Service) -> None:
    user, world = own.user, own.world
    job = user.submit()
    user.until(job, "running")
    own.server.kill()
    time.sleep(0.3)
    world.kill_rank(job, 0)
    own.server.start()
    lines = recovered(world, user, job)
    ended = user.until(job, "ended")
    assert (ended["phase"], ended["recoveries"]) == ("succeeded", 1)
    assert user.log(job) == whole_log(0, lines)


def test_an_order_survives_the_death_of_the_server(own: Service) -> None:
    user, world = own.user, own.world
    job = user.submit()
    here = user.until(job, "running")["nodes"][0]
    world.agents[here].slow_answers.clear()
    user.post(f"/v1/jobs/{job}/pause")
    wait_for(lambda: user.job(job)["phase"] == "freezing", "the freeze is ordered")
    own.server.kill()
    world.agents[here].slow_answers.set()
    own.server.start()
    assert user.until(job, "frozen")["phase"] == "frozen"
    freezes = [order for order in world.orders if order.kind == "freeze"]
    assert len({order.order_id for order in freezes}) == 1


def test_an_agent_that_restarts_gets_its_orders_again(world: World, user: User) -> None:
    job = user.submit()
    agent = world.agents[user.until(job, "running")["nodes"][0]]
    agent.slow_answers.clear()
    user.post(f"/v1/jobs/{job}/pause")
    wait_for(lambda: user.job(job)["phase"] == "freezing", "the freeze is ordered")
    agent._stop.set()
    agent.slow_answers.set()
    agent.restart()
    assert user.until(job, "frozen")["phase"] == "frozen"


def test_down_freezes_what_runs_and_the_next_start_goes_on(own: Service) -> None:
    user = own.user
    mine, running = user.submit("mine"), user.submit("running")
    for job in (mine, running):
        user.until(job, "running")
    user.post(f"/v1/jobs/{mine}/pause", {"wait_s": 60})
    down = user.post("/v1/shutdown", {"wait_s": 60})
    assert down["paused"] == ["running"]
    own.server.process.wait(timeout=60)
    own.server.start()
    assert user.until(running, "running")["phase"] == "running"
    assert user.job(mine)["phase"] == "frozen"


def test_down_with_kill_goes_on_from_the_last_snapshot(own: Service) -> None:
    user, world = own.user, own.world
    job = user.submit()
    user.until(job, "running")
    user.post(f"/v1/jobs/{job}/snapshot", {"wait_s": 60})
    assert user.post("/v1/shutdown", {"kill": True, "wait_s": 60})["killed"] == ["job"]
    own.server.process.wait(timeout=60)
    own.server.start()
    user.until(job, "running")
    lines = world.finish(job)
    assert user.until(job, "ended")["phase"] == "succeeded"
    assert user.log(job) == whole_log(0, lines)


def test_down_is_refused_when_a_job_cannot_be_frozen(world: World, user: User) -> None:
    job = user.submit()
    user.until(job, "running")
    world.freeze_fails = {"error": "no room"}
    refused = user.post("/v1/shutdown", {"wait_s": 60}, 409)
    assert "no room" in refused["error"] and "--kill" in refused["remedy"]
    assert user.job(job)["phase"] == "running"
    assert not user.get("/v1/status")["closing"]


def test_what_a_refused_down_had_frozen_already_is_said_and_goes_on(world: World, user: User) -> None:
    stuck, other = user.submit("stuck", ranks=2), user.submit("other", ranks=2)  # a node each
    for job in (stuck, other):
        user.until(job, "running")
    world.unfreezable = "stuck"
    reasons: list[str] = []
    with ThreadPoolExecutor(1) as aside:
        refused = aside.submit(user.post, "/v1/shutdown", {"wait_s": 60}, 409)
        while not refused.done():
            reasons.append(user.job(other)["reason"])
    error = refused.result()["error"]
    assert error == (
        "not every job could be frozen, so the service stays up: stuck: no room;"
        " other was frozen for it and goes on by itself"
    )
    assert not any("its owner" in reason for reason in reasons), reasons
    user.until(other, "running")
    assert {user.job(job)["phase"] for job in (stuck, other)} == {"running"}
    assert "its owner" not in user.job(other)["reason"]


def test_a_verb_for_a_job_that_had_ended_by_itself_says_so(world: World, user: User) -> None:
    job = user.submit(lines=1)
    user.until(job, "ended")
    assert user.post(f"/v1/jobs/{job}/cancel")["text"] == "job had succeeded already"
