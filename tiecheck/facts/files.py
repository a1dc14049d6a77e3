"""The facts on what lies beside and between the weights of a checkpoint: offered only where there is such a thing."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tiecheck.config.options import Config
from tiecheck.facts.store import Facts
from tiecheck.records.declared import Architecture, ModelConfig
from tiecheck.records.stored import Checkpoint, Group
from tiecheck.records.words import Unknown
from tiecheck.stored.optimizer_files import TRAINER, find_states

if TYPE_CHECKING:
    from tiecheck.live.build import Built

Providers = dict[str, Callable[[Facts], Any]]


def beside_providers(
    directory: str | None, model: ModelConfig | None, checkpoint: Checkpoint | None, config: Config
) -> Providers:
    """What makes the facts `duplicates`, `layouts`, `optimizer` and `strict_load`, where there is something to tell.

    Args:
        directory: The model directory; None for a single file, or one that is not local.
        model: Its config.
        checkpoint: Its weights.
        config: The options.
    """
    providers: Providers = {}
    names = _listed(directory) if directory else []
    states = find_states(directory, names) if directory else ()
    if checkpoint is not None and len(checkpoint.shards) > 1:
        providers["duplicates"] = lambda _: _duplicates(checkpoint, config)
    if directory and sum(name.startswith(("model.safetensors", "pytorch_model.bin")) for name in names) > 1:
        from tiecheck.stored.layouts import find_layouts

        layouts = find_layouts(names)
        if len(layouts) > 1:
            providers["layouts"] = lambda facts: _layouts(facts, directory, layouts, config)
    if directory and states:
        from tiecheck.stored.optimizer_ties import tied_moments

        providers["optimizer"] = lambda facts: tied_moments(
            directory, states, _ties(facts, model, checkpoint), checkpoint, config.values
        )
    resumed = tuple(name for name in (TRAINER,) if name in names) + states
    if checkpoint is not None and model is not None and model.class_name:
        from tiecheck.stored.strict_load import may_be_wrapped

        if resumed or may_be_wrapped(checkpoint):
            providers["strict_load"] = lambda facts: _strict_load(facts, checkpoint, resumed)
    return providers


def _listed(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:  # the checkpoint's own reader tells
        return []


def _duplicates(checkpoint: Checkpoint, config: Config) -> Any:
    from tiecheck.stored.repeated_names import duplicates

    return duplicates(checkpoint, config.values)


def _layouts(facts: Facts, directory: str, layouts: tuple[str, ...], config: Config) -> Any:
    groups: tuple[Group, ...] | Unknown = facts.get("groups")
    if isinstance(groups, Unknown):
        return groups
    from tiecheck.stored.layouts import layout_groups

    return layout_groups(directory, layouts, groups, facts.get("architecture"), config.values)


def _ties(facts: Facts, model: ModelConfig | None, checkpoint: Checkpoint | None) -> tuple[Group, ...] | Unknown:
    """The groups; where only a distributed checkpoint is there, those of class and config."""
    groups: tuple[Group, ...] | Unknown = facts.get("groups")
    if isinstance(groups, Unknown) and checkpoint is None:
        from tiecheck.stored.groups import build_groups

        return build_groups(model, facts.get("architecture"), None, "never")
    return groups


def _strict_load(facts: Facts, checkpoint: Checkpoint, resumed: tuple[str, ...]) -> Any:
    from tiecheck.stored.strict_load import strict_load

    architecture: Architecture = facts.get("architecture")
    built: Built | None = facts.known("built")
    names = built.module.state_dict().keys() if built is not None else ()
    return strict_load(checkpoint, architecture, facts.get("groups"), names, resumed)
