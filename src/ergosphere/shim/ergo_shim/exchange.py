"""Contributions and results on their way between hosts: a socket for each pair of ranks that has something to send.

Messages are raw bytes behind a fixed head, sent from shared memory and received into it. Sockets are made at first use
and are gone after a cut."""

from __future__ import annotations

import ctypes
import os
import queue
import socket
import struct
import threading
from typing import Any, Final, NamedTuple, Optional

CONTRIBUTION: Final = 1
RESULT: Final = 2
_HEAD: Final = struct.Struct("<B32sIQQQQ")  # kind, group, member, number, bytes, first byte, signature
_HELLO: Final = struct.Struct("<32sI")  # token, rank
BUFFER_BYTES: Final = 4 << 20
LOOKUP_S: Final = 60.0


class Message(NamedTuple):
    """One message to be sent; `address` lies in shared memory and keeps its content until it is sent."""

    kind: int
    group: str
    member: int
    number: int
    size: int
    first: int
    signature: int
    address: int


class Exchange:
    """This rank's sockets to ranks of other hosts."""

    def __init__(self, me: int, name: str) -> None:
        self._me = me
        self._name = name  # names this life of the sockets in the store
        self._groups: "dict[str, Any]" = {}
        self._early: "dict[str, list[tuple[Message, bytes]]]" = {}  # came before the group was made here
        self._senders: "dict[int, _Sender]" = {}
        self._sending: "dict[tuple[str, int], int]" = {}
        self._lost: "set[int]" = set()
        self._lock = threading.Lock()
        self._line: Any = None
        self._token = b""
        self._closed = False
        self._accepted: "list[socket.socket]" = []
        self._listener = socket.socket()
        self._listener.bind((os.environ.get("ERGO_ADDRESS", "127.0.0.1"), 0))
        self._listener.listen(64)
        self._threads = [_start(self._accept, "ergosphere-accept")]

    # -- what a group calls ------------------------------------------------------------------------------------

    def meet(self, store: Any) -> None:
        """Tells the others where this rank is found."""
        host, port = self._listener.getsockname()
        self._line = store
        token = bytes(store.compare_set("ergo/sums/%s" % self._name, "", os.urandom(16).hex()))
        self._token = token
        store.set("ergo/sums/%s/%d" % (self._name, self._me), "%s:%d" % (host, port))

    def attend(self, key: str, group: Any) -> None:
        """From now on messages for that group are given to it."""
        with self._lock:
            self._groups[key] = group
            early = self._early.pop(key, [])
        for message, content in early:
            self._deliver_early(group, message, content)

    def contribute(self, group: Any, operation: Any, address: int) -> None:
        """Sends this rank's contribution to each other host: of it, what is folded there."""
        item = operation.layout.item
        for host in dict.fromkeys(group.seats.hosts):
            of, to = group.bounds(operation, host)
            if host == group.seats.home or of == to:
                continue
            there = group.seats.on(host)
            target = group.seats.ranks[there[group.seats.me % len(there)]]
            kind, size = CONTRIBUTION, (to - of) * item
            first = of * item
            self._send(target, self._message(kind, group, operation, size, first, address + first))

    def results(self, group: Any, operation: Any, address: int) -> None:
        """Sends what this host has folded to one rank of each other host."""
        of, to = group.bounds(operation, group.seats.home)
        item = operation.layout.item
        for host in dict.fromkeys(group.seats.hosts):
            if host != group.seats.home:
                target = group.seats.ranks[group.seats.on(host)[0]]
                self._send(target, self._message(RESULT, group, operation, (to - of) * item, of * item, address))

    def is_sending(self, key: str, number: int) -> bool:
        """Whether something of that operation has not been sent yet."""
        with self._lock:
            return (key, number) in self._sending

    def lost(self, ranks: "list[int]") -> Optional[int]:
        """One of the ranks whose socket broke."""
        return next((rank for rank in ranks if rank in self._lost), None)

    def drop(self) -> None:
        """Closes every socket and ends every thread."""
        self._closed = True
        _shut(self._listener)
        with self._lock:
            senders, accepted = list(self._senders.values()), list(self._accepted)
        for sender in senders:
            sender.close()
        for each in accepted:
            _shut(each)
        for thread in [*self._threads, *[sender.thread for sender in senders]]:
            thread.join(5.0)

    # -- sending -----------------------------------------------------------------------------------------------

    def _message(self, kind: int, group: Any, operation: Any, size: int, first: int, address: int) -> Message:
        me, signature = group.seats.me, operation.signature()
        return Message(kind, group.key, me, operation.number, size, first, signature, address)

    def _send(self, target: int, message: Message) -> None:
        with self._lock:
            at = message.group, message.number
            self._sending[at] = self._sending.get(at, 0) + 1
            sender = self._senders.get(target)
            if sender is None:
                sender = self._senders[target] = _Sender(self, target)
        sender.queue.put(message)

    def sent(self, message: Message) -> None:
        """A sender is through with it."""
        with self._lock:
            at = message.group, message.number
            self._sending[at] -= 1
            if self._sending[at]:
                return
            del self._sending[at]
            group = self._groups.get(message.group)
        if group is not None:
            group.ring()

    def connect(self, target: int) -> socket.socket:
        """A socket to another rank."""
        told = bytes(self._line.get("ergo/sums/%s/%d" % (self._name, target))).decode()
        host, _, port = told.rpartition(":")
        made = socket.create_connection((host, int(port)), LOOKUP_S)
        made.settimeout(None)
        _tune(made)
        made.sendall(_HELLO.pack(self._token, self._me))
        return made

    def lose(self, rank: int) -> None:
        """That rank cannot be reached any more."""
        if not self._closed:
            self._lost.add(rank)
            for group in list(self._groups.values()):
                group.ring()

    # -- receiving ---------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        while not self._closed:
            try:
                made, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._accepted.append(made)
                self._threads.append(_start(lambda made=made: self._receive(made), "ergosphere-receive"))

    def _receive(self, made: socket.socket) -> None:
        rank = -1
        try:
            _tune(made)
            token, rank = _HELLO.unpack(_read(made, _HELLO.size))
            while token == self._token and not self._closed:
                kind, key, *terms = _HEAD.unpack(_read(made, _HEAD.size))
                member, number, size, first, signature = terms
                self._take(made, Message(kind, key.decode(), member, number, size, first, signature, 0))
        except Exception:  # its end, or ours for want of memory: either way nothing comes from there any more
            if rank >= 0:
                self.lose(rank)
        finally:
            made.close()

    def _take(self, made: socket.socket, message: Message) -> None:
        with self._lock:
            group = self._groups.get(message.group)
        if group is None:
            content = _read(made, message.size)
            with self._lock:
                group = self._groups.get(message.group)
                if group is None:
                    self._early.setdefault(message.group, []).append((message, content))
                    return
            self._deliver_early(group, message, content)
        elif message.kind == CONTRIBUTION:
            block, address = group.room_for(message.member, message.number, message.size)
            _read_into(made, address, message.size)
            group.came(message.member, message.number, block, message.signature)
        else:
            self._take_result(made, group, message)

    def _take_result(self, made: socket.socket, group: Any, message: Message) -> None:
        address = group.result_at(message.number, message.first)
        if address is None:
            _read(made, message.size)
            return
        _read_into(made, address, message.size)
        group.result_came(message.number, group.parts_of(group.seats.hosts[message.member]))

    @staticmethod
    def _deliver_early(group: Any, message: Message, content: bytes) -> None:
        # A result cannot be early: it has this rank's own contribution in it.
        block, address = group.room_for(message.member, message.number, message.size)
        ctypes.memmove(address, content, len(content))
        group.came(message.member, message.number, block, message.signature)


