"""What a pickle says, without running it: a stack machine over `pickletools.genops` that builds plain data only.

Nothing is imported and nothing is called. The tensors of `torch.save` become `PickledTensor`, containers become
containers, and every other object stays a `Made`: the name of what would have been called, with its arguments.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Mapping
from typing import IO, Any

from tiecheck.files.pickle.records import DTYPES, Global, Made, PickledTensor, Storage

OPERATIONS = 5_000_000
"""Pickle operations that are followed at most; a state dict of 100,000 tensors has some 3 million."""


ARGUMENTS = 8
DIMENSIONS = 64
"""Arguments of a call, and dimensions of a tensor, that are looked at; torch 2.13 writes seven and allows 64."""


class UnreadablePickleError(Exception):
    """The pickle is broken, too large, or uses what no state dict uses."""


def read_pickle(stream: IO[bytes]) -> Any:
    """What one pickle holds, from the stream's position to just behind its STOP.

    Raises:
        UnreadablePickleError: It cannot be followed.
    """
    machine = _Machine()
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(stream)):
            if count > OPERATIONS:
                raise UnreadablePickleError(f"it has more than {OPERATIONS:,} operations")
            machine.take(operation.name, argument)
        return machine.stack.pop()
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError, struct.error) as error:
        raise UnreadablePickleError(f"it is no whole pickle ({type(error).__name__})") from error


CONSTANTS: Mapping[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
EMPTY: Mapping[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": list}
LITERALS = frozenset(
    operation.name
    for operation in pickletools.opcodes
    if operation.arg and not operation.stack_before and operation.stack_after not in ([], [pickletools.anyobject])
)
"""Operations that push their own argument: numbers, text and bytes."""

PUTS = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))
GETS = frozenset(("GET", "BINGET", "LONG_BINGET"))
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
IGNORED = frozenset(("PROTO", "FRAME", "STOP"))


class _Machine:
    """The unpickler's stack, with plain data on it."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def take(self, name: str, argument: Any) -> None:
        """Follow one operation."""
        if name in LITERALS:
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in EMPTY:
            self.stack.append(EMPTY[name]())
        elif name in PUTS:
            self.memo[int(argument)] = self.stack[-1]
        elif name in GETS:
            self.stack.append(self.memo[int(argument)])
        elif name in TUPLES:
            self.stack.append(tuple(self._last(TUPLES[name])))
        elif name not in IGNORED:
            handler = getattr(self, f"op_{name.lower()}", None)
            if handler is None:
                raise UnreadablePickleError(f"it uses {name}, which no state dict does")
            handler(argument)

    def _last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def _marked(self) -> list[Any]:
        return self._last(len(self.stack) - self.marks.pop())

    def op_mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def op_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def op_pop(self, _: Any) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def op_pop_mark(self, _: Any) -> None:
        self._marked()

    def op_dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def op_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._marked()))

    def op_list(self, _: Any) -> None:
        self.stack.append(self._marked())

    op_frozenset = op_list

    def op_append(self, _: Any) -> None:
        value = self.stack.pop()
        _extend(self.stack[-1], [value])

    def op_appends(self, _: Any) -> None:
        items = self._marked()
        _extend(self.stack[-1], items)

    op_additems = op_appends

    def op_dict(self, _: Any) -> None:
        items = self._marked()
        self.stack.append({})
        _fill(self.stack[-1], items)

    def op_setitem(self, _: Any) -> None:
        items = self._last(2)
        _fill(self.stack[-1], items)

    def op_setitems(self, _: Any) -> None:
        items = self._marked()
        _fill(self.stack[-1], items)

    def op_global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(Global(module, name))

    def op_stack_global(self, _: Any) -> None:
        module, name = self._last(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError
        self.stack.append(Global(module, name))

    def op_reduce(self, _: Any) -> None:
        function, args = self._last(2)
        self.stack.append(_call(function, args))

    op_newobj = op_reduce

    def op_newobj_ex(self, _: Any) -> None:
        function, args, _keywords = self._last(3)
        self.stack.append(Made(function, args))

    def op_build(self, _: Any) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Made):
            self.stack[-1].state = state

    def op_binpersid(self, _: Any) -> None:
        self.stack.append(_storage(self.stack.pop()))


def _extend(target: Any, items: list[Any]) -> None:
    """Add to a list; what an object would do with its items is not known and not needed."""
    if isinstance(target, list):
        target.extend(items)


def _fill(target: Any, items: list[Any]) -> None:
    if isinstance(target, dict):
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value


class _Key:
    """A key that is no plain value, alike only to itself: hashing nested tuples or endless numbers takes forever."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def _key(value: Any) -> Any:
    if isinstance(value, int):
        return value if -(1 << 63) <= value < 1 << 63 else _Key(value)
    return value if value is None or isinstance(value, (str, float, bytes, Made)) else _Key(value)


def _storage(identifier: Any) -> Any:
    """The storage behind a persistent id of `torch.save`: ("storage", type, key, device, elements, ...)."""
    short = identifier[:ARGUMENTS] if isinstance(identifier, tuple) else ()
    match short:
        case ("storage", Global(_, kind), str(key), str(), int(numel), *_):
            return Storage(key, DTYPES.get(kind), numel)
        case _:
            return Made(Global("", "persistent_load"), identifier)


def _call(function: Any, args: Any) -> Any:
    """What the few functions of a state dict's pickle would give; for any other, a note of the call.

    No work here may grow with the arguments: a pickle can make the same call on the same long list a million times.
    """
    if isinstance(function, Global) and isinstance(args, tuple) and len(args) <= ARGUMENTS:
        if function.module == "torch._utils":
            return _rebuilt(function.name, args) or Made(function, args)
        match function, args:
            case (Global("collections", "OrderedDict"), ()) | (Global("collections", "defaultdict"), _):
                return {}
            case Global("torch", "Size"), (tuple(sizes),):
                return sizes
    return Made(function, args)


def _rebuilt(name: str, args: tuple[Any, ...]) -> PickledTensor | None:
    """The tensor that a function of `torch._utils` would make; None for what is more than a plain one."""
    match name, args:
        case "_rebuild_parameter", (PickledTensor() as tensor, *_):
            return tensor
        case (
            ("_rebuild_tensor_v2" | "_rebuild_tensor"),
            (
                Storage(_, str(dtype)) as storage,
                int(offset),
                tuple(shape),
                tuple(stride),
                *rest,
            ),
        ) if not rest[2:3] and _sizes(offset, shape, stride):
            return PickledTensor(storage, dtype, shape, offset, stride)
        case "_rebuild_tensor_v3", (
            Storage() as storage,
            int(offset),
            tuple(shape),
            tuple(stride),
            _,
            _,
            Global("torch", dtype),
        ) if _sizes(offset, shape, stride):
            return PickledTensor(storage, dtype, shape, offset, stride)
    return None


def _sizes(offset: int, shape: tuple[Any, ...], stride: tuple[Any, ...]) -> bool:
    """Whether these are an offset, a shape and a stride that belong together."""
    if len(shape) != len(stride) or len(shape) > DIMENSIONS:
        return False
    return all(type(n) is int and 0 <= n < 1 << 63 for n in (offset, *shape, *stride))
