"""What other tools say of broken models, run side by side: the page `docs/comparison.md`.

`python tests/benchmarks/bench_peers.py [--write docs/comparison.md]`; a minute.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import subprocess
import sys
import tempfile
import warnings
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import accelerate
import transformers
from accelerate import infer_auto_device_map, init_empty_weights
from accelerate.utils import find_tied_parameters
from transformers import AutoConfig

import tiecheck
from tiecheck.records.report import TargetReport

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "fixtures" / "models"
CASES = {
    "llama-healthy-tied": "healthy: tied, stored once",
    "llama-untied": "healthy: not tied, both stored",
    "llama-diverged-head": "a trained head under a flag that says tied",
    "llama-added-token-rows": "the same, rows of added tokens alone",
    "llama-flag-lost": "the flag was lost, no head is stored",
    "llama-flattened-tie": "a tie that an export wrote out twice",
    "llama-head-name-only": "stored under the head's name alone",
    "llama-orphaned-tie": "stored under no name",
    "gemma-flattened-tie": "a class that ties by default, written out twice",
    "t5-false-flag": "a flag that means something else",
}
"""Fixture -> what is the matter with it."""

SOURCE = """from torch import nn
from transformers import PreTrainedModel


class XForCausalLM(PreTrainedModel):
    _tied_weights_keys = {"lm_head.weight": "wte.weight"}

    def __init__(self, config):
        super().__init__(config)
        self.wte = nn.Embedding(8, 4)
        self.lm_head = nn.Linear(4, 8, bias=False)
        self.post_init()
"""
IDIOMS = {
    "a list of tied keys": ('{"lm_head.weight": "wte.weight"}', '["lm_head.weight"]'),
    "`post_init()` is missing": ("        self.post_init()\n", ""),
    "an empty `tie_weights`": ("post_init()\n", "post_init()\n\n    def tie_weights(self):\n        pass\n"),
    "a misspelt declaration": ("_tied_weights_keys", "_tied_weight_keys"),
    "`nn.Parameter(wte.weight.data)`": (
        "        self.post_init()",
        "        self.lm_head.weight = nn.Parameter(self.wte.weight.data)\n        self.post_init()",
    ),
    "`lm_head.weight.data = ...`": (
        "        self.post_init()",
        "        self.lm_head.weight.data = self.wte.weight.data\n        self.post_init()",
    ),
    "the module assigned, not its weight": (
        "        self.post_init()",
        "        self.lm_head = self.wte\n        self.post_init()",
    ),
    "the same key mapped to itself": ('"lm_head.weight": "wte.weight"', '"lm_head.weight": "lm_head.weight"'),
    "nothing wrong": ("", ""),
}
"""Idiom -> what is written instead of what in `SOURCE`."""


def loaded(folder: Path) -> tuple[Any, str]:
    """Load a model as anybody does, and return it with what transformers says of ties or heads, in short."""
    told = io.StringIO()
    handler = logging.StreamHandler(told)
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
            warnings.simplefilter("ignore")
            name = AutoConfig.from_pretrained(folder).architectures[0]
            model, info = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    except Exception as error:  # noqa: BLE001  # that it raises is what is asked
        return None, f"raises {type(error).__name__}"
    finally:
        logger.removeHandler(handler)
    text = told.getvalue()
    said = []
    if "different values" in text:
        said.append("one line: kept apart")
    if "absent from the checkpoint" in text:
        said.append("one line: seems corrupted")
    missing = sorted(info["missing_keys"])
    if missing:
        said.append(f"newly initialized: {', '.join(missing)}")
    return model, "; ".join(said) or "nothing"


def planned(model: Any, folder: Path) -> str:
    """Return what accelerate says while it plans for a model, and the ties that it sees in it."""
    if model is None:
        return "no model"
    told = io.StringIO()
    handler = logging.StreamHandler(told)
    logging.getLogger("accelerate").addHandler(handler)
    try:
        with init_empty_weights():
            empty = type(model)(AutoConfig.from_pretrained(folder))
        empty.tie_weights()
        infer_auto_device_map(empty, max_memory={"cpu": "1GiB"})
    finally:
        logging.getLogger("accelerate").removeHandler(handler)
    warned = "warns; " if "not tied" in told.getvalue() else ""
    groups = find_tied_parameters(model)
    return f"{warned}sees {len(groups)} group{'' if len(groups) == 1 else 's'}"


def worst(target: TargetReport) -> str:
    """Return the status of a target with the codes that are no notes, or those that are."""
    codes = [f.code for f in target.findings if f.severity != "info"] or [f"note {f.code}" for f in target.findings]
    return " ".join(dict.fromkeys([f"**{target.status}**", *codes]))


def checkpoint_rows() -> list[str]:
    """Return the table of checkpoints."""
    rows = ["| checkpoint | tiecheck | `from_pretrained` says | accelerate |", "|---|---|---|---|"]
    for name, what in CASES.items():
        folder = MODELS / name
        model, said = loaded(folder)
        rows.append(f"| {what} | {worst(tiecheck.check(folder).targets[0])} | {said} | {planned(model, folder)} |")
    return rows


def source_rows() -> list[str]:
    """Return the table of idioms in sources; rules of the linter that the source without a fault has too count not."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "modeling_x.py"
        for what, (old, new) in IDIOMS.items():
            path.write_text(SOURCE.replace(old, new) if old else SOURCE)
            (target,) = tiecheck.check(path).targets
            found[what] = [f.code for f in target.counted()], linted(path)
    usual = set(found["nothing wrong"][1])
    rows = ["| idiom | tiecheck | transformers-mlinter |", "|---|---|---|"]
    for what, (ours, theirs) in found.items():
        more = " ".join(code for code in dict.fromkeys(theirs) if code not in usual)
        rows.append(f"| {what} | {' '.join(dict.fromkeys(ours)) or 'nothing'} | {more or 'nothing'} |")
    return rows