class _Sender:
    """One thread that sends to one rank, so that a rank that does not read keeps nobody else waiting."""

    def __init__(self, exchange: Exchange, target: int) -> None:
        self.queue: "queue.SimpleQueue[Optional[Message]]" = queue.SimpleQueue()
        self._exchange = exchange
        self._target = target
        self._made: Optional[socket.socket] = None
        self.thread = _start(self._run, "ergosphere-send")

    def close(self) -> None:
        self.queue.put(None)
        if self._made is not None:
            _shut(self._made)

    def _run(self) -> None:
        try:
            self._made = self._exchange.connect(self._target)
            while True:
                message = self.queue.get()
                if message is None:
                    return
                self._made.sendall(_HEAD.pack(message.kind, message.group.encode(), *message[2:7]))
                self._made.sendall(_bytes_at(message.address, message.size))
                self._exchange.sent(message)
        except Exception:
            self._exchange.lose(self._target)
        finally:
            if self._made is not None:
                self._made.close()


def _start(run: Any, name: str) -> threading.Thread:
    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


def _tune(made: socket.socket) -> None:
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        made.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)


def _shut(made: socket.socket) -> None:
    try:
        made.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    made.close()


def _bytes_at(address: int, size: int) -> Any:
    return memoryview((ctypes.c_char * size).from_address(address)).cast("B")


def _read(made: socket.socket, size: int) -> bytes:
    content = bytearray(size)
    if size:
        _fill(made, memoryview(content))
    return bytes(content)


def _read_into(made: socket.socket, address: int, size: int) -> None:
    _fill(made, _bytes_at(address, size))


def _fill(made: socket.socket, place: Any) -> None:
    while place:
        count = made.recv_into(place)
        if count == 0:
            raise EOFError
        place = place[count:]
