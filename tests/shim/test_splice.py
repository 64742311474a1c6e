"""Random training programs under random schedules of resizes, pauses, moves and cuts that are called off: not one bit
may differ from the undisturbed run. (Kills go with the agent that rolls back: `tests/cli/test_verify_runs.py`.)

A program's number tells everything about it. `ERGO_PROGRAMS=first:count,first:count` runs those in one launch,
`ERGO_PROGRAMS=dice` 200 that nobody has run before; without it the same ones every time."""

from __future__ import annotations

import os
import random
import time
from contextlib import suppress

import pytest
from tests.shim.sharing import CROSSED, ONE_DEVICE, OWN_DEVICES, TWO_DEVICES, TWO_HOSTS, UNEVEN_HOSTS, resize

from ergosphere.agent.cut import CutFailed, CutReached
from ergosphere.shim.ergo_shim import control_file

BATCHES, BATCH = 2, 100  # few launches: importing torch in four ranks, twice, takes as long as forty programs
FIRST = 1000
# Numbers of programs that once failed, and why they are kept; 1015, among those from FIRST on, too: the rank that had
# stepped forked, and took away what its mates had not adopted yet.
REGRESSIONS = (
    7,  # DDP's static graph waits for its first reductions inside the backward pass's own callback
    49,  # a closure that speaks to other ranks inside the step kept the cut from settling
)
KINDS = ("resize", "resize", "move", "pause", "called off")
CALLED_OFF_S = 0.02  # too short for a cut
MOVED = (TWO_HOSTS, UNEVEN_HOSTS)  # to ranks a move is a cut after which others are neighbours
SEATS = (ONE_DEVICE, ONE_DEVICE, TWO_DEVICES, TWO_DEVICES, CROSSED, OWN_DEVICES, TWO_HOSTS, UNEVEN_HOSTS)


def elastic(job, rank=0):
    """What a rank tells of its sharing."""
    _, told = control_file.fetch(control_file.Brief(str(job.controls[rank])), control_file.REPLY)
    return (told or {}).get("elastic") or {}


def nothing_is_left(job, rank):
    """Whether no page and no file of what ranks share is left in a rank that stands at a cut."""
    folder = str(job.places.folder("a")).rsplit("/", 1)[0]
    with open(f"/proc/{job.pid(rank)}/maps") as maps:
        mapped = folder in maps.read()
    fds = f"/proc/{job.pid(rank)}/fd"
    opened = []
    for fd in os.listdir(fds):
        with suppress(FileNotFoundError):  # a store or a thread of torch's closes one now and then
            opened.append(os.readlink(f"{fds}/{fd}"))
    return not mapped and not any(folder in path for path in opened)


def disturb(job, dice, pause_s=(0.2, 2.0)):
    """What becomes of the job at random moments until it ends, in words."""
    done = []
    job.until(lambda: all(port.view().takes_part for port in job.ports.values()) or not job.runs())
    while job.runs():
        time.sleep(dice.uniform(*pause_s))
        kind = dice.choice(KINDS)
        reached = job.cut(CALLED_OFF_S if kind == "called off" else 60.0) if job.runs() else None
        if not job.runs() or reached is None:
            if isinstance(reached, CutReached):
                job.go(reached)  # some had ended already; the others wait for a word to end too
            break
        if kind == "called off" and isinstance(reached, CutFailed):
            done.append(kind)
            continue
        assert isinstance(reached, CutReached), (reached, job.errors())
        assert all(nothing_is_left(job, rank) for rank in reached.parked)
        if kind == "pause":
            time.sleep(dice.uniform(0.0, 0.5))
            job.places.seat(job.places.seats)  # another table, the same places
        else:
            job.places.seat(dice.choice(MOVED if kind == "move" else SEATS))
        job.go(reached)
        done.append(kind)
    return done


def launches():
    chosen = os.environ.get("ERGO_PROGRAMS", "")
    if ":" in chosen:
        return [chosen]
    first = random.SystemRandom().randrange(10**4, 10**6) if chosen == "dice" else FIRST
    batches = [f"{first + at * BATCH}:{BATCH}" for at in range(BATCHES)]
    return [",".join([*(f"{number}:1" for number in REGRESSIONS), batches[0]]), *batches[1:]]


@pytest.mark.parametrize("programs", launches())
def test_disturbed_programs_end_as_undisturbed_ones(launch, programs):
    undisturbed = launch("trainings.py", programs, devices=OWN_DEVICES)
    assert undisturbed.exits() == [0] * 4, undisturbed.errors()
    job, dice = launch("trainings.py", programs, devices=ONE_DEVICE), random.Random(programs)
    done = disturb(job, dice)
    told = f"{done}; again with ERGO_PROGRAMS={programs}"
    assert job.exits() == [0] * 4, (told, job.errors())
    for rank, (said, expected) in enumerate(zip(job.outputs(), undisturbed.outputs())):
        wrong = [pair for pair in zip(said.splitlines(), expected.splitlines()) if pair[0] != pair[1]]
        assert not wrong and said == expected, (told, rank, wrong)


def test_a_resize_takes_effect_while_the_processes_stay(launch):
    job = launch("trainings.py", "40:40", devices=OWN_DEVICES)
    job.until(lambda: len(job.outputs()[0].splitlines()) >= 2)
    assert elastic(job)["state"] == "alone"
    resize(job, job.places, ONE_DEVICE)
    job.until(lambda: elastic(job).get("number") == 2 and elastic(job)["steps_shared"] > 0)
    resize(job, job.places, OWN_DEVICES)
    job.until(lambda: elastic(job).get("number") == 3)
    assert elastic(job)["shared_bytes"] == 0
