"""The door to a pickle: followed as far as it goes, or no further than `torch.load(weights_only=True)` (torch 2.13)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import IO, Any

from tiecheck.files.limits import PICKLED
from tiecheck.files.local import paused_collector
from tiecheck.files.pickle.machine import CODES, Machine, UnreadablePickleError, refused_operation
from tiecheck.files.pickle.rebuilding import DIMENSIONS, call_result
from tiecheck.files.pickle.records import (
    ALLOWED,
    ARITIES,
    SAFE_OPERATIONS,
    Global,
    Made,
    OrderedState,
    PickledTensor,
    Storage,
)

FUNCTIONS = ("torch._utils.", "torch._tensor.", "torch.serialization.", "_codecs.")
"""Beginnings of the allowed names that are functions, and no classes: they make nothing by `__new__`."""


def _container(args: tuple[Any, ...]) -> bool:
    return not args or (len(args) == 1 and isinstance(args[0], (list, tuple, dict, Made)))


def _bytes(args: tuple[Any, ...]) -> bool:
    match args:
        case () | (int(),) | (list(),) | (tuple(),) | (bytes(),) | (Made(),) | (str(), str(), *_):
            return True
    return False


def _sized(args: tuple[Any, ...]) -> bool:
    return all(isinstance(value, int) for value in args) or (len(args) == 1 and isinstance(args[0], (list, tuple)))


def _numbers(args: tuple[Any, ...]) -> bool:
    return len(args) <= 2 and all(isinstance(value, (int, float)) for value in args)


def _of_text(args: tuple[Any, ...]) -> bool:
    return 0 < len(args) <= 3 and isinstance(args[0], str)


def _of_tensor(args: tuple[Any, ...]) -> bool:
    return not args or (len(args) <= 2 and (args[0] is None or isinstance(args[0], (PickledTensor, Made))))


def _so_many(counts: tuple[int, ...]) -> Callable[[tuple[Any, ...]], bool]:
    return lambda args: len(args) in counts


def _never(_: tuple[Any, ...]) -> bool:
    return False


_KNOWN: Mapping[str, Callable[[tuple[Any, ...]], bool]] = {
    **dict.fromkeys(("collections.OrderedDict", "collections.Counter", "builtins.set", "torch.Size"), _container),
    **dict.fromkeys(("_codecs.encode", "torch.serialization._get_layout", "torch.device"), _of_text),
    **{f"torch._utils.{name}": _so_many(counts) for name, counts in ARITIES.items()},
    "torch._tensor._rebuild_from_type_v2": _so_many((4,)),
    "torch._utils._rebuild_wrapper_subclass": lambda args: len(args) >= 8 and isinstance(args[0], Global),
    "torch.nn.parameter.Parameter": _of_tensor,
    "builtins.bytearray": _bytes,
    "builtins.complex": _numbers,
}


def _call_of(name: str) -> Callable[[tuple[Any, ...]], bool]:
    """Return what tells whether a name can be called so; a dtype, a scheme, the type of a storage never can."""
    sized = name.endswith(("Tensor", "UntypedStorage")) and "cuda" not in name and "sparse" not in name
    return _KNOWN.get(name) or (_sized if sized else _never)


_CALLS = {Global(*name.rpartition(".")[::2]): _call_of(name) for name in ALLOWED}


def can_be_called(function: Global, args: tuple[Any, ...]) -> bool:
    """Tell whether a call of an allowed name goes well, as far as its arguments' kinds and number tell."""
    return _CALLS[function](args)


def can_make(function: Global) -> bool:
    """Tell whether an allowed name is a class."""
    return not f"{function.module}.".startswith(FUNCTIONS)


ORDERED = Global("collections", "OrderedDict")

KEY_VALUES = 1000
"""Tuples within a tuple that is a key of a dict. Hashing one that holds the same one twice takes torch twice as long
with each level; no state dict has any."""


class ForbiddenNameError(UnreadablePickleError):
    """The pickle asks for a name that `torch.load(weights_only=True)` refuses."""

    def __init__(self, name: str) -> None:
        super().__init__(f"it asks for {name}")
        self.name = name


def read_pickle(
    stream: IO[bytes], storages: dict[str, Storage] | None = None, *, label: str = "a pickle", safe: bool = False
) -> Any:
    """Return what one pickle holds, from the stream's position to just behind its STOP, noting its storages by key.

    `safe` refuses what `torch.load(weights_only=True)` refuses (torch 2.13). What cannot be followed is an
    `UnreadablePickleError`; more operations or memory than the target's pickles may take are a `TargetError`.
    """
    machine = (_SafeMachine if safe else Machine)({} if storages is None else storages)
    try:
        with paused_collector():
            machine.follow(stream, label)
            return machine.pop()
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError, struct.error) as error:
        raise UnreadablePickleError(f"it is no whole pickle ({type(error).__name__})") from error


