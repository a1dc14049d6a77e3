"""Pickles followed without running them: a stack machine over `pickletools.genops` that builds plain data only.

Nothing is imported and nothing is called. The tensors of `torch.save` become `PickledTensor`, containers become
containers, and every other object stays a `Made`: the name of what would have been called, with its arguments.
"""

from __future__ import annotations

import gc
import pickletools
import struct
from collections.abc import Callable, Mapping
from sys import getsizeof
from typing import IO, Any

from tiecheck.files.limits import OPERATIONS, PICKLED, account
from tiecheck.files.pickle.rebuilding import ARGUMENTS, call_result, persistent_storage
from tiecheck.files.pickle.records import ALLOWED, ARITIES, SAFE_OPERATIONS, Global, Made, OrderedState, Storage


class UnreadablePickleError(Exception):
    """The pickle is broken, too large, or uses what no state dict uses."""


class ForbiddenNameError(UnreadablePickleError):
    """The pickle asks for a name that `torch.load(weights_only=True)` refuses."""

    def __init__(self, name: str) -> None:
        super().__init__(f"it asks for {name}")
        self.name = name


def read_pickle(
    stream: IO[bytes], storages: dict[str, Storage] | None = None, *, label: str = "a pickle", safe: bool = False
) -> Any:
    """Return what one pickle holds, from the stream's position to just behind its STOP.

    Args:
        stream: Where the pickle is; read as far as its STOP.
        storages: Gets each storage that the pickle mentions, by its key.
        label: What messages call the file.
        safe: True to refuse what `torch.load(weights_only=True)` refuses (torch 2.13).

    Raises:
        UnreadablePickleError: It cannot be followed.
        TargetError: With it the target's pickles take more operations or memory than they may.
    """
    machine = (_SafeMachine if safe else _Machine)({} if storages is None else storages)
    collecting = gc.isenabled()
    gc.disable()  # what is made stays
    try:
        machine.follow(stream, label)
        return machine.pop()
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError, struct.error) as error:
        raise UnreadablePickleError(f"it is no whole pickle ({type(error).__name__})") from error
    finally:
        if collecting:
            gc.enable()


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

KEY_VALUES = 1000
"""Tuples within a tuple that is a key of a dict. Hashing one that holds the same one twice takes torch twice as long
with each level; no state dict has any."""

