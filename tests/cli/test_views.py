import io

import pytest
from rich.console import Console

from ergosphere.cli.columns import Cell, Column, Row, fitted, table
from ergosphere.cli.views import explanation_view, job_view, nodes_view, places, queue_view, ranks_text
from ergosphere.wire.jobs import Explanation, JobDetail, JobInfo, NodeInfo


def job(**more):
    said = {
        "id": "3fa2b1c0",
        "name": "digits",
        "project": "default",
        "tier": "standard",
        "ranks": 4,
        "phase": "running",
        "command": ("python", "a.py"),
        "submitted_s": 0.0,
        "started_s": 10.0,
        "nodes": ("node-0", "node-0", "node-1", "node-1"),
    }
    return JobInfo.model_validate(said | more)


JOBS = [
    job(moves=2, recoveries=1, paused_total_s=20.0),
    job(id="aa00bb11", name="a-long-name-of-a-job-that-goes-on-and-on", phase="succeeded", ended_s=5000.0, lost_s=3),
    job(id="cc22dd33", name="big", phase="waiting", started_s=None, nodes=(), reason="needs 4 devices, 1 is free " * 4),
]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_the_queue_fits_its_terminal(width):
    lines = queue_view(JOBS, 4000.0, width).plain.split("\n")
    assert max(len(line) for line in lines) <= width
    assert "ID" in lines[0] and "PHASE" in lines[0]
    assert lines[1].startswith("3fa2b1c0  digits")


def test_at_a_hundred_columns_the_promises_are_seen():
    lines = queue_view(JOBS, 4000.0, 100).plain.split("\n")
    for title in ("NAME", "RANKS", "WHERE", "RUN", "TOTAL", "LOST", "MOVES", "DEV"):
        assert title in lines[0]


def test_a_reason_is_read_word_for_word_at_any_width():
    text = queue_view(JOBS, 4000.0, 50).plain
    words = " ".join(text[text.index("└") + 1 :].split())
    assert words == " ".join(JOBS[2].reason.split())


def test_what_another_wrote_cannot_break_the_table():
    lines = queue_view([job(reason="a\x1b[2J\nb", phase="waiting")], 4000.0, 100).plain
    assert "\x1b" not in lines and "a\\x1b[2J\\nb" in lines


def test_the_least_needed_column_goes_first_and_names_shrink_before_that():
    columns = (Column("ID"), Column("NAME", floor=4), Column("MORE", 1), Column("LESS", 2))
    rows = [Row((Cell("12"), Cell("abcdefghij"), Cell("more"), Cell("less")))]
    assert [i for i, _ in fitted(columns, rows, 28)] == [0, 1, 2, 3]
    assert dict(fitted(columns, rows, 24))[1] == 8
    assert [i for i, _ in fitted(columns, rows, 18)] == [0, 1, 2]
    assert "abc…" in table(columns, rows, 8).plain


def test_a_place_names_nodes_and_counts_nothing():
    assert places(job(nodes=("node-1", "node-0", "node-1", "node-1"), devices=2)) == "node-0, node-1"
    assert places(job(nodes=("node-1",) * 4, devices=2)) == "node-1"
    assert places(job(nodes=())) == "-"


def test_which_ranks_are_where_on_how_many_devices():
    assert ranks_text(job(devices=2)) == "4: 0-1 on node-0 (1 device), 2-3 on node-1 (1 device)"
    assert ranks_text(job(nodes=("node-1", "node-0", "node-1", "node-1"), devices=4)) == (
        "4: 1 on node-0 (1 device), 0, 2-3 on node-1 (3 devices)"
    )
    assert ranks_text(job(nodes=("node-0",) * 4)) == "4: 0-3 on node-0"
    assert ranks_text(job(nodes=())) == "4"


def shown(**more):
    detail = JobDetail.model_validate(job().model_dump() | {"workdir": "/w", "network": "private"} | more)
    return rendered(job_view(detail, (), 4000.0))


def rendered(view):
    console = Console(width=200, file=io.StringIO())
    console.print(view)
    return console.file.getvalue()


def test_processes_are_named_by_rank_and_node_and_not_without_end():
    told = [{"rank": 0, "node": "node-0", "pid": 11}, {"rank": 1, "node": "node-0", "pid": 12}]
    told += [{"rank": 2, "node": "node-1", "pid": 13}]
    assert "rank 0: 11, rank 1: 12 on node-0; rank 2: 13 on node-1\n" in shown(processes=told)
    many = shown(processes=[{"rank": rank, "node": "node-0", "pid": 100 + rank} for rank in range(3000)])
    assert "rank 7: 107 on node-0; … (all of them: -o json)" in many and "108" not in many


def test_last_words_cannot_drive_the_terminal():
    said = {"rank": 3, "lines": ("Traceback", "a\x1b[2J\u202eb", "E: x")}
    told = Explanation(job="j1", phase="failed", reason="why", remedy="", last_words=said)
    text = rendered(explanation_view(told, "digits"))
    assert "rank 3: Traceback\n" in text and "a\\x1b[2J\\u202eb\n" in text and "E: x\n" in text


def test_what_a_fork_was_given_is_named_and_not_shown():
    assert "from j1@s1, given LR, TOKEN (values are never shown)" in shown(
        forked_from="j1@s1", fork_names=("LR", "TOKEN")
    )
    assert "given" not in shown(forked_from="j1@s1")


def test_a_nodes_devices_are_drawn():
    node = NodeInfo(id="node-0", devices=2, used=("3fa2b1c0", None), ready=True, draining=True, lease_left_s=9.0)
    text = nodes_view([node], {"3fa2b1c0": "digits"}, 80).plain
    assert "draining" in text and "1/2" in text and "■□ digits" in text
