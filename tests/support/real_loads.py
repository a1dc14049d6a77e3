"""Loads model directories for real with the installed transformers, and tells what a rehearsal must have told.

Run as a script, for an environment of its own: a line `{"directory": ..., "holds": {parameter: stored name}}` on stdin,
a line of JSON on stdout.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file

Real = Callable[[str, dict[str, str]], dict[str, Any]]
"""A real load: the directory, and parameters with the stored name that each must hold."""


@contextmanager
def older_loads(python: str) -> Iterator[Real]:
    """Give real loads by another interpreter."""
    with subprocess.Popen([python, __file__], stdin=-1, stdout=-1, stderr=-3, text=True) as child:

        def real(directory: str, holds: dict[str, str]) -> dict[str, Any]:
            assert child.stdin
            assert child.stdout
            child.stdin.write(json.dumps({"directory": directory, "holds": holds}) + "\n")
            child.stdin.flush()
            return dict(json.loads(child.stdout.readline()))

        yield real
        assert child.stdin
        child.stdin.close()


def stored_tensors(path: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(path.glob("*.safetensors")):
        tensors |= load_file(file)
    for file in sorted(path.glob("pytorch_model*.bin")):
        tensors |= torch.load(file, weights_only=True)
    return tensors


def alike(stored: torch.Tensor, held: torch.Tensor) -> bool:
    """Whether a parameter holds a stored tensor: its values after the cast, NaN alike; a conversion reshapes."""
    if held.is_meta:
        return False
    cast = stored.to(held.dtype)
    return cast.shape != held.shape or bool(((cast == held) | (cast.isnan() & held.isnan())).all())


def tell(directory: str, holds: dict[str, str]) -> dict[str, Any]:
    """What a real load makes of a directory."""
    path = Path(directory)
    model_class = getattr(transformers, json.loads((path / "config.json").read_text())["architectures"][0])
    try:
        model, info = model_class.from_pretrained(path, output_loading_info=True, local_files_only=True)
    except Exception as error:  # noqa: BLE001 - whatever it raises is the answer
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return {"raised": [type(error).__name__, " ".join(lines[:2])[:400] or "no message"]}
    named = dict(model.named_parameters(remove_duplicate=False))
    names: dict[int, list[str]] = {}
    for name, value in named.items():
        names.setdefault(id(value), []).append(name)
    stored = stored_tensors(path)
    return {
        "missing": sorted(info["missing_keys"]),
        "unexpected": sorted(info["unexpected_keys"]),
        "groups": sorted(sorted(group) for group in names.values() if len(group) > 1),
        "left": sorted(name for name, value in named.items() if value.is_meta),
        "wrong": sorted(n for n, s in holds.items() if n in named and s in stored and not alike(stored[s], named[n])),
        "names": sorted(named),
    }


def differences(rehearsal: Any, path: Path, real_load: Real) -> list[str]:
    """What a real load does that the rehearsal has not told."""
    if rehearsal.unsure:
        return [rehearsal.unsure]
    single = [held for held in rehearsal.held if held.state == "loaded" and len(held.stored) == 1]
    real = real_load(str(path), {name: held.stored[0] for held in single for name in held.names})
    if "raised" in real or rehearsal.raised:
        return [] if real.get("raised") == list(rehearsal.raised or ()) else [f"{rehearsal.raised}, {real}"]
    known = set(real["names"])
    left = sorted(n for held in rehearsal.held if held.state == "left" for n in held.names if n in known)
    told = {
        "missing": sorted(rehearsal.missing),
        "unexpected": sorted(rehearsal.unexpected),
        "groups": sorted(list(names) for names in rehearsal.groups if names[0] in known),
        "left": left,
        "wrong": [],
    }
    return [f"{key}: {told[key]}, and it is {real[key]}" for key in told if told[key] != real[key]]


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for line in iter(sys.stdin.readline, ""):
        print(json.dumps(tell(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
