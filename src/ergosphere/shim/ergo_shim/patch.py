"""The one thing patched in torch: the function that makes process groups now gives ours around the one it made.

Every program that imports torch pays for what is imported here: the rest comes with the first group."""

from __future__ import annotations

import inspect
import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Callable, Final, Iterator, Optional

from . import steps

if TYPE_CHECKING:
    from .seam import Seam

MANAGED: Final = ("gloo", "nccl", "undefined")
IO_URING_SETUP: Final = 425  # the same number on every architecture
ENOSYS: Final = 38


class OwnLine:
    """A connection of our own to the world's store, for the program may be inside a blocking call on its own.

    Made in the background when the world is: torch's store looks its callers up in the DNS, which can take seconds."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._clone: Any = None
        self._caller = threading.Thread(target=self._call, name="ergosphere-store", daemon=True)
        self._caller.start()

    def store(self) -> Any:
        """The store behind our own connection; the program's own where it cannot be had."""
        self._caller.join()
        return self._store if self._clone is None else self._clone

    def _call(self) -> None:
        try:
            self._clone = self._store.clone()
        except Exception:  # a store, or a torch, that knows no clones
            pass


class Maker:
    """Makes groups: torch's own function first, then ours around what it gives."""

    def __init__(self, c10d: Any, path: str) -> None:
        self._c10d = c10d
        self._path = path
        self._make = c10d._new_process_group_helper
        self._signature = inspect.signature(self._make)
        self._class: Any = None
        self._seam: Optional[Seam] = None
        self._claimed_by = -1
        self._births: "dict[str, int]" = {}
        self._inherited: "set[tuple[int, str]]" = (
            set()
        )  # sockets of real groups, which a forked child must not keep open
        self._line: Any = None
        self._lock = threading.Lock()

    def make(self, *args: Any, **kwargs: Any) -> Any:
        """Stands in for torch's `_new_process_group_helper`."""
        seam = self._claim()
        call = self._signature.bind(*args, **kwargs)
        call.apply_defaults()
        terms = dict(call.arguments)
        if seam is None or terms["group_rank"] is None:
            return self._make(*args, **kwargs)
        if not _is_managed(str(terms["backend"])):
            seam.unmanaged.append(str(terms["backend"]))
            seam.publish()
            return self._make(*args, **kwargs)
        return self._make_held(seam, terms)

    def splice(self) -> Any:
        """What the steps of optimizers go through; None where this process shares nothing."""
        seam = self._seam
        return None if seam is None or seam.elastic.table is None else seam.elastic.splice

    def stepped(self) -> None:
        """An optimizer of this process has stepped."""
        if self._seam is not None:
            self._seam.stepped()

    def before_fork(self) -> None:
        """What a child must not share is left while there is none."""
        if self._seam is not None and self._seam.pid == os.getpid():
            self._seam.elastic.splice.before_fork()

    def disown(self) -> None:
        """In a forked child: it is not the rank, and lets go of what it inherited."""
        if self._seam is None:
            return
        self._lock = threading.Lock()
        seam, self._seam = self._seam, None
        self._births.clear()
        seam.disown()
        nowhere = os.open(os.devnull, os.O_RDWR)
        mine = self._inherited & _sockets()
        doors = {_port(descriptor) for descriptor, _ in mine} - {0}
        # A peer may have knocked only after the group was made.
        late = {each for each in _sockets() - mine if _port(each[0]) in doors}
        for descriptor, _ in mine | late:
            os.dup2(nowhere, descriptor, inheritable=False)
        os.close(nowhere)
        self._inherited = set()

    def _claim(self) -> Optional[Seam]:
        with self._lock:
            if self._claimed_by != os.getpid():
                from .control import claim

                self._claimed_by = os.getpid()
                self._seam = claim(self._path)
                if self._seam is not None:
                    import atexit

                    from .functional import reroute
                    from .group import group_class

                    steps.reroute()
                    if self._class is None:
                        self._class = group_class(self._c10d)
                        reroute(self._c10d)
                    atexit.register(self._seam.finish)
            return self._seam

    def _make_held(self, seam: Seam, terms: "dict[str, Any]") -> Any:
        members = list(terms["global_ranks_in_group"]) or list(range(terms["group_size"]))
        if not terms["global_ranks_in_group"]:
            seam.world = _world_name(terms["store"])
            seam.rank, seam.size = terms["group_rank"], terms["group_size"]
            self._line = OwnLine(terms["store"])
            seam.elastic.line = self._line
            seam.elastic.meet()
        key = self._key(str(terms["group_name"]))
        sequence = seam.sequence(key, key, "all", members, -1)
        seam.enter(sequence, "new_group")  # making the group is the first thing its members do together
        made = False
        try:
            real, store = self._real(terms)
            if isinstance(real, self._class):  # torch gave back a group it had under this tag
                return real, store
            from .group import Birth

            birth = Birth(key, real, store, terms["group_rank"], terms["group_size"], members, self._builder(terms))
            held = self._class(seam, birth, sequence)
            self._stand_in(real, held)
            made = True
        finally:
            seam.leave(sequence, launched=made)
            if not made:
                seam.retire(key)
                self._births[key.rpartition("#")[0]] -= 1
        seam.created(key, held)
        return held, store

    def _key(self, name: str) -> str:
        # torch starts its names again after the world is destroyed: the how-manieth of that name tells them apart.
        with self._lock:
            self._births[name] = self._births.get(name, 0) + 1
            return "%s#%d" % (name, self._births[name])

    def _real(self, terms: "dict[str, Any]") -> Any:
        before = _sockets()
        if self._seam is not None:
            self._seam.elastic.give()
        with _gloo_at_own_address():
            answer = self._make(**terms)
        after = _sockets()
        self._inherited = (self._inherited & after) | (after - before)
        return answer

    def _builder(self, terms: "dict[str, Any]") -> Callable[[str], Any]:
        line = self._line

        def build(prefix: str) -> Any:
            fresh = {
                **terms,
                "store": self._c10d.PrefixStore(prefix, line.store()),
                "group_name": "%s/%s" % (terms["group_name"], prefix),
                "pg_tag": None,
            }
            real, _ = self._real(fresh)
            self._forget(real)
            real._set_group_name(terms["group_name"])
            return real

        return build

    def _stand_in(self, real: Any, held: Any) -> None:
        world = self._c10d._world
        name = world.pg_names[real]
        tag = world.pg_to_tag[real]
        places = [(world.pg_map, world.pg_map[real]), (world.pg_names, name), (world.pg_to_tag, tag)]
        places.append((world.pg_backend_config, world.pg_backend_config[real]))
        listed = [groups for groups in world.tags_to_pg.values() if real in groups]
        self._forget(real)
        for table, value in places:
            table[held] = value
        for groups in listed:
            groups.append(held)
        self._c10d._register_process_group(name, held)

    def _forget(self, real: Any) -> None:
        world = self._c10d._world
        self._c10d._unregister_process_group(world.pg_names[real])
        for table in (world.pg_map, world.pg_names, world.pg_to_tag, world.pg_backend_config):
            table.pop(real, None)
        for groups in world.tags_to_pg.values():
            if real in groups:
                groups.remove(real)


