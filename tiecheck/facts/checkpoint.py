"""The facts of a checkpoint: its groups, what loaders make of them, and what lies beside and between its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from tiecheck.config.options import Config
from tiecheck.facts.registry import fact
from tiecheck.records.declared import Architecture, Flag, ModelConfig
from tiecheck.records.loaders import LoaderView, Rehearsal
from tiecheck.records.report import Traffic
from tiecheck.records.stored import Checkpoint, Group
from tiecheck.records.words import Unknown

if TYPE_CHECKING:
    from tiecheck.files.remote.reading import RemoteModel
    from tiecheck.live.build import Built
    from tiecheck.records.artefacts import QuantisedTie
    from tiecheck.records.counts import Counts
    from tiecheck.records.files import Duplicate, IndexGap, LayoutGroup, LoadProblem, StrictLoad, TiedMoments
    from tiecheck.records.live import LiveModel
    from tiecheck.records.scale import InitScale

    Values = Literal["auto", "never", "always"]


@fact
def architecture(model_config: ModelConfig | None) -> Architecture:
    """Knowledge of the tie table on the class that the config names."""
    from tiecheck.tables.architectures import load_architecture

    model = model_config
    if model is None:
        return Architecture(None, False, (), "there is no config.json that names the class", None)
    if model.remote_code:
        why = "its class is the directory's own code, which was not run (--trust-remote-code runs it)"
        return Architecture(model.class_name, False, (), why, None)
    width = model.integer("hidden_size", "d_model", "n_embd")
    found = load_architecture(model.class_name, model.model_type, width=width, config=model.data)
    if found.known:
        return found
    from tiecheck.stored.layouts import vendor_architecture

    return vendor_architecture(model) or found


@fact
def flags(model_config: ModelConfig | None) -> tuple[Flag, ...]:
    """Every tie flag of the config, nested ones included."""
    return model_config.flags if model_config is not None else ()


@fact
def groups(
    model_config: ModelConfig | None, architecture: Architecture, checkpoint: Checkpoint, values: Values
) -> tuple[Group, ...] | Unknown:
    """Tie groups that are declared, stored or suspected, with what the checkpoint stores of each."""
    from tiecheck.stored.groups import build_groups

    found = build_groups(model_config, architecture, checkpoint, values)
    if isinstance(found, Unknown) or not architecture.known or model_config is None:
        return found
    from tiecheck.stored.config_values import architecture_of
    from tiecheck.stored.older_names import lost_ties

    older = architecture_of(model_config, older=True)
    if next(lost_ties(older, architecture), None) is None:
        return found
    from tiecheck.stored.lost_ties import lost_tie_groups

    inert = lost_tie_groups(older, architecture, checkpoint, values)
    return tuple(sorted((*found, *inert), key=lambda g: g.names))


@fact
def loaders(
    model_config: ModelConfig | None,
    architecture: Architecture,
    groups: tuple[Group, ...],
    checkpoint: Checkpoint,
    load_problems: tuple[LoadProblem, ...] | None,
    judging: Config | None,
    rehearsal: Rehearsal | None,
) -> tuple[LoaderView, ...]:
    """Outcome of each group in each loader of the matrix; the rehearsed one's by its own word."""
    if not groups:
        return ()
    from tiecheck.peers.loaders.matrix import loader_views

    views = loader_views(
        model_config, architecture, checkpoint, groups, load_problems or (), judging.judge_for if judging else ()
    )
    if rehearsal is None:
        return views
    from tiecheck.peers.loaders.rehearsed import rehearsed_views

    return rehearsed_views(views, groups, rehearsal)


@fact
def rehearsal(
    folder: str,
    rehearsing: Config,
    checkpoint: Checkpoint | Unknown,
    fetched: RemoteModel | None,
    built: Built | Unknown | None,
) -> Rehearsal | Unknown:
    """Outcome of transformers' own `from_pretrained` with the directory, on meta; of a remote model by its headers."""
    from tiecheck.live.rehearsal import rehearse, shadow_of

    if isinstance(built, Unknown) and not rehearsing.wants_rehearsal:
        return built  # what the live layer refuses to build is not loaded either
    trust, values, limit = rehearsing.trust_remote_code, rehearsing.values != "never", rehearsing.timeout or None
    if fetched is None:
        found = rehearse(folder, rehearsing.python, timeout=limit, trust_remote_code=trust, values=values)
    elif isinstance(checkpoint, Unknown) or checkpoint.format != "safetensors" or fetched.config_text is None:
        return Unknown(
            "of a remote model a load is rehearsed by its config and safetensors headers, which are not there"
        )
    else:
        with shadow_of(fetched.config_text, checkpoint) as shadow:
            found = rehearse(shadow, rehearsing.python, timeout=limit, values=False)
    return found if found.unsure is None else Unknown(found.unsure)


