"""Services driven by recorded requests: replicas come and go with the load, and training has what they leave."""

import pytest
from tests.sim.kit import DATA, trace, work

from ergosphere.core.model import Tier
from ergosphere.sim.engine import Scenario
from ergosphere.sim.faulty import Faulty
from ergosphere.sim.fleets import uniform
from ergosphere.sim.many import Task, run
from ergosphere.sim.services import deploy, level, read

AZURE = read(DATA / "azure_llm2023_requests.csv.gz")


def test_the_azure_requests_are_two_services_over_an_hour() -> None:
    assert [one.name for one in AZURE] == ["code", "conv"]
    assert all(55 <= len(one.rates) <= 65 for one in AZURE)
    assert sum(sum(one.rates) * 60 for one in AZURE) == pytest.approx(28_185, abs=2)


def test_replicas_follow_the_load_up_at_once_and_down_late() -> None:
    conv = AZURE[1]
    quiet, busy = deploy(conv, 1, 40), deploy(conv, 1, 40, scale=8.0)
    assert max(count for _, count in quiet.wishes) < max(count for _, count in busy.wishes) <= 40
    assert all(1 <= count <= 40 for _, count in busy.wishes)


def test_training_yields_to_a_service_and_takes_back_what_it_leaves() -> None:
    served = deploy(AZURE[0], 1, 12, scale=20.0, until_s=7_200.0)
    assert len(served.wishes) > 4, "the load has to move for this to say anything"
    training = trace(*(work(f"t{n}", 0, 7_200, 1, Tier.BASIC) for n in range(16)))
    alone = run(Task("ergosphere", Scenario(training, uniform(2))))
    both = run(Task("ergosphere", Scenario(training, uniform(2), services=(served,))))
    assert not both.stuck and len(both.world.ended) == 16
    assert both.world.now_s > alone.world.now_s, "what serves does not train"
    replicas = [both.world.lives[one.id] for one in served.replicas]
    for life in replicas:
        life.settle(both.world.now_s)
    told = level(served, [life.spans for life in replicas], min(both.world.now_s, 7_200.0))
    assert told.wanted_s > 0 and told.kept > 0.9
    assert any(life.pauses for life in replicas), "what is not wanted any more is frozen"
    assert all(one.lost_s == 0 for one in both.world.ended)


def test_requests_that_cannot_be_meant_are_named(tmp_path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("svc,t_s\na,1\n")
    with pytest.raises(Faulty, match="no column prompt_tokens, output_tokens"):
        read(path)
    path.write_text("svc,t_s,prompt_tokens,output_tokens\na,1,5,5\na,-1,5,5\na,x,5,5\n")
    with pytest.raises(Faulty, match=r"line 3: a request at -1 s(.|\n)*line 4: holds no request"):
        read(path)
