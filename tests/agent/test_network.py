"""Jobs' own networks: two may use a port, the host reaches them, and a connection outlives a move."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from tests.agent.keeperkit import Machine, wait_for
from tests.agent.small_rank import tool

from ergosphere.agent import network

SERVER = """
import socket, sys
server = socket.create_server(("", 29500))
print("listening", flush=True)
while True:
    client, _ = server.accept()
    while line := client.recv(4096):
        client.sendall(sys.argv[1].encode() + b" " + line)
"""


@pytest.fixture
def machine() -> Iterator[Machine]:
    machine = Machine()
    machine.with_fleet(nft=None)
    yield machine
    machine.remove()


def address(machine: Machine, host: int) -> str:
    assert machine.fleet is not None
    return str(machine.fleet.subnet[host])


def ask(connection: socket.socket, question: bytes) -> bytes:
    connection.sendall(question)
    return connection.recv(4096)


def test_a_subnet_is_chosen_past_the_routes_of_the_host_and_kept(tmp_path: Path) -> None:
    record = tmp_path / "network.json"
    first = network.choose_subnet("ab12", record, taken=[])
    other = network.choose_subnet("ab12", tmp_path / "other.json", taken=[first])
    assert first.prefixlen == 16 and not other.overlaps(first)
    assert network.choose_subnet("ab12", record, taken=[first]) == first
    assert IPv4Network(json.loads(record.read_text())["subnet"]) == first


def test_a_host_without_a_free_subnet_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(network.NetworkError, match=r"routes to all of 10\.0\.0\.0/8"):
        network.choose_subnet("ab12", tmp_path / "network.json", taken=[IPv4Network("10.0.0.0/8")])


def test_two_cells_use_the_same_port_and_the_host_reaches_both(machine: Machine) -> None:
    answers = []
    for host in (2, 3):
        life = machine.life(incarnation=host, net=machine.net(f"cell{host}", address(machine, host)))
        life.launch(["python3", "-uc", SERVER, f"cell{host}"])
        wait_for(lambda life=life: "listening" in life.out())
        with socket.create_connection((address(machine, host), 29500), timeout=10) as connection:
            answers.append(ask(connection, b"hello"))
    assert answers == [b"cell2 hello", b"cell3 hello"]


def test_the_network_none_has_its_address_and_nothing_else(machine: Machine) -> None:
    life = machine.life(net=machine.net("alone", address(machine, 4), "none"))
    life.launch(["ip", "-br", "address"])
    life.exited()
    assert address(machine, 4) in life.out() and "eth0" not in life.out()


def test_making_and_removing_twice_is_as_good_as_once(machine: Machine) -> None:
    assert machine.fleet is not None
    network.ensure_fleet(machine.fleet)
    net = machine.net("twice", address(machine, 5))
    network.make(machine.fleet, net, held=False)
    network.remove(net)
    network.remove(net)
    assert net.link not in _links() and not Path(str(net.netns)).exists()
    network.remove_fleet(machine.fleet)
    network.remove_fleet(machine.fleet)
    assert machine.fleet.bridge not in _links()


@pytest.fixture
def outside(machine: Machine) -> Iterator[str]:
    """An address beyond this host, which knows no way back to any job."""
    name = f"out{machine.id[:6]}"
    netns = machine.run / name
    netns.touch()
    commands = [
        ["unshare", f"--net={netns}", "true"],
        ["ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(netns)],
        ["ip", "address", "add", "198.18.77.1/30", "dev", name],
        ["ip", "link", "set", name, "up"],
        ["nsenter", f"--net={netns}", "ip", "address", "add", "198.18.77.2/30", "dev", "eth0"],
        ["nsenter", f"--net={netns}", "ip", "link", "set", "eth0", "up"],
    ]
    for command in commands:
        subprocess.run(command, check=True)
    server = subprocess.Popen(["nsenter", f"--net={netns}", "python3", "-c", SERVER, "out"], stdout=subprocess.PIPE)
    assert server.stdout is not None and server.stdout.readline()
    yield "198.18.77.2"
    server.kill()
    server.wait()
    server.stdout.close()
    subprocess.run(["ip", "link", "del", name], check=True)
    subprocess.run(["umount", netns], check=True)


ASK_OUT = (
    "import socket, sys; s = socket.create_connection((sys.argv[1], 29500), 12); s.sendall(b'hi'); print(s.recv(99))"
)


def test_a_job_reaches_the_outside_through_nat_once_there_is_nft(machine: Machine, outside: str) -> None:
    notes = []
    for number, nft in enumerate((None, tool().nft)):
        fleet = machine.with_fleet(nft)
        notes.append(network.ensure_fleet(fleet))
        life = machine.life(number, machine.net(f"asker{number}", address(machine, 7 + number)))
        life.launch(["timeout", "2" if nft is None else "15", "python3", "-c", ASK_OUT, outside])
        life.exited()
        assert ("out hi" in life.out()) == (nft is not None)
    assert "nothing outside" in notes[0][0] and notes[1] == ()


def test_what_ip_complains_about_becomes_a_sentence() -> None:
    with pytest.raises(network.NetworkError, match="Cannot find device"):
        network._ip(["link set nosuchlink up"])


@pytest.mark.criu
def test_a_connection_from_the_host_outlives_a_move(machine: Machine) -> None:
    plan = machine.plan()
    first = machine.life(1, machine.net("life1", address(machine, 6)))
    assert first.net is not None
    first.launch(["python3", "-uc", SERVER, "served"])
    wait_for(lambda: "listening" in first.out())
    with socket.create_connection((address(machine, 6), 29500), timeout=30) as connection:
        assert ask(connection, b"before") == b"served before"
        first.keeper.suspend("f1", 60.0, ["false"], "kill")
        connection.sendall(b"meanwhile")  # neither acknowledged nor lost
        first.dump(plan)
        first.keeper.kill("f1")
        network.remove(first.net)
        second = machine.life(2, machine.net("life2", address(machine, 6), held=True))
        second.restore("f1", plan, first)
        second.keeper.release("f1")
        assert connection.recv(4096) == b"served meanwhile"
        assert ask(connection, b"after") == b"served after"


# One rank counts, the other counts on: a byte lost or doubled on the way and they stop agreeing.
SERVE_NUMBERS = """
import socket, sys
client, _ = socket.create_server((sys.argv[1], 29500)).accept()
stream, expected = client.makefile("rwb"), 0
while line := stream.readline():
    assert int(line.split()[0]) == expected, (line[:20], expected)
    stream.write(b"%d\\n" % (expected + 1))
    stream.flush()
    expected += 2
    print(expected, flush=True)
