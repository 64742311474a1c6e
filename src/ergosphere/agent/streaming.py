"""Page images that CRIU reads through pipes as they come out of the store: no files of them are made.

CRIU asks for every image of such a restore by name on a socket in the images' folder (`criu restore --stream`) and
hands over the writing end of a pipe for it. What lies in the folder is sent from there; page images come chunk by chunk
from the vault, each verified before it goes into the pipe. CRIU reads while the next ones are opened.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from ergosphere.agent import images
from ergosphere.snapshots.blobs import fetch_blob
from ergosphere.snapshots.errors import NotFound, SnapshotError
from ergosphere.snapshots.flow import FLOW_WINDOW, Flow
from ergosphere.snapshots.manifest import CellPart, ImageFile
from ergosphere.snapshots.pages import PAGES_NAME
from ergosphere.snapshots.remote import CellBlobs, LateBlobs
from ergosphere.snapshots.store import Store

SOCKET: Final = "streamer-serve.sock"  # the name is CRIU's
SOCKET_PATH_MAX: Final = 100  # sun_path has 108 bytes
STREAMED_FROM: Final = 16 << 20  # bytes; smaller images are fetched: a pipe would save nothing
STREAMED_MAX: Final = 16 << 30  # bytes; from a disk of 60 MB/s in the time that a restore may take
SPAN_MAX: Final = 16 << 20  # bytes of zeros in one; longer ones take too much memory
PIPE_SIZE: Final = 1 << 20  # bytes; no more than a window, which is not written to again before it was read
REQUEST_MAX: Final = 4096  # bytes; a name
_FILENAME: Final = 1  # of img_streamer_request_entry (img-streamer.proto)
_EXISTS: Final = 1  # of img_streamer_reply_entry

Left = Mapping[Path, Sequence[ImageFile]]  # of each rank's folder the images that are not in it; {} where all are

log = logging.getLogger(__name__)
assert PIPE_SIZE <= FLOW_WINDOW


def is_streamed(file: ImageFile, source: Store, folder: Path) -> bool:
    """Whether an image is read out of `source` only when CRIU asks for it: if that is near, for CRIU cannot wait long.

    Errors: StoreError.
    """
    if not STREAMED_FROM <= file.size <= STREAMED_MAX or PAGES_NAME.fullmatch(file.name) is None or not _fits(folder):
        return False
    flow = flow_of(file, (source,))
    return flow is not None and flow.is_near()


def left_out(part: CellPart, folder_of: Callable[[int], Path]) -> Left:
    """What was not fetched of the ranks, whose images lie in `folder_of(rank)`."""
    left = {}
    for rank in part.ranks:
        folder = folder_of(rank.rank)
        missing = [file for file in rank.files if not (folder / file.name).exists()]
        if missing:
            left[folder] = missing
    return left


@contextmanager
def served(left: Left, sources: Sequence[Store]) -> Iterator[None]:
    """Meanwhile CRIU may ask for all images of these folders. Errors: StoreError, OSError."""
    with ExitStack() as all_served:
        for folder, late in left.items():
            flows = {file.name: flow for file in late if (flow := flow_of(file, sources)) is not None}
            all_served.enter_context(Serving(folder, flows))
        yield


def fetch(left: Left, sources: Sequence[Store]) -> None:
    """The images as files after all. Errors: Damaged, StoreError."""
    for folder, late in left.items():
        for file in late:
            if not (folder / file.name).exists():
                fetch_blob(sources, file.digest, folder / file.name, file.name)


def flow_of(file: ImageFile, sources: Sequence[Store]) -> Flow | None:
    """From the first recipe that has it. Errors: StoreError."""
    for source in sources:
        if isinstance(source, CellBlobs | LateBlobs):
            with suppress(NotFound):
                flow = source.flow(file.digest)
                if flow.stream.size == file.size and int(flow.recipe.spans(flow.stream)[1].max()) <= SPAN_MAX:
                    return flow
    return None


def _fits(folder: Path) -> bool:
    return len(os.fsencode(folder / SOCKET)) <= SOCKET_PATH_MAX


class Serving:
    """The images of one rank, for one run of CRIU. A context: listens from its beginning to its end."""

    def __init__(self, folder: Path, flows: Mapping[str, Flow]) -> None:
        """`flows`: page images by their names; all others lie in `folder`."""
        self._folder = folder
        self._flows = flows
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._client: socket.socket | None = None
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Serving:
        path = self._folder / SOCKET
        path.unlink(missing_ok=True)
        self._listener.bind(str(path))
        path.chmod(0o600)
        self._listener.listen(1)
        self._start(self._serve)
        return self

    def __exit__(self, *_: object) -> None:
        """CRIU has ended: nobody reads any more."""
        with self._lock:
            for one in (self._listener, *([self._client] if self._client else ())):
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:  # the first one adds others until it has ended
            thread.join()
        self._listener.close()
        (self._folder / SOCKET).unlink(missing_ok=True)

    def _start(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, name="stream", daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            client, _ = self._listener.accept()
            with self._lock:
                self._client = client
            with client:
                while (name := _read_request(client)) is not None:
                    self._answer(client, name)

    def _answer(self, client: socket.socket, name: str) -> None:
        path = self._folder / name
        flow = self._flows.get(name)
        is_there = flow is not None or ("/" not in name and path.is_file())
        reply = images.varint_field(_EXISTS, int(is_there)).raw
        client.sendall(struct.pack("<I", len(reply)) + reply)
        if not is_there:
            return
        pipes = socket.recv_fds(client, 64, 1, socket.MSG_CMSG_CLOEXEC)[1]
        if pipes:
            self._start(self._send, flow or path, pipes[0])

    def _send(self, source: Flow | Path, pipe: int) -> None:
        """The whole image; where it fails CRIU finds the pipe closed too early, and gives up."""
        try:
            if isinstance(source, Path):
                _send_file(source, pipe)
            else:
                self._send_flow(source, pipe)
        except BrokenPipeError:
            pass  # CRIU has ended, and says why
        except (SnapshotError, OSError) as error:
            log.info("a page image was not sent to its end: %s", error)
        finally:
            os.close(pipe)

    def _send_flow(self, flow: Flow, pipe: int) -> None:
        with suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        for window in flow.windows():
            _splice(pipe, window)


def _read_request(client: socket.socket) -> str | None:
    """The name of the image that is asked for; None when there is none any more."""
    head = _read(client, 4)
    if head is None:
        return None
    (size,) = struct.unpack("<I", head)
    body = _read(client, size) if size <= REQUEST_MAX else None
    if body is None:
        return None
    return next((os.fsdecode(field.payload) for field in images.parse(body) if field.number == _FILENAME), None)


def _read(client: socket.socket, size: int) -> bytes | None:
    content = b""
    while len(content) < size:
        part = client.recv(size - len(content))
        if not part:
            return None
        content += part
    return content


def _send_file(path: Path, pipe: int) -> None:
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        at = 0
        while at < size:
            at += os.sendfile(pipe, file.fileno(), at, size - at)


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


_libc = ctypes.CDLL(None, use_errno=True)


def _splice(pipe: int, content: memoryview) -> None:
    """Lends memory to a pipe (vmsplice): whoever reads copies from it, and it must not change until then.

    Errors: OSError.
    """
    held = ctypes.c_char.from_buffer(content)
    base, done = ctypes.addressof(held), 0
    while done < len(content):
        count = _libc.vmsplice(pipe, ctypes.byref(_Vector(base + done, len(content) - done)), 1, 0)
        if count < 0:
            number = ctypes.get_errno()
            if number != 4:  # EINTR
                raise OSError(number, os.strerror(number))
            continue
        done += count
