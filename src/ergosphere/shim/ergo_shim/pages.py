"""Memory by its address, through libc: mappings of shared files, their exchange for private ones, and who wrote there.

Nothing here knows torch. All sizes are bytes and multiples of PAGE."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct
from typing import Any, Final, Optional

PAGE: Final = mmap.PAGESIZE
KEPT_BYTES: Final = 128 << 20  # free at the end of a heap: gradients, activations and temporaries of a middling model
FROM_HEAP_BYTES: Final = 32 << 20  # larger blocks are mapped and unmapped one by one: glibc's own upper bound
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_FIXED: Final = 0x10
_NORESERVE: Final = 0x4000
_MREMAP_MAYMOVE_FIXED: Final = 1 | 2
_FAILED: Final = ctypes.c_void_p(-1).value
_SCAN: Final = 0xC0606610  # PAGEMAP_SCAN, Linux 6.7
_FILE, _PRESENT, _SWAPPED = 4, 8, 16  # its categories
_SCAN_ARGUMENT: Final = struct.Struct("<12Q")
_REGION_BYTES: Final = 24
_ENTRIES_PER_READ: Final = 1 << 16
_IS_FILE: Final = 1 << 61  # of a pagemap entry
_IS_THERE: Final = 3 << 62  # present or swapped


def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    return libc


_libc_found: Final = _libc()
_held: Final = ctypes.PyDLL(None)  # calls through this one keep all other Python threads waiting
_held.mmap.restype = _held.mremap.restype = _held.memmove.restype = ctypes.c_void_p
_held.mmap.argtypes, _held.mremap.argtypes = _libc_found.mmap.argtypes, _libc_found.mremap.argtypes
_held.memmove.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
_held.read.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]


def whole(size: int) -> int:
    """`size` rounded up to whole pages, at least one."""
    return max(PAGE, -(-size // PAGE) * PAGE)


def create(path: str, size: int) -> int:
    """A fresh file of `size` bytes, readable by its owner only, open; the caller closes it.

    Its room is taken now: memory that is only promised kills whoever writes to it when there is none left. Raises
    OSError, ENOSPC or ENOMEM, and leaves no file, where there is no room."""
    opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(opened, 0, size)
    except OSError:
        os.close(opened)
        os.unlink(path)
        raise
    return opened


def attach(path: str, size: int) -> int:
    """The address at which the file at `path` is now mapped shared. Raises OSError where it is not there."""
    opened = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        return map_file(opened, size, shared=True)
    finally:
        os.close(opened)


def map_file(opened: int, size: int, shared: bool, at: Optional[int] = None) -> int:
    """Maps an open file, in place of what is at `at` if given; private mappings are copied where they are written."""
    kind = (mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE | _NORESERVE) | (0 if at is None else _FIXED)
    return _checked(_libc_found.mmap(at, size, mmap.PROT_READ | mmap.PROT_WRITE, kind, opened, 0))


def unmap(address: int, size: int) -> None:
    """Takes a mapping away."""
    _libc_found.munmap(address, size)


def make_private(address: int, size: int) -> None:
    """Puts ordinary memory with the same content in place of a mapping; nobody must write to it meanwhile."""
    kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    fresh = _checked(_libc_found.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, kind, -1, 0))
    ctypes.memmove(fresh, address, size)
    _checked(_libc_found.mremap(fresh, size, size, _MREMAP_MAYMOVE_FIXED, address))


def replace(address: int, size: int, still: Any) -> bool:
    """As `make_private` beside other threads: False, and nothing is changed, unless they all sleep meanwhile."""
    kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    fresh = _checked(_held.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, kind, -1, 0))
    _held.memmove(fresh, address, size)
    if not still.holds():
        unmap(fresh, size)
        return False
    _checked(_held.mremap(fresh, size, size, _MREMAP_MAYMOVE_FIXED, address))
    return True


def held_read(path: bytes) -> bytes:
    """The beginning of a file of the kernel's, read without letting other Python threads run."""
    opened = _held.open(path, os.O_RDONLY)
    if opened < 0:
        return b""
    place = ctypes.create_string_buffer(1024)
    count = _held.read(opened, place, 1024)
    _held.close(opened)
    return place.raw[: max(0, count)]


def equal(one: int, other: int, size: int) -> bool:
    """Whether two stretches of memory hold the same bytes."""
    return size == 0 or bool(_libc_found.memcmp(one, other, size) == 0)


def trim() -> None:
    """Gives memory that was freed back to the system, where the C library can."""
    if hasattr(_libc_found, "malloc_trim"):
        _libc_found.malloc_trim(0)


def keep_freed() -> None:
    """Has the C library keep what the program frees, up to KEPT_BYTES, for what it asks for next: pages that go back to
    the system at every step come again one fault at a time. `trim` gives them back all the same. Nothing changes
    where the environment says how it is to be."""
    is_told = any(name.startswith("MALLOC_") and name.endswith("_") for name in os.environ)
    if is_told or "malloc" in os.environ.get("GLIBC_TUNABLES", "") or not hasattr(_libc_found, "mallopt"):
        return
    _libc_found.mallopt(_M_MMAP_THRESHOLD, FROM_HEAP_BYTES)
    _libc_found.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)


class Writes:
    """Tells whether this process has written to a private mapping of a file: such pages are its own copies."""

    def __init__(self) -> None:
        self._can_scan = True

    def any(self, address: int, size: int) -> bool:
        """Whether at least one page from `address` on is a copy."""
        opened = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if self._can_scan:
                try:
                    return self._scan(opened, address, size)
                except OSError:  # a kernel that knows no scan
                    self._can_scan = False
            return _read(opened, address, size)
        finally:
            os.close(opened)

    @staticmethod
    def _scan(opened: int, address: int, size: int) -> bool:
        found = ctypes.create_string_buffer(_REGION_BYTES)
        where = (_SCAN_ARGUMENT.size, 0, address, address + size, 0, ctypes.addressof(found), 1, 1)
        argument = bytearray(_SCAN_ARGUMENT.pack(*where, _FILE, _FILE, _PRESENT | _SWAPPED, _FILE))
        return bool(fcntl.ioctl(opened, _SCAN, argument, True) > 0)


def _read(opened: int, address: int, size: int) -> bool:
    first, pages = address // PAGE, size // PAGE
    for at in range(0, pages, _ENTRIES_PER_READ):
        count = min(_ENTRIES_PER_READ, pages - at)
        entries = memoryview(os.pread(opened, 8 * count, 8 * (first + at))).cast("Q")
        if any(entry & _IS_THERE and not entry & _IS_FILE for entry in entries):
            return True
    return False


def _checked(address: Optional[int]) -> int:
    if address is None or address == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return address
