"""Makes the table of releases: which classes of transformers 5 came when, and which tied otherwise before.

Run as `python -m tiecheck.tables.generate.releases --kept FOLDER` in an environment of each release, in any order. What
a release told goes to the folder; the table is written anew from all that is there, and compares each with the newest.
Names alone are compared: how files spell them is a matter of the newest tie table.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tiecheck.tables.architectures import load_architecture, table_version
from tiecheck.tables.generate.__main__ import library_version
from tiecheck.tables.generate.build import build_on_meta, groups_of
from tiecheck.tables.generate.classes import ClassCandidate, class_candidates, resolve_classes
from tiecheck.tables.generate.configs import Flags, with_flags
from tiecheck.tables.generate.probe import Probe
from tiecheck.tables.releases import PATH, any_number, release_of

FLAGS: dict[str, bool | None] = {"silent": None, "true": True, "false": False}
"""States in which a class is asked: no flag, and all of them true or false."""


LACKING = "lacking"
"""Key for the names of the tie table that a class of the release does not have: it calls them otherwise."""


def tell_release(kept: Path) -> None:
    """Ask the installed release which classes it has and what each ties, and write it to the folder as it comes.

    A line is [class, model type, state -> its groups, digest of its source]; None stands for what could not be built,
    and for a class that has nothing to tie by its declaration and by the newest table. A class whose source another
    release has too is not built again.
    """
    others: dict[tuple[str, ...], Any] = {}
    for other in kept.glob("*.jsonl"):
        lines = map(json.loads, other.read_text().splitlines())
        others |= {(*line[:2], line[3]): line[2] for line in lines if len(line) > 3 and line[3]}
    path = kept / f"{library_version()}.jsonl"
    done = {tuple(json.loads(line)[:2]) for line in path.read_text().splitlines()} if path.exists() else set()
    with path.open("a") as file:
        if ("", "copies") not in done:
            file.write(f"{json.dumps(['', 'copies', ties_copies()])}\n")
        for candidate in class_candidates():
            if candidate[:2] not in done:
                key = (*candidate[:2], source_digest(candidate))
                told = others[key] if key in others else class_groups(candidate)
                file.write(f"{json.dumps([*candidate[:2], told, key[2]])}\n")
                file.flush()


def source_digest(candidate: ClassCandidate) -> str:
    """Return a digest of the modules that hold a class and its config, comments left out; empty where none is there."""
    try:
        modules = [inspect.getmodule(one) for one in resolve_classes(candidate)]
        text = "".join(inspect.getsource(module) for module in modules if module is not None)
    except (AttributeError, ImportError, OSError, TypeError):
        return ""
    return hashlib.sha256(re.sub(r"#.*", "", text).encode()).hexdigest()[:12]


def ties_copies() -> bool:
    """Tell whether the installed release ties an embedding and a head that are stored with equal values."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 8, "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1}
    config = LlamaConfig(**sizes, num_attention_heads=1, num_key_value_heads=1, tie_word_embeddings=True)
    with tempfile.TemporaryDirectory() as folder:
        model = LlamaForCausalLM(config)
        model.save_pretrained(folder)
        tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        save_file(tensors, Path(folder, "model.safetensors"), metadata={"format": "pt"})
        loaded = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return loaded.lm_head.weight is loaded.model.embed_tokens.weight


def class_groups(candidate: ClassCandidate) -> dict[str, Any] | None:
    """Return the groups that a class ties with no flag in its config, and with all of them true or false."""
    try:
        model_class, config_class = resolve_classes(candidate)
        if not getattr(model_class, "_tied_weights_keys", None) and not load_architecture(*candidate[:2]).ties:
            return None
        asked = Probe(model_class, config_class, {})
    except Exception:  # noqa: BLE001 - any library error is a reason to leave the class out
        return None
    every = [(), *asked.nested]
    told = {word: _groups(asked, {} if f is None else dict.fromkeys(every, f)) for word, f in FLAGS.items()}
    known = {name for tie in load_architecture(*candidate[:2]).ties for name in tie.names}
    there = {name for name, _ in asked.model.named_parameters(remove_duplicate=False)}
    return told | {LACKING: sorted(known - there)}