def install(c10d: Any, path: str) -> None:
    """Patches a freshly executed `torch.distributed.distributed_c10d`."""
    _avoid_io_uring()
    maker = Maker(c10d, path)
    c10d._new_process_group_helper = maker.make
    steps.listen(maker.splice, maker.stepped)
    if hasattr(c10d, "_is_safe_to_split"):
        c10d._is_safe_to_split = lambda: False  # groups split in C++ would escape us: new_group instead
    os.register_at_fork(before=maker.before_fork, after_in_child=maker.disown)


def _is_managed(backend: str) -> bool:
    names = [part.rpartition(":")[2] for part in backend.lower().split(",")]
    return all(name in MANAGED for name in names)


def _world_name(store: Any) -> str:
    # The members of one world agree on a name; two worlds of one job have two.
    try:
        import uuid

        return bytes(store.compare_set("ergo/world", "", uuid.uuid4().hex)).decode()
    except Exception:
        return "?"


def _sockets() -> "set[tuple[int, str]]":
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            place = os.readlink("/proc/self/fd/" + name)
            if place.startswith("socket:"):
                found.add((int(name), place))
        except OSError:
            pass
    return found


def _port(descriptor: int) -> int:
    # The port at this end; 0 for what has none.
    import socket

    try:
        with socket.socket(fileno=os.dup(descriptor)) as one:
            name = one.getsockname()
    except OSError:
        return 0
    return int(name[1]) if isinstance(name, tuple) and len(name) > 1 else 0


def _avoid_io_uring() -> None:
    # torch's store opens an io_uring, which no process can be frozen with, unless the kernel refuses to make one.
    import ctypes

    call = ctypes.CDLL(None, use_errno=True).syscall
    if call(ctypes.c_long(IO_URING_SETUP), 0, None) == -1 and ctypes.get_errno() == ENOSYS:
        return
    os.environ.setdefault("USE_LIBUV", "0")


@contextmanager
def _gloo_at_own_address() -> Iterator[None]:
    address = os.environ.get("ERGO_ADDRESS")
    interface = None if address is None or "GLOO_SOCKET_IFNAME" in os.environ else _interface_of(address)
    if interface is None:
        yield
        return
    os.environ["GLOO_SOCKET_IFNAME"] = interface
    try:
        yield
    finally:
        os.environ.pop("GLOO_SOCKET_IFNAME", None)


def _interface_of(address: str) -> Optional[str]:
    import fcntl
    import socket
    import struct

    asking = struct.Struct("16s16x8x")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ask:
        for _, name in socket.if_nameindex():
            try:
                told = fcntl.ioctl(ask.fileno(), 0x8915, asking.pack(name.encode()))  # SIOCGIFADDR
            except OSError:
                continue
            if socket.inet_ntoa(told[20:24]) == address:
                return name
    return None