"""
ASK_NUMBERS = """
import socket, sys, time
while True:
    try:
        stream = socket.create_connection((sys.argv[1], 29500)).makefile("rwb")
        break
    except OSError:
        time.sleep(0.02)
number = 0
while True:
    stream.write(b"%d %s\\n" % (number, b"x" * 100_000))
    stream.flush()
    number = int(stream.readline()) + 1
    print(number, flush=True)
"""


@pytest.mark.criu
@pytest.mark.parametrize("over", ["loopback", "address"])
def test_a_connection_between_two_ranks_of_a_cell_outlives_two_moves(machine: Machine, over: str) -> None:
    plan = machine.plan()
    life = machine.life(1, machine.net("life1", address(machine, 9)))
    name = "127.0.0.1" if over == "loopback" else address(machine, 9)
    life.launch(["python3", "-c", SERVE_NUMBERS, name], ["python3", "-c", ASK_NUMBERS, name])
    for incarnation in (2, 3):
        wait_for(lambda life=life, many=20 * incarnation: life.out(1).count("\n") > many or life.err(0))
        life.keeper.suspend("f", 60.0, ["false"], "kill")
        for rank in (1, 0):
            life.dump(plan, rank)
        life.keeper.kill("f")
        assert life.net is not None
        network.remove(life.net)
        moved = machine.life(incarnation, machine.net(f"life{incarnation}", address(machine, 9), held=True))
        moved.restore("f", plan, life, ranks=(0, 1))
        life = moved
        life.keeper.release("f")
    lines = life.out(1).count("\n")
    wait_for(lambda: life.out(1).count("\n") > lines + 20 or life.err(0) or life.err(1))
    assert (life.err(0), life.err(1)) == ("", "")
    numbers = [int(line) for line in life.out(1).split()]
    assert numbers == list(range(2, 2 * len(numbers) + 1, 2))


def _links() -> str:
    return subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
