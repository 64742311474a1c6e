"""What a service that fails half way leaves in a bucket: moto's S3 server stands in for one, a proxy makes it fail."""

from __future__ import annotations

import http.client
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.e2e.fleet import wait_for
from tests.snapshots.conftest import Bucket

from ergosphere.snapshots.errors import StoreUnreachable
from ergosphere.snapshots.object_store import PARTS_FROM

ONE_AT_A_TIME = threading.Lock()  # moto fails where parts are stored and called off at once


class Faltering(BaseHTTPRequestHandler):
    """Passes everything on to the service behind it, but the requests of which `refuses` holds."""

    behind = ""
    refuses: Callable[[str, str, str], bool] = staticmethod(lambda method, path, asked: False)

    def _pass_on(self) -> None:
        length = int(self.headers.get("content-length", 0))
        body = self.rfile.read(length)
        if len(body) < length:  # whoever asked has gone; the service would wait for the rest, and all others with it
            self.close_connection = True
            return
        if self.refuses(self.command, self.path, self.headers.get("range", "")):
            self._answer(500, [], b"")
            return
        with ONE_AT_A_TIME:
            asked = http.client.HTTPConnection(self.behind)
            asked.request(self.command, self.path, body, dict(self.headers))
            found = asked.getresponse()
            content = found.read()
            asked.close()
        self._answer(found.status, found.getheaders(), content)

    def _answer(self, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("content-length", dict(headers).get("Content-Length", "0") if not body else str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_GET = do_POST = do_HEAD = do_DELETE = _pass_on

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def faltering(bucket: Bucket, refuses: Callable[[str, str, str], bool]) -> Iterator[Bucket]:
    behind = bucket.config["AWS_ENDPOINT_URL"].removeprefix("http://")
    handler = type("Handler", (Faltering,), {"behind": behind, "refuses": staticmethod(refuses)})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Bucket(bucket.name, {**bucket.config, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"})
        server.shutdown()


FAILURES: dict[str, Callable[[str, str, str], bool]] = {
    "a part cannot be stored": lambda method, path, asked: method == "PUT" and "partNumber=3" in path,
    "the parts cannot be joined": lambda method, path, asked: method == "POST" and "uploadId" in path,
    "it cannot be read any more": lambda method, path, asked: method == "GET" and asked.startswith("bytes=33554432"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_large_object_that_fails_half_way_changes_nothing_and_leaves_no_parts_behind(
    bucket: Bucket, tmp_path: Path, failure: str
) -> None:
    """Where a part itself cannot be stored `obstore` calls the others off or not, as it happens to notice: that is left
    to the bucket's rule (docs/operations/store-full.md).
    """
    content = random.Random(1).randbytes(PARTS_FROM + 5)
    (tmp_path / "large").write_bytes(content)
    bucket.store().put("blobs/a", content)
    with faltering(bucket, FAILURES[failure]) as half:
        with pytest.raises(StoreUnreachable):
            half.store(renew_after_s=-1.0).has("blobs/a")
        if "read" not in failure:
            with pytest.raises(StoreUnreachable):
                half.store().put("blobs/b", tmp_path / "large")
        if "a part" not in failure:
            # What was on its way when it failed is called off after that.
            wait_for(lambda: bucket.unfinished() == [], "no parts are left", 20.0)
    assert bucket.store().get("blobs/a") == content and not bucket.store().has("blobs/b")
