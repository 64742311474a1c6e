"""What one step changed besides the tensors that are shared, from the rank that stepped to those that did not.

It goes through a file in memory whose room is taken before anybody steps. A number at its beginning says how much there
is to adopt, or that the step did what cannot be handed over: then all ranks say so, and none goes on with less."""

from __future__ import annotations

import ctypes
import os
import pickle
import struct
import sys
from typing import Any, Final, NamedTuple, Optional

from . import adopt, arena, pages
from .record import Record

RESERVED_BYTES: Final = 1 << 16
HEAD: Final = struct.Struct("<Q")
NOTHING: Final = 0
FAILED: Final = (1 << 64) - 1  # also while a step is under way: whoever is interrupted hands nothing over
ELSEWHERE: Final = FAILED - 1  # memory was full: it lies on disk


class Lost(RuntimeError):
    """A step for all ranks of a device that not all of them could adopt."""


class Before(NamedTuple):
    """An optimizer before a step."""

    states: "list[Any]"
    groups: "list[Any]"
    sizes: "list[int]"
    own: "dict[str, Any]"
    gradients: "list[Any]"


class Told(NamedTuple):
    """What mates adopt."""

    states: "list[Any]" = []
    groups: Any = None
    own: Any = None
    gradients: "list[Any]" = []
    tensors: "list[Any]" = []  # those whose shape or type is another
    answer: Any = None
    error: Any = None


def create(path: str) -> None:
    """The file; raises OSError where there is no room for it."""
    os.close(pages.create(path, RESERVED_BYTES))


def snapshot(optimizer: Any, thorough: bool) -> Before:
    """The optimizer before a step, as `hand_over` compares it. `thorough`: gradients by their content."""
    held = []
    for each in adopt.parameters(optimizer):
        state = adopt.state_of(optimizer, each)
        held.append({key: value if adopt.is_tensor(value) else adopt.copied(value) for key, value in state.items()})
    groups = [adopt.group_plain(group) for group in optimizer.param_groups]
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    return Before(held, groups, sizes, adopt.own_plain(optimizer), gradients(optimizer, thorough))


def gradients(optimizer: Any, thorough: bool) -> "list[Any]":
    """Of each parameter its gradient, and what tells whether that has changed: a count of writes, or its content."""
    found = []
    # Fused steps undo a scaler's scaling in the gradients themselves, and torch does not count that.
    thorough = thorough or getattr(optimizer, "grad_scale", None) is not None
    for each in adopt.parameters(optimizer):
        gradient = each.grad
        digest = None
        if thorough and gradient is not None:
            record = Record(0)
            record.add_tensor(gradient)
            digest = record.digest()
        found.append((gradient, None if gradient is None else gradient._version, digest))
    return found


def open_for(path: str) -> int:
    """The file, open; before a step is agreed upon, since nobody can go back once it is made. Raises OSError."""
    return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)


def begin(opened: int) -> None:
    """Marks the file as that of a step under way."""
    os.pwrite(opened, HEAD.pack(FAILED), 0)


def changes(optimizer: Any, before: Before, thorough: bool) -> Told:
    """What a step has changed. Raises Lost if mates could not adopt it."""
    if [len(group["params"]) for group in optimizer.param_groups] != before.sizes:
        raise Lost("it changed the parameter groups")
    states = []
    for place, (parameter, old) in enumerate(zip(adopt.parameters(optimizer), before.states)):
        state = adopt.state_of(optimizer, parameter)
        changed = {key: packed(state[key]) for key in state if _is_changed(state[key], old, key)}
        removed = [key for key in old if key not in state]
        if changed or removed:
            states.append((place, changed, removed))
    groups = [adopt.group_plain(group) for group in optimizer.param_groups]
    own = adopt.own_plain(optimizer)
    told = Told(states, groups if groups != before.groups else None, own if own != before.own else None)
    return told._replace(gradients=_changed_gradients(optimizer, before, thorough))


