"""The keeper's one loop: clients on a Unix socket, children, alarms. One thread; idle without a single wake-up."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from .alarms import Alarms
from .children import Children
from .keeper import Keeper, Refused

REQUEST_BYTES_MAX: Final = 16 << 20  # environments and mount plans of a large cell
CLIENTS_MAX: Final = 64
SEND_S_MAX: Final = 5.0  # a client that does not read its answer is left


class Loop:
    """Runs until the keeper is told to leave."""

    def __init__(self, config: dict[str, Any], listener: socket.socket) -> None:
        self._selector = selectors.DefaultSelector()
        self._alarms = Alarms()
        self._keeper = Keeper(config, Children(self._selector, self._alarms), self._alarms)
        self._listener = listener
        self._clients: dict[socket.socket, bytearray] = {}
        self._on_child_end(self._keeper.reap)
        self._selector.register(listener, selectors.EVENT_READ, self._accept)

    def run(self) -> None:
        """Serves."""
        while not self._keeper.leaving:
            for key, _ in self._selector.select(self._alarms.left_s()):
                self._survive(key.data)
            self._survive(self._alarms.ring)

    def _survive(self, action: Callable[[], None]) -> None:
        """A fault of ours must not cost anyone their ranks: it goes to the log, and the keeper goes on keeping."""
        try:
            action()
        except Exception:
            traceback.print_exc()

    def _on_child_end(self, reap: Callable[[], None]) -> None:
        wake, waker = socket.socketpair()
        wake.setblocking(False)
        waker.setblocking(False)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._waker = waker

        def woken() -> None:
            with suppress(BlockingIOError):
                wake.recv(4096)
            reap()

        self._selector.register(wake, selectors.EVENT_READ, woken)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if len(self._clients) >= CLIENTS_MAX:
            client.close()
            return
        client.settimeout(SEND_S_MAX)
        self._clients[client] = bytearray()
        self._selector.register(client, selectors.EVENT_READ, lambda: self._read(client))

    def _read(self, client: socket.socket) -> None:
        waiting = self._clients.get(client)
        if waiting is None:
            return  # left by what came before it in the same round
        try:
            part = client.recv(1 << 16)
        except OSError:
            part = b""
        waiting += part
        if not part or len(waiting) > REQUEST_BYTES_MAX:
            self._drop(client)
            return
        while (end := waiting.find(b"\n")) >= 0:
            line = bytes(waiting[:end])
            del waiting[: end + 1]
            self._serve(client, line)

    def _serve(self, client: socket.socket, line: bytes) -> None:
        def reply(message: dict[str, Any]) -> None:
            with suppress(OSError):
                client.sendall(json.dumps(message).encode() + b"\n")

        try:
            self._keeper.answer(json.loads(line), reply)
        except Refused as error:
            reply({"ok": False, "error": str(error)})
        except Exception as error:
            traceback.print_exc()
            reply({"ok": False, "error": f"the keeper failed: {type(error).__name__}: {error}"})

    def _drop(self, client: socket.socket) -> None:
        self._selector.unregister(client)
        del self._clients[client]
        client.close()


def listen(path: str) -> socket.socket:
    """The keeper's socket: only its owner may speak."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    os.chmod(path, 0o600)
    listener.listen(CLIENTS_MAX)
    return listener
