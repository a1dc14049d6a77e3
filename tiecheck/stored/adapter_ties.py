"""The ties of a base that its adapter meets, by the names of the adapter's own tensors.

The names tell what was adapted, whatever form the config has it in (lists, patterns, `all-linear`, defaults): below
`base_model.model.` comes the path of the module, then what was trained of it. Held against PEFT 0.15 to 0.21.
"""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.files.compare.equality import compare_bytes
from tiecheck.files.compare.spans import opened_members
from tiecheck.records.artefacts import AdaptedTie, Adapter, AdapterBase, AdapterTies, Change
from tiecheck.records.stored import Comparison
from tiecheck.records.words import Unknown

PREFIX = "base_model.model."
HEADS = ("lm_head", "embed_out", "output_projection")
"""Last parts of the paths that a head has in the classes that have one."""

KEPT = ("base_layer.", "original_module.", "modules_to_save.")
"""Beginnings of what PEFT keeps of a module beside its update (`save_embedding_layers`), or copy (`bias="all"`)."""

ENSURED = {"embed_tokens", "lm_head"}
"""Last parts of the paths by which `ensure_weight_tying` knows a tied module (peft 0.21, `EMBEDDING_LAYER_NAMES`)."""


def adapter_ties(adapter: Adapter, base: AdapterBase, *, values: bool) -> AdapterTies | Unknown:
    """Return what an adapter does to each tie of its base; `values` lets bytes be read, to compare copies."""
    names = tuple(name.removeprefix(PREFIX) for name in adapter.checkpoint.names() if _of_module(adapter, name))
    if adapter.kind == "LORA" and (why := next(_refusals(adapter, base, names), None)) is not None:
        return Unknown(why)
    found = []
    for group in base.groups:
        modules = {name: module for name in group.names if (module := _module(name, names)) is not None}
        ways = ((name, _way(adapter, module, names)) for name, module in modules.items())
        met = tuple(
            (n, way) for n, way in ways if way and not (way == "added" and values and _idle(adapter, modules[n]))
        )
        if not met:
            continue
        if group.declared is None or (group.declared and group.stored in {"separate", "storage", "unknown"}):
            why = group.reason or "its stored members differ"
            return Unknown(f"the base's own tie of {' and '.join(group.names[:4])} is not sound: {why}; judge it first")
        if group.declared:
            copies = [modules[name] for name, way in met if way == "copied"]
            known = not ENSURED.isdisjoint(word.rpartition(".")[2] for word in adapter.saved)
            kept = adapter.ensured and known and not any(_split_off(adapter, module) for module in copies)
            found.append(AdaptedTie(group, met, _compared(adapter, copies) if values else None, kept))
    homeless: tuple[str, ...] = ()
    if base.known and base.head is None:
        members = {name for group in base.groups for name in group.names}
        told = (_module(f"{word}.weight", names) for word in HEADS)
        homeless = tuple(m for m in told if m is not None and f"{m}.weight" not in members)
    return AdapterTies(adapter, base, tuple(found), homeless, tuple(_misfits(adapter, base, names)))


def _refusals(adapter: Adapter, base: AdapterBase, names: tuple[str, ...]) -> Iterator[str]:
    """Yield what keeps PEFT (0.21) from loading the adapter onto this base, as far as names and shapes tell."""
    members = {name.removesuffix(".weight") for group in base.groups for name in group.names}
    pairs = {name.removesuffix(".lora_A.weight") for name in names if name.endswith(".lora_A.weight")} - members
    tensors = base.checkpoint.tensor if base.checkpoint is not None else lambda _name: None
    parts = {part for name in base.checkpoint.names() for part in name.split(".")} if base.checkpoint else set()
    if parts and pairs and parts.isdisjoint(module.rpartition(".")[2] for module in pairs):
        yield f"its base stores none of the modules that the adapter has weights of, {min(pairs)} the first"
    for module in sorted(pairs):
        weight = tensors(f"{module}.weight")
        a, b = (adapter.checkpoint.tensor(f"{PREFIX}{module}.lora_{side}.weight") for side in "AB")
        if weight is None or a is None or b is None or not weight.dtype.startswith(("float", "bfloat")):
            continue
        shapes = weight.shape, a.shape, b.shape
        if all(len(shape) == 2 for shape in shapes) and weight.shape not in _fits(a.shape[1], b.shape[0]):
            size = [b.shape[0], a.shape[1]]
            yield f"{module} is {list(weight.shape)} in the base, and the update of it is for {size}: PEFT refuses it"
    for group in base.groups:
        modules = [name.removesuffix(".weight") for name in group.names]
        asked = [m for m in modules if any(f".{m}".endswith(f".{word}") for word in adapter.saved)]
        if asked and not any(_module(name, names) for name in group.names):
            yield f"adapter_config.json names {asked[0]} as trained whole, and the file lacks it: PEFT raises"


