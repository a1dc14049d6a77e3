"""Traces a forward pass of every class of transformers on meta: `python tests/benchmarks/bench_uses.py --help`.

Each class is built small on meta and `tiecheck.uses` told what it reads, with inputs made up. `--rows` keeps a line a
class, so that a run goes on where it was stopped; `--write` writes the page. `--time` measures time and memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import resource
import signal
import sys
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import torch
import transformers
from subjects import ClassCandidate, every, quiet
from timing import note, ratio, report
from zoo import animal, own

from tiecheck.live.registrations import Registrations
from tiecheck.records.uses import Uses, names_not_taken
from tiecheck.tables.generate.build import build_on_meta
from tiecheck.tables.generate.classes import resolve_classes
from tiecheck.tables.generate.configs import filled_from_default, shrink_layers, silent_dict
from tiecheck.trace.forward import left_untouched
from tiecheck.trace.inputs import Inputs, made_inputs
from tiecheck.trace.uses import trace_uses

Row = dict[str, Any]

SECONDS = 60
"""Time that one class may take."""


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, default=Path("uses-zoo.jsonl"), help="a JSON line a class, kept")
    parser.add_argument("--only", default="", help="these classes alone, a pattern; their rows are made anew")
    parser.add_argument("--minutes", type=float, default=0, help="stop after so many; 0 for no end")
    parser.add_argument("--time", action="store_true", help="measure time and memory of some models of full size")
    parser.add_argument("--write", type=Path, help="write the page")
    options = parser.parse_args()
    quiet()
    if options.time:
        measure()
    elif not options.write:
        run(options.rows, options.only, options.minutes)
    if options.write:
        options.write.write_text(page(read_rows(options.rows)), encoding="utf-8")


def run(path: Path, only: str, minutes: float) -> None:
    """Trace the classes that have no row yet."""
    end = time.monotonic() + minutes * 60 if minutes else float("inf")
    done = {row["class"] for row in read_rows(path)} if not only else set()
    with path.open("a", encoding="utf-8") as rows:
        for candidate in every():
            key = f"{candidate.model_type}:{candidate.class_name}"
            if key in done or not re.fullmatch(only or ".*", candidate.class_name):
                continue
            try:
                if not own(candidate):
                    continue
            except ImportError:  # a class of a library that is not here
                continue
            rows.write(json.dumps({"class": key} | traced(candidate)) + "\n")
            rows.flush()
            if time.monotonic() > end:
                return


def traced(candidate: ClassCandidate) -> Row:
    """Return what became of one class."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"took more than {SECONDS} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        module = built(candidate)
        if type(module).forward is torch.nn.Module.forward:
            return {"built": False, "why": "it has no forward"}
        found = trace_uses(module)
        if not isinstance(found, Uses):  # a default config may be none that runs
            with contextlib.suppress(Exception):
                module, found = _other_than(found, small(candidate))
        row = {"generative": bool(module.can_generate()), "plain": plainly(module)}
        return row | (told(module, found) if isinstance(found, Uses) else {"why": found.reason})
    except Exception as error:  # noqa: BLE001  # whatever a class raises is its row
        return {"built": False, "why": f"{type(error).__name__}: {str(error)[:150]}"}
    finally:
        signal.alarm(0)


def built(candidate: ClassCandidate) -> Any:
    """Return a class on meta, of its own size but for fewer layers; small where it does not take that."""
    model_class, config_class = resolve_classes(candidate)
    config = config_class()
    full = silent_dict(config)
    for data in (full, filled_from_default(full, config)):
        with contextlib.suppress(Exception):
            return build_on_meta(model_class, config_class, shrink_layers(data, config, 2)).eval()
    return small(candidate)


def small(candidate: ClassCandidate) -> Any:
    """Return a class on meta, built small."""
    one = animal(candidate)
    return build_on_meta(one.model_class, one.config_class, one.data).eval()


def _other_than(stopped: Any, module: Any) -> tuple[Any, Any]:
    """Return another instance and what was seen of it; what stopped the first where nothing was."""
    found = trace_uses(module)
    return module, found if isinstance(found, Uses) else stopped


def told(module: Any, found: Uses) -> Row:
    """Return what was seen of a class, and what is known to be true of it."""
    head = module.get_output_embeddings()
    weight = getattr(head, "weight", None)
    names = Registrations(module, buffers=False).names_of(weight)
    uses = [use for use in found.uses if set(use.names) & set(names)]
    return {
        "inputs": found.inputs,
        "ran": found.ran,
        "unread": sum(use.role == "unread" for use in found.uses),
        "parameters": len({use.names for use in found.uses}),
        "elsewhere": sum(use.held == "nowhere" for use in found.uses),
        "head": sorted({use.role for use in uses}) if names else None,
        "slots": names_not_taken(uses) if len(names) > 1 else (),
        "logits": None if found.logits is None else bool(set(found.logits) & set(names)),
    }


def plainly(module: Any) -> bool:
    """Return True if a plain forward pass on meta comes through."""
    for given in list(made_inputs(module))[:4]:
        with contextlib.suppress(Exception), left_untouched(module, torch.device("meta")):
            module(**on_meta(given).kwargs)
            return True
    return False


