"""Whether the step of an optimizer may be done by one rank for others.

torch's own optimizers are known by name. Of any other class all code is read that a step of it may reach, and only what
is known to compute is let through: attributes of tensors, torch's functions, plain containers and numbers, and the
class's own parts. What that code takes from outside must be plain, and is looked at again at every step."""

from __future__ import annotations

import hashlib
import sys
import types
from typing import Any, Callable, Final, NamedTuple, Optional

from .reader import Reader, is_plain

TORCHS: Final = frozenset(
    (
        *("Adadelta", "Adafactor", "Adagrad", "Adam", "Adamax", "AdamW", "ASGD"),
        *("Muon", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD"),
    )
)
READ_MAX: Final = 50  # functions read for one optimizer
# Methods that no step calls by itself; they are read where one does.
ASIDE: Final = frozenset(
    (
        *("__init__", "__getstate__", "__setstate__", "__repr__", "__str__", "__annotate__", "__annotate_func__"),
        *("state_dict", "load_state_dict", "add_param_group", "zero_grad"),
    )
)
# Whose wrappers around a step are known to add nothing.
WRAPPERS: Final = ("torch.optim.optimizer", "torch.utils._contextlib", __name__.rpartition(".")[0] + ".steps")


class Outside(NamedTuple):
    """Something that a step takes from outside its optimizer: where it is found, and what it was."""

    find: "Callable[[], Any]"
    was: Any


class Proof:
    """What reading an optimizer's code has found."""

    def __init__(self, optimizer: Any) -> None:
        kind = type(optimizer)
        self.why: Optional[str] = None  # why its steps are not shared; None if they may be
        self.is_torchs = _is_torchs(kind)
        self._outside: "list[Outside]" = []
        self._codes: "list[Any]" = []
        try:
            self.why = None if self.is_torchs else self._read(kind)
        except Exception as error:  # a class of such a kind as nobody has thought of
            self.why = "the step of %s cannot be read: %s" % (kind.__name__, error)
        self.name = "%s.%s %s" % (kind.__module__, kind.__qualname__, _digest(self._codes))

    def outside(self) -> "Optional[list[Any]]":
        """The plain values that the step would use from outside now; None if anything there is not what it was."""
        values = []
        for each in self._outside:
            value = each.find()
            if is_plain(each.was) and is_plain(value):
                values.append(value)
            elif bottom(value) is not bottom(each.was):
                return None
        return values

    def _read(self, kind: type) -> Optional[str]:
        classes = [each for each in kind.__mro__ if not _is_torchs(each) and each is not object and not _is_base(each)]
        why = _unusual(kind, classes)
        waiting = [(function, each) for each in classes for function in _entrances(each, kind)]
        read: "set[Any]" = set()
        while waiting and why is None:
            function, home = waiting.pop()
            layers, why = _layers(function)
            for layer in layers:
                if layer.__code__ in read or why is not None:
                    continue
                read.add(layer.__code__)
                found = Reader(layer, kind, home is not None, classes).read()
                why = found.why
                waiting.extend(found.calls)
                self._outside.extend(Outside(*each) for each in found.outside)
                self._codes.append(layer.__code__)
            if len(read) > READ_MAX:
                why = "more functions than are read"
        return why and "the step of %s uses %s" % (kind.__name__, why)


def bottom(value: Any) -> Any:
    """A function below all its wrappers."""
    while hasattr(value, "__wrapped__"):
        value = value.__wrapped__
    return getattr(value, "__func__", value)


def _is_torchs(kind: type) -> bool:
    home = sys.modules.get(kind.__module__)
    known = (kind.__module__ + ".").startswith("torch.optim.") and kind.__name__ in TORCHS
    return known and getattr(home, kind.__name__, None) is kind


def _is_base(kind: type) -> bool:
    return kind is sys.modules["torch.optim.optimizer"].Optimizer


def _unusual(kind: type, classes: "list[type]") -> Optional[str]:
    if type(kind) is not type:
        return "a metaclass"
    for each in classes:
        if each.__module__.startswith("torch."):
            return each.__name__
        for name, value in vars(each).items():
            if name.startswith("__") and callable(value) and name not in ASIDE and name != "__class__":
                return name
    return None if any("step" in vars(each) for each in kind.__mro__) else "no step"


def _entrances(home: type, kind: type) -> "list[Any]":
    # What torch's code may call in place of its own.
    torchs = [each for each in kind.__mro__ if each is not object and each.__module__.startswith("torch.")]
    found = []
    for name, value in vars(home).items():
        is_called = name == "step" or (name not in ASIDE and any(name in vars(each) for each in torchs))
        if is_called and (callable(value) or hasattr(value, "__func__")):
            found.append(getattr(value, "__func__", value))
    return found


def _layers(function: Any) -> "tuple[list[Any], Optional[str]]":
    """The functions to be read where this one is called: itself, and those it wraps, without what is known."""
    layers: "list[Any]" = []
    while True:
        function = getattr(function, "__func__", function)
        if not isinstance(function, types.FunctionType):
            return [], str(getattr(function, "__name__", function))
        wrapped = getattr(function, "__wrapped__", None)
        home = str(function.__globals__.get("__name__"))
        if wrapped is None:
            return (layers if home.startswith("torch.optim.") else [*layers, function]), None
        if home not in WRAPPERS:
            if home.startswith("torch."):
                return [], home
            layers.append(function)
        function = wrapped


def _digest(codes: "list[Any]") -> str:
    found = hashlib.blake2b(digest_size=16)
    waiting = list(codes)
    while waiting:
        code = waiting.pop()
        waiting.extend(each for each in code.co_consts if isinstance(each, types.CodeType))
        constants = [each for each in code.co_consts if is_plain(each)]
        found.update(code.co_code + repr((code.co_names, constants, code.co_varnames)).encode())
    return found.hexdigest()
