"""The one way to the server: where it is, which token opens it, and what its noes mean.

Standard library only, not httpx: importing that takes 0.15 s, half of what `ergo ps` needs. Messages are `wire`'s.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Self
from urllib.parse import quote, urlencode, urlsplit

from ergosphere.cli.errors import CliError, ExitCode
from ergosphere.system import server_is_gone

ANSWER_S_MAX: Final = 30.0  # beyond what a request itself asks the server to wait
_CONNECT_S_MAX: Final = 5.0
_LARGE_S_MAX: Final = 600.0  # until a large file begins to come: the server verifies it before
_PIECE: Final = 1 << 20  # bytes
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})

Query = Mapping[str, str | int | float | bool | None]


class Unreachable(CliError):
    """Nobody answers at the server's address."""

    def __init__(self, cause: str, remedy: str = "start it with `ergo up`") -> None:
        super().__init__(cause, remedy, ExitCode.UNREACHABLE)


class Refusal(CliError):
    """The server answered with a Problem."""

    def __init__(self, status: int, cause: str, remedy: str, code: ExitCode) -> None:
        super().__init__(cause, remedy, code)
        self.status = status


@dataclass(frozen=True, slots=True)
class Door:
    """Where the server listens and the token that opens it; `token_from` says where the token was read."""

    url: str
    token: str
    token_from: str

    @property
    def local(self) -> bool:
        """The server runs on this machine: its files are ours."""
        return urlsplit(self.url).hostname in _LOOPBACK


def find_door(home: Path, environment: Mapping[str, str]) -> Door:
    """Read address and token: ERGO_URL and ERGO_TOKEN first, else what the server of `home` wrote.

    Raises Unreachable when nothing says where the server is.
    """
    url = environment.get("ERGO_URL") or _written_url(home)
    token = environment.get("ERGO_TOKEN")
    if token:
        return Door(url, token, "ERGO_TOKEN")
    path = home / "server" / "token"
    try:
        return Door(url, path.read_text().strip(), str(path))
    except FileNotFoundError:
        raise CliError(
            f"no token: {path} is not there and ERGO_TOKEN is not set",
            "set ERGO_TOKEN to the token that `ergo up` printed, or start a server here with `ergo up`",
            ExitCode.DENIED,
        ) from None
    except OSError as fault:
        remedy = "use the account that ran `ergo up`, or set ERGO_TOKEN"
        raise CliError(f"the token cannot be read: {fault.strerror}: {path}", remedy, ExitCode.DENIED) from None


def _written_url(home: Path) -> str:
    """Where the server of this home listens; what a killed one left does not count: its port may be anybody's."""
    path = home / "server" / "server.json"
    try:
        url = str(json.loads(path.read_text())["url"])
    except FileNotFoundError:
        raise _not_running(home) from None
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise Unreachable(f"{path} cannot be read ({fault})") from None
    if server_is_gone(home):
        raise _not_running(home)
    return url


def _not_running(home: Path) -> Unreachable:
    remedy = "start one with `ergo up`, or name one with ERGO_URL and ERGO_TOKEN"
    return Unreachable(f"no server is running in {home}", remedy)


@dataclass(frozen=True, slots=True)
class _Asked:
    """One request; the answer's body goes `into` that file where there is one."""

    method: str
    target: str
    body: bytes | None
    headers: dict[str, str]
    patience_s: float
    into: IO[bytes] | None


