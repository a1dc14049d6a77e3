"""Reasons for which transformers does not load the weights that a directory holds, before any tie is looked at.

Held against transformers 5.23 and 4.57.6: `_get_resolved_checkpoint_files`, `load_state_dict`, `PeftAdapterMixin`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tiecheck.errors import TiecheckError, shown
from tiecheck.files.checkpoint import INDEX_ENDING, STANDARD_NAMES
from tiecheck.records.declared import ModelConfig
from tiecheck.records.edits import CONFIG, Edit, Step, move_edits
from tiecheck.records.stored import Checkpoint, StoredTensor, read_entry
from tiecheck.records.words import Outcome
from tiecheck.stored.config_refusals import NUMBERS, refused_problems
from tiecheck.stored.config_values import architecture_of, told_problem
from tiecheck.stored.older_names import as_older_reads, moved_names, name_among_bare
from tiecheck.tables.architectures import load_architecture, older_has
from tiecheck.tables.structure import class_structure
from tiecheck.wording import listed

if TYPE_CHECKING:  # its records are made where something is wrong
    from tiecheck.records.files import BesideAdapter, LoadProblem
    from tiecheck.stored.members import Values

BOTH = ("4.57", "5")
FORMATS = ("pt", "tf", "flax", "mlx")
FRAMEWORKS = {"tf": "TensorFlow", "flax": "JAX"}
"""Format in the metadata of a file -> the library that 4.57 loads it with."""

OWN_ROWS = ("cpmant", "mllama", "moshi")
"""Beginnings of the model types whose embedding has rows beyond `vocab_size` (transformers 5.23, every class that was
built)."""

ROWS = ("vocab_size", "n_vocab", "vocabulary_size")
COLUMNS = ("hidden", "d_model", "embd", "embed", "dim", "width")


def load_problems(
    model: ModelConfig | None, checkpoint: Checkpoint, *, whole: bool, values: Values = "auto"
) -> tuple[LoadProblem, ...]:
    """Return what keeps transformers from loading these weights as they stand, in the order in which it meets them.

    `whole`: the target is a directory, in which the loader looks for them, and no named file. `values`: whether bytes
    are compared.
    """
    if model is None or model.class_name is None:
        return ()
    from tiecheck.stored.config_fit import size_problems

    known, found = not model.remote_code, tuple(_found(model, checkpoint, whole=whole))
    nested = tuple(one for one in found if one.kind == "nested")
    refused = tuple(refused_problems(model)) if known else ()
    stopped = any(one.kind == "field" for one in refused)  # 5 comes to no tensor, and what 4.57 makes is open
    sizes = () if nested or stopped else tuple(_shapes(model, checkpoint))
    asked = known and not stopped and not model.data.get("quantization_config")
    lines = {line for one in sizes for line in one.versions}
    for one in size_problems(model, checkpoint) if asked and len(lines) < len(BOTH) else ():
        rest = tuple(line for line in one.versions if line not in lines)
        if rest:
            sizes += (one._replace(versions=rest),)
    return (  # a config that is refused comes before names that nobody has
        *refused,
        *(one for one in found if one.kind != "nested"),
        *sizes,
        *nested,
        *(untold_problems(model, checkpoint, values) if known else ()),
    )


def untold_problems(model: ModelConfig, checkpoint: Checkpoint, values: Values) -> Iterator[LoadProblem]:
    """Yield what nobody knows the end of, of a remote model only what is stored twice; and what 5 alone reads."""
    from tiecheck.stored.lost_ties import stored_twice, untold_ties

    yield from moved_names(model, checkpoint)
    twice = stored_twice(model, checkpoint, values)
    for lines, why, names in twice if checkpoint.remote is not None else (*twice, *untold_ties(model, checkpoint)):
        yield told_problem("open", lines, "unknown", why, why, model.path, "", names)


def _found(model: ModelConfig, checkpoint: Checkpoint, *, whole: bool) -> Iterator[LoadProblem]:
    names = tuple(itertools.islice(checkpoint.names(), 1))
    file = checkpoint.index_file or (checkpoint.shards[0].path if checkpoint.shards else "")
    named = model.data.get("transformers_weights")
    if whole and file and named is not None:
        yield from _named_elsewhere(model, named, file, names)
    elif whole and file and file not in STANDARD_NAMES and "medusa_num_heads" not in model.data:  # loaded by others
        message = f"OSError: no file named {STANDARD_NAMES[0]} or {STANDARD_NAMES[2]}"
        why = f"{file} has no name that from_pretrained looks for: it finds no weights in the directory"
        mend = "none of its names is one of the class; convert it with the tool of those who made it."
        edits = _standard_name(model, checkpoint, file)
        yield told_problem("name", BOTH, "crash", message, why, file, mend, names, edits)
    if checkpoint.missing_files:
        why = f"{min(checkpoint.missing_files)}, which {file} names, is not here"
        yield told_problem("open", BOTH, "crash", f"FileNotFoundError: {why}", why, file, "", names)
    for shard in checkpoint.shards:
        if shard.nested:
            why = (
                f"{shard.path} holds its tensors below the key {shard.nested!r}, where from_pretrained does not look: "
                f"it takes {shard.nested!r} for a name that nobody has, and makes every weight at random"
            )
            message = "every weight is missing, and made at random"
            edits = (Edit("unwrapped", None, True, (Step("unwrap-tensors", (shard.nested,), shard.path),)),)
            # A class of another config may refuse this one before any weight is read.
            own = (class_structure(model.class_name or "", model.model_type) or (model.model_type,))[0]
            outcome: Outcome = "embedding-random" if own == model.model_type else "unknown"
            yield told_problem("nested", BOTH, outcome, message, why, shard.path, "", names, edits)
    if not _is_of_5_alone(model):
        yield from _refused_formats(checkpoint, names)
    if not checkpoint.by_mlx and not any(shard.nested for shard in checkpoint.shards):
        yield from _bare_names(model, checkpoint, file)
    sections = (model.data, *(held for held in model.data.values() if isinstance(held, Mapping)))
    if any("expert" in key for section in sections for key in section):
        from tiecheck.stored.expert_sets import lacking_expert

        lacking = lacking_expert(checkpoint)
        if lacking is not None:
            why = f"{lacking} is not stored, which the other experts of its layer have: 5 may fail to join them"
            yield told_problem("experts", ("5",), "unknown", why, why, file, "", (lacking,))


def _named_elsewhere(model: ModelConfig, named: Any, file: str, names: tuple[str, ...]) -> Iterator[LoadProblem]:
    """Yield why `transformers_weights` keeps the loader from what was judged, where it names another file."""
    key = f"{model.path}:transformers_weights"
    if not isinstance(named, str) or not named.endswith(
        (".safetensors", ".safetensors.index.json", "adapter_model.bin")
    ):
        why = f"{key} is {shown(repr(named))}, which names no safetensors file and no index of some"
        message = "ValueError: The transformers file in the config seems to be incorrect"
        message = message if isinstance(named, str) else "AttributeError: it has no attribute 'endswith'"
        yield told_problem("name", BOTH, "crash", message, why, model.path, "take the key out.", names)
    elif os.path.normpath(named) != file:
        why = f"{key} names {shown(named)}, which the loader reads in place of {file}: name it to have it judged"
        yield told_problem("open", BOTH, "unknown", why, why, model.path, "", names)


def _is_of_5_alone(model: ModelConfig) -> bool:
    """Tell whether 4.57 has no such class, so that what it refuses of a file hurts nobody."""
    if model.remote_code or older_has(model.class_name, model.model_type):
        return False
    return load_architecture(model.class_name, model.model_type, config=model.data).known


def _refused_formats(checkpoint: Checkpoint, names: tuple[str, ...]) -> Iterator[LoadProblem]:
    """Yield what the metadata of files names and 4.57 does not take: of one file another framework's too."""
    whole = checkpoint.index_file is None and len(checkpoint.shards) == 1
    taken = FORMATS if not whole else tuple(one for one in FORMATS if one not in FRAMEWORKS)
    noted = [(shard.path, shard.notes.get("format")) for shard in checkpoint.shards if shard.notes is not None]
    refused = [(file, said) for file, said in noted if said not in taken]
    if not refused:
        return
    file, said = refused[0]
    message = (
        f"ModuleNotFoundError or ImportError where {FRAMEWORKS[said]} is not installed"
        if said in FRAMEWORKS
        else f"ValueError: Incompatible safetensors file. File metadata is not {list(FORMATS)} but {said}"
        if whole
        else f"OSError: The safetensors archive passed at {file} does not contain the valid metadata"
    )
    takes = f"is read by {FRAMEWORKS[said]} alone" if said in FRAMEWORKS else "is refused"
    what = "no format" if said is None else f"the format {said!r}"
    more = f" and of {len(refused) - 1} more" if len(refused) > 1 else ""
    why = f"the metadata of {file}{more} names {what}, which {takes}"
    steps = tuple(Step("set-metadata", (), one, ("format",), "pt") for one, _ in refused)
    other = f"{FRAMEWORKS[said]} lays some weights out otherwise; save it with PyTorch." if said in FRAMEWORKS else ""
    edits = () if other else (Edit("named", None, True, steps),)
    yield told_problem("format", ("4.57",), "crash", message, why, file, other, names, edits)


