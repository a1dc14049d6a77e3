"""Watching one forward pass: which op reads which tensor, as what, and what is multiplied on the way.

Works on meta as well as on real weights, since only the calls are looked at and never a value. `ReadTrace` can also
take a pass with real weights to meta: what an op reads of the module is handed to it as a meta tensor of its shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from tiecheck.files.limits import target_account
from tiecheck.trace.memories import Memories
from tiecheck.trace.meta_results import MetaResults, answered_on_meta, in_bfloat16, without_transform
from tiecheck.trace.operations import JOINS, WRITES, Kind, is_lookup, kind_of, may_begin, summed_over
from tiecheck.trace.trails import NORMALISED, VALUE, Call, TensorRead, Trail, tensors_in, value_after, weight_after

_MARK = "_tiecheck_trail"
_LEAVES_META = frozenset({"to", "cpu", "cuda", "type_as"})


class ReadTrace(TorchFunctionMode):
    """Follows tensors through a forward pass: through views, casts, parts, joins, dropout and numbers that multiply.

    What comes out of an op that goes on with one of them is marked. A question about values (is any token padding?) is
    answered by no, or by one, on meta, where there are none.
    """

    _traces = 0

    def __init__(self, sources: Iterable[Tensor], *, keep: Tensor | None = None, to_meta: bool = False) -> None:
        """Begin to follow tensors, keeping what reads of one (`keep`) were multiplied with and gave.

        `to_meta` hands meta tensors to every op in the place of the sources, and of all that meets them.
        """
        super().__init__()
        ReadTrace._traces += 1
        self._trace = ReadTrace._traces  # a model may keep a marked tensor from one pass to the next
        self._value = self._trace, VALUE
        self._check_time = target_account().check_time
        self.sources: list[Tensor] = []
        """The followed tensors; parameters of elsewhere that were met come last."""
        self.reads: list[TensorRead] = []
        """The reads, in order."""
        self.lost: str | None = None
        """Name of the op after which the way from a product with the kept tensor was lost last."""
        self.failed: str | None = None
        """Name of the op that raised."""
        self.name_of: Callable[[Tensor], tuple[str, ...]] = lambda _: ()
        """Returns the names by which the pass came to a source last (`names.watched_names`)."""
        self._keep, self._to_meta, self._meta, self._memories = keep, to_meta, MetaResults(), Memories()
        self._index: dict[int, Trail] = {}
        self._expected: dict[int, Tensor] = {}
        self._twins: dict[int, tuple[Tensor, Tensor]] = {}
        self._numbers: dict[int, float] = {}
        self._taken: dict[int, str] = {}  # by which op a source became another weight last
        self.follow(sources)

    def follow(self, tensors: Iterable[Tensor]) -> None:
        """Follow further tensors where the pass meets them."""
        for tensor in tensors:
            if id(tensor) not in self._index:
                self._index[id(tensor)] = Trail("weight", (len(self.sources),))
                self.sources.append(tensor)
                self._memories.note_source(tensor, tensor)
                self._read_number(tensor)

    def expect(self, tensors: Iterable[Tensor]) -> None:
        """Note tensors that are there before the pass and are not to be followed: buffers and inputs."""
        for tensor in tensors:
            self._expected[id(tensor)] = tensor
            self._read_number(tensor)

    def _read_number(self, tensor: Tensor) -> None:
        if not is_lazy(tensor) and tensor.numel() == 1 and tensor.is_floating_point() and not tensor.is_meta:
            self._numbers[id(tensor)] = float(tensor.detach())

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the call and look at what it did."""
        kind = kind_of(func)
        if kind.getter:
            if self._to_meta and not args[0].is_meta:
                args = self._on_meta(args)
            return func(*args, **(kwargs or {}))
        self._check_time()
        tensors = tensors_in(args)
        if kwargs:
            tensors += tensors_in(tuple(kwargs.values()))
        trails = list(map(self._trail, tensors))
        given = args, kwargs or {}
        if self._to_meta and self._is_mixed(tensors):
            given = self._on_meta(args), {key: self._on_meta(value) for key, value in given[1].items()}
        if kind.asks and given[0][0].is_meta:
            return answered_on_meta(kind.name, given[0][0])
        try:
            out = self._meta.run(kind.name, func, *given) if self._to_meta and tensors else func(*given[0], **given[1])
        except Exception as error:  # noqa: BLE001  # an operation may fail in any way
            out = self._instead(kind, func, *given, error)
        if trails.count(VALUE) < len(trails) or (kind.begins and may_begin(kind.name, tensors)):
            outs = tensors_in((args[0] if kind.name == "setitem" else out,))
            self._memories.note_made(outs)
            if outs:
                self._see(Call(kind.name, args, kwargs or {}, tensors, trails, outs))
        elif type(out) is Tensor and not (tensors and out is tensors[0]):
            out.__dict__[_MARK] = self._value  # spares the next look
            self._memories.note_made((out,))
        return out

    def _is_mixed(self, tensors: list[Tensor]) -> bool:
        """Return True if some tensors are on meta, or stand for one that is to be, and others are not there."""
        for tensor in tensors:
            if not tensor.is_meta:
                return any(t.is_meta or id(t) in self._index or id(t) in self._twins for t in tensors)
        return False

    def _instead(
        self, kind: Kind, func: Callable[..., Any], args: Any, kwargs: dict[str, Any], error: Exception
    ) -> Any:
        """Return what an operation that failed would have given on meta, or raise its error again."""
        if args and isinstance(args[0], Tensor) and args[0].is_meta:
            if isinstance(error, NotImplementedError) and kind.name in _LEAVES_META:
                named = [a.dtype if isinstance(a, Tensor) else a for a in (*args[1:], *kwargs.values())]
                return args[0].to(next((d for d in named if isinstance(d, torch.dtype)), args[0].dtype))
            if kind.name == "grouped_mm" and args[0].dtype is not torch.bfloat16:
                return in_bfloat16(func, args, kwargs)
        self.failed = kind.name
        raise error

    def _on_meta(self, values: Any) -> Any:
        """Return arguments with a meta tensor in the place of every other."""
        if isinstance(values, Tensor):
            is_size = values.dim() == 0 and not values.is_floating_point()  # which meta cannot give back
            return values if values.is_meta or is_size else self._twin(values)
        if type(values) in {tuple, list}:
            return type(values)(map(self._on_meta, values))
        return values

    def _twin(self, tensor: Tensor) -> Tensor:
        """Return the meta tensor that stands for a real one, the same each time."""
        if id(tensor) not in self._twins:
            twin = torch.empty_like(tensor, device="meta", requires_grad=False)
            self._mark(twin, self._trail(tensor))
            if id(tensor) in self._index:
                self._memories.note_source(tensor, twin)
            self._twins[id(tensor)] = tensor, twin
        return self._twins[id(tensor)][1]

    def all_reads(self) -> list[TensorRead]:
        """Return the reads, with those of weights that were made of a source and read by nothing."""
        read = {number for one in self.reads for number in one.sources}
        left = [(number, op) for number, op in self._taken.items() if number not in read]
        return [*self.reads, *(TensorRead(-1, (number,), op, "other") for number, op in left)]

    @property
    def heads(self) -> list[TensorRead]:
        """The products with the kept matrix that give a value for each of its rows."""
        return [read for read in self.reads if self._is_head(read)]

    def _is_head(self, read: TensorRead) -> bool:
        if read.role != "linear" or read.product is None or self._keep is None:
            return False
        return read.product.shape[-1] == self._keep.shape[0]

    def normalised(self, out: object) -> None:
        """Note that a value came out of a normalisation layer."""
        if isinstance(out, Tensor):
            self._mark(out, NORMALISED)

    def reached(self, logits: Tensor) -> tuple[TensorRead, float | None] | None:
        """Return the read that some logits come from and their factor since; None where the trail is lost."""
        trail = self._trail(logits)
        return (self.reads[trail.sources[0]], trail.factor) if trail.kind == "read" else None

    def _mark(self, tensor: Tensor, trail: Trail) -> None:
        if id(tensor) in self._index:  # written in place, it still is what it was
            return
        tensor.__dict__[_MARK] = self._trace, trail
        if trail.kind == "read" and not self.reads[trail.sources[0]].ended:
            self.reads[trail.sources[0]].after = trail.factor

    def _trail(self, tensor: Tensor) -> Trail:
        mark: tuple[int, Trail] | None = tensor.__dict__.get(_MARK)
        if mark is not None and mark[0] == self._trace:
            return mark[1]
        if id(tensor) in self._index or id(tensor) in self._expected:
            return self._index.get(id(tensor), VALUE)
        if type(tensor) is not Tensor and isinstance(tensor, nn.Parameter):
            if self._memories.is_of_the_pass(tensor):
                return self._trail_of_view(tensor, self._memories.source_under(tensor))
            self.follow((tensor,))  # of elsewhere
            return self._trail(tensor)
        plain = without_transform(tensor)
        base = tensor._base if tensor._is_view() else None
        return self._trail_of_view(tensor, base) if plain is tensor else self._trail(plain)

    def _trail_of_view(self, tensor: Tensor, base: Tensor | None) -> Trail:
        """Return the trail of a tensor that no op of the pass gave out, which may be a view of a parameter."""
        if base is None or not (isinstance(base, nn.Parameter) or id(base) in self._index):
            return VALUE
        turned = tensor.dim() == 2 and base.dim() == 2 and tensor.stride() == base.stride()[::-1]  # a transpose
        return self._trail(base)._replace(turned=turned)

    def _see(self, call: Call) -> None:
        written = call.name in WRITES  # and not read
        weights = [n for n, trail in enumerate(call.trails) if trail.kind == "weight" and (n or not written)]
        if not weights:
            followed = self._follow_value(call)
        elif (made := weight_after(call, self._number)) is not None:
            followed = made
            self._taken.update(dict.fromkeys(followed.sources, call.name))
        else:
            reads = [self._read(call, n) for n in weights]
            main = next((read for read in reads if read.role != "other"), None)
            followed = Trail("read", (main.number,)) if main is not None else self._follow_value(call)
        for out in call.outs:
            if followed is not VALUE or _MARK in out.__dict__:  # what is changed in place is no longer what it was
                self._mark(out, followed)

    def _read(self, call: Call, place: int) -> TensorRead:
        """Note the read of a weight, as what the call does with it."""
        weight, trail = call.tensors[place], call.trails[place]
        lookup = weight.dim() > 1 and is_lookup(call.name, weight, call.args, call.kwargs)
        product = None if lookup else summed_over(call.name, weight, call.args, call.kwargs)
        beside = None if product is None else call.trail_of(product[1])
        if beside is not None and beside.kind == "weight":
            product = None  # two weights make a third
        role = "embedding" if lookup else "linear" if product else "other"
        read = TensorRead(len(self.reads), trail.sources, call.name, role)  # type: ignore[arg-type]  # mypy widens it to str
        read.before, read.turned = trail.factor, trail.turned
        read.learns = weight.requires_grad and torch.is_grad_enabled()
        read.reached = self.name_of(self.sources[trail.sources[0]])
        if product is not None and beside is not None:
            read.turned = trail.turned != product[0]
            read.beside = 1.0 if beside.kind == "read" else beside.factor
            read.norm = beside.factor if beside.kind == "norm" else None
        if self._keep is not None and any(self.sources[n] is self._keep for n in trail.sources):
            read.hidden, read.product = product[1] if product else None, call.outs[0]
        self.reads.append(read)
        return read

    def _follow_value(self, call: Call) -> Trail:
        """Return the trail of what is no weight, and end that of every read which the call does not hand on."""
        followed, kept = value_after(call, self._number)
        for place, trail in enumerate(call.trails):
            if trail.kind == "read":
                read = self.reads[trail.sources[0]]
                read.ended = read.ended or place != kept
                if self._is_head(read) and (place != kept or (followed.factor is None and trail.factor is not None)):
                    self.lost = call.name
        if call.name in JOINS and {trail.kind for trail in call.trails} == {"read"}:
            of = {self.reads[trail.sources[0]].sources for trail in call.trails}
            return call.trails[0].times(None) if len(of) == 1 else VALUE  # logits, made in chunks
        return followed

    def _number(self, value: Any) -> float | None:
        if isinstance(value, Tensor):
            if id(value) in self._numbers:
                value = self._numbers[id(value)]
            elif value.numel() == 1 and not value.is_meta:
                value = value.item()
        return float(value) if type(value) in {int, float} and value != 0 else None


def is_norm_layer(module: nn.Module) -> bool:
    """Return True if a module is a normalisation layer, by its class's name; a block that contains one is none."""
    return "norm" in type(module).__name__.lower() and next(module.children(), None) is None


@contextmanager
def watch_reads(module: nn.Module, trace: ReadTrace) -> Iterator[None]:
    """Run a block under a trace that also sees what each normalisation layer gives out; hooks go afterwards."""

    def note(_module: nn.Module, _args: Any, out: Any) -> None:
        trace.normalised(out)

    handles = [m.register_forward_hook(note) for m in module.modules() if is_norm_layer(m)]
    try:
        with trace:
            yield
    finally:
        for handle in handles:
            handle.remove()
