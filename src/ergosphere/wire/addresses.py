"""Job-private addresses: which /16 a fleet uses, and the n-th cell's address in it.

Server (who allocates) and agents (who build bridge and veth) must agree, so the arithmetic lives between them.
"""

from __future__ import annotations

from typing import Final

GATEWAY_HOST: Final = 1  # the bridge itself
FIRST_HOST: Final = 2
HOSTS: Final = (1 << 16) - 4  # usable by cells: not the network, the bridge, the broadcast address or its neighbour
_FIRST_OCTET_2: Final = 64  # 10.0–10.63 is where clouds, clusters and home routers usually live
_OCTETS_2: Final = 128


def fleet_prefix(fleet_id: str) -> str:
    """The first two octets of the fleet's own /16, e.g. "10.87": always the same for one home."""
    return f"10.{_FIRST_OCTET_2 + int(fleet_id, 16) % _OCTETS_2}"


def gateway(prefix: str) -> str:
    """The address of the fleet's bridge on every node."""
    return _address(prefix, GATEWAY_HOST)


def cell_address(prefix: str, number: int) -> str:
    """The address of the `number`-th cell ever placed; wraps after 65,532 (the allocator skips those in use)."""
    return _address(prefix, FIRST_HOST + number % HOSTS)


def _address(prefix: str, host: int) -> str:
    return f"{prefix}.{host >> 8}.{host & 0xFF}"