def _bare_names(model: ModelConfig, checkpoint: Checkpoint, file: str) -> Iterator[LoadProblem]:
    """Yield a name of the task's own beside names without the prefix of the base model, which 4.57 refuses."""
    older = architecture_of(model, older=True)
    prefix, task = older.prefix, _base_and_task(model) if older_has(model.class_name, model.model_type) else ("", ())
    if not (older.ties or older.head or prefix):
        prefix = task[0]
    name = name_among_bare(checkpoint, older, prefix, task[1] if prefix == task[0] else ())
    if name is not None:
        why = (
            f"no name in {file} begins with {prefix!r}, so that 4.57 takes it for the base model's own, and "
            f"{name} is none of its names"
        )
        message = "ValueError: The state dictionary of the model you are trying to load is corrupted."
        mend = f"which names are the base model's the files do not tell; those get {prefix}. before them."
        yield told_problem("prefix", ("4.57",), "crash", message, why, file, mend, (name,))


def _base_and_task(model: ModelConfig) -> tuple[str, tuple[str, ...]]:
    """Return the prefix of the base model in a class of a task, and the modules beside it; empty for other classes."""
    row = (class_structure(model.class_name or "", model.model_type) or ("", {}))[1]
    base = next((prefix for prefix, level, _ in row.get("p", ()) if not level), "")
    return base, tuple(row.get("o", ()))


