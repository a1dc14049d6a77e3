"""Modules that only wrap another one, and the names that the wrapped model has without them.

torch itself writes a state dict's names without most of these (`torch.distributed.checkpoint.state_dict._get_fqns`,
2.13): nobody who compiled a Llama calls its head `_orig_mod.lm_head`. A wrapper is known by the qualified name of its
class, so that no library is imported to be looked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from tiecheck.config.options import class_path
from tiecheck.live.module_graph import CAP, ModuleGraph
from tiecheck.records.hops import Hop, Route
from tiecheck.records.live import LiveModel

PEFT = "PEFT"
"""Title of the wrappers of PEFT."""

INNER: Mapping[str, tuple[str, str]] = {
    "torch._dynamo.eval_frame.OptimizedModule": ("_orig_mod", "torch.compile"),
    "torch.nn.parallel.distributed.DistributedDataParallel": ("module", "DistributedDataParallel"),
    "torch.nn.parallel.data_parallel.DataParallel": ("module", "DataParallel"),
    "torch.optim.swa_utils.AveragedModel": ("module", "AveragedModel"),
    "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel": ("_fsdp_wrapped_module", "FSDP"),
    "torch.distributed.algorithms._checkpoint.checkpoint_wrapper.ActivationWrapper": (
        "_checkpoint_wrapped_module",
        "activation checkpointing",
    ),
    "deepspeed.runtime.engine.DeepSpeedEngine": ("module", "DeepSpeed"),
    "peft.peft_model.PeftModel": ("base_model", PEFT),
    "peft.tuners.tuners_utils.BaseTuner": ("model", PEFT),
    "peft.tuners.tuners_utils.BaseTunerLayer": ("base_layer", PEFT),
    "peft.utils.other.AuxiliaryTrainingWrapper": ("original_module", PEFT),
}
"""Class -> the attribute that holds what it wraps, and what users call it (torch 2.13, peft 0.21)."""

SHARDED = "torch.distributed.fsdp.FSDPModule"
"""Class that FSDP2 mixes into that of a module that it shards in place: names stay, the class's own name changes."""

FSDP2 = "FSDP2"
"""Title of a module that it sharded among the wrappers."""

_SHARDS: dict[type, bool] = {}
_KNOWN: dict[type, tuple[str, str] | None] = {}


def wrapper_of(module: nn.Module) -> tuple[str, str] | None:
    """Return the attribute that holds what a module wraps, and the wrapper's title; None for any other module."""
    found = _known(type(module))
    return found if found is not None and found[0] in module._modules else None


def _known(cls: type) -> tuple[str, str] | None:
    if cls not in _KNOWN:
        _KNOWN[cls] = next((INNER[name] for base in cls.__mro__ if (name := class_path(base)) in INNER), None)
    return _KNOWN[cls]


def saved_name(name: str) -> str:
    """Return a name as the state dict has it: of torch's wrappers inside a model checkpointing alone hides (2.13)."""
    return name.replace("_checkpoint_wrapped_module.", "")


def without_wrappers(module: nn.Module) -> nn.Module:
    """Return the model inside any number of wrappers."""
    for _ in range(64):  # a wrapper that holds itself ends here
        found = wrapper_of(module)
        inner = module._modules[found[0]] if found else None
        if inner is None:
            break
        module = inner
    return module


def own_class(module: nn.Module) -> type[nn.Module]:
    """Return a module's own class: of what is wrapped, and without what FSDP2 makes of it."""
    cls = type(without_wrappers(module))
    if _is_sharded(cls):
        own = [base for base in cls.__mro__[1:] if class_path(base) != SHARDED]
        cls = own[0] if own else cls
    return cls


def _is_sharded(cls: type) -> bool:
    if cls not in _SHARDS:
        _SHARDS[cls] = any(class_path(base) == SHARDED for base in cls.__mro__)
    return _SHARDS[cls]


def class_name(module: nn.Module) -> str:
    """Return the name of a module's own class."""
    return own_class(module).__name__


def child_through_wrappers(owner: nn.Module, label: str) -> nn.Module | None:
    """Return the module that a label names below another, wrappers passed through; None where there is none."""
    for _ in range(64):
        inner = owner._modules[label] if label in owner._modules else None  # noqa: SIM401  # a script module's
        if inner is not None:
            return inner
        found = wrapper_of(owner)
        if found is None:
            return None
        owner = owner._modules[found[0]]  # type: ignore[assignment]  # `wrapper_of` has looked
    return None


def library_config(module: nn.Module) -> Mapping[str, Any]:
    """Return the config of a model of one of transformers' own classes; empty for any other module."""
    model: Any = without_wrappers(module)
    if not type(model).__module__.startswith("transformers.models."):
        return {}
    try:
        return dict(model.config.to_dict())
    except Exception:  # noqa: BLE001  # it may have been replaced by anything
        return {}