@fact
def counts(built: Built | None, contract: Config | None) -> Counts | Unknown:
    """Numbers of parameters of the module, where there is one."""
    if built is None or contract is None:
        return Unknown("there is no module")
    from tiecheck.live.live_facts import contract_of
    from tiecheck.live.parameter_counts import count_live

    return count_live(built.module, contract_of(built.module, contract))


@fact
def remote(read_traffic: Callable[[], Traffic]) -> Traffic:
    """Requests and bytes that a remote model took up to now."""
    return read_traffic()


@fact
def duplicates(sharded: Checkpoint, values: Values, fetched: RemoteModel | None) -> tuple[Duplicate, ...]:
    """Names that several shards hold."""
    from tiecheck.stored.members import find_repeated_names as find_duplicates

    return find_duplicates(sharded, "never" if fetched is not None else values)


@fact
def index_gaps(
    index: Checkpoint, groups: tuple[Group, ...] | None, loaders: tuple[LoaderView, ...] | None
) -> tuple[IndexGap, ...]:
    """Names on which the index and the headers of its shards do not agree, and what comes of it."""
    if index.agrees:
        return ()
    from tiecheck.stored.index_gaps import find_gaps

    return find_gaps(index, groups or (), loaders or ())


@fact
def layouts(
    folder: str, layout_names: tuple[str, ...], groups: tuple[Group, ...], architecture: Architecture, values: Values
) -> tuple[LayoutGroup | Unknown, ...] | Unknown:
    """Groups as each of several sets of weights in one directory stores them."""
    from tiecheck.stored.layouts import layout_groups

    return layout_groups(folder, layout_names, groups, architecture, values)


@fact
def optimizer(
    folder: str,
    optimizer_states: tuple[str, ...],
    model_config: ModelConfig | None,
    architecture: Architecture,
    checkpoint: Checkpoint | None,
    groups: tuple[Group, ...] | Unknown,
    values: Values,
) -> tuple[TiedMoments | Unknown, ...] | Unknown:
    """Groups that have several entries in a saved optimizer state."""
    from tiecheck.stored.optimizer_ties import tied_moments

    if isinstance(groups, Unknown) and checkpoint is None:  # only a distributed checkpoint: class and config tell
        from tiecheck.stored.groups import build_groups

        groups = build_groups(model_config, architecture, None, "never")
    return tied_moments(folder, optimizer_states, groups, checkpoint, values)


@fact
def quantised(
    groups: tuple[Group, ...],
    checkpoint: Checkpoint,
    quantising: ModelConfig,
    architecture: Architecture,
    values: Values,
) -> tuple[QuantisedTie, ...]:
    """Declared ties of which a member is stored quantised, or whose head a skip list does not name."""
    from tiecheck.stored.quantised import quantised_ties

    return quantised_ties(groups, checkpoint, quantising, architecture.head, values=values != "never")


@fact
def strict_load(
    checkpoint: Checkpoint,
    architecture: Architecture,
    groups: tuple[Group, ...] | Unknown,
    resumed: tuple[str, ...],
    built: Built | None,
) -> StrictLoad | Unknown:
    """Fit of the stored names to those of the class, as a strict load holds them."""
    from tiecheck.stored.strict_load import fit_names

    names = built.module.state_dict().keys() if built is not None else ()
    return fit_names(checkpoint, architecture, groups, names, resumed)


@fact
def scale(
    architecture: Architecture,
    model_config: ModelConfig | None,
    checkpoint: Checkpoint | None,
    groups: tuple[Group, ...] | Unknown | None,
    values: Values,
    built: Built | Unknown | None,
    live: LiveModel | Unknown | None,
    tracing: Config | None,
) -> tuple[InitScale | Unknown, ...] | Unknown:
    """Scale of each tied matrix: by the module where there is one, else by the stored bytes alone."""
    for layer in (built, live, groups):
        if isinstance(layer, Unknown) and (layer is not groups or built is None):
            return layer
    from tiecheck.scale.initial_draw import with_own_draw

    known = () if groups is None or isinstance(groups, Unknown) else groups
    if built is None or live is None or isinstance(built, Unknown) or isinstance(live, Unknown):
        from tiecheck.scale.stored import group_scales

        found = group_scales(known, architecture, checkpoint, values)
        return with_own_draw(found, model_config.data if model_config and architecture.known else {})
    if built.origin == "given" and values == "never":
        return Unknown("the values were not to be read (--values never)")
    from tiecheck.live.wrappers import library_config
    from tiecheck.records.hops import Route
    from tiecheck.scale.built import built_scales

    measure = tracing is not None and tracing.measure
    found = built_scales(built, live.ties, checkpoint, known, measure=measure)
    if not isinstance(found, Unknown):
        way = Route(live.hops, live.keyed)
        found = tuple(one if isinstance(one, Unknown) else one._replace(path=way.to(one.names[0])) for one in found)
    return with_own_draw(found, library_config(built.module))
