"""Groups of the ties that 4.57 makes and transformers 5 has lost."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping

from tiecheck.records.declared import Architecture, ModelConfig
from tiecheck.records.stored import Checkpoint, Group
from tiecheck.stored.config_values import architecture_of
from tiecheck.stored.members import UNREAD, TensorFinder, Values, compare_members, stored_group
from tiecheck.stored.older_names import as_older_reads, lost_ties, tied_by_flags
from tiecheck.tables.architectures import newer_names, older_has
from tiecheck.tables.structure import base_prefix, class_of_word, class_structure, config_structure


def lost_tie_groups(
    older: Architecture, newest: Architecture, checkpoint: Checkpoint, values: Values
) -> Iterator[Group]:
    """Yield the groups that 4.57 ties and transformers 5 keeps apart, whatever the config says.

    `LukeForMaskedLM` and others lost their declaration on the way to 5 (transformers 5.23.0): a checkpoint that 4.57
    saved tied, head absent, loads with a random head. Of others than embedding and head (UDOP's relative biases) those
    are told of which more than one member is stored, all but one of which 4.57 throws away.
    """
    for tie in lost_ties(older, newest):
        names, source = newer_names(tie), dict(tie.newer).get(tie.source, tie.source)
        if {newest.head, newest.embedding} <= set(names):
            names, source = tuple(sorted({newest.head or "", newest.embedding or ""})), newest.embedding or ""
            told = _pair_matters(newest, checkpoint)
        else:
            told = tie.kind == "parameter" and sum(name in checkpoint for name in names) > 1
        if told:
            group = UNREAD._replace(
                names=names,
                source=source,
                declared=False,
                declared_by=(f"{newest.class_name} ({newest.origin}), whatever the flag says",),
                default=False,
                inert=True,
            )
            yield stored_group(group, checkpoint, [(name, name) for name in names if name in checkpoint], values)


def _pair_matters(newest: Architecture, checkpoint: Checkpoint) -> bool:
    """Tell whether embedding and head are stored in part, and were able to be one (Reformer's head is twice as wide).

    T5Gemma's head is tied to its decoder's embedding, and the encoder's is what words go in by; Pop2Piano's `shared`
    may be stored as its encoder's, and the group of the two speaks for it.
    """
    head, embedding = newest.head or "", newest.embedding or ""
    there = [tensor.shape for tensor in map(checkpoint.tensor, (head, embedding)) if tensor is not None]
    others = {name for tie in newest.ties if embedding in tie.names for name in tie.names}
    others.add(embedding.removeprefix(f"{newest.prefix}."))  # 5 adds the prefix to each name that lacks it
    elsewhere = embedding not in checkpoint and any(name in checkpoint for name in others)
    return len(set(there)) == 1 and not elsewhere and not any(head in tie.names for tie in newest.ties)


BOTH = ("4.57", "5")
LISTS_OF_HEADS = ("MusicgenForCausalLM", "MusicgenMelodyForCausalLM")
"""Classes whose head is a list of matrices, which a tie flag makes 4.57 look into as if it were one."""


def untold_ties(model: ModelConfig, checkpoint: Checkpoint) -> Iterator[tuple[tuple[str, ...], str, tuple[str, ...]]]:
    """Yield the lines of transformers in which the end of a tie is not told, the reason, and its tensors."""
    yield from _renamed_inside(model, architecture_of(model), checkpoint)
    if not older_has(model.class_name, model.model_type) and model.class_name not in LISTS_OF_HEADS:
        return
    if model.data.get("tie_encoder_decoder") is True and model.data.get("is_encoder_decoder", True):
        yield BOTH, "tie_encoder_decoder is true: 4.57 makes encoder and decoder one, and 5 does not", ()
    if model.data.get("tie_word_embeddings") is True and model.class_name in LISTS_OF_HEADS:
        yield ("4.57",), "tie_word_embeddings is true, and 4.57 raises AttributeError: its heads are a list", ()
    older, newest = architecture_of(model, older=True), architecture_of(model)
    yield from _half_stored(older, newest, checkpoint)
    yield from _inner_ties(model, older, newest, checkpoint)


def stored_twice(
    model: ModelConfig, checkpoint: Checkpoint, values: Values
) -> Iterator[tuple[tuple[str, ...], str, tuple[str, ...]]]:
    """Yield lines, reason and names of what is stored under several names that transformers reads as one tensor.

    Equal values cost nothing. Transformers 5.23 sorts the names and takes the first (`dot_natural_key`).
    """
    found: dict[tuple[str, ...], tuple[str, list[str]]] = {}
    for line in ("5", "4.57"):
        for name, names in _names_of_one(model, checkpoint, line):
            found.setdefault(names, (name, []))[1].append(line)
    for names, (name, lines) in found.items():
        tensors = tuple(t for t in map(checkpoint.tensor, names) if t is not None)
        if len(tensors) < 2:
            continue
        held = compare_members(UNREAD._replace(tensors=tensors), checkpoint, values)
        if held.stored in ("storage", "copy"):
            continue
        alike = len({(t.dtype, t.shape) for t in tensors}) == 1
        how = "with different values" if alike else "with different shapes or types"
        how = how if held.stored == "separate" else f"and were not compared ({held.reason})"
        numbered = any(letter.isdigit() for stored in names for letter in stored)  # by which 5 sorts otherwise
        first = min(names, key=lambda stored: stored.split("."))
        takes = f", of which 5 takes {first}" if "5" in lines and not numbered else ""
        where = f"transformers {' and '.join(sorted(lines))}"
        yield tuple(lines), f"{' and '.join(names)} are stored {how}, and both are {name} to {where}{takes}", names


def _names_of_one(model: ModelConfig, checkpoint: Checkpoint, line: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield a member of a tie, or a token embedding or head that has none, with its names where several are stored."""
    known = architecture_of(model, older=line == "4.57")
    spelled = {name: (name, *tie.spellings.get(name, ())) for tie in known.ties for name in tie.names}
    if line == "5" and known.known:
        spelled = dict(_untied_names(model, known, checkpoint)) | spelled
    read = as_older_reads(checkpoint, known) if line == "4.57" else checkpoint
    several = Counter(stored for names in spelled.values() for stored in set(names))
    for name, names in spelled.items():
        there = sorted({stored for stored in names if stored in read and (stored == name or several[stored] == 1)})
        if len(there) > 1:
            yield name, tuple(there)


def _untied_names(
    model: ModelConfig, known: Architecture, checkpoint: Checkpoint
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield embedding and head with the names that 5 reads as theirs; of a class of unknown ones what is named so."""
    kind, row = class_structure(model.class_name or "", model.model_type) or ("", {})
    if known.embedding or known.ties:
        finder = TensorFinder(checkpoint, known, row.get("a", {}), "")
        finder.doubled = True
        yield from ((name, tuple(finder.spelled(name))) for name in (known.embedding, known.head) if name)
        return
    inside = (prefix for prefix, level, word in row.get("p", ()) if not level and word == "*")
    base = class_of_word(kind, "*") == model.class_name
    prefix = base_prefix(model.class_name or "", kind) if base else next(inside, "")
    if not prefix:
        return
    from tiecheck.stored.name_guesses import EMBEDDING, named_alike

    for name in named_alike(checkpoint, EMBEDDING, None):
        bare = re.sub(rf"^({re.escape(prefix)}\.)+", "", name)
        spelled = (bare, f"{prefix}.{bare}", f"{prefix}.{prefix}.{bare}")
        yield (bare, spelled[:2]) if base else (spelled[1], spelled)


def _renamed_inside(
    model: ModelConfig, newest: Architecture, checkpoint: Checkpoint
) -> Iterator[tuple[tuple[str, ...], str, tuple[str, ...]]]:
    """Yield a section whose type is not its own: what 5 renames of it when it loads goes by that word (T5Gemma 2)."""
    for key, slot in (config_structure(model.model_type or "") or {}).get("s", {}).items():
        held = model.data.get(key)
        word = held.get("model_type", slot["typed"][0]) if isinstance(held, Mapping) else slot["typed"][0]
        if word == slot["typed"][0] or slot.get("any") or config_structure(slot["typed"][0], "5") is None:
            continue
        others = {
            s for tie in newest.ties for n in tie.names if f".{key}." in f".{n}" for s in tie.spellings.get(n, ())
        }
        there = min((name for name in others if name in checkpoint), default=None)
        if there is not None:
            yield ("5",), f"{key} has the model type {word}, by which 5 may not read {there} under that name", (there,)


def _half_stored(
    older: Architecture, newest: Architecture, checkpoint: Checkpoint
) -> Iterator[tuple[tuple[str, ...], str, tuple[str, ...]]]:
    """Yield what is stored in part, or not, of a tie that 4.57 makes under every flag, 5 under none (ViLT's bias)."""
    pair = {newest.head, newest.embedding}
    for tie in lost_ties(older, newest):
        there = [name for name in tie.names if name in checkpoint]
        always = tie.kind == "parameter" and tie.on and tie.off and tie.silent and not pair <= set(tie.names)
        spelled = [s for name in (*tie.names, *newer_names(tie)) for s in (name, *tie.spellings.get(name, ()))]
        if always and (there or not any(name in checkpoint for name in spelled)) and len(there) < len(tie.names):
            line = "5" if tie.source in there else "4.57"
            lost = next(name for name in tie.names if name not in there)
            held = f"{there[0]} is" if there else "no part of it is"
            yield (line,), f"{held} stored, and what {line} makes of {lost} is not known", tie.names


def _inner_ties(
    model: ModelConfig, older: Architecture, newest: Architecture, checkpoint: Checkpoint
) -> Iterator[tuple[tuple[str, ...], str, tuple[str, ...]]]:
    """Yield a tie of 4.57 alone: nothing of it is stored, or unlike shapes, or no head in 5 (Voxtral)."""
    pair = {older.head, older.embedding}
    own = {newest.head, newest.embedding}
    headless = newest.head is not None and newest.head not in checkpoint and None not in own and pair != own
    for tie in () if newest.ties else older.ties:
        tied = tied_by_flags(model, tie)
        spelled = [(name, *tie.spellings.get(name, ())) for name in tie.names]
        there = [any(name in checkpoint for name in names) for names in spelled]
        key = ".".join((*tie.level, tie.key))
        shapes = {tensor.shape for name in tie.names if (tensor := checkpoint.tensor(name)) is not None}
        if tied and len(shapes) > 1:
            yield (
                ("4.57",),
                f"by {key} 4.57 ties {' and '.join(tie.names)}, which are stored with unlike shapes",
                tie.names,
            )
        elif tied and not any(there):
            yield ("4.57",), f"by {key} 4.57 ties {' and '.join(tie.names)}, of which nothing is stored", tie.names
        elif tied and headless and pair <= set(tie.names) and not all(there):
            yield ("5",), f"by {key} 4.57 ties {' and '.join(tie.names)}, and 5 does not", tie.names
