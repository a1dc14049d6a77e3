"""The facts of the live layer, and of a placement, from the module that was built or given; torch is imported late."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tiecheck.config.options import Config
from tiecheck.facts.registry import fact, field_fact
from tiecheck.records.declared import Architecture, ModelConfig
from tiecheck.records.report import View
from tiecheck.records.stored import Checkpoint, Group
from tiecheck.records.words import Kind, Unknown

if TYPE_CHECKING:
    from torch import nn

    from tiecheck.facts.registry import FactName
    from tiecheck.files.remote.reading import RemoteModel
    from tiecheck.live.build import Built
    from tiecheck.records.life import HeldTensor, SharedAcross
    from tiecheck.records.live import Head, KeyProblem, LiveClass, LiveModel
    from tiecheck.records.mending import Mending
    from tiecheck.records.placement import Placement
    from tiecheck.records.uses import TensorGradient, Uses
    from tiecheck.trace.inputs import Inputs


@fact
def built(
    folder: str,
    model_config: ModelConfig | None,
    checkpoint: Checkpoint | None,
    load_options: Config,
    fetched: RemoteModel | None,
) -> Built | Unknown:
    """Module that the config names, built on meta or loaded; or the one that was given."""
    from tiecheck.live.build import build_directory

    if fetched is not None and model_config is not None and model_config.remote_code:
        name = model_config.class_name or "the class"
        return Unknown(f"{name} is the model's own code, which is never fetched; download it")
    with _class_folder(folder, fetched) as directory:
        return build_directory(directory, model_config, checkpoint, load_options)


@contextmanager
def _class_folder(folder: str, fetched: RemoteModel | None) -> Iterator[str]:
    """Give the model's folder; for a remote model one with the config alone, while something is built of it."""
    if fetched is None:
        yield folder
        return
    from tiecheck.files.model_config import CONFIG_NAME

    with tempfile.TemporaryDirectory(prefix="tiecheck-") as directory:
        with open(os.path.join(directory, CONFIG_NAME), "wb") as file:
            file.write(fetched.config_text or b"{}")
        yield directory


@fact
def live(
    built: Built, contract: Config, checkpoint: Checkpoint | None, groups: tuple[Group, ...] | None
) -> LiveModel | Unknown:
    """All that was read of the module, and what its class says about it."""
    from tiecheck.live.live_facts import collect_live, contract_of
    from tiecheck.live.torch_adapter import is_scripted

    if is_scripted(built.module):
        return Unknown("TorchScript keeps its parameters where they cannot be told apart; check the module it came of")
    try:
        found = collect_live(built.module, origin=built.origin, contract=contract_of(built.module, contract))
    except Exception as error:  # noqa: BLE001  # a module that another's code has emptied
        return Unknown(f"the module cannot be read: {type(error).__name__}: {error}")
    if checkpoint is not None:
        found = found._replace(heads=tuple(h._replace(stored=_stores_head(h, checkpoint)) for h in found.heads))
    if built.origin != "loaded" or groups is None:
        return found
    return found._replace(
        declared=tuple(claim._replace(stored=_stored_kind(claim.names, groups)) for claim in found.declared)
    )


def _stores_head(head: Head, checkpoint: Checkpoint) -> bool | None:
    """Tell whether a checkpoint stores a head; None where it holds no embedding either.

    By the last two parts of the names: older files put other prefixes before them (`backbone.`, `language_model.`).
    """
    stored = {_tail(name) for name in checkpoint.names()}
    if any(_tail(name) in stored for name in head.head):
        return True
    return False if any(_tail(name) in stored for name in head.embedding) else None


def _tail(name: str) -> str:
    return ".".join(name.rsplit(".", 2)[-2:])


def _stored_kind(names: tuple[str, ...], groups: tuple[Group, ...]) -> Kind | None:
    """Return how the checkpoint stores the group that some live names belong to."""
    return next((g.stored for g in groups if not set(names).isdisjoint(g.names)), None)


@fact
def live_class(live: LiveModel, traced_uses: Uses | None) -> LiveClass:
    """Class of the module with its library, how it came to be, and what a traced pass uses twice."""
    from tiecheck.records.live import LiveClass

    roles: dict[tuple[str, ...], set[str]] = {}
    for use in traced_uses.uses if traced_uses is not None else ():
        roles.setdefault(use.names, set()).add(use.role)
    twice = tuple(names for names, found in roles.items() if {"embedding", "linear"} <= found)
    return LiveClass(live.class_name, live.origin, live.library, live.reasons, twice)


@fact
def mending(live: LiveModel) -> Mending:
    """Parts of the module that its mends have to know: wrappers, aliases, declared groups and their flags."""
    from tiecheck.records.mending import mending_of

    return mending_of(live)


