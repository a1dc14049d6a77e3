"""Loads model directories with the installed transformers, 4.57 or 5, and prints what became of some tie groups.

Run as a script, since 4.57 needs an environment of its own: `python loading.py CELLS.json`. The file holds a list of
`{"path": directory, "groups": [{"names": [...], "source": name, "stored": {name: stored name}}]}`; one line of JSON a
cell comes back: `{"outcomes": [[outcome, detail], ...]}`, in the words of `tiecheck.facts.Outcome`. With `-` for the
file it reads one cell a line from its input, for who makes them one by one.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file


def stored_tensors(path: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(path.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def members(model: Any, group: dict[str, Any]) -> dict[str, torch.nn.Parameter]:
    """The parameters of a group by the names that the cells use, which are those of transformers 5."""
    named = dict(model.named_parameters(remove_duplicate=False))
    if all(name in named for name in group["names"]):
        return {name: named[name] for name in group["names"]}
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or embedding is None or len(group["names"]) != 2:
        return {}
    (target,) = (name for name in group["names"] if name != group["source"])
    return {target: head.weight, group["source"]: embedding.weight}


def outcome(found: dict[str, torch.nn.Parameter], group: dict[str, Any], tensors: dict[str, torch.Tensor]) -> list[str]:
    """What became of one group."""
    if not found:
        return ["unknown", "its parameters have other names here"]
    if any(parameter.is_meta for parameter in found.values()):
        return ["crash", "left on meta"]
    objects: dict[int, list[str]] = {}
    for name, parameter in found.items():
        objects.setdefault(id(parameter), []).append(name)
    stored = {name: tensors[group["stored"][name]] for name in found if group["stored"].get(name) in tensors}
    kept = {n for n, t in stored.items() if t.shape == found[n].shape and torch.equal(t.to(found[n].dtype), found[n])}
    lost = sorted(name for names in objects.values() if not kept & set(names) for name in names)
    if lost:
        return ["embedding-random" if group["source"] in lost else "head-random", ",".join(lost)]
    if kept != set(stored):
        return ["head-discarded", ",".join(sorted(set(stored) - kept))]
    return ["tied" if len(objects) == 1 else "kept-apart", ""]


def load(cell: dict[str, Any]) -> list[list[str]]:
    path = Path(cell["path"])
    name = json.loads((path / "config.json").read_text())["architectures"][0]
    model_class = getattr(transformers, name, None)
    if model_class is None:
        return [["unknown", f"no class {name}"] for _ in cell["groups"]]
    try:
        model = model_class.from_pretrained(path, local_files_only=True)
    except Exception as error:  # noqa: BLE001 - whatever it raises is the answer
        return [["crash", f"{type(error).__name__}: {error}"] for _ in cell["groups"]]
    tensors = stored_tensors(path)
    return [outcome(members(model, group), group, tensors) for group in cell["groups"]]


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    one_by_one = (json.loads(line) for line in iter(sys.stdin.readline, ""))
    for cell in one_by_one if sys.argv[1] == "-" else json.loads(Path(sys.argv[1]).read_text()):
        print(json.dumps({"outcomes": load(cell)}), flush=True)


if __name__ == "__main__":
    main()
