"""Holding a cell's network still. While its ranks are suspended nothing may come in or go out.

The kernel would otherwise acknowledge bytes that no snapshot has, or answer for a socket that is not back yet with a
reset. Towards the outside the host's side of the veth is taken down rather than the job's: the job's routes stay. Among
the ranks `lo` swallows every packet; it is not taken down, because then CRIU could bind nothing to 127.0.0.1. TCP sends
again what was swallowed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from typing import Final

from . import kernel

SIOCGIFFLAGS: Final = 0x8913
SIOCSIFFLAGS: Final = 0x8914
IFF_UP: Final = 0x1
_REQUEST: Final = "16sH14x"  # struct ifreq: name, flags

RTM_NEWQDISC: Final = 36
RTM_DELQDISC: Final = 37
NLM_F_REQUEST_ACK: Final = 0x1 | 0x4
NLM_F_REPLACE_CREATE: Final = 0x100 | 0x400
TC_H_ROOT: Final = 0xFFFFFFFF
TCA_KIND: Final = 1
SWALLOW: Final = b"blackhole\0"  # a queue that is in every kernel that has queues at all
_HEADER: Final = "=IHHII"  # struct nlmsghdr: length, type, flags, sequence, port
_QUEUE: Final = "=BxxxiIII"  # struct tcmsg: family, ifindex, handle, parent, info


class Wire:
    """The network of one cell: `netns` is the file its namespace is bound at, `link` the host's side of its veth."""

    def __init__(self, netns: str | None, link: str | None) -> None:
        self._netns = netns
        self._link = link

    def hold(self) -> None:
        """Nothing passes any more, neither to the outside nor over loopback."""
        self._outside(up=False)
        self._loopback(up=False)

    def open(self) -> None:
        """Everything passes again."""
        self._loopback(up=True)
        self._outside(up=True)

    def _outside(self, up: bool) -> None:
        if self._link:
            _set_link(self._link, up)

    def _loopback(self, up: bool) -> None:
        if not self._netns or not os.path.exists(self._netns):
            return
        home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            kernel.setns(self._netns, kernel.CLONE_NEWNET)
            try:
                _set_queue("lo", None if up else SWALLOW)
            finally:
                kernel.setns(f"/proc/self/fd/{home}", kernel.CLONE_NEWNET)
        finally:
            os.close(home)


def _set_link(name: str, up: bool) -> None:
    """A link that is gone (its cell was torn down) is as still as can be."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            request = fcntl.ioctl(any_socket, SIOCGIFFLAGS, struct.pack(_REQUEST, name.encode(), 0))
            flags = struct.unpack(_REQUEST, request)[1]
            wanted = flags | IFF_UP if up else flags & ~IFF_UP
            if wanted != flags:
                fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack(_REQUEST, name.encode(), wanted))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise


def _set_queue(name: str, kind: bytes | None) -> None:
    """Gives a link the root queue `kind`, or with None its own back; that it has its own already is no error."""
    queue = struct.pack(_QUEUE, socket.AF_UNSPEC, socket.if_nametoindex(name), 0, TC_H_ROOT, 0)
    if kind is None:
        _netlink(RTM_DELQDISC, 0, queue, allowed=(errno.ENOENT, errno.EINVAL))
    else:
        attribute = struct.pack("=HH", 4 + len(kind), TCA_KIND) + kind
        attribute += bytes(-len(attribute) % 4)
        _netlink(RTM_NEWQDISC, NLM_F_REPLACE_CREATE, queue + attribute, allowed=())


def _netlink(message: int, flags: int, body: bytes, allowed: tuple[int, ...]) -> None:
    """One request to the kernel's routing tables, and its acknowledgement."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as link:
        length = struct.calcsize(_HEADER) + len(body)
        link.send(struct.pack(_HEADER, length, message, NLM_F_REQUEST_ACK | flags, 1, 0) + body)
        answer = link.recv(8192)
    failed = -struct.unpack_from("=i", answer, struct.calcsize(_HEADER))[0]
    if failed and failed not in allowed:
        raise OSError(failed, os.strerror(failed), "the queue of lo")
