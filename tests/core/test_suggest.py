"""Did you mean?"""

import pytest

from ergosphere.core.suggest import nearest, unknown


def test_a_slip_finds_its_name_whatever_the_case_dashes_and_underscores() -> None:
    assert nearest("rank", ["ranks", "name", "tier"]) == "ranks"
    assert nearest("--Snapshot_Evry", ["--snapshot-every", "--max-restarts"]) == "--snapshot-every"
    assert nearest("xyz", ["ranks"]) is None


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("--gpus", None), ("--priority", None), ("--watch", None), ("--since", None), ("--verbose", None),
     ("--teir", "--tier"), ("--al", "--all"), ("--num-ranks", "--ranks"), ("--snapshot", "--snapshot-every"),
     ("--work-dir", "--workdir"), ("--detatch", "--detach"), ("-f", None), ("--outptu", "--output")],
)  # fmt: skip
def test_only_what_is_near_is_suggested(typed: str, meant: str | None) -> None:
    flags = "--output --ranks --tier --project --all --fetch --tail --snapshot-every --workdir --detach --env -e"
    assert nearest(typed, flags.split()) == meant


def test_the_sentence_names_the_word_and_the_nearest_or_all_that_are_known() -> None:
    assert unknown("field", "rank", ["ranks", "tier"]) == "unknown field 'rank': did you mean 'ranks'?"
    assert unknown("field", "xyz", ["tier", "ranks"]) == "unknown field 'xyz': known are ranks, tier"
    assert unknown("node", "node-7", []) == "unknown node 'node-7'"
