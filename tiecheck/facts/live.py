"""How the facts of the live layer are made, from the module that was built or given; torch is imported late."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tiecheck.config.options import Config
from tiecheck.records.declared import ModelConfig
from tiecheck.records.scale import InitScale
from tiecheck.records.stored import Checkpoint, Group
from tiecheck.records.words import TIED, Kind, Unknown

if TYPE_CHECKING:
    from torch import nn

    from tiecheck.facts.store import Facts
    from tiecheck.live.build import Built
    from tiecheck.live.collect import Contract
    from tiecheck.records.live import Head, KeyProblem, LiveModel, Tie
    from tiecheck.records.placement import Placement
    from tiecheck.records.report import View


def built_providers(
    root: str, model: ModelConfig | None, checkpoint: Checkpoint | None, config: Config
) -> dict[str, Callable[[Facts], Any]]:
    """What a model directory offers once its class is to be built."""
    from tiecheck.live.build import build_directory

    return {
        "built": lambda _: build_directory(root, model, checkpoint, config),
        "live": lambda facts: _live(facts, checkpoint, config),
        "keys": lambda facts: _keys(facts, root, model, config),
        "views": _views,
        "scale": lambda facts: _built_scale(facts, checkpoint),
        **_placement(config, lambda: (root, model, checkpoint)),
    }


def given_providers(module: nn.Module, config: Config) -> dict[str, Callable[[Facts], Any]]:
    """What a live module that somebody else made offers."""
    from tiecheck.live.build import Built

    built = Built(module, "given")
    return {
        "built": lambda _: built,
        "live": lambda facts: _live(facts, None, config),
        "keys": lambda facts: facts.get("live").problems,
        "scale": lambda facts: _given_scale(module, facts, config),
        "views": _views,
        **_placement(config, lambda: (None, None, _to_load(config))),
    }


def _placement(
    config: Config, source: Callable[[], tuple[str | None, ModelConfig | None, Checkpoint | None]]
) -> dict[str, Callable[[Facts], Any]]:
    """The placement layer, where it was asked for."""
    if config.device_map is None:
        return {}

    def made(facts: Facts) -> Placement | Unknown:
        from tiecheck.placement.collect import collect_placement
        from tiecheck.placement.load_outcomes import Source

        found = Source(*source(), facts.known("groups") or (), facts.known("architecture"))
        return collect_placement(facts.get("built"), facts.get("live"), found, config)

    return {"placement": made}


def _to_load(config: Config) -> Checkpoint | None:
    """What a live module is going to be loaded with."""
    if config.checkpoint is None:
        return None
    from tiecheck.files.checkpoint import read_checkpoint

    return read_checkpoint(config.checkpoint)


def _live(facts: Facts, checkpoint: Checkpoint | None, config: Config) -> LiveModel | Unknown:
    built: Built | Unknown = facts.get("built")
    if isinstance(built, Unknown):
        return built
    from tiecheck.live.collect import collect_live

    live = collect_live(built.module, origin=built.origin, contract=contract_of(built.module, config))
    if checkpoint is not None:
        live = live._replace(heads=tuple(head._replace(stored=_head_stored(head, checkpoint)) for head in live.heads))
    groups = facts.known("groups") if built.origin == "loaded" else None
    if groups is None:
        return live
    return live._replace(
        declared=tuple(claim._replace(stored=_stored_kind(claim.names, groups)) for claim in live.declared)
    )


def contract_of(module: nn.Module, config: Config) -> Contract:
    """What the user says is tied in a module of its class, and in the modules inside of theirs."""
    from tiecheck.live.collect import Contract
    from tiecheck.live.wrappers import own_class, unwrapped

    if not config.ties:
        return Contract((), config.ties_from)
    groups = list(config.ties_of(own_class(module)))
    outermost = unwrapped(module)
    for path, inner in outermost.named_modules():
        if inner is not outermost:
            groups += [tuple(f"{path}.{name}" for name in group) for group in config.ties_of(own_class(inner))]
    return Contract(tuple(dict.fromkeys(groups)), config.ties_from)


def _head_stored(head: Head, checkpoint: Checkpoint) -> bool | None:
    """Whether a checkpoint stores a head; None where it holds no embedding either.

    By the last two parts of the names: older files put other prefixes before them (`backbone.`, `language_model.`).
    """
    stored = {_tail(name) for name in checkpoint.names()}
    if any(_tail(name) in stored for name in head.head):
        return True
    return False if any(_tail(name) in stored for name in head.embedding) else None


def _tail(name: str) -> str:
    return ".".join(name.rsplit(".", 2)[-2:])


def _stored_kind(names: tuple[str, ...], groups: tuple[Group, ...]) -> Kind | None:
    """How the checkpoint stores the group that some live names belong to."""
    return next((g.stored for g in groups if not set(names).isdisjoint(g.names)), None)


def _keys(facts: Facts, root: str, model: ModelConfig | None, config: Config) -> tuple[KeyProblem, ...] | Unknown:
    """What is wrong with the declaration of a directory's class, built or not."""
    live: LiveModel | Unknown = facts.get("live")
    if not isinstance(live, Unknown):
        return live.problems
    if model is None or (model.remote_code and not config.trust_remote_code):
        return live
    from tiecheck.live.transformers.loading import unbuilt_problems

    return unbuilt_problems(root, model, trust=config.trust_remote_code) or live


