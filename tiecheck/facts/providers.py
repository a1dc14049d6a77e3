"""Which facts each type of target offers, and how each is made. What was not asked for is not on offer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tiecheck.config.options import Config
from tiecheck.facts.files import beside_providers
from tiecheck.facts.store import Facts
from tiecheck.files.model_config import read_config
from tiecheck.records.declared import Architecture, ModelConfig
from tiecheck.records.loaders import LoaderView
from tiecheck.records.stored import Checkpoint, Group
from tiecheck.records.words import Unknown
from tiecheck.targets.parse import Target

if TYPE_CHECKING:
    from torch import nn

    from tiecheck.live.build import Built
    from tiecheck.records.report import Counts


def facts_of(target: Target, config: Config) -> Facts:
    """The facts of a target given as text.

    Config and headers of a checkpoint are read at once: what is wrong with them is an error of the target, where
    a later layer that fails is a skip of its rules.

    Raises:
        TiecheckError: The target cannot be read.
    """
    if target.type == "module":
        from tiecheck.live.build import build_attribute

        return module_facts(build_attribute(target), config)
    return _checkpoint_facts(target, config)


def _checkpoint_facts(target: Target, config: Config) -> Facts:
    import os

    remote = None
    if target.remote:
        from tiecheck.files.remote.reading import read_address

        remote = read_address(target.path, config)
        if remote.local:
            target = target._replace(path=remote.local, remote=False)
    if remote is not None and target.remote:
        root, model, checkpoint = remote.address, remote.config, remote.checkpoint
    else:
        from tiecheck.files.checkpoint import read_checkpoint

        root = target.directory or os.path.dirname(os.path.abspath(target.path))
        model = read_config(root)
        checkpoint = read_checkpoint(target.path)
    providers: dict[str, Callable[[Facts], Any]] = {
        "config": lambda _: model if model is not None else Unknown("there is no config.json"),
        "checkpoint": lambda _: checkpoint if checkpoint is not None else Unknown("there are no weights"),
        "architecture": lambda _: _architecture(model),
        "groups": lambda facts: _groups(facts, model, checkpoint, config),
        "flags": lambda _: model.flags if model is not None else (),
        "loaders": lambda facts: _loaders(facts, model, checkpoint),
        "scale": lambda facts: _stored_scale(facts, checkpoint, config),
        "counts": lambda facts: _counts(facts, checkpoint, config),
    }
    if checkpoint is not None and checkpoint.index_file:
        providers["index"] = lambda _: checkpoint
    providers.update(beside_providers(target.directory, model, checkpoint, config))
    if config.wants_live:
        from tiecheck.facts.live import built_providers

        providers.update(built_providers(root, model, checkpoint, config))
    if remote is not None:
        from tiecheck.facts.remote import adapt

        adapt(providers, remote, config)
        if target.remote and config.values != "always" and not config.wants_live:
            from tiecheck.files.remote.repeated_headers import facts_of_twins

            return Facts(providers, facts_of_twins(model, checkpoint, config.values))
    return Facts(providers)


def module_facts(module: nn.Module, config: Config) -> Facts:
    """The facts of a live module that somebody else made."""
    from tiecheck.facts.live import given_providers

    return Facts({**given_providers(module, config), "counts": lambda facts: _counts(facts, None, config)})


def head_like(shape: tuple[int, ...] | None) -> bool:
    """Whether a tied tensor can be embedding and head at once: two dimensions, a row a token."""
    return shape is not None and len(shape) == 2 and shape[0] > 1 and shape[1] > 1


def _architecture(model: ModelConfig | None) -> Architecture:
    from tiecheck.tables.architectures import load_architecture

    if model is None:
        return Architecture(None, False, (), "there is no config.json that names the class", None)
    if model.remote_code:
        return Architecture(
            model.class_name, False, (), f"{model.class_name} is the directory's own code, which was not run", None
        )
    width = model.integer("hidden_size", "d_model", "n_embd")
    return load_architecture(model.class_name, model.model_type, width=width, config=model.data)


def _groups(
    facts: Facts, model: ModelConfig | None, checkpoint: Checkpoint | None, config: Config
) -> tuple[Group, ...] | Unknown:
    from tiecheck.stored.groups import build_groups

    if checkpoint is None:
        return Unknown("there are no weights of a whole model in the directory (an adapter is not judged yet)")
    architecture: Architecture = facts.get("architecture")
    groups = build_groups(model, architecture, checkpoint, config.values)
    pair = {architecture.head, architecture.embedding}
    if isinstance(groups, Unknown) or None in pair or any(pair <= set(tie.names) for tie in architecture.ties):
        return groups
    from tiecheck.stored.untied_in_five import inert_group

    inert = inert_group(model, architecture, checkpoint, config.values)
    return groups if inert is None else tuple(sorted((*groups, inert), key=lambda g: g.names))


def _loaders(
    facts: Facts, model: ModelConfig | None, checkpoint: Checkpoint | None
) -> tuple[LoaderView, ...] | Unknown:
    """What each loader makes of the groups."""
    groups: tuple[Group, ...] | Unknown = facts.get("groups")
    if isinstance(groups, Unknown) or checkpoint is None:
        return groups if isinstance(groups, Unknown) else Unknown("there are no weights")
    if not groups:
        return ()
    from tiecheck.peers.loaders.matrix import loader_views

    return loader_views(model, facts.get("architecture"), checkpoint, groups)


def _stored_scale(facts: Facts, checkpoint: Checkpoint | None, config: Config) -> Any:
    """What the stored bytes alone say of the scale of each tied, stored matrix."""
    groups = facts.get("groups")
    if isinstance(groups, Unknown):
        return groups
    tied = [g for g in groups if g.declared and g.tensors and head_like(g.tensors[0].shape)]
    if not tied or checkpoint is None:
        return ()
    if config.values == "never":
        return Unknown("the values were not to be read (--values never)")
    if checkpoint.format != "safetensors":
        return Unknown("the scale is read from safetensors only; use --load")
    from tiecheck.scale.stored import stored_scale

    scale = facts.get("architecture").head_scale
    return tuple(stored_scale(checkpoint, checkpoint.root, g.names, g.stored_names[0], scale) for g in tied)


def _counts(facts: Facts, checkpoint: Checkpoint | None, config: Config) -> Counts | Unknown:
    """How many parameters there are: in the module where there is one, else in the checkpoint."""
    built: Built | None = facts.known("built")
    if built is not None:
        from tiecheck.facts.live import contract_of
        from tiecheck.live.counts import count_live

        return count_live(built.module, contract_of(built.module, config))
    if checkpoint is None:
        return Unknown("there are no weights")
    from tiecheck.stored.counts import count_stored

    return count_stored(checkpoint, facts.get("groups"))