_SIZES = dict.fromkeys(("MEMOIZE", *PUTS, "GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "SETITEM"), 90) | (
    dict.fromkeys((*EMPTY, *TUPLES, "TUPLE", "LIST", "DICT", "FROZENSET", "BINPERSID"), 56)
)

CODES: Mapping[bytes, tuple[str, Callable[[IO[bytes]], Any] | None, int]] = {
    one.code.encode("latin-1"): (one.name, one.arg.reader if one.arg else None, _SIZES.get(one.name, 8))
    for one in pickletools.opcodes
}
"""Code of an operation -> its name, the reader of its argument, and the bytes of memory it takes beside that."""


class _Machine:
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
        purse, handlers, read = account(), self.handlers(), stream.read
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
            name: getattr(self, f"op_{name.lower()}", _refusal(f"it uses {name}, which no state dict does"))
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

    def op_mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def op_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.top()

    def op_pop_mark(self, _: Any) -> None:
        self._marked()

    def op_pop(self, _: Any) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.pop()

    def op_dup(self, _: Any) -> None:
        self.stack.append(self.top())

    def op_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._marked()))

    def op_list(self, _: Any) -> None:
        self.stack.append(self._marked())

    op_frozenset = op_list

    def op_append(self, _: Any) -> None:
        value = self.pop()
        self.extend([value])

    def op_appends(self, _: Any) -> None:
        items = self._marked()
        self.extend(items)

    op_additems = op_appends

    def op_dict(self, _: Any) -> None:
        items = self._marked()
        self.stack.append({})
        self.fill(items)

    def op_setitem(self, _: Any) -> None:
        items = self._last(2)
        self.fill(items)

    def op_setitems(self, _: Any) -> None:
        items = self._marked()
        self.fill(items)

    def op_global(self, argument: str) -> None:
        self.work += 4
        module, _, name = argument.partition(" ")
        self.stack.append(Global(module, name))

    def op_stack_global(self, _: Any) -> None:
        module, name = self._last(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError
        self.stack.append(Global(module, name))

    def op_reduce(self, _: Any) -> None:
        self.work += 2
        function, args = self._last(2)
        self.stack.append(call_result(function, args))

    op_newobj = op_reduce

    def op_newobj_ex(self, _: Any) -> None:
        function, args, _keywords = self._last(3)
        self.stack.append(Made(function, args))

    def op_build(self, _: Any) -> None:
        state = self.pop()
        made = self.top()
        if isinstance(made, Made):
            made.state = state

    def op_binpersid(self, _: Any) -> None:
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


ORDERED = Global("collections", "OrderedDict")


class _SafeMachine(_Machine):
    """The same, stopping where torch's safe loader stops."""

    def handlers(self) -> dict[str, Callable[[Any], Any]]:
        found = super().handlers()
        for code, (name, _, _) in CODES.items():
            if name not in SAFE_OPERATIONS:
                found[name] = _refusal(f"Unsupported operand {code[0]}")
        # torch takes it for UTF-8, `pickletools` for Latin-1
        found["SHORT_BINSTRING"] = lambda text: self.stack.append(text.encode("latin-1").decode())
        return found

    def op_global(self, argument: str) -> None:
        super().op_global(argument)
        wanted = Global(*_renamed(self.pop()))
        name = f"{wanted.module}.{wanted.name}"
        if name not in ALLOWED:
            raise ForbiddenNameError(name.removeprefix("builtins."))
        self.stack.append(wanted)

    def op_reduce(self, _: Any) -> None:
        self.work += 2
        function, args = self._last(2)
        if not isinstance(function, Global) or type(args) is not tuple:  # a name is a tuple of ours
            raise UnreadablePickleError("Trying to call reduce for unrecognized function")
        if function.name == "bytearray" and args and isinstance(args[0], int) and args[0] > PICKLED.most:
            raise UnreadablePickleError(f"it asks for {args[0]:,} bytes of memory")
        if function.module == "torch._utils" and len(args) not in ARITIES.get(function.name, (len(args),)):
            raise UnreadablePickleError(f"it calls {function.name} with {len(args)} arguments")
        self.stack.append(call_result(function, args))

    op_newobj = op_reduce

    def extend(self, items: list[Any]) -> None:
        if not isinstance(self.top(), list):
            raise UnreadablePickleError("Can only append to lists")
        super().extend(items)

    def fill(self, items: list[Any]) -> None:
        if not isinstance(self.top(), dict):
            raise UnreadablePickleError("Can only set the items of a dict")
        self.work += sum(_nodes((key,)) for key in items[::2] if isinstance(key, (tuple, list, dict)))
        super().fill(items)

    def op_build(self, _: Any) -> None:
        built, state = self.stack[-2], self.stack[-1]
        ordered = isinstance(built, OrderedState) or (isinstance(built, Made) and built.function == ORDERED)
        if not ordered or not isinstance(state, dict):  # of a tensor it would change the memory
            raise UnreadablePickleError("Can only build an OrderedDict")
        super().op_build(None)

    def op_binpersid(self, _: Any) -> None:
        super().op_binpersid(None)
        if isinstance(self.top(), Made):
            raise UnreadablePickleError("Only persistent_load of storage is allowed")


def _refusal(why: str) -> Callable[[Any], Any]:
    def refuse(_: Any) -> None:
        raise UnreadablePickleError(why)

    return refuse


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


class _Key:
    """A key that is no plain value, alike only to itself: hashing nested tuples or endless numbers takes forever."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def _key(value: Any) -> Any:
    if isinstance(value, int):
        return value if -(1 << 63) <= value < 1 << 63 else _Key(value)
    return value if value is None or isinstance(value, (str, float, bytes, Made)) else _Key(value)
