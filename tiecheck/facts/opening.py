"""Opening a target: what is there, and was asked for, becomes the first facts, from which all others are made."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from tiecheck.config.options import PLACING, Config
from tiecheck.errors import TargetError
from tiecheck.facts import checkpoint as _registered  # noqa: F401  # the facts of a start; those of a module wait
from tiecheck.facts.registry import Facts
from tiecheck.records.declared import ModelConfig
from tiecheck.records.edits import COMMIT, WORK
from tiecheck.records.stored import Checkpoint
from tiecheck.records.words import Unknown
from tiecheck.stored.training_signs import TRAINER, find_states, may_be_wrapped
from tiecheck.targets.parse import Target, layout_word, parse_target

if TYPE_CHECKING:
    from torch import nn

    from tiecheck.facts.registry import FactName
    from tiecheck.files.remote.reading import RemoteModel
    from tiecheck.records.files import LoadProblem

    Given = dict[FactName, Any]


QUANTISED = ("quantization_config", "quantization")
"""Keys of a config that say that weights are quantised; the second is MLX's."""

REFUSABLE = ("decoder", "generator", "quantization_config", "text_config")
"""Keys of a config that may end every load by what they hold."""

DRAFTS = ("draft_vocab_size", "medusa_num_heads", "num_nextn_predict_layers", "speculators_model_type")
"""Keys of a config that say that it is a draft's, or has draft layers."""

REHEARSING = ("rehearse", "python", "trust_remote_code", "values", "timeout")
"""The options of a rehearsal; the live layer of a directory has one too."""


def facts_of(target: Target, config: Config) -> Facts:
    """Return the facts of a target given as text.

    Config and headers of a checkpoint are read at once: what is wrong with them is an error of the target, where
    a later layer that fails is a skip of its rules.

    Raises:
        TiecheckError: The target cannot be read, or is half-way through a fix.
    """
    if target.type == "module":
        from tiecheck.live.build import build_attribute

        return module_facts(build_attribute(target), config)
    if target.type == "source":
        return Facts(_sources(target.path, changed=config.changed_only))
    if target.type in ("adapter", "gguf", "onnx"):
        from tiecheck.facts.artefacts import artefact_facts

        return artefact_facts(target, config, facts_of)
    return _address_facts(target, config) if target.remote else _local_facts(target, {}, config)


def _address_facts(target: Target, config: Config) -> Facts:
    """Return the facts of what is behind an address: a model or an adapter, or the copy of it in the hub's cache."""
    from tiecheck.files.remote.reading import read_address

    fetched = read_address(target.path, config)
    if fetched.local and parse_target(fetched.local).type == "adapter":
        return facts_of(parse_target(fetched.local), config)
    if fetched.adapter is not None:
        from tiecheck.facts.artefacts import adapter_facts

        return adapter_facts(fetched.adapter, target.path, config, facts_of, online=not config.offline)
    traffic: Given = {"read_traffic": fetched.traffic}
    if not fetched.local:
        return _remote_facts(fetched, traffic, config)
    return _local_facts(target._replace(path=fetched.local, remote=False), traffic, config)


def module_facts(module: nn.Module, config: Config) -> Facts:
    """Return the facts of a live module that somebody else made."""
    from tiecheck.live.build import Built

    given: Given = {"built": Built(module, "given"), "values": config.values}
    if "transformers.modeling_utils" in sys.modules:
        from tiecheck.live.mismatches import unfit_ties

        given |= {"load_problems": found} if (found := unfit_ties(module)) else {}
    return Facts(given | _asked(config, live=True))