def on_meta(given: Inputs) -> Inputs:
    """Return inputs without values."""
    return Inputs((), {k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in given.kwargs.items()})


def read_rows(path: Path) -> list[Row]:
    """Return the rows that there are, the last of each class."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return list({row["class"]: row for row in map(json.loads, lines)}.values())


def page(rows: list[Row]) -> str:
    """Return the page of evidence."""
    built = [row for row in rows if row.get("built", True)]
    versions = f"transformers {transformers.__version__} and torch {torch.__version__.partition('+')[0]}"
    lines = [
        "# Uses over the classes of transformers",
        "",
        f"Made by `python tests/benchmarks/bench_uses.py --write` with {versions}: each class on meta,",
        "of its default size but for two layers (small where that does not run), with made-up inputs.",
        "",
        "| classes | built | followed | by a plain pass on meta |",
        "|---|---|---|---|",
    ]
    for title, value in (("that generate", True), ("others", False)):
        some = [row for row in built if row.get("generative") is value]
        if not some:
            continue
        followed, plain = sum("inputs" in row for row in some), sum(bool(row.get("plain")) for row in some)
        lines.append(f"| {title} | {len(some)} | {followed} ({followed / max(1, len(some)):.0%}) | {plain} |")
    heads = [row for row in built if row.get("head") and row.get("generative")]
    seen = sum("linear" in row["head"] for row in heads)
    reached = sum(row["logits"] is True for row in heads)
    left = [row for row in built if "why" in row and row["generative"]]
    lines += [
        "",
        f"Of {len(heads)} followed classes that generate and name a head, {seen} are seen to multiply with it;",
        f"in {reached} the logits are followed back to it. A plain pass on meta fails where values are asked for;",
        "the trace answers such questions, and gives real tokens.",
        "",
        "## Not followed, of those that generate",
        "",
        *(f"- {row['class']}: {row['why'].splitlines()[0][:160]}" for row in left),
        "",
        f"Not built, by a default config of few layers or want of a library or a forward: {len(rows) - len(built)}.",
    ]
    return "\n".join(lines) + "\n"


def measure() -> None:
    """Print processor time against a plain forward pass on meta, taken in turns, and the memory that a trace takes."""
    for name, make in SUBJECTS.items():
        with torch.device("meta"):
            module, given = make()
        module.eval()
        plain, traced = partial(run_plainly, module, given), partial(trace_uses, module, given)
        measured = ratio(partial(clock, traced), partial(clock, plain))
        report(f"{name}: a trace, of a plain pass on meta", measured, GOAL)
        tracemalloc.start()
        traced()
        taken = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
        print(f"  the trace takes {taken:.1f} MiB")
        if name == LARGEST:
            seconds = measured[0]
            note(f"{name}: a trace", f"{seconds:.2f} s", "<= 1 s", held=seconds <= 1)
    whole = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"the process took {whole:.0f} MiB at most, torch and transformers included")
    note("traces of all of them, the whole process", f"{whole:.0f} MiB", "<= 500 MiB", held=whole <= 500)


def run_plainly(module: Any, given: Inputs) -> None:
    """Run a forward pass on meta, as the trace does but without it."""
    with left_untouched(module, torch.device("meta")):
        module(**on_meta(given).kwargs)


def clock(call: Callable[[], object]) -> float:
    """Return the seconds of a call."""
    begin = time.process_time()
    call()
    return time.process_time() - begin


def text(*names: str, **more: torch.Tensor) -> Inputs:
    """Return eight tokens under each name, and what else there is."""
    return Inputs((), {name: torch.ones(1, 8, dtype=torch.long, device="cpu") for name in names} | more)


def pictured() -> tuple[Any, Inputs]:
    """Return a model of pictures and words, and one of each."""
    picture = torch.zeros(1, 3, 384, 384, device="cpu")
    model = transformers.BlipForConditionalGeneration(transformers.BlipConfig())
    return model, text("input_ids", pixel_values=picture)


def experts() -> Any:
    """Return a mixture of experts, in the one type in which meta multiplies groups."""
    return transformers.MixtralForCausalLM(transformers.MixtralConfig()).to(torch.bfloat16)


IDS = text("input_ids")
GOAL = 1.15
LARGEST = "Llama 70B"
SUBJECTS: dict[str, Callable[[], tuple[Any, Inputs]]] = {
    "Llama, 2 layers": lambda: (llama(64, 128, 2, 8), IDS),
    "GPT-2": lambda: (transformers.GPT2LMHeadModel(transformers.GPT2Config()), IDS),
    "T5": lambda: (
        transformers.T5ForConditionalGeneration(transformers.T5Config()),
        text("input_ids", "decoder_input_ids"),
    ),
    "BLIP, a picture": pictured,
    "Mixtral 8x7B": lambda: (experts(), IDS),
    "Llama 8B": lambda: (llama(4096, 14336, 32, 32), IDS),
    LARGEST: lambda: (llama(8192, 28672, 80, 64), IDS),
}


def llama(width: int, inner: int, layers: int, heads: int) -> Any:
    """Return a Llama of a published size."""
    config = transformers.LlamaConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        vocab_size=128256,
    )
    return transformers.LlamaForCausalLM(config)


if __name__ == "__main__":
    main()