class _SafeMachine(Machine):
    """The machine, stopping where torch's safe loader stops."""

    def handlers(self) -> dict[str, Callable[[Any], Any]]:
        found = super().handlers()
        for code, (name, _, _) in CODES.items():
            if name not in SAFE_OPERATIONS:
                found[name] = refused_operation(f"Unsupported operand {code[0]}")
        # torch takes it for UTF-8, `pickletools` for Latin-1
        found["SHORT_BINSTRING"] = lambda text: self.stack.append(text.encode("latin-1").decode())
        return found

    def _op_global(self, argument: str) -> None:
        super()._op_global(argument)
        wanted = Global(*_renamed(self.pop()))
        name = f"{wanted.module}.{wanted.name}"
        if name not in ALLOWED:
            raise ForbiddenNameError(name.removeprefix("builtins."))
        self.stack.append(wanted)

    def _op_reduce(self, _: Any) -> None:
        self.work += 2
        function, args = self._last(2)
        if not isinstance(function, Global) or type(args) is not tuple:  # a name is a tuple of ours
            raise UnreadablePickleError("Trying to call reduce for unrecognized function")
        if function.name == "bytearray" and args and isinstance(args[0], int) and args[0] > PICKLED.most:
            raise UnreadablePickleError(f"it asks for {args[0]:,} bytes of memory")
        if not can_be_called(function, args):
            raise UnreadablePickleError(f"it calls {function.name} with what that does not take")
        made = call_result(function, args)
        if isinstance(made, Made) and function.module == "torch._utils" and _beyond_64_bits(args):
            raise UnreadablePickleError(f"it calls {function.name} with a number of more than 64 bits")
        self.stack.append(made)

    def _op_newobj(self, _: Any) -> None:
        if len(self.stack) > 1 and isinstance(self.stack[-2], Global) and not can_make(self.stack[-2]):
            raise UnreadablePickleError(f"it takes {self.stack[-2].name} for a class")
        self._op_reduce(None)

    def extend(self, items: list[Any]) -> None:
        if not isinstance(self.top(), list):
            raise UnreadablePickleError("Can only append to lists")
        super().extend(items)

    def fill(self, items: list[Any]) -> None:
        if not isinstance(self.top(), dict):
            raise UnreadablePickleError("Can only set the items of a dict")
        self.work += sum(_nodes((key,)) for key in items[::2] if isinstance(key, (tuple, list, dict)))
        super().fill(items)

    def _op_build(self, _: Any) -> None:
        built, state = self.stack[-2], self.stack[-1]
        ordered = isinstance(built, OrderedState) or (isinstance(built, Made) and built.function == ORDERED)
        if not ordered or not isinstance(state, dict):  # of a tensor it would change the memory
            raise UnreadablePickleError("Can only build an OrderedDict")
        super()._op_build(None)

    def _op_binpersid(self, _: Any) -> None:
        super()._op_binpersid(None)
        if isinstance(self.top(), Made):
            raise UnreadablePickleError("Only persistent_load of storage is allowed")


def _beyond_64_bits(args: tuple[Any, ...]) -> bool:
    """Tell whether a size, a stride or an offset is one that torch cannot hold, as far as its dimensions go."""
    numbers = (n for value in args for n in (value[:DIMENSIONS] if type(value) is tuple else (value,)))
    return any(type(n) is int and not -(1 << 63) <= n < 1 << 63 for n in numbers)


def _nodes(key: tuple[Any, ...]) -> int:
    """Count the values within a tuple that is a key, for torch hashes each of them, shared ones again and again."""
    rest, count = [key], 0
    while rest:
        count += 1
        if count > KEY_VALUES:
            raise UnreadablePickleError(f"it has a key of nested tuples with more than {KEY_VALUES:,} values")
        values = rest.pop()
        if any(isinstance(value, (list, dict)) for value in values):
            raise UnreadablePickleError("it has a key that cannot be hashed")
        rest.extend(value for value in values if type(value) is tuple)
    return count


def _renamed(wanted: Global) -> tuple[str, str]:
    """Return module and name, where Python 2 called them otherwise by what Python 3 calls them."""
    if f"{wanted.module}.{wanted.name}" in ALLOWED:
        return wanted
    from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING

    found: tuple[str, str] = NAME_MAPPING.get(wanted, (IMPORT_MAPPING.get(wanted.module, wanted.module), wanted.name))
    return found
