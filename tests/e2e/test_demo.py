"""`python -m demo` in short: programs of a few seconds on a small fleet, played, shown and judged as the real ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from demo import __main__ as demo
from demo import caller, play, premium
from demo.cast import Role, cast
from demo.claims import missing
from tests.chaos.run import tools

from ergosphere.cli.verifying.blows import Blow, Kind
from ergosphere.cli.verifying.fleet import Shape
from ergosphere.cli.verifying.strikes import Struck
from ergosphere.core.model import Phase

REQUESTS = 240  # twice as long as the premium job may stand in the way of a move
PACE_S = 0.05
LOOP = 'for number in $(seq 160); do echo "line $number"; sleep 0.05; done; echo "all $number lines" > result.txt'
SERVER = """
import hashlib, json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version, wbufsize = "HTTP/1.1", -1
    count, sha = 0, hashlib.sha256()
    def do_POST(self):
        question = self.rfile.read(int(self.headers["Content-Length"])).decode()
        Handler.count += 1
        body = json.dumps({"request": Handler.count, "asked": question}).encode()
        Handler.sha.update(body)
        print(body.decode(), flush=True)
        self.answer(body)
    def do_GET(self):
        self.close_connection = True
        self.answer(json.dumps({"digest": Handler.sha.hexdigest()}).encode())
        self.server.asked_to_end = True
    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
server = HTTPServer(("0.0.0.0", int(sys.argv[1])), Handler)
server.asked_to_end = False
while not server.asked_to_end: server.handle_request()
"""


def short(port: int) -> tuple[Role, ...]:
    """The one that makes room for the urgent job goes by its name in the real cast."""
    loop, serve = ("sh", "loop.sh"), ("python", "server.py", str(port))
    return (
        Role("chargpt", "a loop", loop, "basic", (Blow(Kind.PAUSE, 0.3, 0),)),
        Role("serve", "a server", serve, "standard", (Blow(Kind.MOVE, 0.3, 0), Blow(Kind.KILL_AGENT, 0.5, 0)), port),
    )


@pytest.fixture
def shortened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loop.sh").write_text(LOOP)
    (tmp_path / "server.py").write_text(SERVER)
    for name, value in {"EXAMPLES": tmp_path, "TOOLS": tools(), "FLEET": Shape(2, 2), "cast": short}.items():
        monkeypatch.setattr(demo, name, value)
    monkeypatch.setattr(play, "REQUESTS", REQUESTS)
    monkeypatch.setattr(caller, "PACE_S", PACE_S)


def test_the_demo_plays_both_acts_and_ends_identical(shortened: None, capfd: pytest.CaptureFixture[str]) -> None:
    code = demo.main()
    said = capfd.readouterr()
    assert code == 0, said.out + said.err
    acts = ("1/2  undisturbed", "2/2  under ergo", "a premium job arrives", "urgent  succeeded", "all identical, to")
    places = [said.out.find(words) for words in acts]
    assert -1 not in places and places == sorted(places), said.out
    assert "nobody" not in said.out
    assert said.out.count("✓ identical") == 2 and "✗" not in said.out
    assert f"{REQUESTS} answers over one connection and " in said.out and "each one as undisturbed" in said.out
    assert said.err == ""


def test_a_demo_that_has_not_shown_all_it_claims_says_what_and_fails(
    shortened: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    unsizeable = Role("other", "one rank", ("sh", "loop.sh"), "standard", (Blow(Kind.RESIZE, 0.3, 0),))
    monkeypatch.setattr(demo, "cast", lambda _port: (unsizeable,))  # and nobody of the premium job's victim's name
    monkeypatch.setattr(premium, "PREEMPTED", "other")
    monkeypatch.setattr(premium, "PREEMPTED_AT", 1.0)
    code = demo.main()
    said = capfd.readouterr().out
    assert code == 1, said
    assert said.count("✓ identical") == 1 and "all identical" not in said
    assert "✗ not shown: the premium job never came" in said and "✗ not shown: never dealt: resize (" in said


STRUCK = tuple(Struck(Blow(kind, 0.5, 0), f"{kind}", done=True) for kind in (Kind.PAUSE, Kind.MOVE))
WELL = premium.Urgent(Phase.SUCCEEDED, frozenset({"chargpt"}))


def test_all_that_is_claimed_was_shown_though_one_blow_came_too_late_for_one_program() -> None:
    late = Struck(Blow(Kind.MOVE, 0.9, 0), "the job was not running, nothing to hit", done=False)
    assert missing([], [Kind.PAUSE, Kind.MOVE, Kind.MOVE], (*STRUCK, late), WELL) == ()


@pytest.mark.parametrize(
    ("differing", "meant", "urgent", "words"),
    [
        (["digits"], [], WELL, "digits has not come out identical"),
        ([], [Kind.KILL_AGENT], WELL, "never dealt: kill -9 of an agent (every program had ended before)"),
        ([], [], premium.Urgent(Phase.FAILED, WELL.preempted), "the premium job has failed"),
        ([], [], premium.Urgent(Phase.SUCCEEDED), "nobody was preempted for the premium job"),
        ([], [], premium.Urgent(None), "the premium job never came"),
    ],
)
def test_each_claim_that_was_not_shown_is_named(
    differing: list[str], meant: list[Kind], urgent: premium.Urgent, words: str
) -> None:
    (claim,) = missing(differing, [Kind.PAUSE, *meant], STRUCK, urgent)
    assert claim.startswith(words)


def test_every_role_of_the_demo_is_an_example_with_its_blows_in_order() -> None:
    befall = {blow.kind for role in cast(8000) for blow in role.blows}
    assert befall == set(Kind) - {Kind.LOSE_NODE}
    for role in cast(8000):
        assert any((demo.EXAMPLES / word).is_file() for word in role.command), role.command
        assert shutil.which(role.command[0]) or role.command[0] in ("torchrun", "python"), role.command
        assert [blow.at for blow in role.blows] == sorted(blow.at for blow in role.blows)