def _sources(path: str, *, flat: bool = False, changed: str | None = None) -> Given:
    """Return the records of the Python files at a path, and what kept others from being read.

    Args:
        path: A file or directory.
        flat: True for a model's directory: its own files alone, no links, and those that cannot be read are no error,
            since the class may never be used.
        changed: The revision since which a file must have changed; None for all files.

    Raises:
        TargetError: git cannot tell what changed.
    """
    from tiecheck.files.limits import target_account
    from tiecheck.files.local import path_inside
    from tiecheck.source.reading import read_source, source_paths

    changes = None
    if changed is not None:
        from tiecheck.source.changed import changed_paths

        changes = changed_paths(path, changed)
    found, unread = [], []
    own = (os.path.join(path, name) for name in sorted(_listed(path)) if name.endswith(".py"))
    for name in (one for one in own if not os.path.islink(one)) if flat else source_paths(path):
        target_account().check_time()
        if changes is not None and os.path.realpath(name) not in changes:
            continue
        shown = os.path.relpath(name, path) if name != path else os.path.basename(path)
        try:
            if name != path and os.path.islink(name):
                path_inside(path, shown)
            file = read_source(name, shown, named=name == path)
        except TargetError as error:
            unread += [] if flat else [error]
            continue
        if file is not None:
            found.append(file)
    return {"sources": tuple(found), "unread_sources": tuple(unread)}


def _local_facts(target: Target, given: Given, config: Config) -> Facts:
    """Return the facts of a directory, or of one weights file."""
    from tiecheck.files.checkpoint import read_checkpoint
    from tiecheck.files.model_config import read_config

    folder = target.directory or os.path.dirname(os.path.abspath(target.path))
    if os.path.exists(os.path.join(folder, WORK, COMMIT)):
        raise TargetError(f"{folder} is half-way through a fix that was interrupted; `tiecheck fix` ends it", folder)
    model = read_config(folder)
    checkpoint = read_checkpoint(target.path)
    beside = _beside(target.directory, model, checkpoint)
    whole = target.directory is not None
    problems = _load_problems(model, checkpoint, config, whole=whole) if checkpoint else ()
    if whole and checkpoint and model is not None and _may_be_refused(model, checkpoint):
        from tiecheck.stored.refused_loads import refused_loads

        problems = (*refused_loads(model, checkpoint, folder), *problems)
    if target.directory and checkpoint and any(name.startswith("consolidated") for name in _listed(folder)):
        from tiecheck.stored.layouts import vendor_problems

        if config.values != "never":
            problems = (*problems, *vendor_problems(folder, _listed(folder), checkpoint))
    if "beside_adapter" in beside:
        from tiecheck.stored.expert_sets import adapter_problems

        doubts = tuple(adapter_problems(beside["beside_adapter"]))  # a load that comes to its end may yet raise
        ends = tuple(one for one in problems if one.outcome == "crash")
        problems = (*ends, *doubts, *(one for one in problems if one not in ends))
    if problems:
        beside["load_problems"] = problems
    if model is not None and (config.drafts_for is not None or not model.data.keys().isdisjoint(DRAFTS)):
        from tiecheck.facts.artefacts import draft_of

        beside["draft"] = draft_of(model, config)
    given |= _read(folder, model, checkpoint, config) | beside
    if target.directory and any(name.endswith(".py") for name in _listed(folder)):
        given |= _sources(folder, flat=True)
    if config.wants_live and target.directory and model is not None and checkpoint is not None:
        given["rehearsing"] = config.only(*REHEARSING)
    return Facts(given)


def _load_problems(
    model: ModelConfig | None, checkpoint: Checkpoint, config: Config, *, whole: bool
) -> tuple[LoadProblem, ...]:
    """Return what keeps the weights from being loaded, made once for directories that are alike in all but bytes."""
    from tiecheck.files.limits import made_once
    from tiecheck.stored.load_problems import load_problems

    read = ("load problems", whole, checkpoint.missing_files, *(shard.path for shard in checkpoint.shards))
    return made_once(read, lambda: load_problems(model, checkpoint, whole=whole, values=config.values))


def _may_be_refused(model: ModelConfig, checkpoint: Checkpoint) -> bool:
    """Tell whether something is there that may end every load: most directories have nothing of the kind."""
    levels = [model.data, *(value for value in model.data.values() if isinstance(value, dict))]
    held = (level[key] for level in levels for key in ("dtype", "torch_dtype") if level.get(key) is not None)
    odd = any(one not in ("bfloat16", "float16", "float32") for one in held)
    odd |= any(not level.keys().isdisjoint(REFUSABLE) for level in levels)
    return (odd or checkpoint.index_file is not None) and model.class_name is not None and not model.remote_code