def hand_over(opened: int, told: Told, optimizer: Any) -> None:
    """Writes it down. Gradients that were changed where they lie go as they are, behind the rest. Raises Lost."""
    try:
        _hand_over(opened, told, optimizer)
    except OSError as error:
        raise Lost("what the step did cannot be handed over: %s" % error) from error


def _hand_over(opened: int, told: Told, optimizer: Any) -> None:
    if told == Told():
        os.pwrite(opened, HEAD.pack(NOTHING), 0)
        return
    content = _pickled(told)
    held = adopt.parameters(optimizer)
    bodies = [_memory(held[place].grad) for place, size in told.gradients if isinstance(size, int)]
    whole = HEAD.size + len(content) + sum(len(body) for body in bodies)
    where, at = opened, HEAD.size
    try:
        if whole > os.fstat(opened).st_size:
            os.posix_fallocate(opened, 0, whole)
    except OSError:
        where = _open_elsewhere(opened)
    try:
        for body in (content, *bodies):
            at += _put(where, body, at)
        os.pwrite(where, HEAD.pack(len(content)), 0)
        if where != opened:
            os.pwrite(opened, HEAD.pack(ELSEWHERE), 0)
    finally:
        if where != opened:
            os.close(where)


def take_over(optimizer: Any, opened: int, tensors: "list[Any]") -> Any:
    """Adopts what lies there, raises what the step raised, and returns what it returned. `tensors`: all it keeps."""
    try:
        told = _read(optimizer, opened)
    except OSError as error:
        raise Lost("what the step did cannot be read: %s" % error) from error
    _adopt(optimizer, told, tensors)
    if told.error is not None:
        raise told.error
    return unpacked(told.answer)


def _read(optimizer: Any, opened: int) -> Told:
    size = _size(opened)
    if size == ELSEWHERE:
        return _read_elsewhere(optimizer, _elsewhere(opened))
    if size == NOTHING:
        return Told()
    if size == FAILED:
        raise Lost("the rank that steps for this device could not hand over what its step did")
    told: Told = pickle.loads(_got(opened, size, HEAD.size))
    _adopt_gradients(optimizer, told, opened, HEAD.size + size)
    return told


def _read_elsewhere(optimizer: Any, path: str) -> Told:
    """Anybody may put a link where it should lie: it is not followed."""
    spare = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return _read(optimizer, spare)
    finally:
        os.close(spare)


def _size(opened: int) -> int:
    if os.fstat(opened).st_uid != os.geteuid():
        return FAILED
    return int(HEAD.unpack(_got(opened, HEAD.size, 0))[0])


def packed(value: Any) -> Any:
    """A tensor on its way; anything else as it is."""
    if not adopt.is_tensor(value):
        return value
    if not arena.is_plain(value):
        raise Lost("it made a tensor that is not a plain one in host memory")
    dtype = str(value.dtype).rpartition(".")[2]
    return _Tensor(bytes(_memory(value)), dtype, tuple(value.shape), value.stride(), value.requires_grad)


def unpacked(value: Any) -> Any:
    """A tensor of its own that has arrived."""
    if not isinstance(value, _Tensor):
        return value
    torch = sys.modules["torch"]
    made = torch.empty_strided(value.shape, value.stride, dtype=getattr(torch, value.dtype))
    if value.content:
        ctypes.memmove(made.data_ptr(), value.content, len(value.content))
    return made.requires_grad_() if value.requires_grad else made


def remove(path: str) -> None:
    """Takes the file away, where it is."""
    for each in (path, _spare(path)):
        _unlink(each)


def _is_changed(value: Any, old: Any, key: str) -> bool:
    if key not in old:
        return True
    if adopt.is_tensor(value) or adopt.is_tensor(old[key]):
        return value is not old[key]
    return bool(adopt.copied(value) != old[key])


