"""Reads one function for what it uses: lets through what only computes, and names what is not known to.

It goes by the names in the function's instructions. A name that follows a module or the optimizer itself is looked up
there; one that follows anything else must be one that tensors, numbers or containers have."""

from __future__ import annotations

import builtins
import dis
import sys
import types
from typing import Any, Final, Optional

SCALARS: Final = (int, float, bool, str, bytes, complex, type(None))
MODULES: Final = ("math", "cmath", "operator", "itertools")
BUILTINS: Final = frozenset(
    (
        *("abs", "all", "any", "bool", "complex", "dict", "divmod", "enumerate", "filter", "float", "int"),
        *("isinstance", "iter", "len", "list", "map", "max", "min", "next", "pow", "range", "reversed", "round"),
        *("slice", "str", "sum", "super", "tuple", "zip", "NotImplemented", "Ellipsis", "__debug__"),
    )
)
# Of torch's functions and of tensors: what draws numbers, keeps or changes state, looks at addresses, or leaves torch.
NEVER_PARTS: Final = (
    *("rand", "normal", "bernoulli", "multinomial", "poisson", "dropout", "seed", "rng", "binomial", "exponential"),
    *("cauchy", "geometric", "uniform", "sobol", "rrelu", "numpy", "buffer", "from_file", "dlpack", "compile"),
    *("default", "threads", "hook", "ptr", "storage", "share", "backward", "grad_", "set_", "resize", "pin_", "stream"),
    *("swap", "load", "save", "device_", "cuda", "print", "generator", "deterministic", "version", "profile"),
)
NEVER: Final = frozenset(("apply_", "map_", "set_", "names", "name", "requires_grad_", "new", "module_load"))
TORCH_TYPES: Final = ("Tensor", "device", "dtype", "Size", "finfo", "iinfo", "no_grad", "enable_grad", "inference_mode")
OF_SELF: Final = frozenset(("state", "param_groups"))
OF_TORCHS: Final = frozenset(
    (
        *("step", "_init_group", "_get_value"),
        *("_cuda_graph_capture_health_check", "_accelerator_graph_capture_health_check"),
    )
)
STORED: Final = frozenset(("data", "grad"))  # attributes of tensors that a step may set; both are handed over
BETWEEN: Final = frozenset(("EXTENDED_ARG", "PUSH_NULL", "NOP", "CACHE", "RESUME", "PRECALL"))
UNKNOWN: Final = object()
SELF: Final = object()
REFUSED: Final = {
    **dict.fromkeys(("STORE_GLOBAL", "STORE_NAME", "DELETE_GLOBAL", "DELETE_NAME", "LOAD_NAME"), "the global name %s"),
    **dict.fromkeys(("DELETE_ATTR", "DELETE_DEREF"), "an attribute or name %s that it deletes"),
    **dict.fromkeys(("IMPORT_NAME", "IMPORT_FROM", "IMPORT_STAR"), "an import of %s"),
    **dict.fromkeys(("LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF", "LOAD_FROM_DICT_OR_GLOBALS"), "the name %s"),
    **dict.fromkeys(("LOAD_BUILD_CLASS", "LOAD_LOCALS", "SETUP_ANNOTATIONS"), "a class of its own"),
    "BUILD_SET": "a set, whose order is not the same everywhere",
}


def is_plain(value: Any) -> bool:
    """Whether a value is a number, a word, or a tuple of such: nothing that can be changed in place."""
    return all(is_plain(each) for each in value) if type(value) is tuple else type(value) in SCALARS


