"""A job's own network: a bridge per fleet, and for each cell a namespace with loopback and one address for life.

Everything goes through `ip` and `nft`, in as few process starts as it takes, and may be done again at any time. The
namespace is bound to a file, so that it outlives the processes in it. MAC and address belong together: after a move
the host's neighbour table still holds, and a connection goes on. Holding a network still is left to the keeper
(`keeper/wire.py`).
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final, Literal

from ergosphere.wire.addresses import fleet_prefix

Kind = Literal["private", "none", "host"]
SUBNET_RECORD: Final = "network.json"  # in the home: which /16 its jobs have

COMMAND_S_MAX: Final = 20.0
FORWARDING: Final = Path("/proc/sys/net/ipv4/ip_forward")
INSIDE: Final = "eth0"  # the job's side of its veth
_CLEAN: Final = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


class NetworkError(Exception):
    """A network could not be made or removed; cause first, then the remedy."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """The network of one home. `nft`: how to call nft (None: jobs have no way to the outside)."""

    id: str
    subnet: IPv4Network
    nft: tuple[str, ...] | None = None

    @property
    def bridge(self) -> str:
        return f"ergo{self.id}"[:15]

    @property
    def gateway(self) -> IPv4Address:
        """The bridge's own address: how the host is seen by the jobs."""
        return self.subnet[1]

    @property
    def table(self) -> str:
        return f"ergo_{self.id}"


@dataclass(frozen=True, slots=True)
class CellNet:
    """The network of one cell of one life. `netns`: the file its namespace is bound at; `link`: the host's veth end."""

    kind: Kind
    address: str
    netns: str | None
    link: str | None
    known_as: str = ""  # of a fork: the address its processes know, which is another job's outside

    @property
    def mac(self) -> str:
        """Locally administered, from the address."""
        return "02:e6:" + ":".join(f"{octet:02x}" for octet in IPv4Address(self.address).packed)


def choose_subnet(fleet_id: str, record: Path, taken: Iterable[IPv4Network] | None = None) -> IPv4Network:
    """The fleet's 10.x.0.0/16, chosen once and kept in `record`: by the id, past what the host has routes to."""
    with suppress(OSError, ValueError, KeyError):
        return IPv4Network(json.loads(record.read_text())["subnet"])
    busy = list(_routes() if taken is None else taken)
    first = int(fleet_prefix(fleet_id).split(".")[1])
    for step in range(256):
        subnet = IPv4Network(f"10.{(first + step) % 256}.0.0/16")
        if not any(subnet.overlaps(other) for other in busy):
            beside = record.with_suffix(".new")
            beside.write_text(json.dumps({"subnet": str(subnet)}))
            beside.replace(record)
            return subnet
    raise NetworkError("this host has routes to all of 10.0.0.0/8; write another subnet into " + str(record))


def _routes() -> list[IPv4Network]:
    """Networks this host reaches by more than its default route."""
    words = [line.split() for line in _run(("ip", "-4", "route", "show", "table", "all")).splitlines()]
    found = []
    for route in words:
        place = route[1] if route[0] in ("local", "broadcast", "unreachable", "blackhole", "prohibit") else route[0]
        with suppress(ValueError):
            found.append(ipaddress.IPv4Network(place))
    return found


def ensure_fleet(fleet: Fleet) -> tuple[str, ...]:
    """Bridge and NAT are there. Returns what the operator should know, e.g. that jobs reach nothing outside."""
    if not Path("/sys/class/net", fleet.bridge).exists():
        with suppress(NetworkError):  # another node's agent may be first
            _ip([f"link add {fleet.bridge} type bridge stp_state 0 forward_delay 0"])
    _ip([f"addr replace {fleet.gateway}/16 dev {fleet.bridge}", f"link set {fleet.bridge} up"])
    if fleet.nft is None:
        return ("no nft here: jobs reach each other and this node, but nothing outside (ergo setup provides it)",)
    try:
        _forward()
        _nft(fleet, _nat_rules(fleet))
    except (NetworkError, OSError) as error:
        return (f"jobs reach nothing outside this node: {error}",)
    return ()


def _nat_rules(fleet: Fleet) -> str:
    """Made anew as a whole, in one transaction."""
    return (
        f"table ip {fleet.table} {{}}\n"
        f"delete table ip {fleet.table}\n"
        f"table ip {fleet.table} {{\n"
        "  chain out {\n"
        "    type nat hook postrouting priority srcnat;\n"
        f'    ip saddr {fleet.subnet} oifname != "{fleet.bridge}" masquerade\n'
        "  }\n"
        "}\n"
    )


def _forward() -> None:
    if FORWARDING.read_text().strip() != "1":
        FORWARDING.write_text("1")


