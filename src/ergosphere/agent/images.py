"""Reads and mends CRIU's image files on the level of protobuf's wire format. Nothing else knows their bytes.

An image file is two little-endian magic words and then, over and over, a length and a protobuf message. Only the few
fields named below are understood; everything else is carried along byte by byte. What cannot be parsed is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Final

FILES: Final = "files.img"
MAGICS: Final = struct.pack("<II", 0x54564319, 0x56303138)  # "common image" and "files"
MOUNTS: Final = "mountpoints-*.img"
MOUNT_MAGICS: Final = struct.pack("<II", 0x54564319, 0x55563928)  # "common image" and "mountpoints"
FILES_BYTES_MAX: Final = 256 << 20  # 100,000 open files make about 10 MB

# Field numbers of file_entry (fdinfo.proto), timerfd_entry (timerfd.proto) and inet_sk_entry (sk-inet.proto).
_INET_SOCKET: Final = 4
_TIMERFD: Final = 12
_TIMER_TICKS, _TIMER_VALUE_S, _TIMER_VALUE_NS, _TIMER_INTERVAL_S, _TIMER_INTERVAL_NS = 5, 7, 8, 9, 10
_SOCKET_FAMILY, _SOCKET_TYPE, _SOCKET_STATE, _SOCKET_PORT, _SOCKET_PEER_PORT, _SOCKET_PEER = 3, 4, 6, 7, 8, 12

_MOUNT_POINT: Final = 7  # of mnt_entry (mnt.proto)

_STREAM: Final = 1
_CLOSED, _LISTENING = 7, 10  # TCP states, as the kernel numbers them
_IPV4: Final = 2

_VARINT, _BYTES = 0, 2  # wire kinds; 1 and 5 are fixed sizes

Network = IPv4Network | IPv6Network


class ImageError(Exception):
    """An image is not what CRIU writes: it must not be restored from."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message: its number, wire kind, number (varints) or bytes (the rest), and its bytes as written."""

    number: int
    kind: int
    value: int
    payload: bytes
    raw: bytes


Change = Callable[[list[Field]], list[Field] | None]  # None: this message stays as it is


@dataclass(frozen=True, slots=True)
class Connection:
    """A TCP connection of a saved process: own port, peer's address and port."""

    port: int
    peer: IPv4Address | IPv6Address
    peer_port: int


def mend_timers(images: Path) -> int:
    """Re-arms periodic timers that CRIU saved as disarmed; returns how many.

    A periodic timerfd that has expired and was not read is saved with no time left, and would never fire again. It
    gets 1 ns: it fires at once, which is the one expiry it had; the tick that was counted for that is taken back.
    """
    return _rewrite(images, _TIMERFD, _mended_timer)


def close_outside(images: Path, inside: Sequence[Network]) -> int:
    """Turns connections that lead out of the job into closed sockets; returns how many. Those inside stay.

    Their peers are not part of the snapshot: after a thaw the program gets an error from them, not silence.
    """
    return _rewrite(images, _INET_SOCKET, lambda message: _closed_socket(message, inside))


def drop_mounts(images: Path, targets: Collection[str]) -> int:
    """Takes mounts out of a saved mount namespace; returns how many. CRIU refuses a tree that has files open there."""
    dropped = 0
    for path in images.glob(MOUNTS):
        entries = list(entries_of(path.read_bytes(), path.name, MOUNT_MAGICS))
        kept = [entry for entry in entries if _mounted_at(entry) not in targets]
        if len(kept) < len(entries):
            replace_entries(path, MOUNT_MAGICS, kept)
            dropped += len(entries) - len(kept)
    return dropped


def _mounted_at(entry: bytes) -> str:
    point = next((field.payload for field in parse(entry) if field.number == _MOUNT_POINT), b"")
    return "/" + point.decode(errors="surrogateescape").lstrip("./")


def outside_connections(images: Path, inside: Sequence[Network]) -> tuple[Connection, ...]:
    """The TCP connections of a saved tree whose peer is neither loopback nor in one of the networks `inside`."""
    found = []
    for entry in entries_of((images / FILES).read_bytes(), FILES, MAGICS):
        for field in parse(entry):
            if field.number == _INET_SOCKET:
                connection = _connection(parse(field.payload))
                if connection is not None and _is_outside(connection.peer, inside):
                    found.append(connection)
    return tuple(found)


# --- the messages ------------------------------------------------------------------------------------------------


def _mended_timer(message: list[Field]) -> list[Field] | None:
    numbers = _numbers(message)
    disarmed = not numbers[_TIMER_VALUE_S] and not numbers[_TIMER_VALUE_NS]
    periodic = numbers[_TIMER_INTERVAL_S] or numbers[_TIMER_INTERVAL_NS]
    # A timer that the program itself has stopped has neither an interval nor ticks: it is left alone.
    if not disarmed or not periodic or not numbers[_TIMER_TICKS]:
        return None
    changes = {_TIMER_VALUE_NS: 1, _TIMER_TICKS: numbers[_TIMER_TICKS] - 1}
    return [varint_field(f.number, changes[f.number]) if f.number in changes else f for f in message]


