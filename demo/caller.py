"""The client outside: asks a server again and again over one connection that is never opened anew."""

from __future__ import annotations

import hashlib
import http.client
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ergosphere.system import Clock

PACE_S: Final = 0.02  # between an answer and the next question
ANSWER_S_MAX: Final = 180.0  # a freeze, a move and a thaw on a busy machine lie between question and answer
CONNECT_S_MAX: Final = 180.0
RETRY_S: Final = 0.1
TRY_S_MAX: Final = 3.0  # for one attempt to connect
IMAGES: Final = 1797  # of scikit-learn's handwritten digits
STRIDE: Final = 37


class BrokenPromise(Exception):
    """The server lost a request, answered another one, or the connection broke."""


@dataclass(frozen=True, slots=True)
class Call:
    """A conversation that ended well: the bodies of all answers, in order."""

    answers: tuple[bytes, ...]


def converse(address: Callable[[], str | None], port: int, requests: int, clock: Clock) -> Call:
    """Ask `requests` times and say goodbye. Raises BrokenPromise when any answer is not the one that was due."""
    connection = _connected(address, port, clock)
    connection.auto_open = 0  # one connection: a lost one is not replaced
    answers = []
    try:
        for number in range(1, requests + 1):
            answers.append(_ask(connection, "POST", "/predict", json.dumps({"index": number * STRIDE % IMAGES})))
            if json.loads(answers[-1])["request"] != number:
                raise BrokenPromise(f"request {number} was answered as {answers[-1]!r}")
            clock.sleep(PACE_S)
        last = json.loads(_ask(connection, "GET", "/quit"))
    except (OSError, http.client.HTTPException) as fault:
        raise BrokenPromise(f"the connection broke after {len(answers)} answers: {fault!r}") from fault
    if last["digest"] != hashlib.sha256(b"".join(answers)).hexdigest():
        raise BrokenPromise("the server's digest of its answers is not the client's")
    return Call(tuple(answers))


def _connected(address: Callable[[], str | None], port: int, clock: Clock) -> http.client.HTTPConnection:
    """The server still starts at first: it is tried until it listens."""
    deadline_s = clock.monotonic() + CONNECT_S_MAX
    while clock.monotonic() < deadline_s:
        at = address()
        if at is not None:
            connection = http.client.HTTPConnection(at, port, timeout=TRY_S_MAX)
            try:
                connection.connect()
                connection.sock.settimeout(ANSWER_S_MAX)
            except OSError:
                connection.close()
            else:
                return connection
        clock.sleep(RETRY_S)
    raise BrokenPromise(f"nobody listens at port {port} after {CONNECT_S_MAX:.0f} s")


def _ask(connection: http.client.HTTPConnection, method: str, path: str, body: str | None = None) -> bytes:
    connection.request(method, path, body)
    return connection.getresponse().read()
