"""Which facts each type of target offers, and how each is made. What was not asked for is not on offer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tiecheck.collect.beside import beside_providers
from tiecheck.collect.config import read_config
from tiecheck.collect.store import Facts
from tiecheck.config import Config
from tiecheck.facts import TIED, Architecture, Checkpoint, Group, InitScale, Kind, LoaderView, ModelConfig, Unknown
from tiecheck.targets import Target

if TYPE_CHECKING:
    from torch import nn

    from tiecheck.collect.build import Built
    from tiecheck.collect.live import Contract
    from tiecheck.facts_live import Head, KeyProblem, LiveModel, Tie
    from tiecheck.report import Counts, View


def facts_of(target: Target, config: Config) -> Facts:
    """The facts of a target given as text.

    Config and headers of a checkpoint are read at once: what is wrong with them is an error of the target, where
    a later layer that fails is a skip of its rules.

    Raises:
        TiecheckError: The target cannot be read.
    """
    if target.type == "module":
        from tiecheck.collect.build import build_attribute

        return module_facts(build_attribute(target), config)
    return _checkpoint_facts(target, config)


def _checkpoint_facts(target: Target, config: Config) -> Facts:
    import os

    remote = None
    if target.remote:
        from tiecheck.collect.remote.reading import read_address

        remote = read_address(target.path, config)
        if remote.local:
            target = target._replace(path=remote.local, remote=False)
    if remote is not None and target.remote:
        root, model, checkpoint = remote.address, remote.config, remote.checkpoint
    else:
        from tiecheck.collect.checkpoint import read_checkpoint

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
        from tiecheck.collect.build import build_directory

        providers["built"] = lambda _: build_directory(root, model, checkpoint, config)
        providers["live"] = lambda facts: _live(facts, checkpoint, config)
        providers["keys"] = lambda facts: _keys(facts, root, model, config)
        providers["views"] = _views
        providers["scale"] = lambda facts: _built_scale(facts, checkpoint)
    if remote is not None:
        from tiecheck.collect.remote.offer import adapt

        adapt(providers, remote, config)
        if target.remote and config.values != "always" and not config.wants_live:
            from tiecheck.collect.remote.known import facts_of_twins

            return Facts(providers, facts_of_twins(model, checkpoint, config.values))
    return Facts(providers)


def module_facts(module: nn.Module, config: Config) -> Facts:
    """The facts of a live module that somebody else made."""
    from tiecheck.collect.build import Built

    def live(_: Facts) -> LiveModel:
        from tiecheck.collect.live import collect_live

        return collect_live(module, origin="given", contract=_contract(module, config))

    def scale(facts: Facts) -> Any:
        from tiecheck.collect.scale_live import live_scale
        from tiecheck.collect.wrappers import unwrapped

        model: LiveModel = facts.get("live")
        if config.values == "never":
            return Unknown("the values were not to be read (--values never)")
        return tuple(live_scale(unwrapped(module), tie.names) for tie in _embedding_ties(model))

    built = Built(module, "given")
    return Facts(
        {
            "built": lambda _: built,
            "live": live,
            "keys": lambda facts: facts.get("live").problems,
            "scale": scale,
            "counts": lambda facts: _counts(facts, None, config),
            "views": _views,
        }
    )


def _head_like(shape: tuple[int, ...] | None) -> bool:
    """Whether a tied tensor can be embedding and head at once: two dimensions, a row a token."""
    return shape is not None and len(shape) == 2 and shape[0] > 1 and shape[1] > 1


def _embedding_ties(live: LiveModel) -> list[Tie]:
    """The real ties that can be embedding and head: a matrix that an embedding of some kind registers."""
    return [
        tie
        for tie in live.ties
        if tie.kind in TIED
        and _head_like(tie.shape)
        and any("embedding" in place.owner.lower() for place in tie.registrations)
    ]


def _architecture(model: ModelConfig | None) -> Architecture:
    from tiecheck.collect.architectures import load_architecture

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
    from tiecheck.collect.groups import build_groups

    if checkpoint is None:
        return Unknown("there are no weights of a whole model in the directory (an adapter is not judged yet)")
    architecture: Architecture = facts.get("architecture")
    groups = build_groups(model, architecture, checkpoint, config.values)
    pair = {architecture.head, architecture.embedding}
    if isinstance(groups, Unknown) or None in pair or any(pair <= set(tie.names) for tie in architecture.ties):
        return groups
    from tiecheck.collect.inert import inert_group

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
    from tiecheck.collect.loaders import loader_views

    return loader_views(model, facts.get("architecture"), checkpoint, groups)


def _stored_scale(facts: Facts, checkpoint: Checkpoint | None, config: Config) -> Any:
    """What the stored bytes alone say of the scale of each tied, stored matrix."""
    groups = facts.get("groups")
    if isinstance(groups, Unknown):
        return groups
    tied = [g for g in groups if g.declared and g.tensors and _head_like(g.tensors[0].shape)]
    if not tied or checkpoint is None:
        return ()
    if config.values == "never":
        return Unknown("the values were not to be read (--values never)")
    if checkpoint.format != "safetensors":
        return Unknown("the scale is read from safetensors only; use --load")
    from tiecheck.collect.scale import stored_scale

    scale = facts.get("architecture").head_scale
    return tuple(stored_scale(checkpoint, checkpoint.root, g.names, g.stored_names[0], scale) for g in tied)


def _counts(facts: Facts, checkpoint: Checkpoint | None, config: Config) -> Counts | Unknown:
    """How many parameters there are: in the module where there is one, else in the checkpoint."""
    built: Built | None = facts.known("built")
    if built is not None:
        from tiecheck.collect.counts_live import count_live

        return count_live(built.module, _contract(built.module, config))
    if checkpoint is None:
        return Unknown("there are no weights")
    from tiecheck.collect.counts_stored import count_stored

    return count_stored(checkpoint, facts.get("groups"))


def _views(facts: Facts) -> tuple[View, ...] | Unknown:
    """What the tools that are installed see in the module, under the names that the live facts have."""
    built: Built | Unknown = facts.get("built")
    live: LiveModel | Unknown = facts.get("live")
    if isinstance(built, Unknown) or isinstance(live, Unknown):
        return built if isinstance(built, Unknown) else Unknown("the live layer is unknown")
    from tiecheck.peers.views import views_of

    views = views_of(built.module, run=True)
    if not live.wrappers:
        return views
    from tiecheck.collect.alias_graph import ModuleGraph
    from tiecheck.collect.wrappers import UserNames

    user = UserNames(ModuleGraph(built.module))
    return tuple(v._replace(groups=tuple(map(user.all_of, v.groups)), dropped=user.all_of(v.dropped)) for v in views)


def _live(facts: Facts, checkpoint: Checkpoint | None, config: Config) -> LiveModel | Unknown:
    built: Built | Unknown = facts.get("built")
    if isinstance(built, Unknown):
        return built
    from tiecheck.collect.live import collect_live

    live = collect_live(built.module, origin=built.origin, contract=_contract(built.module, config))
    if checkpoint is not None:
        live = live._replace(heads=tuple(head._replace(stored=_head_stored(head, checkpoint)) for head in live.heads))
    groups: tuple[Group, ...] | Unknown = facts.get("groups")
    if built.origin != "loaded" or isinstance(groups, Unknown):
        return live
    return live._replace(
        declared=tuple(claim._replace(stored=_stored_kind(claim.names, groups)) for claim in live.declared)
    )


def _contract(module: nn.Module, config: Config) -> Contract:
    """What the user says is tied in a module of its class, and in the modules inside of theirs."""
    from tiecheck.collect.live import Contract
    from tiecheck.collect.wrappers import own_class, unwrapped

    if not config.ties:
        return Contract((), config.ties_from)
    groups = list(config.ties_of(own_class(module)))
    outermost = unwrapped(module)
    for path, inner in outermost.named_modules():
        if inner is not outermost:
            groups += [tuple(f"{path}.{name}" for name in group) for group in config.ties_of(own_class(inner))]
    return Contract(tuple(dict.fromkeys(groups)), config.ties_from)


def _keys(facts: Facts, root: str, model: ModelConfig | None, config: Config) -> tuple[KeyProblem, ...] | Unknown:
    """What is wrong with the declaration of a directory's class, built or not."""
    live: LiveModel | Unknown = facts.get("live")
    if not isinstance(live, Unknown):
        return live.problems
    if model is None or (model.remote_code and not config.trust_remote_code):
        return live
    from tiecheck.collect.transformers_loading import unbuilt_problems

    return unbuilt_problems(root, model, trust=config.trust_remote_code) or live


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


def _built_scale(facts: Facts, checkpoint: Checkpoint | None) -> Any:
    """The scale by the class that was built: with its weights, or on meta with the stored bytes' deviation."""
    built: Built | Unknown = facts.get("built")
    live: LiveModel | Unknown = facts.get("live")
    if isinstance(built, Unknown):
        return built
    if isinstance(live, Unknown):
        return live
    from tiecheck.collect.scale_live import live_scale

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
    from tiecheck.collect.scale import stored_scale
    from tiecheck.collect.scale_live import live_scale

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