def _fits(columns: int, rows: int) -> tuple[tuple[int, int], tuple[int, int]]:
    return (rows, columns), (columns, rows)  # of a Linear, and of a Conv1D


def _idle(adapter: Adapter, module: str) -> bool:
    """Tell whether the update of a module is nothing: one of its two matrices is as LoRA makes it, all zeros."""
    ends = ("lora_B.weight", "lora_embedding_A")
    tensors = [t for end in ends if (t := adapter.checkpoint.tensor(f"{PREFIX}{module}.{end}")) is not None]
    scaled = any(name.startswith(f"{PREFIX}{module}.lora_magnitude") for name in adapter.checkpoint.names())
    if scaled or not tensors or adapter.checkpoint.remote is not None:
        return False
    found = compare_bytes(adapter.checkpoint, (tensors[0],))
    if isinstance(found, Unknown) or not found.constant:
        return False
    with opened_members(adapter.checkpoint, tensors[:1]) as (span,):
        return not any(span.read(0, min(tensors[0].nbytes, 16)))


ROWS = {"weight": 0, "base_layer.weight": 0, "lora_B.weight": 0, "lora_embedding_A": 1}
"""Ends of an adapter's tensors of an embedding or head -> the dimension that has its rows (peft 0.21)."""


def _misfits(adapter: Adapter, base: AdapterBase, names: tuple[str, ...]) -> Iterator[tuple[str, int, int]]:
    """Yield the members of which the adapter has tensors of other rows than the base stores."""
    for group in base.groups:
        stored = dict(zip(group.stored_names, group.tensors, strict=False))
        for name in group.names if adapter.kind != "mlx" else ():
            module, held = _module(name, names), stored.get(name) or (group.tensors[0] if group.declared else None)
            for end, dimension in ROWS.items() if module is not None and held is not None and held.shape else ():
                tensor = adapter.checkpoint.tensor(f"{PREFIX}{module}.{end}")
                rows = tensor.shape[dimension] if tensor is not None and len(tensor.shape) == 2 else None
                if held is not None and rows not in (None, held.shape[0]):
                    yield name, rows, held.shape[0]
                    break


def _of_module(adapter: Adapter, name: str) -> bool:
    """Tell whether a tensor belongs to a module of the base: not a prompt's embeddings, nor what modules share."""
    return adapter.kind == "mlx" or name.startswith(PREFIX)


def _module(name: str, names: tuple[str, ...]) -> str | None:
    """Return the path under which an adapter has a member's module: the member's own, or one with its last part."""
    module = name.removesuffix(".weight")
    if any(path.startswith(f"{module}.") for path in names):
        return module
    last = module.rpartition(".")[2]
    alike = {path[: at + len(last) + 1] for path in names if (at := path.find(f".{last}.")) >= 0}
    alike |= {last for path in names if path.startswith(f"{last}.")}
    return alike.pop() if len(alike) == 1 else None


def _way(adapter: Adapter, module: str, names: tuple[str, ...]) -> Change | None:
    """Return the way in which a module is changed; None where all that is stored of it is its unchanged weight."""
    rests = {path[len(module) + 1 :] for path in names if path.startswith(f"{module}.")}
    rests = {rest for rest in rests if not rest.startswith(KEPT)}
    if any("trainable_tokens" in rest for rest in rests):
        return "tokens"
    if adapter.kind == "LN_TUNING" and rests - {"weight", "bias"}:  # trains a copy of the module
        return "copied"
    if rests - {"weight", "bias"}:
        return "added"
    # PEFT compares ends of paths without a dot: modules_to_save=["head"] is lm_head.
    copied = adapter.ensured or any(module.endswith(word) for word in adapter.saved)
    return "copied" if "weight" in rests and copied else None


def _split_off(adapter: Adapter, module: str) -> bool:
    """Tell whether a word names a copy by a part of its last name: PEFT ties what whole names name alone."""
    return any(module.endswith(word) and not f".{module}".endswith(f".{word}") for word in adapter.saved)


def _compared(adapter: Adapter, modules: list[str]) -> Comparison | Unknown | None:
    """Hold the copies of several members against each other."""
    own = "ln_tuning_layers.weight" if adapter.kind == "LN_TUNING" else "weight"
    names = (f"{PREFIX}{module}." for module in modules)
    held = (adapter.checkpoint.tensor(name + own) or adapter.checkpoint.tensor(f"{name}weight") for name in names)
    tensors = tuple(tensor for tensor in held if tensor is not None)
    if len(tensors) < 2:
        return None
    if len({(t.dtype, t.shape) for t in tensors}) > 1:
        return Unknown("they have not one shape and type")
    remote = adapter.checkpoint.remote
    found: Comparison | Unknown = remote.compare(tensors) if remote else compare_bytes(adapter.checkpoint, tensors)
    return found