class Reader:
    """Reads one function of an optimizer class, or one that it calls."""

    def __init__(self, function: Any, kind: type, is_method: bool, classes: "list[type]") -> None:
        self._function = function
        self._kind = kind
        self._classes = classes  # of the program's own
        code = function.__code__
        self._self = code.co_varnames[0] if is_method and code.co_argcount else None
        self.calls: "list[tuple[Any, Any]]" = []  # further functions to be read, and the class each belongs to
        self.outside: "list[tuple[Any, Any]]" = []  # how to find what it takes from outside, and what that is now
        self.why: Optional[str] = None

    def read(self) -> "Reader":
        defaults = (*(self._function.__defaults__ or ()), *(self._function.__kwdefaults__ or {}).values())
        if not all(is_plain(each) for each in defaults):
            self.why = "a default argument that can change"
        codes = [self._function.__code__]
        while codes and self.why is None:
            code = codes.pop()
            codes.extend(each for each in code.co_consts if isinstance(each, types.CodeType))
            self._read_code(code)
        return self

    def _refuse(self, why: Any) -> None:
        self.why = self.why or str(why)

    # -- one piece of code -------------------------------------------------------------------------------------

    def _read_code(self, code: Any) -> None:
        top: Any = UNKNOWN  # what the last instruction put on the stack, as far as it is known
        doubled: Any = UNKNOWN  # what an augmented assignment has laid aside
        added: "dict[str, bool]" = {}  # attributes it is about to set, and whether they are the optimizer's
        previous = ""
        for instruction in dis.get_instructions(code):
            name, value = instruction.opname, instruction.argval
            if name in BETWEEN:
                continue
            if self.why is not None:
                return
            if name in ("COPY", "DUP_TOP"):
                doubled, previous = top, name
                continue
            is_attribute = name.startswith(("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_"))
            if isinstance(top, types.ModuleType) and not is_attribute:
                self._refuse("the module %s other than by what is in it" % top.__name__)
            if is_attribute:
                if previous in ("COPY", "DUP_TOP"):
                    added[str(value)] = added.get(str(value), True) and doubled is SELF
                top = self._attribute(top, str(value))
            elif name == "STORE_ATTR":
                is_added = previous.startswith(("SWAP", "ROT_TWO"))
                self._store(str(value), added.get(str(value), False) if is_added else top is SELF)
                top = UNKNOWN
            else:
                top = self._look(name, value, code)
            previous = name

    def _look(self, operation: str, name: Any, code: Any) -> Any:
        if operation in REFUSED:
            self._refuse(REFUSED[operation] % name if "%" in REFUSED[operation] else REFUSED[operation])
        elif operation == "LOAD_GLOBAL":
            return self._global(str(name))
        elif operation.startswith("LOAD_DEREF") and name in self._function.__code__.co_freevars:
            return self._cell(str(name))
        elif operation == "STORE_DEREF" and name in self._function.__code__.co_freevars:
            self._refuse(name)
        elif operation.startswith(("STORE_FAST", "STORE_DEREF", "DELETE_FAST")) and self._is_self(name, False):
            self._refuse("another %s" % self._self)
        elif operation.startswith(("LOAD_FAST", "LOAD_DEREF", "STORE_FAST_LOAD")) and self._is_self(name, True):
            return SELF
        return UNKNOWN

    def _is_self(self, name: Any, is_load: bool) -> bool:
        names = name if isinstance(name, tuple) else (name,)
        return self._self is not None and (names[-1] == self._self if is_load else self._self == names[0])

    # -- what it uses ------------------------------------------------------------------------------------------

    def _global(self, name: str) -> Any:
        scope = self._function.__globals__
        if name in scope:
            return self._taken(name, scope[name], lambda: scope.get(name))
        if name not in BUILTINS and not _is_error(getattr(builtins, name, None)):
            self._refuse(name)
        return UNKNOWN

    def _cell(self, name: str) -> Any:
        if name == "__class__":
            return UNKNOWN
        cells: Any = self._function.__closure__
        cell = cells[self._function.__code__.co_freevars.index(name)]
        return self._taken(name, cell.cell_contents, lambda: cell.cell_contents)

    def _taken(self, name: str, value: Any, find: Any) -> Any:
        """Something from outside, by a name of the module or a cell."""
        self.outside.append((find, value))
        if isinstance(value, types.ModuleType):
            if value.__name__ != "torch" and value.__name__ not in MODULES:
                self._refuse("the module %s" % value.__name__)
            return value
        if not is_plain(value) and value not in self._kind.__mro__:
            self._judge(name, value)
        return UNKNOWN

    def _judge(self, name: str, value: Any) -> None:
        home = str(getattr(value, "__module__", None))
        if isinstance(value, types.FunctionType):
            inside = str(value.__globals__.get("__name__"))
            if inside.startswith("torch.") and not hasattr(value, "__wrapped__"):
                if inside != "torch.functional" or _is_never(value.__name__):
                    self._refuse(name)
            else:
                self.calls.append((value, None))
        elif isinstance(value, type):
            if not (_is_error(value) or home in MODULES or _is_torch_type(value) or _is_builtin(value)):
                self._refuse(name)
        elif isinstance(value, (types.BuiltinFunctionType, types.MethodDescriptorType)):
            if not (home in MODULES or _is_builtin(value) or _is_torchs_own(value)):
                self._refuse(name)
        elif not _is_torch_constant(value):
            self._refuse(name)

    def _attribute(self, base: Any, name: str) -> Any:
        if isinstance(base, types.ModuleType):
            value = getattr(base, name, UNKNOWN)
            if isinstance(value, types.ModuleType) and base.__name__ == "torch" and name in ("linalg", "special"):
                return value
            if not is_plain(value):
                self._judge("%s.%s" % (base.__name__, name), value)
            return UNKNOWN
        found = [each for each in self._kind.__mro__ if name in vars(each)]
        for each in found:
            self._own_part(each, name)
        if base is not SELF and not found and name not in _known_attributes():
            self._refuse(name)
        if base is SELF and not found and name.startswith("_") and name in _TORCH_ATTRIBUTES:
            self._refuse(name)
        if base is SELF and not found and name in ("defaults", "__dict__", "__class__"):
            self._refuse(name)
        return UNKNOWN

    def _own_part(self, home: type, name: str) -> None:
        value = vars(home)[name]
        if home not in self._classes:
            if name not in OF_TORCHS:
                self._refuse(name)
            return
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        self.outside.append((lambda: _part(home, name), function))
        if isinstance(function, types.FunctionType):
            self.calls.append((function, None if isinstance(value, staticmethod) else home))
        elif not is_plain(value):
            self._refuse(name)

    def _store(self, name: str, is_self: bool) -> None:
        if not is_self:
            if name not in STORED:
                self._refuse("an attribute %s that it sets" % name)
        elif name in OF_SELF or name in _TORCH_ATTRIBUTES or hasattr(self._kind, name):
            self._refuse("an attribute %s that it sets" % name)


