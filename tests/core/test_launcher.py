"""Command lines as people type them."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ergosphere.core.launcher import (
    Launch,
    Refusal,
    command_of_rank,
    rank_variables,
    read_command,
    script_interpreter,
)

PYTHON = "/env/bin/python3"


def read(line: str, **environment: str) -> Launch | Refusal:
    return read_command(line.split(), environment, lambda program: PYTHON if "torchrun" in program else None)


def launch(line: str, **environment: str) -> Launch:
    found = read(line, **environment)
    assert isinstance(found, Launch), found
    return found


@pytest.mark.parametrize(
    "line",
    [
        "torchrun --nproc-per-node 4 train.py --lr 1e-3",
        "torchrun --nproc_per_node=4 train.py --lr 1e-3",
        "/env/bin/torchrun --standalone --nnodes=1 --nproc-per-node=4 train.py --lr 1e-3",
        "torchrun --nnodes 1:1 --rdzv-backend c10d --rdzv_endpoint localhost:0 --nproc-per-node 4 train.py --lr 1e-3",
        "torchrun --node-rank 0 --master-addr 10.0.0.1 -t 3 --nproc-per-node 4 train.py --lr 1e-3",
    ],
)
def test_every_spelling_of_torchrun_gives_the_same_ranks_and_command(line: str) -> None:
    found = launch(line)
    assert (found.launcher, found.ranks) == ("torchrun", 4)
    assert found.command == (PYTHON, "-u", "train.py", "--lr", "1e-3")


def test_the_module_form_uses_the_python_that_was_typed() -> None:
    found = launch("python3.11 -X dev -m torch.distributed.run --nproc-per-node 2 -m pkg.train --nproc-per-node 7")
    assert (found.ranks, found.command) == (2, ("python3.11", "-u", "-m", "pkg.train", "--nproc-per-node", "7"))


def test_the_old_launcher_passes_the_local_rank_as_an_argument() -> None:
    found = launch("python -m torch.distributed.launch --nproc_per_node=2 train.py -v")
    assert command_of_rank(found.command, 1) == ("python", "-u", "train.py", "--local-rank=1", "-v")
    quiet = launch("python -m torch.distributed.launch --use-env --nproc_per_node=2 train.py")
    assert quiet.command == ("python", "-u", "train.py")


def test_no_python_runs_the_program_itself() -> None:
    assert launch("torchrun --no-python --nproc-per-node 2 ./a.out x").command == ("./a.out", "x")


def test_defaults_come_from_the_environment_as_they_do_for_torchrun() -> None:
    found = launch("torchrun train.py", PET_NPROC_PER_NODE="3", PET_ROLE="trainer", PET_STANDALONE="1")
    assert (found.ranks, found.variables["ROLE_NAME"]) == (3, "trainer")


@pytest.mark.parametrize(
    ("line", "error", "remedy"),
    [
        ("torchrun --nproc-per-node auto t.py", "world size is fixed", "--nproc-per-node 4"),
        ("torchrun --nproc-per-node 0 t.py", "not a number of ranks", "from 1 upwards"),
        ("torchrun --nnodes 2 --nproc-per-node 4 t.py", "scheduler chooses", "--nproc-per-node 8"),
        ("torchrun --nnodes 1:4 --nproc-per-node 2 t.py", "scheduler chooses", "--nproc-per-node 8"),
        ("torchrun --nproc-pernode=2 t.py --x", "did you mean '--nproc-per-node'", "--ranks N"),
        ("torchrun --nproc-per-node 2", "required: training_script", "--ranks N"),
        ("torchrun --no-python -m x", "--module together", "leave one"),
        ("python -m torch.distributed.launch --no-python x", "--use-env", "--use-env"),
    ],
)
def test_what_cannot_be_run_is_refused_with_a_remedy(line: str, error: str, remedy: str) -> None:
    found = read(line)
    assert isinstance(found, Refusal)
    assert error in found.error and remedy in found.remedy


def test_a_torchrun_that_is_not_there_is_refused() -> None:
    found = read_command(["torchrun", "t.py"], {}, lambda program: None)
    assert isinstance(found, Refusal) and "was not found" in found.error


@pytest.mark.parametrize("line", ["accelerate launch t.py", "deepspeed t.py", "/usr/bin/mpirun -n 4 ./a", "srun ./a"])
def test_other_launchers_run_as_one_rank_tree_and_say_so(line: str) -> None:
    found = launch(line)
    assert (found.launcher, found.ranks, found.command) == ("opaque", 1, tuple(line.split()))
    assert "one rank" in found.notes[0]


@pytest.mark.parametrize("line", ["python t.py", "python -c pass -m torch.distributed.run", "accelerate test", "sh"])
def test_anything_else_is_plain_and_says_nothing_about_ranks(line: str) -> None:
    assert launch(line) == Launch("plain", None, tuple(line.split()))


def test_help_is_left_to_torchrun() -> None:
    assert launch("torchrun -h").command == (PYTHON, "-m", "torch.distributed.run", "-h")
    assert launch("torchrun t.py -h").launcher == "torchrun"


def test_a_fixed_port_and_restarts_are_kept_and_explained() -> None:
    found = launch("torchrun --master-port 29777 --max-restarts 3 --nproc-per-node 2 t.py")
    variables = rank_variables(1, 2, "10.0.0.2", launched=found.variables)
    assert (variables["MASTER_PORT"], variables["TORCHELASTIC_MAX_RESTARTS"]) == ("29777", "3")
    assert "last snapshot" in found.notes[0]


def test_threads_are_limited_only_where_torchrun_would() -> None:
    assert launch("torchrun --nproc-per-node 2 t.py").variables["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in launch("torchrun --nproc-per-node 2 t.py", OMP_NUM_THREADS="4").variables
    assert "OMP_NUM_THREADS" not in launch("torchrun t.py").variables


def test_the_same_command_has_the_same_run_id() -> None:
    first, second = launch("torchrun t.py 1"), launch("torchrun --standalone t.py 1")
    assert first.variables["TORCHELASTIC_RUN_ID"] == second.variables["TORCHELASTIC_RUN_ID"]
    assert launch("torchrun --rdzv-id mine t.py").variables["TORCHELASTIC_RUN_ID"] == "mine"


def test_a_single_plain_process_sees_no_rank_variables_and_several_see_six() -> None:
    assert rank_variables(0, 1, "10.0.0.2") == {}
    assert set(rank_variables(3, 4, "10.0.0.2")) == {
        *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    }


@pytest.mark.parametrize(
    ("head", "interpreter"),
    [
        ("#!/env/bin/python3\nimport re", "/env/bin/python3"),
        ("#!/env/bin/python3.11 -E\n", "/env/bin/python3.11"),
        ("#!/usr/bin/env python3\n", "python3"),
        ("#!/bin/sh\n'''exec' \"/a very/long/bin/python\" \"$0\" \"$@\"\n' '''\n", "/a very/long/bin/python"),
        ("#!/bin/sh\n'''exec' /long/bin/python \"$0\" \"$@\"\n", "/long/bin/python"),
        ("#!/bin/bash\n", None),
        ("\x7fELF", None),
        ("", None),
    ],
)
def test_the_interpreter_is_read_from_the_first_lines(head: str, interpreter: str | None) -> None:
    assert script_interpreter(head) == interpreter


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="compares with the real torchrun")
def test_the_variables_and_arguments_are_those_of_the_real_torchrun(tmp_path: Path) -> None:
    words = ["--nproc-per-node", "2", "--role", "r", "probe.py", "--rank=${local_rank}", "$$", "$HOME"]
    (tmp_path / "probe.py").write_text(
        "import json, os, sys\nopen('got' + os.environ['RANK'], 'w').write(json.dumps([dict(os.environ), sys.argv]))\n"
    )
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    command = [sys.executable, "-m", "torch.distributed.run", *words]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=120, capture_output=True)
    found = read_command(command, environment, lambda program: None)
    assert isinstance(found, Launch) and found.ranks == 2
    free = {"MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE"}
    for rank in range(2):
        real, argv = json.loads((tmp_path / f"got{rank}").read_text())
        ours = environment | rank_variables(rank, 2, "localhost", launched=found.variables)
        assert set(real) - set(ours) <= {"TORCHELASTIC_ERROR_FILE", "LC_CTYPE"}
        assert {name: real[name] for name in ours.keys() - free} == {name: ours[name] for name in ours.keys() - free}
        assert command_of_rank(found.command, rank) == (sys.executable, "-u", *argv)