class UserNames:
    """Writes the names of a model as its user knows them: without the wrappers' own parts."""

    def __init__(self, graph: ModuleGraph) -> None:
        classes = set(map(type, graph.modules))
        wraps = any(map(_known, classes))
        found = [w for module in graph.modules if (w := wrapper_of(module)) is not None] if wraps else []
        sharded = any(map(_is_sharded, classes))
        self._root = graph.modules[0]
        self._labels = {label for label, _ in found}
        self.wrappers = (*dict.fromkeys(title for _, title in found), *([FSDP2] if sharded else []))
        """Titles of the wrappers, from the outside in."""

    def of(self, name: str) -> str:
        """Write one name of a parameter, buffer or module, without wrappers."""
        if not self._labels:
            return name
        parts = name.split(".")
        if self._labels.isdisjoint(parts):
            return name
        kept = []
        module: nn.Module | None = self._root
        for part in parts:
            found = wrapper_of(module) if module is not None else None
            if found is None or found[0] != part:
                kept.append(part)
            module = module._modules.get(part) if module is not None else None
        return ".".join(kept)

    def all_of(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Write some names without wrappers, sorted anew."""
        return tuple(sorted({self.of(name) for name in names})) if self._labels else names


def route_of(graph: ModuleGraph, user: UserNames) -> Route:
    """Return how Python goes through the wrappers of a module, from the outside in, and its dictionaries."""
    keyed = (n for n, module in enumerate(graph.modules) if isinstance(module, (nn.ModuleDict, nn.ParameterDict)))
    paths = tuple(user.of(prefix.removesuffix(".")) for number in keyed for prefix in graph.prefixes(number, CAP))
    return Route(_hops(graph, user) if user.wrappers else (), paths)


def _hops(graph: ModuleGraph, user: UserNames) -> tuple[Hop, ...]:
    found: list[tuple[str, Hop]] = []
    for number, module in enumerate(graph.modules):
        held = wrapper_of(module)
        if held is None:
            continue
        inner: Any = module._modules[held[0]]
        passes = all(getattr(module, label, None) is child for label, child in inner._modules.items())
        own = tuple(label for label in module._modules if label != held[0])
        hop = Hop("", *held, passes, hasattr(type(module), "__getitem__"), own)
        paths = [prefix.removesuffix(".") for prefix in graph.prefixes(number, CAP)]
        found += [(path, hop._replace(path=user.of(path))) for path in paths]
    return tuple(hop for _, hop in sorted(found, key=lambda one: one[0].count(".") + bool(one[0])))


def with_user_names(live: LiveModel, user: UserNames) -> LiveModel:
    """Return the facts of a wrapped module with every name as its user knows it."""
    of, all_of = user.of, user.all_of
    return live._replace(
        ties=tuple(sorted((t._replace(names=all_of(t.names)) for t in live.ties), key=lambda t: t.names)),
        aliases=tuple(a._replace(paths=all_of(a.paths), names=all_of(a.names)) for a in live.aliases),
        declared=tuple(
            d._replace(
                names=all_of(d.names),
                source=of(d.source),
                by=tuple(map(of, d.by)),
                parts=tuple(map(all_of, d.parts)),
                missing=all_of(d.missing),
                buffers=all_of(d.buffers),
                unfit=all_of(d.unfit),
                biases=all_of(d.biases),
            )
            for d in live.declared
        ),
        candidates=tuple(
            c._replace(
                names=all_of(c.names), source=of(c.source), by=tuple(map(of, c.by)), empty=tuple(map(of, c.empty))
            )
            for c in live.candidates
        ),
        problems=tuple(p._replace(model=of(p.model), names=tuple(map(of, p.names))) for p in live.problems),
        heads=tuple(
            h._replace(
                embedding=all_of(h.embedding),
                head=all_of(h.head),
                usual=of(h.usual) if h.usual else None,
                older=tuple(map(all_of, h.older)),
            )
            for h in live.heads
        ),
        effects=tuple(e._replace(name=of(e.name)) for e in live.effects),
        equal=tuple((of(table), of(head)) for table, head in live.equal),
        misfits=tuple(m._replace(bias=of(m.bias), weight=of(m.weight)) for m in live.misfits),
        freezes=tuple(f._replace(names=all_of(f.names), where=of(f.where)) for f in live.freezes),
        unsaved=tuple(u._replace(names=all_of(u.names), dropped=all_of(u.dropped)) for u in live.unsaved),
        fixed=tuple(map(of, live.fixed)),
        sharded_apart=tuple(map(all_of, live.sharded_apart)),
    )
