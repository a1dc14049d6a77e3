"""Pickles followed without running them: a stack machine over `pickletools.genops` that builds plain data only.

Nothing is imported and nothing is called. The tensors of `torch.save` become `PickledTensor`, containers become
containers, and every other object stays a `Made`: the name of what would have been called, with its arguments.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from sys import getsizeof
from typing import IO, Any

from tiecheck.files.limits import OPERATIONS, PICKLED, target_account
from tiecheck.files.pickle.rebuilding import ARGUMENTS, call_result, persistent_storage
from tiecheck.files.pickle.records import Global, Made, Storage


class UnreadablePickleError(Exception):
    """The pickle is broken, too large, or uses what no state dict uses."""


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

STEPS = 4096
"""Operations between two looks at the account."""

_SIZES = dict.fromkeys(("MEMOIZE", *PUTS, "GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "SETITEM"), 90) | (
    dict.fromkeys((*EMPTY, *TUPLES, "TUPLE", "LIST", "DICT", "FROZENSET", "BINPERSID"), 56)
)

CODES: Mapping[bytes, tuple[str, Callable[[IO[bytes]], Any] | None, int]] = {
    one.code.encode("latin-1"): (one.name, one.arg.reader if one.arg else None, _SIZES.get(one.name, 8))
    for one in pickletools.opcodes
}
"""Code of an operation -> its name, the reader of its argument, and the bytes of memory it takes beside that."""


class Machine:
    """The unpickler's stack, with plain data on it."""

    def __init__(self, storages: dict[str, Storage]) -> None:
        self.storages = storages
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.taken = 0  # bytes of memory since the last look at the account
        self.work = 0  # steps beside the operations themselves, likewise

    def follow(self, stream: IO[bytes], label: str) -> None:
        """Follow a pickle as far as its STOP."""
        purse, handlers, read = target_account(), self.handlers(), stream.read
        name = ""
        while name != "STOP":
            count = 0
            for count in range(1, STEPS + 1):  # noqa: B007  # how far it came
                name, reader, size = CODES[read(1)]
                argument = reader(stream) if reader else None
                self.taken += size if argument is None else size + getsizeof(argument)
                handlers[name](argument)
                if name == "STOP":
                    break
            purse.take(OPERATIONS, count + self.work, label)
            purse.take(PICKLED, self.taken, label)
            self.taken = self.work = 0

    def handlers(self) -> dict[str, Callable[[Any], Any]]:
        """Return what follows each operation, given its argument."""
        push, last = self.stack.append, self._last

        def pushing(make: Callable[..., Any]) -> Callable[[Any], Any]:
            return lambda _: push(make())

        found: dict[str, Callable[[Any], Any]] = {
            name: getattr(self, f"_op_{name.lower()}", refused_operation(f"it uses {name}, which no state dict does"))
            for name, _, _ in CODES.values()
        }
        found |= dict.fromkeys(LITERALS, push)
        found |= {name: pushing(lambda value=value: value) for name, value in CONSTANTS.items()}
        found |= {name: pushing(make) for name, make in EMPTY.items()}
        found |= {name: pushing(lambda count=count: tuple(last(count))) for name, count in TUPLES.items()}
        found |= dict.fromkeys(PUTS, lambda at: self.memo.__setitem__(int(at), self.top()))
        found |= dict.fromkeys(GETS, lambda at: push(self.memo[int(at)]))
        return found | dict.fromkeys(IGNORED, lambda _: None)

    def _last(self, count: int) -> list[Any]:
        """Take the last values off the stack, none of them from below a mark."""
        start = len(self.stack) - count
        if start < (self.marks[-1] if self.marks else 0):
            raise IndexError
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def pop(self) -> Any:
        """Take the last value off the stack."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise IndexError
        return self.stack.pop()

    def top(self) -> Any:
        """Return the last value."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise IndexError
        return self.stack[-1]

    def extend(self, items: list[Any]) -> None:
        """Add to the list on top; what another object would do with its items is not known and not needed."""
        target = self.top()
        if isinstance(target, list):
            target.extend(items)

    def fill(self, items: list[Any]) -> None:
        """Add keys and values, one after the other, to the dict on top; of another object nothing is needed."""
        target = self.top()
        if isinstance(target, dict):
            self.taken += 80 * len(items)
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[_key(key)] = value

    def _marked(self) -> list[Any]:
        items = self._last(len(self.stack) - self.marks[-1])
        self.marks.pop()
        return items

    def _op_mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def _op_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.top()

    def _op_pop_mark(self, _: Any) -> None:
        self._marked()

    def _op_pop(self, _: Any) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.pop()

    def _op_dup(self, _: Any) -> None:
        self.stack.append(self.top())

    def _op_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._marked()))

    def _op_list(self, _: Any) -> None:
        self.stack.append(self._marked())

    _op_frozenset = _op_list

    def _op_append(self, _: Any) -> None:
        value = self.pop()
        self.extend([value])

    def _op_appends(self, _: Any) -> None:
        items = self._marked()
        self.extend(items)

    _op_additems = _op_appends

    def _op_dict(self, _: Any) -> None:
        items = self._marked()
        self.stack.append({})
        self.fill(items)

    def _op_setitem(self, _: Any) -> None:
        items = self._last(2)
        self.fill(items)

    def _op_setitems(self, _: Any) -> None:
        items = self._marked()
        self.fill(items)

    def _op_global(self, argument: str) -> None:
        self.work += 4
        module, _, name = argument.partition(" ")
        self.stack.append(Global(module, name))

    def _op_stack_global(self, _: Any) -> None:
        module, name = self._last(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError
        self.stack.append(Global(module, name))

    def _op_reduce(self, _: Any) -> None:
        self.work += 2
        function, args = self._last(2)
        self.stack.append(call_result(function, args))

    _op_newobj = _op_reduce

    def _op_newobj_ex(self, _: Any) -> None:
        function, args, _keywords = self._last(3)
        self.stack.append(Made(function, args))

    def _op_build(self, _: Any) -> None:
        state = self.pop()
        made = self.top()
        if isinstance(made, Made):
            made.state = state

    def _op_binpersid(self, _: Any) -> None:
        identifier = self.pop()
        short = identifier[:ARGUMENTS] if isinstance(identifier, tuple) else ()
        storage = persistent_storage(short)
        if storage is None:
            self.stack.append(Made(Global("", "persistent_load"), identifier))
            return
        first = self.storages.setdefault(storage.key, storage)
        if first != storage and (first.nbytes or storage.nbytes):  # empty ones share a key
            raise UnreadablePickleError(f"it gives storage {storage.key[:40]!r} two types or sizes")
        self.stack.append(storage)


def refused_operation(why: str) -> Callable[[Any], Any]:
    """Return what refuses an operation, with a reason as the end of "it ..." or torch's own words."""

    def refuse(_: Any) -> None:
        raise UnreadablePickleError(why)

    return refuse


class _Key:
    """A key that is no plain value, alike only to itself: hashing nested tuples or endless numbers takes forever."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def _key(value: Any) -> Any:
    if isinstance(value, int):
        return value if -(1 << 63) <= value < 1 << 63 else _Key(value)
    return value if value is None or isinstance(value, (str, float, bytes, Made)) else _Key(value)