def _changed_gradients(optimizer: Any, before: Before, thorough: bool) -> "list[Any]":
    found: "list[Any]" = []
    for place, (now, then) in enumerate(zip(gradients(optimizer, thorough), before.gradients)):
        if now[0] is not then[0]:
            found.append((place, packed(now[0])))
        elif now[1:] != then[1:]:
            if not arena.is_dense(now[0]):
                raise Lost("it changed a gradient that has gaps")
            found.append((place, now[0].numel() * now[0].dtype.itemsize))
    return found


def _adopt_gradients(optimizer: Any, told: Told, opened: int, at: int) -> None:
    held = adopt.parameters(optimizer)
    for place, what in told.gradients:
        if not isinstance(what, int):
            held[place].grad = unpacked(what)
            continue
        into = _memory(held[place].grad)
        done = 0
        while done < what:
            count = os.preadv(opened, [into[done:]], at + done)
            if count <= 0:
                raise Lost("what the step did to gradients is not there")
            done += count
        at += what
        sys.modules["torch"].autograd.graph.increment_version([held[place].grad])


def _adopt(optimizer: Any, told: Told, tensors: "list[Any]") -> None:
    for place, content in told.tensors:
        tensors[place].data = unpacked(content)
    held = adopt.parameters(optimizer)
    for place, changed, removed in told.states:
        state = optimizer.state[held[place]]
        state.update({key: unpacked(value) for key, value in changed.items()})
        for key in removed:
            state.pop(key, None)
    for group, plain in zip(optimizer.param_groups, told.groups or ()):
        _replace(group, plain, adopt.group_plain(group))
    if told.own is not None:
        _replace(vars(optimizer), told.own, adopt.own_plain(optimizer))


def _replace(held: Any, told: Any, known: Any) -> None:
    held.update(told)
    for key in known:
        if key not in told:
            held.pop(key, None)


def _memory(tensor: Any) -> Any:
    size = tensor.numel() * tensor.dtype.itemsize
    return memoryview((ctypes.c_char * size).from_address(tensor.data_ptr()) if size else b"").cast("B")


def _put(opened: int, content: Any, at: int) -> int:
    rest, done = memoryview(content), 0
    while done < len(rest):
        done += os.pwrite(opened, rest[done:], at + done)
    return len(rest)


def _got(opened: int, size: int, at: int) -> bytes:
    found = b""
    while len(found) < size:
        part = os.pread(opened, size - len(found), at + len(found))
        if not part:
            raise Lost("what the step did is not there")
        found += part
    return found


def _pickled(told: Told) -> bytes:
    try:
        content = pickle.dumps(told)
        if told.error is not None:
            pickle.loads(content)  # some only fail there
        return content
    except Exception as error:
        if told.error is None:
            raise Lost("it left what cannot be handed over: %s" % error) from error
        # An error of the program's own that does not travel: its words do.
        return pickle.dumps(told._replace(error=RuntimeError(str(told.error))))


def _open_elsewhere(opened: int) -> int:
    path = _elsewhere(opened)
    _unlink(path)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _elsewhere(opened: int) -> str:
    return _spare(os.readlink("/proc/self/fd/%d" % opened))


def _spare(path: str) -> str:
    return os.path.join("/var/tmp", "ergo-%s" % path.strip("/").replace("/", "-")[-200:])


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


class _Tensor:
    """A tensor that a step has made anew."""

    def __init__(self, content: bytes, dtype: str, shape: Any, stride: Any, requires_grad: bool) -> None:
        self.content = content
        self.dtype = dtype
        self.shape = shape
        self.stride = stride
        self.requires_grad = requires_grad


def told_of(answer: Any) -> Optional[Any]:
    """What a step returned, as it is handed over. Raises Lost if it cannot be."""
    if adopt.is_plain(answer):
        return answer
    if adopt.is_tensor(answer) and not answer.requires_grad and arena.is_plain(answer) and arena.is_alone(answer):
        return packed(answer)
    raise Lost("it returned what cannot be handed over")
