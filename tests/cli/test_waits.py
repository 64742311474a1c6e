"""Commands that wait: they say what for, and end once waiting would be in vain."""

from __future__ import annotations

import time

from tests.cli.conftest import Ergo
from tests.control.conftest import User, wait_for
from tests.fake_agent import World

SOON_S = 120.0  # of the ten minutes that a verb may take: a busy machine needs some of them

STUCK = {"error": "a raw socket is open", "lasting": True}


def running_on(user: User, name: str, ranks: int = 1) -> str:
    return str(user.until(user.submit(name, ranks=ranks), "running")["nodes"][0])


def test_a_move_to_a_full_node_says_why_it_is_not_made_and_that_it_stays_asked_for(ergo: Ergo, user: User) -> None:
    here, there = running_on(user, "mover"), running_on(user, "full", 2)
    began = time.monotonic()
    said = ergo("migrate", "mover", "--to", there)
    assert time.monotonic() < began + SOON_S
    assert said.code == 1 and f"0 devices of {there} could be had" in said.out and "stays asked for" in said.out
    assert "ergo explain mover" in said.err and f"ergo migrate mover --to {here}" in said.err
    stays = ergo("migrate", "mover", "--to", here)
    assert (stays.code, stays.out.strip()) == (0, f"✓ mover already runs on {here}")


def test_a_move_that_is_only_asked_for_is_no_failure(ergo: Ergo, user: User) -> None:
    running_on(user, "mover")
    there = running_on(user, "full", 2)
    assert ergo("migrate", "mover", "--to", there, "--no-wait").code == 0


def test_while_a_verb_takes_its_time_what_it_waits_for_is_said_but_not_to_machines(
    ergo: Ergo, world: World, user: User
) -> None:
    running_on(user, "slow")
    world.freeze_s = 8.0
    said = ergo("pause", "slow")
    assert said.code == 0 and "pause slow: it is freezing: paused by its owner" in said.err, said
    world.freeze_s = 0.0
    ergo("resume", "slow")
    world.freeze_s = 5.0
    assert ergo("pause", "slow", "-o", "json").err == ""


def test_what_is_done_at_once_is_not_waited_for_in_words(ergo: Ergo, user: User) -> None:
    running_on(user, "quick")
    assert "pause quick:" not in ergo("pause", "quick").err


def test_a_drain_that_cannot_be_done_says_who_stays_and_is_no_success(ergo: Ergo, world: World, user: User) -> None:
    here = running_on(user, "stays")
    world.freeze_fails = STUCK
    began = time.monotonic()
    said = ergo("drain", here)
    assert time.monotonic() < began + SOON_S
    assert said.code == 1 and "still holds stays" in said.out and "raw socket" in said.out, said
    assert f"ergo undrain {here}" in said.err
    assert ergo("drain", here, "--no-wait").code == 0, "nothing else was asked for"
    world.freeze_fails = None
    ergo("pause", "stays")
    wait_for(lambda: ergo("drain", here).code == 0, "the cause is gone, and a pause has tried again")


def test_a_drain_that_takes_its_time_says_who_is_still_there(ergo: Ergo, world: World, user: User) -> None:
    here = running_on(user, "slow")
    world.freeze_s = 9.0
    said = ergo("drain", here)
    assert said.code == 0, said
    assert f"drain {here}: still there: slow is freezing (its node is being emptied" in said.err


def test_explain_says_what_would_change_it_and_not_to_ask_explain(ergo: Ergo, user: User) -> None:
    for name in ("one", "two"):
        running_on(user, name, 2)
    late = user.submit("late")
    wait_for(lambda: user.job(late)["reason"], "a reason")
    said = ergo("explain", "late").out
    assert "would make room for it" in said and "ergo explain" not in said, said
