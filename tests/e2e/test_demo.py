"""`python -m demo` in short: programs of a few seconds on a small fleet, played, shown and judged as the real ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from demo import __main__ as demo
from demo import caller, play
from demo.cast import Role, cast
from tests.chaos.run import tools

from ergosphere.cli.verifying.blows import Blow, Kind
from ergosphere.cli.verifying.fleet import Shape

REQUESTS = 120
PACE_S = 0.05
LOOP = 'for number in $(seq 100); do echo "line $number"; sleep 0.05; done; echo "all $number lines" > result.txt'
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
        Role("chargpt", "a loop", loop, "basic", (Blow(Kind.PAUSE, 0.6, 0),)),
        Role("serve", "a server", serve, "standard", (Blow(Kind.MOVE, 0.3, 0), Blow(Kind.KILL_AGENT, 0.6, 0)), port),
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
    assert code == 0, said
    acts = ("1/2  undisturbed", "2/2  under ergo", "a premium job arrives", "urgent  succeeded", "all identical, to")
    places = [said.out.find(words) for words in acts]
    assert -1 not in places and places == sorted(places), said.out
    assert said.out.count("✓ identical") == 2 and "✗" not in said.out
    assert f"{REQUESTS} answers over one connection and " in said.out and "each one as undisturbed" in said.out
    assert said.err == ""


def test_every_role_of_the_demo_is_an_example_with_its_blows_in_order() -> None:
    for role in cast(8000):
        assert any((demo.EXAMPLES / word).is_file() for word in role.command), role.command
        assert shutil.which(role.command[0]) or role.command[0] in ("torchrun", "python"), role.command
        assert [blow.at for blow in role.blows] == sorted(blow.at for blow in role.blows)