PARTS: dict[FactName, tuple[str, str]] = {
    "live_ties": ("ties", "Groups of parameters that share a module, a `Parameter` or memory."),
    "aliases": ("aliases", "Modules with parameters that stand under several paths."),
    "declared_ties": (
        "declared",
        "Groups that the class or the user's contract declares as tied, as they really hang together.",
    ),
    "tie_candidates": ("candidates", "Groups that the classes would tie if their flags were true."),
    "heads": ("heads", "Input and output embeddings of each `PreTrainedModel` in the module."),
    "derived_weights": ("effects", "Members of ties that their module does not use as they are."),
    "bias_misfits": ("misfits", "Biases that do not fit the tied weight beside them."),
    "intended_differences": ("freezes", "Signs that tied members were meant to differ in `requires_grad` or dtype."),
    "equal_copies": ("equal", "Embeddings and linear layers with equal bytes that are two parameters."),
    "save_problems": ("unsaved", "Real ties that `save_pretrained` refuses or loses."),
}
"""Facts that are a field of the live layer -> the field, and what it is."""

for _name, (_field, _doc) in PARTS.items():
    field_fact(_name, "live", _field, _doc)


@fact
def key_problems(
    live: LiveModel | Unknown, folder: str | None, model_config: ModelConfig | None, load_options: Config
) -> tuple[KeyProblem, ...] | Unknown:
    """Mistakes in the class's own declaration, built or not."""
    if not isinstance(live, Unknown):
        return live.problems
    trust = load_options.trust_remote_code
    if folder is None or model_config is None or (model_config.remote_code and not trust):
        return live
    from tiecheck.live.transformers.loading import unbuilt_problems

    return unbuilt_problems(folder, model_config, trust=trust) or live


@fact
def tool_views(built: Built, live: LiveModel) -> tuple[View, ...]:
    """Groups that the installed tools see in the module, under the names that the live facts have."""
    from tiecheck.peers.views.registry import ask_tools

    found = ask_tools(built.module, run=True)
    if not live.wrappers:
        return found
    from tiecheck.live.module_graph import ModuleGraph
    from tiecheck.live.wrappers import UserNames

    user = UserNames(ModuleGraph(built.module))
    return tuple(v._replace(groups=tuple(map(user.all_of, v.groups)), dropped=user.all_of(v.dropped)) for v in found)


@fact
def held_tensors(
    built: Built, stepped_by: tuple[Any, ...], other_models: tuple[nn.Module, ...] | None
) -> tuple[HeldTensor, ...]:
    """Tensors that the given optimizers hold, and those of the module that train and are in none."""
    from tiecheck.live.held_by_others import tensors_in_optimizers

    return tensors_in_optimizers(built.module, stepped_by, other_models or ())


@fact
def across_models(built: Built, other_models: tuple[nn.Module, ...]) -> tuple[SharedAcross, ...]:
    """Tensors that the module shares with other models that were given, or holds as equal frozen copies."""
    from tiecheck.live.held_by_others import shared_across

    return shared_across(built.module, other_models)


@fact
def placement(
    built: Built,
    live: LiveModel,
    placing: Config,
    folder: str | None,
    model_config: ModelConfig | None,
    checkpoint: Checkpoint | None,
    groups: tuple[Group, ...] | None,
    architecture: Architecture,
    fetched: RemoteModel | None,
) -> Placement | Unknown:
    """Plans of the placement that was asked for, and what becomes of the ties under them."""
    from tiecheck.placement.collect import collect_placement
    from tiecheck.placement.load_outcomes import Source

    if folder is None:
        return collect_placement(built, live, Source(checkpoint=_to_load(placing)), placing)
    if fetched is not None and placing.dtype is None and checkpoint is not None:
        named = model_config is None or model_config.data.get("dtype") or model_config.data.get("torch_dtype")
        placing = placing if named else placing._replace(dtype=_first_dtype(checkpoint))
    with _class_folder(folder, fetched) as directory:
        source = Source(directory, model_config, checkpoint, groups or (), architecture)
        return collect_placement(built, live, source, placing)


def _to_load(placing: Config) -> Checkpoint | None:
    """Return what a live module is going to be loaded with."""
    if placing.checkpoint is None:
        return None
    from tiecheck.files.checkpoint import read_checkpoint

    return read_checkpoint(placing.checkpoint)


def _first_dtype(checkpoint: Checkpoint) -> str | None:
    """Return the type of the first stored tensor of floating point, which a load takes where the config names none."""
    for name in checkpoint.names():
        tensor = checkpoint.tensor(name)
        if tensor is not None and tensor.dtype in ("float64", "float32", "float16", "bfloat16"):
            return tensor.dtype
    return None


@fact
def traced_uses(built: Built, tracing: Config) -> Uses | Unknown:
    """Uses of each parameter in a forward pass, traced on meta."""
    from tiecheck.trace.uses import trace_uses

    return trace_uses(built.module, _inputs(tracing))


@fact
def gradients(built: Built, tracing: Config) -> tuple[TensorGradient, ...] | Unknown:
    """Gradients of tensors with several uses, and of each use, after one backward pass with real weights."""
    from tiecheck.trace.gradients import compare_gradients

    return compare_gradients(built.module, _inputs(tracing))


def _inputs(tracing: Config) -> Inputs | None:
    """Return the inputs that were asked for; None to make some up."""
    from tiecheck.trace.inputs import given_inputs, inputs_from_file

    given = tracing.inputs
    return inputs_from_file(given) if isinstance(given, str) else None if given is None else given_inputs(given)