def remove_fleet(fleet: Fleet) -> None:
    """Bridge and NAT are gone. Forwarding stays as it is: others may rely on it by now."""
    _ip_gone(f"link del {fleet.bridge}")
    if fleet.nft is not None:
        with suppress(NetworkError):
            _nft(fleet, f"delete table ip {fleet.table}\n")


def cell_net(fleet: Fleet, name: str, address: str, kind: Kind, folder: Path) -> CellNet:
    """Names only, nothing is made. `name`: node and cell of a life ("node-0/j12.3.0"); `folder` holds bind files."""
    if kind == "host":
        return CellNet(kind, address, None, None)
    digest = hashlib.blake2b(f"{fleet.id} {name}".encode(), digest_size=5).hexdigest()
    return CellNet(kind, address, str(folder / digest), f"erv{digest}" if kind == "private" else None)


def make(fleet: Fleet, net: CellNet, held: bool) -> None:
    """The cell's namespace is there. `held` (for a thaw): no link to the outside until its keeper lets the ranks go.

    A thaw needs a namespace in which no rank has lived: the sockets of killed processes linger and keep their ports.
    """
    if net.netns is None:
        return
    netns = Path(net.netns)
    if not _is_bound(netns):
        netns.parent.mkdir(parents=True, exist_ok=True)
        netns.touch()
        _run(("unshare", f"--net={netns}", "true"))
    inside = ["link set lo up", f"addr replace {net.address}/32 dev lo"]
    if net.link is not None:
        _attach(fleet, net)
        inside = [
            "link set lo up",
            f"addr replace {net.address}/16 dev {INSIDE}",
            f"link set {INSIDE} up",
            f"route replace default via {fleet.gateway} dev {INSIDE}",
        ]
        _ip([f"link set {net.link} {'down' if held else 'up'}"])
    if net.known_as:
        _keep_to_itself(net.netns)
        inside.insert(1, f"addr replace {net.known_as}/32 dev lo")
    _ip(inside, net.netns)


def _keep_to_itself(netns: str) -> None:
    """Nobody outside is answered for, or told of, an address that is on loopback alone."""
    quiet = "cd /proc/sys/net/ipv4/conf/all && echo 1 > arp_ignore && echo 2 > arp_announce"
    _run(("nsenter", f"--net={netns}", "--", "sh", "-c", quiet))


def _attach(fleet: Fleet, net: CellNet) -> None:
    if Path("/sys/class/net", str(net.link)).exists():
        return
    _ip(
        [
            f"link add {net.link} type veth peer name {INSIDE} address {net.mac} netns {net.netns}",
            f"link set {net.link} master {fleet.bridge}",
        ]
    )


def remove(net: CellNet) -> None:
    """The cell's namespace is gone. The veth goes first: nothing the killed processes' sockets say is heard outside."""
    if net.link is not None:
        _ip_gone(f"link del {net.link}")
    if net.netns is not None:
        while _is_bound(Path(net.netns)):
            _run(("umount", net.netns))
        Path(net.netns).unlink(missing_ok=True)


def _is_bound(path: Path) -> bool:
    """True if a namespace is bound at `path`: then it is no longer a file of the folder it lies in."""
    with suppress(OSError):
        return path.stat().st_dev != path.parent.stat().st_dev
    return False


def _ip(commands: Sequence[str], netns: str | None = None) -> None:
    """All commands in one start of `ip`, in the host's namespace or in the one bound at `netns`."""
    prefix = () if netns is None else ("nsenter", f"--net={netns}", "--")
    _run((*prefix, "ip", "-batch", "-"), "\n".join(commands) + "\n")


def _ip_gone(command: str) -> None:
    """`command` removes a link: that there is none is as good."""
    if Path("/sys/class/net", command.split()[-1]).exists():
        with suppress(NetworkError):
            _ip([command])


def _nft(fleet: Fleet, rules: str) -> None:
    assert fleet.nft is not None
    _run((*fleet.nft, "-f", "-"), rules)


def _run(argv: tuple[str, ...], given: str = "") -> str:
    """Output of a command; what it complains about becomes the error's cause."""
    try:
        ended = subprocess.run(
            argv, input=given, capture_output=True, text=True, timeout=COMMAND_S_MAX, env=_CLEAN, check=False
        )
    except FileNotFoundError as error:
        raise NetworkError(
            f"{argv[0]} is not installed: install iproute2 and util-linux, or use --network host"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise NetworkError(f"{argv[0]} did not end within {COMMAND_S_MAX:g} s: the host is busy, try again") from error
    if ended.returncode != 0:
        said = " ".join((ended.stderr or ended.stdout).split()) or f"code {ended.returncode}"
        raise NetworkError(f"{argv[0]}: {said} (was: {given.strip() or ' '.join(argv[1:])})")
    return ended.stdout
