"""What nodes are and what jobs want of them, from the API to the policy; spot notices; services that follow a load."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError
from tests.control.conftest import Service, User
from tests.control.ledger_home import Home

from ergosphere.cli import jobfile
from ergosphere.cli.errors import CliError
from ergosphere.control import nodes, quotas
from ergosphere.control.find import NotFound
from ergosphere.control.ledger.views import GIB
from ergosphere.control.loads import Loads
from ergosphere.control.submit import submit
from ergosphere.core.model import JobId, NodeId, Phase
from ergosphere.core.policy.flaky import FIRST_S
from ergosphere.core.policy.services import DOWN_AFTER_S
from ergosphere.wire.api import NodeLabels
from ergosphere.wire.jobs import JobSpec
from ergosphere.wire.policy import LoadReport


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    made.nodes("a", "b")
    yield made
    made.ledger.close()


def take(home: Home, name: str, **wishes: object) -> JobId:
    spec = JobSpec.model_validate({"name": name, "command": ("x",), "workdir": "/", **wishes})
    return JobId(submit(home.ledger, home.watch._store, spec).job.id)


def test_labels_reach_the_policy_and_stay_until_they_are_taken_away(home: Home) -> None:
    said = NodeLabels(region="eu", cluster="c", domain="rack-1", type="H100", device_gib=80, spot=True)
    nodes.label(home.ledger, "a", said)
    nodes.label(home.ledger, "a", NodeLabels(domain="rack-2"))
    view = home.ledger.observe().view.nodes[NodeId("a")].view
    assert (view.region, view.cluster, view.domain, view.type) == ("eu", "c", "rack-2", "H100")
    assert view.device_bytes == 80 * GIB
    nodes.label(home.ledger, "a", NodeLabels(region=""))
    assert home.ledger.observe().view.nodes[NodeId("a")].view.region == ""
    with pytest.raises(NotFound):
        nodes.label(home.ledger, "c", said)


@pytest.mark.parametrize(
    "wishes", [{"types": {"H100": 1.0}}, {"regions": ["eu"]}, {"device_gib": 60}], ids=["type", "region", "memory"]
)
def test_a_job_runs_where_its_wishes_are_met_and_says_when_nowhere(home: Home, wishes: dict[str, object]) -> None:
    nodes.label(home.ledger, "a", NodeLabels(region="us", type="A100", device_gib=40))
    nodes.label(home.ledger, "b", NodeLabels(region="us", type="A100", device_gib=40))
    job = take(home, "picky", **wishes)
    home.turn()
    assert home.row(job).reason_code == "unsuited"
    nodes.label(home.ledger, "b", NodeLabels(region="eu", type="H100", device_gib=80))
    home.turn()
    assert (home.row(job).phase, home.row(job).seats[0][0]) == (Phase.STARTING, "b")


def test_a_job_goes_to_its_data_first(home: Home) -> None:
    nodes.label(home.ledger, "a", NodeLabels(region="us"))
    nodes.label(home.ledger, "b", NodeLabels(region="eu"))
    job = take(home, "near", data="eu")
    home.turn()
    assert home.row(job).seats[0][0] == "b"


def test_wishes_are_checked() -> None:
    for wrong in ({"types": {"H100": 0}}, {"types": {"": 1}}, {"regions": ["a b"]}, {"device_gib": -1}):
        with pytest.raises(ValidationError):
            JobSpec.model_validate({"name": "x", "command": ("x",), "workdir": "/", **wrong})


def test_a_spot_notice_empties_the_node_and_says_how_long_there_is(home: Home) -> None:
    job = take(home, "j")
    home.turn()
    node = home.row(job).seats[0][0]
    with home.ledger.change() as change:
        row = change.job(job)
        row.phase, row.running_since_s = Phase.RUNNING, change.now_s
        change.drop_orders(row)
    nodes.leaves(home.ledger, node, 120.0)
    home.turn()
    assert home.row(job).phase is Phase.FREEZING
    assert f"({node}, gone in 120 seconds)" in home.row(job).reason
    nodes.stays(home.ledger, node)
    assert home.ledger.observe().view.nodes[NodeId(node)].view.leaves_s is None


def test_a_node_that_was_lost_without_notice_is_avoided_for_a_while(home: Home) -> None:
    home.turn()
    nodes.leaves(home.ledger, "b", 60.0)
    for _ in range(30):
        home.clock.sleep(0.5)
        home.turn()
    assert home.ledger.leases.gone() == {"a", "b"}
    with home.ledger.read() as look:
        failures = {name: look.node(name).failures for name in "ab"}
    assert len(failures["a"]) == 1 and failures["b"] == []
    nodes.stays(home.ledger, "b")
    with home.ledger.change() as change:
        for name in "ab":
            change.node(name).lost = change.node(name).draining = False
            home.leases.renew(name)
    views = home.ledger.observe().view.nodes
    assert views[NodeId("a")].view.flaky_until_s == failures["a"][0] + FIRST_S
    job = take(home, "careful")
    home.turn()
    assert home.row(job).seats[0][0] == "b"


def test_a_service_follows_its_load_up_at_once_and_down_late(home: Home) -> None:
    take(home, "web", replicas=[1, 4])
    loads = Loads(home.ledger)
    busy = LoadReport(requests_per_s=25, service_s=0.1, latency_s=0.5)
    assert loads.told("web", busy).wanted == 3
    quiet = LoadReport(requests_per_s=1, service_s=0.1, latency_s=0.5)
    assert loads.told("web", quiet).wanted == 3
    home.clock.sleep(DOWN_AFTER_S)
    assert loads.told("web", quiet).wanted == 1
    quotas.scale(home.ledger, "web", 4)
    assert loads.told("web", quiet).wanted == 4, "what was asked for by hand stays as long as the load is young"
    with pytest.raises(NotFound):
        loads.told("wep", quiet)


def test_wishes_are_read_from_a_jobs_file(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("run: ./train\ntypes: {H100: 1, A100: 0.6}\nregions: [eu, us]\ndata: eu\n")
    draft, _ = jobfile.read(path, {})
    assert (draft.types, draft.regions, draft.data) == ({"H100": 1.0, "A100": 0.6}, ("eu", "us"), "eu")
    path.write_text("run: ./train\ntypes: [H100]\n")
    assert jobfile.read(path, {})[0].types == {"H100": 1.0}
    path.write_text("run: ./train\ntypes: {H100: fast}\n")
    with pytest.raises(CliError, match="line 2: types"):
        jobfile.read(path, {})


def test_the_api_labels_drains_with_a_deadline_and_hears_of_loads(service: Service, user: User) -> None:
    client = service.user.server.client()
    told = client.put("/v1/nodes/node-0/labels", json={"type": "H100", "domain": "rack"}).json()
    assert [(one["id"], one["type"], one["domain"]) for one in told] == [("node-0", "H100", "rack")]
    assert client.put("/v1/nodes/node-0/labels", json={"type": "two words"}).status_code == 422
    job = user.submit("picky", types={"H100": 1.0})
    assert user.until(job, "running")["nodes"] == ["node-0"]
    user.post(f"/v1/jobs/{job}/cancel", {"wait_s": 60})
    user.post("/v1/nodes/node-0/drain", {"within_s": 60})
    leaving = next(one for one in user.get("/v1/nodes") if one["id"] == "node-0")
    assert leaving["draining"] and leaving["leaves_s"] is not None
    user.post("/v1/nodes/node-0/undrain")
    body = {"name": "web", "command": ["count", "0", "0"], "workdir": "/w", "replicas": [1, 3]}
    user.post("/v1/jobs", body, 201)
    load = {"requests_per_s": 15, "service_s": 0.1, "latency_s": 0.5}
    assert user.post("/v1/services/web/load", load)["wanted"] == 2
    client.put("/v1/nodes/node-0/labels", json={"type": "", "domain": ""})
