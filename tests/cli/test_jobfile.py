import textwrap

import pytest

from ergosphere.cli import jobfile
from ergosphere.cli.errors import CliError, ExitCode


@pytest.fixture
def read(tmp_path):
    def read_text(text, given=None):
        path = tmp_path / "job.yaml"
        path.write_text(textwrap.dedent(text))
        return jobfile.read(path, given or {})

    return read_text


def refusal(read, text, given=None):
    with pytest.raises(CliError) as caught:
        read(text, given)
    assert caught.value.code == ExitCode.USAGE
    return caught.value


def test_every_field_but_the_command_is_optional(read):
    draft, notes = read("run: python train.py --lr 0.1")
    assert draft.command == ("python", "train.py", "--lr", "0.1")
    assert draft.name is None and draft.ranks is None and notes == ()


def test_all_fields_of_ours_are_read(read):
    draft, _ = read("""
        name: digits
        project: vision
        tier: premium
        ranks: 4
        run: [python, "a b.py"]
        envs: {LR: 0.10, DEBUG: true, CODE: 010}
        secrets: {KEY: s3cret}
        export: none
        workdir: src
        mounts: [/data, /out:rw]
        network: host
        threads: 2
        snapshot_every: 5m
        max_restarts: 0
        hold: 90s
        grace: 30s
        signal: SIGUSR1
    """)
    assert draft.command == ("python", "a b.py")
    assert (draft.name, draft.project, draft.tier, draft.ranks) == ("digits", "vision", "premium", 4)
    assert draft.env == {"LR": "0.10", "DEBUG": "true", "CODE": "010", "KEY": "s3cret"}
    assert (draft.mounts, draft.network, draft.threads, draft.export) == (("/data", "/out:rw"), "host", 2, "none")
    assert (draft.snapshot_every_s, draft.max_restarts, draft.hold_s) == (300, 0, 90)
    assert (draft.grace_s, draft.signal) == (30, "USR1")


def test_a_skypilot_task_file_is_read_unchanged(read):
    draft, notes = read("""
        name: train
        num_nodes: 1
        resources:
          accelerators: A100:8
          cloud: aws
        workdir: .
        envs:
          EPOCHS: 3
        run: |
          # all GPUs of the node
          torchrun --nproc_per_node $SKYPILOT_NUM_GPUS_PER_NODE \\
            train.py --epochs ${EPOCHS}
    """)
    assert draft.command == ("torchrun", "--nproc_per_node", "8", "train.py", "--epochs", "3")
    assert draft.env["EPOCHS"] == "3" and draft.env["SKYPILOT_NUM_GPUS_PER_NODE"] == "8"
    assert any("resources" in note for note in notes)


def test_a_script_of_several_lines_runs_in_bash(read):
    draft, _ = read("""
        run: |
          mkdir -p out
          python train.py > out/log
    """)
    assert draft.command == ("bash", "-c", "mkdir -p out\npython train.py > out/log")


def test_setup_comes_before_the_command_and_must_succeed(read):
    draft, _ = read("""
        setup: pip install -r needs.txt
        run: python train.py
    """)
    assert draft.command == ("bash", "-c", "(\npip install -r needs.txt\n) || exit $?\npython train.py")


def test_setup_in_a_job_of_several_ranks_is_refused(read):
    for more in ("ranks: 2\nrun: python a.py", "run: torchrun --nproc-per-node 2 a.py"):
        assert "every rank" in refusal(read, f"setup: make\n{more}").cause


def test_several_skypilot_nodes_are_ranks_that_know_their_number(read):
    draft, _ = read("""
        num_nodes: 3
        run: |
          echo $SKYPILOT_NODE_RANK of $SKYPILOT_NUM_NODES
          ./work
    """)
    assert draft.ranks == 3
    assert draft.command[2].startswith("export SKYPILOT_NODE_RANK=$RANK\n")
    assert draft.env["SKYPILOT_NUM_NODES"] == "3"


def test_torchrun_inside_a_script_is_pointed_out(read):
    _, notes = read("run: |\n  cd src\n  torchrun --nproc-per-node 4 a.py\n")
    assert any("torchrun inside a script" in note for note in notes)


def test_an_unknown_key_is_named_with_its_line_and_the_nearest_valid_one(read):
    fault = refusal(read, "name: a\nrun: ls\nteir: premium\n")
    assert fault.cause == "job.yaml, line 3: unknown key 'teir'"
    assert fault.remedy == "did you mean tier?"


@pytest.mark.parametrize(
    "resources", ["{acelerators: 2}", "{any_of: [{acelerators: 2}]}", "{cpus: 2, Accelerator: 2}", "{disk_sise: 10}"]
)
def test_a_slip_below_resources_is_named_with_the_nearest_valid_key(read, resources):
    fault = refusal(read, f"run: ls\nresources: {resources}\n")
    assert fault.cause.startswith("job.yaml, line 2: resources: unknown key '")
    assert fault.remedy in ("did you mean accelerators?", "did you mean disk_size?")


def test_what_resources_of_others_may_say_and_we_do_not_know_is_a_note(read):
    _, notes = read("run: ls\nresources: {accelerators: A100:1, quantum_bits: 7}\n")
    assert any("quantum_bits" in note for note in notes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("run: ls\narray: 4-1", "line 2: array: '4-1' does not go upwards"),
        ("run: ls\nreplicas: some", "line 2: replicas: 'some' is no number and no range"),
        ("run: ls\nfile_mounts: {/a: /b}", "file_mounts"),
        ("run: ls\nranks: four", "line 2: ranks: must be a whole number"),
        ("run: ls\nranks: 0", "ranks: must be at least 1"),
        ("run: ls\nranks: true", "must be a whole number"),
        ("run: ls\nsnapshot_every: often", "snapshot_every"),
        ("run: ls\nrun: pwd", "line 2: run is there twice"),
        ("run: {a: b}", "run: must be a command line"),
        ("run: echo 'open", "No closing quotation"),
        ("- a\n- b", "not a mapping"),
        ("name: a\nrun: [", "line 2"),
        ("run: ls\n---\nrun: pwd", "line 2"),
        ("run: ls\nworkdir: {git: x}", "workdir: must be a folder"),
        ("run: ls\nenvs: [A, B]", "envs: must be a mapping"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_line(read, text, said):
    assert said in refusal(read, text).cause


def test_empty_values_of_later_fields_do_no_harm(read):
    draft, notes = read("run: ls\nafter: []\narray:\nmin_devices: 1")
    assert draft.command == ("ls",)
    assert draft.min_devices == 1 and not any("min_devices" in note for note in notes), "it is obeyed"


def test_a_variable_without_a_value_must_be_given(read):
    assert "KEY has no value" in refusal(read, "run: ls\nsecrets: {KEY: null}").cause
    draft, _ = read("run: ls\nsecrets: {KEY: null}", {"KEY": "x"})
    assert draft.env == {"KEY": "x"}