def _remote_facts(fetched: RemoteModel, given: Given, config: Config) -> Facts:
    """Return the facts of a remote model: fewer than a directory's, since what is not here is not read."""
    model, checkpoint = fetched.config, fetched.checkpoint
    beside = _beside(None, model, checkpoint)
    if checkpoint is not None and checkpoint.format == "pickle":
        beside.pop("index", None)  # its shards are there, and are not read
    twins = None
    if config.values != "always" and not config.wants_live and not config.wants_rehearsal:
        from tiecheck.files.remote.repeated_headers import facts_of_twins

        twins = facts_of_twins(model, checkpoint, config.values)
    if model is not None and checkpoint is not None and model.class_name and not model.remote_code:
        from tiecheck.stored.load_problems import untold_problems

        twice = None if twins is None else twins.get("stored twice")
        if twice is None:
            twice = tuple(untold_problems(model, checkpoint, config.values))
        if twins is not None:
            twins["stored twice"] = twice
        if twice:
            beside["load_problems"] = twice
    given |= _read(fetched.address, model, checkpoint, config, fetched.refused) | beside | {"fetched": fetched}
    if config.values == "always":
        given["scale"] = Unknown("the scale is read from local files; download the model")
        return Facts(given)
    return Facts(given, twins, withheld=("scale",))


def _read(
    folder: str, model: ModelConfig | None, checkpoint: Checkpoint | None, config: Config, refused: str = ""
) -> Given:
    """Return what was read of a checkpoint at a folder or address, and what was asked for; `refused`: why not."""
    none = refused
    if checkpoint is None and not none:
        layout = layout_word(_listed(folder))
        if layout and not config.wants_live:
            raise TargetError(f"{folder} is {layout}", folder)
        none = f"it is {layout}" if layout else "there are no weights of a whole model in the directory"
    return {
        "folder": folder,
        "model_config": model if model is not None else Unknown("there is no config.json"),
        "checkpoint": checkpoint if checkpoint is not None else Unknown(none),
        "values": config.values,
        **_asked(config, live=config.wants_live),
        **({"judging": config.only("judge_for")} if config.judge_for else {}),
        **({"rehearsing": config.only(*REHEARSING)} if config.wants_rehearsal else {}),
    }


def _asked(config: Config, *, live: bool) -> Given:
    """Return the options of the live layer and of a placement, each where it was asked for, and open their facts."""
    given: Given = {}
    if live or config.wants_uses:
        from tiecheck.facts import live as _registered  # noqa: F401
    if live:
        given["load_options"] = config.only("load", "trust_remote_code")._replace(load=config.load or config.measure)
        given["contract"] = config.only("ties", "ties_from")
    if config.wants_uses:
        given["tracing"] = config.only("uses", "inputs", "measure")
    if config.device_map is not None:
        given["placing"] = config.only(*PLACING, "trust_remote_code")
    return given


def _beside(directory: str | None, model: ModelConfig | None, checkpoint: Checkpoint | None) -> Given:
    """Return what lies beside and between the weights, each where there is something to tell.

    A single file, or a target that is not local, has no directory.
    """
    given: Given = {}
    names = _listed(directory) if directory else []
    if checkpoint is not None and checkpoint.index_file:
        given["index"] = checkpoint
    if checkpoint is not None and len(checkpoint.shards) > 1:
        given["sharded"] = checkpoint
    if sum(name.startswith(("model.safetensors", "pytorch_model.bin")) for name in names) > 1:
        from tiecheck.stored.layouts import find_layouts

        layouts = find_layouts(names)
        if len(layouts) > 1:
            given["layout_names"] = layouts
    if directory and checkpoint is not None and "adapter_config.json" in names:
        from tiecheck.stored.load_problems import beside_adapter

        adapter = beside_adapter(directory, names)
        if adapter is not None:
            given["beside_adapter"] = adapter
    if model is not None and not model.data.keys().isdisjoint(QUANTISED):
        given["quantising"] = model
    states = find_states(directory, names) if directory else ()
    if states:
        given["optimizer_states"] = states
    resumed = tuple(name for name in (TRAINER,) if name in names) + states
    if checkpoint is not None and model is not None and model.class_name and (resumed or may_be_wrapped(checkpoint)):
        given["resumed"] = resumed
    return given


def _listed(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:  # the checkpoint's own reader tells
        return []