def linted(path: Path) -> list[str]:
    """Return the rules of transformers-mlinter that find something in a file."""
    import json

    out = path.with_suffix(".json")
    asked = ["-m", "mlinter", "--no-progress", "--no-cache", "--output-json", str(out), str(path)]
    subprocess.run([sys.executable, *asked], capture_output=True, check=False, cwd=path.parent)
    return [row["rule"] for row in json.loads(out.read_text())["findings"]]


PAGE = """# Other tools

Made by `python tests/benchmarks/bench_peers.py --write docs/comparison.md`, which runs all of them: transformers
{transformers}, accelerate {accelerate}, transformers-mlinter {mlinter}.

None of these tools is wrong about what it was made for. transformers and accelerate have to load a model, and say in
passing what they noticed; the linter of transformers' own sources holds them to its conventions. tiecheck asks one
question: whether what is declared, stored and live agrees, for whoever loads it.

## Checkpoints

{checkpoints}

"Nothing": no word of it is printed or logged on the default level, and `output_loading_info` has none. A line of a log
has no exit status. accelerate may warn in `infer_auto_device_map` of an empty model, and did not here;
what it sees is its `find_tied_parameters` on the model that was loaded.

## Sources

{sources}

Rules that the source without a fault has too, such as a missing licence header, are left out.

## Live models

`tiecheck.views(model)` and `tiecheck inspect` run the finders of accelerate, transformers, safetensors, lightning, FSDP
and PEFT on a model and show them beside what is true: [facts](inspect.md). Finders that go by the identity of a tensor
miss two parameters over one memory, safetensors goes by memory alone and takes them for tied; before 0.34 accelerate
missed a module under two names beside each other.

## Around it

modelscan, picklescan and fickling ask whether a pickle is safe, and know nothing of ties; tiecheck runs nothing of a
pickle. `pip-audit` and `ruff` are the tools whose manners were taken over: exit statuses, codes, baselines, formats.
"""


def main() -> None:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", type=Path)
    asked = parser.parse_args()
    if find_spec("mlinter") is None:
        sys.exit("it takes transformers-mlinter: pip install -e '.[test]'")
    logging.disable(logging.NOTSET)
    text = PAGE.format(
        transformers=transformers.__version__,
        accelerate=accelerate.__version__,
        mlinter=version("transformers-mlinter"),
        checkpoints="\n".join(checkpoint_rows()),
        sources="\n".join(source_rows()),
    )
    if asked.write:
        asked.write.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