def _views(facts: Facts) -> tuple[View, ...] | Unknown:
    """What the tools that are installed see in the module, under the names that the live facts have."""
    built: Built | Unknown = facts.get("built")
    live: LiveModel | Unknown = facts.get("live")
    if isinstance(built, Unknown) or isinstance(live, Unknown):
        return built if isinstance(built, Unknown) else Unknown("the live layer is unknown")
    from tiecheck.peers.views.registry import views_of

    views = views_of(built.module, run=True)
    if not live.wrappers:
        return views
    from tiecheck.live.module_graph import ModuleGraph
    from tiecheck.live.wrappers import UserNames

    user = UserNames(ModuleGraph(built.module))
    return tuple(v._replace(groups=tuple(map(user.all_of, v.groups)), dropped=user.all_of(v.dropped)) for v in views)


def _built_scale(facts: Facts, checkpoint: Checkpoint | None) -> Any:
    """The scale by the class that was built: with its weights, or on meta with the stored bytes' deviation."""
    built: Built | Unknown = facts.get("built")
    live: LiveModel | Unknown = facts.get("live")
    if isinstance(built, Unknown):
        return built
    if isinstance(live, Unknown):
        return live
    from tiecheck.scale.live import live_scale

    names = [tie.names for tie in _embedding_ties(live)]
    if built.origin == "loaded":
        return tuple(live_scale(built.module, group) for group in names)
    if names and (checkpoint is None or checkpoint.format != "safetensors"):
        return Unknown("on meta there are no values, and there is no safetensors file to read them from; use --load")
    known: tuple[Group, ...] | Unknown = facts.get("groups")
    groups = () if isinstance(known, Unknown) else known
    return tuple(_meta_scale(built, checkpoint, group, groups) for group in names) if checkpoint else ()


def _meta_scale(
    built: Built, checkpoint: Checkpoint, names: tuple[str, ...], groups: tuple[Group, ...]
) -> InitScale | Unknown:
    """The deviation from the file, the way from head to logits from the module on meta."""
    from tiecheck.scale.live import live_scale
    from tiecheck.scale.stored import stored_scale

    spelled = (n for group in groups if not set(names).isdisjoint(group.names) for n in group.stored_names)
    stored = next((name for name in (*names, *spelled) if name in checkpoint), None)
    if stored is None:
        return Unknown(f"none of {', '.join(names)} is stored under a name that is known")
    scale = stored_scale(checkpoint, checkpoint.root, names, stored, None)
    if isinstance(scale, Unknown) or not scale.untrained:
        return scale
    traced = live_scale(built.module, names, std=scale.std)
    if isinstance(traced, Unknown):
        return traced
    return traced._replace(untrained=scale.untrained, evidence=scale.evidence)


def _embedding_ties(live: LiveModel) -> list[Tie]:
    """The real ties that can be embedding and head: a matrix that an embedding of some kind registers."""
    from tiecheck.facts.providers import head_like

    return [
        tie
        for tie in live.ties
        if tie.kind in TIED
        and head_like(tie.shape)
        and any("embedding" in place.owner.lower() for place in tie.registrations)
    ]


def _given_scale(module: nn.Module, facts: Facts, config: Config) -> Any:
    """The scale of a module that somebody else made, whose values are there."""
    from tiecheck.live.wrappers import unwrapped
    from tiecheck.scale.live import live_scale

    live: LiveModel = facts.get("live")
    if config.values == "never":
        return Unknown("the values were not to be read (--values never)")
    return tuple(live_scale(unwrapped(module), tie.names) for tie in _embedding_ties(live))