def _closed_socket(message: list[Field], inside: Sequence[Network]) -> list[Field] | None:
    connection = _connection(message)
    if connection is None or not _is_outside(connection.peer, inside):
        return None
    return [varint_field(f.number, _CLOSED) if f.number == _SOCKET_STATE else f for f in message]


def _connection(message: list[Field]) -> Connection | None:
    """The connection a socket has; None if it is not TCP, listens or is closed."""
    numbers = _numbers(message)
    if numbers.get(_SOCKET_TYPE) != _STREAM or numbers.get(_SOCKET_STATE) in (_CLOSED, _LISTENING):
        return None
    peer = [word for field in message if field.number == _SOCKET_PEER for word in words(field)]
    if not peer:
        return None
    return Connection(numbers[_SOCKET_PORT], _address(peer, numbers[_SOCKET_FAMILY]), numbers[_SOCKET_PEER_PORT])


def words(field: Field) -> list[int]:
    """A number, or a repeated uint32: one per field, or packed together in one."""
    if field.kind == _VARINT:
        return [field.value]
    found, at = [], 0
    while at < len(field.payload):
        word, at = _varint(field.payload, at)
        found.append(word)
    return found


def _address(words: list[int], family: int) -> IPv4Address | IPv6Address:
    """CRIU keeps addresses as the words in which the kernel holds them: network order, read as native integers."""
    packed = struct.pack(f"={len(words)}I", *words)
    if family == _IPV4:
        return IPv4Address(packed[:4])
    address = IPv6Address(packed[:16])
    return address.ipv4_mapped or address


def _is_outside(peer: IPv4Address | IPv6Address, inside: Sequence[Network]) -> bool:
    return not peer.is_loopback and not any(peer in network for network in inside)


def _numbers(message: list[Field]) -> dict[int, int]:
    return {field.number: field.value for field in message if field.kind == _VARINT}


# --- the wire format ---------------------------------------------------------------------------------------------


def parse(message: bytes) -> list[Field]:
    """The fields of a protobuf message in order. Raises ImageError on anything that is not one."""
    fields, at = [], 0
    while at < len(message):
        start = at
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        value, payload = 0, b""
        if number == 0:
            raise ImageError("a field has number 0")
        if kind == _VARINT:
            value, at = _varint(message, at)
        else:
            size, at = _size(message, kind, at)
            payload, at = message[at : at + size], at + size
        if at > len(message):
            raise ImageError("a field ends beyond its message")
        fields.append(Field(number, kind, value, payload, message[start:at]))
    return fields


def _size(message: bytes, kind: int, at: int) -> tuple[int, int]:
    match kind:
        case 1:
            return 8, at
        case 5:
            return 4, at
        case 2:
            return _varint(message, at)
        case _:
            raise ImageError(f"a field has the unknown wire kind {kind}")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while shift < 70:
        if at >= len(message):
            raise ImageError("a number ends beyond its message")
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ImageError("a number is longer than 64 bits")


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def varint_field(number: int, value: int) -> Field:
    """A field that holds a number."""
    return Field(number, _VARINT, value, b"", varint(number << 3 | _VARINT) + varint(value))


def bytes_field(number: int, payload: bytes) -> Field:
    """A field that holds bytes or another message."""
    return Field(number, _BYTES, 0, payload, varint(number << 3 | _BYTES) + varint(len(payload)) + payload)


# --- the files ---------------------------------------------------------------------------------------------------


def entries_of(image: bytes, name: str, magics: bytes) -> Iterator[bytes]:
    """The messages of one kind of image file. Raises ImageError when it begins as another, or is cut off."""
    if image[:8] != magics:
        raise ImageError(f"{name} does not begin as CRIU's lists do: another version of CRIU, or damage")
    yield from entries(image, name)


def entries(image: bytes, name: str = "an image") -> Iterator[bytes]:
    """The messages of any image file behind its two magic words. Raises ImageError where it is cut off."""
    at = 8
    while at < len(image):
        if at + 4 > len(image):
            raise ImageError(f"{name} ends in the middle of a length")
        (size,) = struct.unpack_from("<I", image, at)
        at += 4
        if at + size > len(image):
            raise ImageError(f"{name} ends in the middle of an entry")
        yield image[at : at + size]
        at += size


def _rewrite(images: Path, number: int, change: Change) -> int:
    """Applies `change` to every sub-message with that number; the file is replaced as a whole or not at all."""
    path = images / FILES
    if path.stat().st_size > FILES_BYTES_MAX:
        raise ImageError(f"{FILES} is larger than {FILES_BYTES_MAX >> 20} MB")
    out, changed = [], 0
    for entry in entries_of(path.read_bytes(), FILES, MAGICS):
        fields = parse(entry)
        for index, field in enumerate(fields):
            if field.number == number and field.kind == _BYTES:
                fresh = change(parse(field.payload))
                if fresh is not None:
                    fields[index] = bytes_field(number, b"".join(part.raw for part in fresh))
                    changed += 1
        out.append(b"".join(field.raw for field in fields))
    if changed:
        replace_entries(path, MAGICS, out)
    return changed


def replace_entries(path: Path, magics: bytes, entries: Iterable[bytes]) -> None:
    """The file with these messages instead: as a whole or not at all."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_bytes(magics + b"".join(struct.pack("<I", len(entry)) + entry for entry in entries))
    fresh.replace(path)