def _groups(asked: Probe, flags: Flags) -> list[list[str]] | None:
    """Return the groups under some flags once a load has tied them, as no constructor of 5.0 does; None if refused."""
    try:
        model = build_on_meta(asked.model_class, asked.config_class, with_flags(asked.small, flags))
        model.tie_weights()
    except Exception:  # noqa: BLE001 - a class may refuse a flag in any words (csm)
        return None
    return sorted(map(list, groups_of(model)))


def release_table(kept: Path) -> str:
    """Return the table of all releases in a folder, each held against the one that the tie table was made from."""
    told = {release_of(path.stem): _read(path) for path in kept.glob("*.jsonl")}
    releases, newest = sorted(told), release_of(table_version())
    copies = [told[one].pop(("", "copies")) for one in releases]
    if sorted(copies) != copies:
        raise ValueError("a release ties equal copies and a later one does not: the table has no place for that")
    rows: dict[tuple[str, ...], set[str]] = {}
    for key, states in told[newest].items():
        for names in {tuple(group) for word in FLAGS for group in (states or {}).get(word) or ()}:
            bits = [_bits(names, told[one].get(key)) for one in releases]
            for since, until, word in _spans(releases, bits, _bits(names, states)):
                rows.setdefault((key[0], since, until, word, " ".join(any_number(names))), set()).add(key[1])
    lines = ["\t".join((name, ",".join(sorted(types)), *rest)) for (name, *rest), types in rows.items()]
    seen = {name for name, _ in told[releases[0]]}
    for one in releases[1:]:
        came = sorted({name for name, _ in told[one]} - seen)
        seen.update(came)
        lines += [f"+{_word(one)}\t{','.join(came)}"] if came else []
    lines.append(f"*\t{_word(releases[copies.index(True)])}")
    asked = " ".join(map(_word, releases))
    head = f"#\ttransformers\t{asked}\tmade by python -m tiecheck.tables.generate.releases; do not edit"
    return "\n".join([head, *sorted(lines), ""])


def _read(path: Path) -> dict[tuple[str, str], Any]:
    return {tuple(line[:2]): line[2] for line in map(json.loads, path.read_text().splitlines())}


def _word(release: tuple[int, int]) -> str:
    return ".".join(map(str, release))


def _bits(names: tuple[str, ...], states: dict[str, Any] | None) -> str:
    """Return whether a group is tied in each state, as 0 and 1; x for a state that is refused, or was not asked."""
    known = {} if states is None or set(names) & set(states[LACKING]) else states
    groups = [known.get(word) for word in FLAGS]
    return "".join("x" if g is None else "01"[any(set(names) <= set(group) for group in g)] for g in groups)


def _spans(releases: list[tuple[int, int]], bits: list[str], now: str) -> Iterator[tuple[str, str, str]]:
    """Yield the ranges of releases whose bits are others than now: the first, the one after the last, the bits."""
    last = _word((releases[-1][0], releases[-1][1] + 1))
    ends = [*map(_word, releases[1:]), last]
    spans: list[tuple[str, str, str]] = []
    for since, until, word in zip(map(_word, releases), ends, bits, strict=True):
        if all(a == b or "x" in (a, b) for a, b in zip(word, now, strict=True)):
            continue
        joined = bool(spans) and spans[-1][1:] == (since, word)
        spans.append((spans.pop()[0] if joined else since, until, word))
    yield from spans


def write_releases(arguments: list[str] | None = None) -> int:
    """Ask the installed release and write the table; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tiecheck.tables.generate.releases", description=__doc__)
    parser.add_argument("--kept", type=Path, required=True, help="folder of what the releases told so far")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    options.kept.mkdir(exist_ok=True)
    tell_release(options.kept)
    text = release_table(options.kept)
    Path(PATH).write_text(text, encoding="utf-8")
    print(f"{len(text.splitlines())} lines, {len(text.encode()):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(write_releases())