def _standard_name(model: ModelConfig, checkpoint: Checkpoint, file: str) -> tuple[Edit, ...]:
    """Return the way to give a file the name that loaders look for; none where its tensors are not the class's."""
    known = architecture_of(model)
    spelt = {s for tie in known.ties for name in tie.names for s in (name, *tie.spellings.get(name, ()))}
    if not any(name in checkpoint for name in {*spelt, known.embedding}):
        return ()
    plain = STANDARD_NAMES[0 if checkpoint.format == "safetensors" else 2]
    return move_edits("renamed", None, {file: f"{plain}{INDEX_ENDING * (checkpoint.index_file is not None)}"})


def unfit_members(model: ModelConfig, tensors: tuple[StoredTensor, ...]) -> tuple[str, ...]:
    """Return those of some tied matrices whose rows or columns the config denies."""
    return tuple(tensor.name for tensor in tensors if next(_denied(model, tensor), None) is not None)


def _shapes(model: ModelConfig, checkpoint: Checkpoint) -> Iterator[LoadProblem]:
    """Yield a stored embedding that has not the rows or columns of the config."""
    members = _members(model, checkpoint)
    denied = list(_denied(model, members[0])) if members else []
    for axis, known in denied:
        tensor, size = members[0], members[0].shape[axis]
        said = tuple(f"{k} {known[k]}" for k in [k for k in known if k.rpartition(".")[2] in ROWS] or known)[:4]
        why = f"{tensor.name} is stored with {size} {('rows', 'columns')[axis]}, and config.json says {listed(said)}"
        message = f"size mismatch for {tensor.name}"
        message = "no module can be built of a negative size" if min(known.values()) < 0 else message
        edits = _rows_written(denied, checkpoint, members)
        older = architecture_of(model, older=True)
        spelled = {s for tie in older.ties for name in tie.names for s in (name, *tie.spellings.get(name, ()))}
        theirs = tensor.name in {*spelled, older.embedding} if spelled else not architecture_of(model).ties
        lines = BOTH if theirs and tensor.name in as_older_reads(checkpoint, older) else ("5",)
        yield told_problem("shape", lines, "crash", message, why, tensor.file, NUMBERS, (tensor.name,), edits)