_TORCH_ATTRIBUTES: Final = frozenset(
    (
        *("defaults", "_zero_grad_profile_name", "_opt_called", "_warned_capturable_if_run_uncaptured"),
        *("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks", "_optimizer_state_dict_pre_hooks"),
        *("_optimizer_state_dict_post_hooks", "_optimizer_load_state_dict_pre_hooks", "grad_scale", "found_inf"),
        *("_optimizer_load_state_dict_post_hooks", "_step_supports_amp_scaling", "_need_device_dtype_check_for_fused"),
    )
)
_known: "set[str]" = set()


def _known_attributes() -> "set[str]":
    if not _known:
        torch = sys.modules["torch"]
        kinds = (torch.Tensor, dict, list, tuple, str, int, float, complex, torch.Size, torch.finfo, torch.device)
        names = {name for kind in kinds for name in dir(kind) if not name.startswith("_")}
        _known.update(name for name in names if not _is_never(name))
        _known.add("setdefault")
    return _known


def _is_never(name: str) -> bool:
    return name in NEVER or any(part in name for part in NEVER_PARTS)


def _is_error(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException) and value.__module__ == "builtins"


def _is_builtin(value: Any) -> bool:
    return value.__name__ in BUILTINS and getattr(builtins, value.__name__, None) is value


def _is_torch_type(value: Any) -> bool:
    torch = sys.modules["torch"]
    return value is torch.nn.Parameter or any(getattr(torch, name, None) is value for name in TORCH_TYPES)


def _is_torchs_own(value: Any) -> bool:
    torch: Any = sys.modules["torch"]
    places = (torch, getattr(torch._C, "_linalg", None), getattr(torch._C, "_special", None))
    known = any(getattr(place, value.__name__, None) is value for place in places)
    return known and not _is_never(value.__name__)


def _is_torch_constant(value: Any) -> bool:
    torch = sys.modules["torch"]
    return isinstance(value, (torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size))


def _part(home: type, name: str) -> Any:
    value = vars(home).get(name)
    return value.fget if isinstance(value, property) else getattr(value, "__func__", value)