class Client:
    """One connection to the server, opened when first needed and kept. Not for several threads at once."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self._connection: http.client.HTTPConnection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; the next request connects again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def get(self, path: str, query: Query | None = None) -> Any:
        """The JSON answer of a GET. `wait_s` in the query also lengthens our own patience."""
        return _decoded(self.request("GET", path, query))

    def post(self, path: str, body: str = "{}", wait_s: float = 0.0) -> Any:
        """The JSON answer of a POST with a JSON body. Always on a fresh connection: a POST is never sent twice."""
        self.close()
        return _decoded(self.request("POST", path, None, body.encode(), patience_s=wait_s))

    def put(self, path: str, body: Any) -> Any:
        """The JSON answer of a PUT of a JSON body: sent twice it does the same."""
        return _decoded(self.request("PUT", path, None, json.dumps(body).encode()))

    def put_blob(self, digest: str, content: bytes | Path) -> None:
        """Upload one blob; a file's content is read into memory (blobs have a limit)."""
        data = content if isinstance(content, bytes) else content.read_bytes()
        self.request("PUT", f"/v1/blobs/{digest}", None, data, kind="application/octet-stream")

    def get_bytes(self, path: str, query: Query | None = None) -> bytes:
        """The raw bytes that a GET answers."""
        return self.request("GET", path, query)

    def save(self, path: str, dest: Path) -> None:
        """The raw bytes that a GET answers, however many, in a new file."""
        with dest.open("xb") as into:
            self.request("GET", path, patience_s=_LARGE_S_MAX, into=into)

    def request(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: bytes | None = None,
        *,
        kind: str = "application/json",
        patience_s: float = 0.0,
        into: IO[bytes] | None = None,
    ) -> bytes:
        """The answer's body; with `into` it goes there.

        Raises Unreachable, or Refusal with the server's own cause and remedy.
        """
        asked = {k: _text(v) for k, v in (query or {}).items() if v is not None}
        wait_s = max(patience_s, float(asked.get("wait_s", 0)))
        target = path + (f"?{urlencode(asked)}" if asked else "")
        headers = {"Authorization": f"Bearer {self.door.token}", "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = kind
        status, data = self._exchange(_Asked(method, target, body, headers, ANSWER_S_MAX + wait_s, into))
        if status >= 400:
            raise _refusal(status, data, self.door)
        return data

    def _exchange(self, asked: _Asked) -> tuple[int, bytes]:
        """Send and receive; once more on a fresh connection when the kept one had been closed meanwhile."""
        kept = self._connection is not None
        try:
            return self._once(asked)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError) as fault:
            self.close()
            if not kept:
                raise Unreachable(f"the server at {self.door.url} hung up") from fault
        except (OSError, http.client.HTTPException) as fault:
            self.close()
            raise _unreachable(self.door, fault) from fault
        try:
            return self._once(asked)
        except (OSError, http.client.HTTPException) as fault:
            self.close()
            raise _unreachable(self.door, fault) from fault

    def _once(self, asked: _Asked) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = _connect(self.door)
        assert self._connection.sock is not None
        self._connection.sock.settimeout(asked.patience_s)
        self._connection.request(asked.method, asked.target, asked.body, asked.headers)
        response = self._connection.getresponse()
        data = b""
        if asked.into is None or response.status >= 400:
            data = response.read()
        else:
            asked.into.truncate(asked.into.seek(0))
            while piece := response.read(_PIECE):
                _write(asked.into, piece)
        if response.will_close:
            self.close()
        return response.status, data


def _write(into: IO[bytes], piece: bytes) -> None:
    try:
        into.write(piece)
    except OSError as fault:
        cause = f"{into.name} cannot be written: {fault.strerror}"
        raise CliError(cause, "free some space, then try again", ExitCode.FAILED) from None


def _connect(door: Door) -> http.client.HTTPConnection:
    parts = urlsplit(door.url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise CliError(f"{door.url!r} is no address of a server", "ERGO_URL looks like http://127.0.0.1:8642")
    make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = make(parts.hostname, parts.port, timeout=_CONNECT_S_MAX)
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _unreachable(door: Door, fault: Exception) -> Unreachable:
    if isinstance(fault, TimeoutError):
        return Unreachable(f"the server at {door.url} does not answer", "`ergo status` and server/server.log say more")
    if isinstance(fault, ConnectionRefusedError):
        return Unreachable(f"the server is not running (nobody listens at {door.url})")
    return Unreachable(f"the server at {door.url} cannot be reached ({fault or type(fault).__name__})")


def _refusal(status: int, data: bytes, door: Door) -> CliError:
    cause, remedy = _problem(data, status)
    if status == 401:
        remedy = f"the token was read from {door.token_from}; set ERGO_TOKEN to the one that `ergo up` printed"
        return Refusal(status, f"the server at {door.url} does not know this token", remedy, ExitCode.DENIED)
    codes = {403: ExitCode.DENIED, 404: ExitCode.UNKNOWN, 400: ExitCode.USAGE, 422: ExitCode.REFUSED}
    if status == 503:
        return Unreachable(cause, remedy or "try again in a moment")
    if status >= 500:
        return Refusal(status, cause, remedy or "server/server.log has the cause", ExitCode.FAILED)
    return Refusal(status, cause, remedy, codes.get(status, ExitCode.REFUSED))


def _problem(data: bytes, status: int) -> tuple[str, str]:
    try:
        problem = json.loads(data)
        return str(problem["error"]), str(problem.get("remedy", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"the server answered {status} {http.client.responses.get(status, '')}".rstrip(), ""


def _decoded(data: bytes) -> Any:
    return json.loads(data) if data else None


def _text(value: str | int | float | bool) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def job_path(ref: str, *rest: str) -> str:
    """The path of a job's resource; whatever was typed as its name is quoted. CliError: no job is called that."""
    if not ref or "/" in ref:
        raise CliError(f"there is no job {ref!r}", "`ergo ps -a` lists all of them", ExitCode.UNKNOWN)
    return "/".join(["/v1/jobs", quote(ref, safe=""), *rest])


def snapshot_path(ref: str, *rest: str) -> str:
    """The path of a snapshot's resource."""
    return "/".join(["/v1/snapshots", quote(ref, safe="@"), *rest])


def node_path(node: str, *rest: str) -> str:
    """The path of a node's resource."""
    return "/".join(["/v1/nodes", quote(node, safe=""), *rest])