def _denied(model: ModelConfig, tensor: StoredTensor) -> Iterator[tuple[int, dict[str, int]]]:
    """Yield the axes of an embedding that have not the size of the config, with the numbers that it has."""
    if model.data.get("quantization_config") or len(tensor.shape) != 2:
        return
    if not tensor.dtype.startswith(("float", "bfloat")) or tensor.dtype.startswith("float8"):
        return
    for axis, words in enumerate((ROWS, COLUMNS)):
        size, known = tensor.shape[axis], dict(_numbers(model.data, words))
        if not any("." not in key or key.startswith("text_config.") for key in known):
            continue  # a default, or a config inside that is not the text's
        more = axis == 0 and (model.model_type or "").startswith(OWN_ROWS) and size > min(known.values())
        if size not in known.values() and not more:
            yield axis, known


def _rows_written(
    denied: list[tuple[int, dict[str, int]]], checkpoint: Checkpoint, members: tuple[StoredTensor, ...]
) -> tuple[Edit, ...]:
    """Return the way to write the stored number of rows where one key alone, and no other tensor, says another."""
    (axis, known), rows = denied[0], members[0].shape[0]
    others = ((n, read_entry(entry)[1]) for shard in checkpoint.shards for n, entry in shard.entries.items())
    names = {member.name for member in members}
    alone = len(denied) == len(known) == 1 and axis == 0 and {member.shape[0] for member in members} == {rows}
    if not alone or any(shape[:1] == (*known.values(),) and name not in names for name, shape in others):
        return ()
    key = tuple(next(iter(known)).split("."))
    return (Edit("rows", None, True, (Step("set-config", (), CONFIG, key, rows),)),) if key[-1] in ROWS else ()


def _members(model: ModelConfig, checkpoint: Checkpoint) -> tuple[StoredTensor, ...]:
    """Return the stored token embedding of a class that the table has, and what is stored of its tie; it stands first.

    Of a tied pair the head alone stands for both.
    """
    known = architecture_of(model)
    if known.embedding is None or model.remote_code:
        return ()
    names = [known.embedding]
    for tie in known.ties:
        if known.embedding in tie.names and not tie.unlike and tie.exact:
            names += [s for name in tie.names for s in (name, *tie.spellings.get(name, ()))]
    return tuple(t for name in dict.fromkeys(names) if (t := checkpoint.tensor(name)) is not None)


def _numbers(data: Mapping[str, Any], words: tuple[str, ...], level: str = "") -> Iterator[tuple[str, int]]:
    for key, value in data.items():
        if isinstance(value, dict):
            if level.count(".") < 8:
                yield from _numbers(value, words, f"{level}{key}.")
        elif type(value) is int and any(word in key for word in words) and "layers" not in key:
            yield f"{level}{key}", value


def beside_adapter(directory: str, names: list[str]) -> BesideAdapter | None:
    """Return the adapter in a model's own directory, which transformers loads too where peft is there, or fails."""
    weights = sorted(name for name in names if name.startswith("adapter_model."))
    if "adapter_config.json" not in names:
        return None
    from tiecheck.files.adapter import read_adapter_config, word_list
    from tiecheck.records.files import BesideAdapter

    try:
        data = read_adapter_config(directory)
    except TiecheckError:
        return None
    saved, targets = (word_list(data.get(key)) for key in ("modules_to_save", "target_modules"))
    base = data.get("base_model_name_or_path")
    files = ("adapter_config.json", *weights)
    return BesideAdapter(saved, targets, base if isinstance(base, str) and base else None, files)
