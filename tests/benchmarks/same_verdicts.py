"""Proves that a change of tiecheck's code keeps its verdicts: record them before and after, and compare.

    python same_verdicts.py make DIR
    python same_verdicts.py record DIR before.jsonl --tiecheck CHECKOUT
    python same_verdicts.py record DIR after.jsonl --tiecheck OTHER --fixtures CHECKOUT/fixtures/models
    python same_verdicts.py diff before.jsonl after.jsonl --ignore 'targets[].findings[].fingerprint'
    python same_verdicts.py verdicts before.jsonl after.jsonl

`make` builds a thousand small checkpoints of transformers classes, changed in many ways. `record` asks one tiecheck
about them, about live models and about placements, by its public doors alone, so that no move of a module matters.
`diff` groups what is not the same, `verdicts` the statuses and error codes alone. Both records need one `make`, one
Python and the same installed packages.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib
import json
import logging
import os
import pkgutil
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from transformers.models.auto import modeling_auto

# fmt: off
FLAG = "tie_word_embeddings"
DIRECTORIES, TIED, UNTIED, LARGEST, PLANS = 1000, 95, 25, 750_000, ((32, 4), (64, 4))
DOCUMENT = ("json_document", "document")  # the JSON format's dict of a report, as versions of tiecheck call it
LAYERS = r"^(n|num)_(hidden_)?layers?$|^(num_)?(encoder|decoder)_layers$|^depth$"
SMALL = (  # config keys that make a model large, and what a small one has there: `d` is the width, `h` the heads
    (r"^(hidden_size|d_model|n_embd|dim|emb_dim|embed_dim|n_embed|word_embed_proj_dim|embedding_size)$", "d"),
    (r"(intermediate_size|ffn_dim|d_ff|n_inner|ffn_hidden_size|ffn_size|inner_dim)$", "2d"),
    (r"^(attention_)?head_dim$|^d_kv$|^d_head$", "d/h"), (r"heads?$", "h"), (LAYERS, "2"),
    (r"vocab_size$", "160"), (r"_token_id$", "1"), (r"^((moe_)?num_experts|num_local_experts|n_routed_experts)$", "4"),
    (r"^(num_experts_per_tok|num_experts_per_token|moe_topk|moe_k)$", "2"),
    (r"^(max_position_embeddings|n_positions|n_ctx|max_seq_len|max_seq_length|image_size)$", "64"),
)
COPIES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {  # a second stored member of a group
    "equal": torch.clone, "random": torch.randn_like, "zeros": torch.zeros_like,
    "trained": lambda w: w + 0.01 * torch.randn_like(w), "one-row": lambda w: torch.cat([w[:1] + 1, w[1:]]),
    "more-rows": lambda w: torch.cat([w, torch.randn_like(w[:3])]), "fewer-rows": lambda w: w[:-2].clone(),
    "padded": lambda w: torch.cat([w, torch.zeros_like(w[:32])]), "transposed": lambda w: w.T.contiguous(),
    "bf16": lambda w: w.bfloat16(), "rounded": lambda w: w.half().to(w.dtype),
    "scaled": lambda w: w * 0.5, "nan": lambda w: torch.full_like(w, torch.nan),
}
STATES = ("as-saved", "as-saved", "nothing-stored", "other-member", "all-bf16", "large-draw", *COPIES)
CONFIGS: dict[str, dict[str, Any]] = {  # keys to write, at the top or (`nested`) in the first inner config; ... drops
    "as-saved": {}, "true": {FLAG: True}, "false": {FLAG: False}, "null": {FLAG: None}, "gone": {FLAG: ...},
    "text": {FLAG: "false"}, "nested-true": {FLAG: True}, "nested-false": {FLAG: False}, "nested-gone": {FLAG: ...},
    "no-architectures": {"architectures": ...}, "other-class": {"architectures": ["MyOwnForCausalLM"]},
    "no-model-type": {"model_type": ...}, "more-words": {"vocab_size": 176}, "dtype": {"dtype": "bfloat16"},
    "quantized": {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
    "own-code": {"auto_map": {"AutoModelForCausalLM": "modeling_own.Own"}},
}
NAMES = {"module.": "^", "_orig_mod.": "^", "base_model.model.": "^", "model.": "^", "": r"^\w+\.", "o.": r"^lm_head\."}
LAYOUTS = ("file", "file", "file", "bin", "file optimizer", "file optimizer again", "file other-format", "file missing",
           "file other-format-differs", "file truncated", "file no-config", "file cut-config", "file consolidated",
           "shards", "shards bin", "shards missing", "shards twice", "shards more", "shards less", "shards wrong")
# fmt: on

save_safe = partial(save_file, metadata={"format": "pt"})
Tensors = dict[str, torch.Tensor]
Ask = tuple[str, Callable[[], Any]]
"""A key, and what gives its document."""


class Base(NamedTuple):
    """A small model as its class saves it: groups are the names that are one parameter, shapes those of parameters."""

    name: str
    config: dict[str, Any]
    groups: list[list[str]]
    owners: list[str]
    shapes: list[list[int]]
    tensors: Tensors


def small(data: Any, width: int, heads: int) -> Any:
    """A config dict with small numbers at every level, and lists of a value a layer cut to two."""
    if not isinstance(data, dict):
        return data
    sizes = {"d": width, "2d": 2 * width, "h": heads, "d/h": width // heads}
    found, layers = {}, {v for k, v in data.items() if type(v) is int and re.search(LAYERS, str(k))}
    for key, value in data.items():
        word = next((word for pattern, word in SMALL if re.search(pattern, str(key))), "0")
        size = sizes.get(word) or int(word)
        found[key] = size if type(value) is int and value > size > 0 else small(value, width, heads)
        if isinstance(value, list) and len(value) in layers:
            found[key] = value[:2]
    return found


def live(name: str, config: dict[str, Any], device: str = "cpu") -> Any:
    """A model of a class and a config dict, with the same draw each time."""
    torch.manual_seed(0)
    model_class = getattr(transformers, name)
    with torch.device(device):
        return model_class(model_class.config_class.from_dict(copy.deepcopy(config))).eval()


def build(name: str, *, tie: bool) -> Base | None:
    """One class, built and saved; None where no plan makes it small enough, or the class refuses."""
    for plan in PLANS:
        with contextlib.suppress(Exception), tempfile.TemporaryDirectory() as where:
            data = small(getattr(transformers, name).config_class().to_dict() | ({FLAG: True} if tie else {}), *plan)
            if sum(p.numel() for p in live(name, data, "meta").parameters()) > LARGEST:
                continue
            model = live(name, data)
            model.save_pretrained(where)
            held: dict[int, list[str]] = {}
            for path, parameter in model.named_parameters(remove_duplicate=False):
                held.setdefault(id(parameter), []).append(path)
            owners = [name for name, module in model.named_modules() if [*module.parameters(recurse=False)]]
            config = json.loads(Path(where, "config.json").read_text())
            shapes = [list(p.shape) for p in model.parameters()]
            groups = [sorted(names) for names in held.values() if len(names) > 1]
            return Base(name, config, groups, owners, shapes, load_file(Path(where, "model.safetensors")))
    return None


def bases() -> Iterator[Base]:
    """Classes drawn from every auto mapping in turn, language models thrice, as many tied and untied ones as wanted."""
    rng = random.Random("classes")
    mappings = {k: v for k, v in sorted(vars(modeling_auto).items()) if re.fullmatch(r"MODEL\w*_MAPPING_NAMES", k)}
    pools = [[n for names in m.values() for n in ([names] if type(names) is str else names)] for m in mappings.values()]
    pools = [sorted(set(pool)) for pool in (*pools, *[modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()] * 2)]
    for pool in pools:
        rng.shuffle(pool)
    left, seen = {True: TIED, False: UNTIED}, set()
    while any(left.values()) and any(pools):
        for name in [pool.pop() for pool in pools if pool]:
            base = None if name in seen else build(name, tie=rng.random() < 0.5)
            seen.add(name)
            if base and left[bool(base.groups)]:
                left[bool(base.groups)] -= 1
                yield base


def restored(state: str, base: Base) -> Tensors:
    """The tensors with a state of their groups; without groups, of an embedding and a head that nobody knows."""
    tensors = dict(base.tensors)
    if state == "all-bf16":
        return {n: t.bfloat16() if t.is_floating_point() else t for n, t in tensors.items()}
    found = [([n for n in g if n in tensors], [n for n in g if n not in tensors]) for g in base.groups]
    lone = [n for n, t in tensors.items() if t.dim() == 2 and re.search("word_emb|tokens|wte|shared", n)][:1]
    for stored, missing in [pair for pair in found if all(pair)] or [(lone, ["lm_head.weight"])] * len(lone):
        weight = tensors[stored[0]]
        if state in COPIES:
            tensors |= {name: COPIES[state](weight).clone() for name in missing}
        elif state == "large-draw":
            tensors[stored[0]] = torch.randn_like(weight)
        elif state != "as-saved":
            del tensors[stored[0]]
            tensors |= {missing[-1]: weight} if state == "other-member" else {}
    return tensors


def write(layout: str, edit: str, tensors: Tensors, base: Base, path: Path) -> None:
    """A directory with one edit of its config; each word of the layout is something to write, or to write wrongly."""
    path.mkdir(parents=True)
    config = copy.deepcopy(base.config)
    inner = [value for value in config.values() if isinstance(value, dict) and "model_type" in value]
    level = inner[0] if inner and edit.startswith("nested") else config
    level |= CONFIGS[edit]
    for key in [key for key, value in level.items() if value is ...]:
        del level[key]
    if "no-config" not in layout:
        text = json.dumps(config, indent=2)
        (path / "config.json").write_text(text[:-9] if "cut-config" in layout else text)
    stem, save = ("pytorch_model{}.bin", torch.save) if "bin" in layout else ("model{}.safetensors", save_safe)
    names, number = sorted(tensors), 3 if "shards" in layout else 1
    files = [stem.format(f"-{i + 1:05}-of-00003" if number > 1 else "") for i in range(number)]
    for i, file in enumerate(files):
        twice = {names[0]: tensors[names[0]] * 2} if "twice" in layout and file == files[-1] else {}
        save({name: tensors[name] for name in names[i::number]} | twice, path / file)
    if "shards" in layout:
        weight_map = {name: files[i % 3] for i, name in enumerate(names)}
        weight_map |= {"lm_head.weight": files[0]} if "more" in layout else {}
        weight_map |= {names[0]: files[-1]} if "wrong" in layout else {}
        kept = {name: file for name, file in weight_map.items() if name != names[0] or "less" not in layout}
        (path / f"{stem.format('')}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": kept}))
    if "missing" in layout:
        (path / files[-1]).unlink()
    if "truncated" in layout:
        os.truncate(path / files[0], (path / files[0]).stat().st_size - 4096)
    if "other-format" in layout:
        other = restored("trained", base._replace(tensors=tensors)) if "differs" in layout else tensors
        torch.save(other, path / "pytorch_model.bin")
    if "consolidated" in layout:
        save_safe(base.tensors, path / "consolidated.safetensors")
    if "optimizer" in layout:  # the model's own, or that of a model whose heads are parameters of their own
        again = [base.shapes[0]] * len(base.groups) if "again" in layout else []
        parameters = [nn.Parameter(torch.zeros(shape)) for shape in base.shapes + again]
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer = torch.optim.AdamW(parameters, foreach=False)
        optimizer.step()
        torch.save(optimizer.state_dict(), path / "optimizer.pt")


def make(where: Path) -> None:
    """Build everything that `record` reads."""
    begin = time.perf_counter()
    made, entries = list(bases()), []
    for i in range(DIRECTORIES):
        number, rng = i % len(made), random.Random(f"directory {i}")
        torch.manual_seed(i)
        state, edit, layout = rng.choice(STATES), rng.choice(list(CONFIGS)), rng.choice(LAYOUTS)
        prefix = rng.choice(list(NAMES)) if rng.random() < 0.2 else None
        tensors = restored(state, made[number])
        if prefix is not None:
            tensors = {re.sub(NAMES[prefix], prefix, name): tensor for name, tensor in tensors.items()}
        words = [f"{i:04}", made[number].name, state, edit, *layout.split(), f"names-{prefix}"]
        path = Path("dirs", "_".join(words).rstrip("."))
        shutil.rmtree(where / path, ignore_errors=True)
        write(layout, edit, tensors, made[number], where / path)
        loads = layout.split()[-1] in ("file", "bin", "shards", "optimizer")
        classed = edit not in ("text", "no-architectures", "other-class", "own-code", "no-model-type", "quantized")
        entries.append({"name": str(path), "base": number, "placed": loads and classed and bool(made[number].groups)})
    known = [base._replace(tensors={}, shapes=[]) for base in made]
    (where / "manifest.json").write_text(json.dumps({"bases": known, "directories": entries}))
    print(f"{len(made)} classes and {len(entries)} directories in {time.perf_counter() - begin:.0f} s")


class Plain(nn.Module):
    """A language model of nobody's, tied in one of several styles."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(24, 8), nn.Linear(8, 24, bias=False)
        self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])
        STYLES[style](self)


def put(module: Any, value: torch.Tensor | None, name: str = "weight", **more: Any) -> None:
    """Assign a new parameter, or what is none."""
    setattr(module, name, value if value is None or isinstance(value, nn.Parameter) else nn.Parameter(value, **more))


# fmt: off
STYLES: dict[str, Callable[[Any], Any]] = {
    "apart": lambda m: None, "parameter": lambda m: put(m.head, m.embed.weight), "meta": lambda m: m.to("meta"),
    "three": lambda m: [put(m.head, m.embed.weight), put(m, m.embed.weight, "extra")],
    "module": lambda m: m.layers.extend([m.layers[0]]),
    "data": lambda m: setattr(m.head.weight, "data", m.embed.weight.data),
    "view": lambda m: put(m.head, m.embed.weight.detach()[:]),
    "equal": lambda m: put(m.head, m.embed.weight.data.clone()),
    "buffers": lambda m: [layer.register_buffer("mask", m.embed.weight.detach()) for layer in m.layers],
    "headless": lambda m: delattr(m, "head"), "lazy": lambda m: setattr(m, "head", nn.LazyLinear(24)),
}
PAIR = [["embed.weight", "head.weight"]]
CONTRACTS = (None, PAIR, [["embed.weight", "gone.weight"]], [["layers.0.weight", "layers.1.weight"]], {"Plain": PAIR})
BREAKS: dict[str, Callable[[Any, Any, str, Any], Any]] = {  # model, module, name and weight of a tied member
    "intact": lambda m, x, n, w: None, "clone": lambda m, x, n, w: put(x, w.detach().clone(), n),
    "other": lambda m, x, n, w: put(x, torch.randn_like(w), n), "same-memory": lambda m, x, n, w: put(x, w.detach(), n),
    "data": lambda m, x, n, w: [put(x, torch.randn_like(w), n), setattr(getattr(x, n), "data", w.data)],
    "deepcopy": lambda m, x, n, w: m.set_submodule({v: k for k, v in m.named_modules()}[x], copy.deepcopy(x)),
    "frozen-copy": lambda m, x, n, w: put(x, w.detach().clone(), n, requires_grad=False),
    "buffer": lambda m, x, n, w: [delattr(x, n), x.register_buffer(n, w.detach())],
    "none": lambda m, x, n, w: put(x, None, n), "meta": lambda m, x, n, w: m.to("meta"),
    "half-meta": lambda m, x, n, w: put(x, w.detach().to("meta"), n),
    "emptied": lambda m, x, n, w: [p.data.zero_() for p in m.to("meta").to_empty(device="cpu").parameters()],
    "assign": lambda m, x, n, w: m.load_state_dict({k: t.clone() for k, t in m.state_dict().items()}, assign=True),
    "assign-own": lambda m, x, n, w: m.load_state_dict(m.state_dict(), assign=True),
    "retied": lambda m, x, n, w: [put(x, torch.randn_like(w), n), m.tie_weights()],
    "pruned": lambda m, x, n, w: [prune.l1_unstructured(x, n, amount=0.5)],
    "parametrized": lambda m, x, n, w: [parametrize.register_parametrization(x, n, nn.Softplus())],
    "weight-norm": lambda m, x, n, w: [parametrizations.weight_norm(x, n)],
    "compiled": lambda m, x, n, w: torch.compile(m),
    "averaged": lambda m, x, n, w: torch.optim.swa_utils.AveragedModel(m),
    "lora": lambda m, x, n, w: get_peft_model(m, LoraConfig(target_modules="all-linear", r=2)),
    "data-parallel": lambda m, x, n, w: nn.DataParallel(m), "inside": lambda m, x, n, w: nn.ModuleDict({"policy": m}),
    "twice": lambda m, x, n, w: nn.ModuleList([m, m]), "resized": lambda m, x, n, w: [m.resize_token_embeddings(180)],
    "bf16": lambda m, x, n, w: m.bfloat16(), "half-of-one": lambda m, x, n, w: [x.half()],
    "frozen": lambda m, x, n, w: m.requires_grad_(False), "flag-off": lambda m, x, n, w: setattr(m.config, FLAG, False),
}
GATES = ("auto", "balanced", "sequential", "balanced_low_0", "cpu", "map 1",
         "map cpu", "map disk", "map less", "map all", "map 0")
MEMORIES = ({0: "1GB", 1: "1GB"}, {0: "100KB", 1: "1GB"}, {0: "60KB", 1: "60KB", "cpu": "1GB"},
            {0: "300KB", "cpu": "1GB"}, {0: "1KB"})
OPTIONS = ({"values": "always"}, {"values": "never"}, {"strict": True}, {"judge_for": "vllm"}, {"ignore": "TIE1"},
           {"judge_for": "transformers==4.57"}, {"select": ("TIE2", "TIE3")}, {"select": "TIE999"}, {"fail_on": "info"})
# fmt: on


def broken(base: Base, way: str, pick: int) -> Any:
    """A model with one of its ties treated in a way; a module that the way returns stands for the model."""
    model = live(base.name, {k: v for k, v in base.config.items() if k != "architectures"})
    path, _, name = base.groups[0][pick % len(base.groups[0])].rpartition(".")
    found = BREAKS[way](model, model.get_submodule(path), name, model.get_parameter(base.groups[0][0]))
    return found if isinstance(found, nn.Module) else model


def placement(base: Base, kind: str) -> Any:
    """A strategy, or a map of every module with parameters that has every second tied member on a device of its own."""
    if not kind.startswith("map"):
        return kind
    far = [name.rpartition(".")[0] for group in base.groups for name in group[1::2]]
    word = kind.removeprefix("map ")
    placed = dict.fromkeys(base.owners, 0) | dict.fromkeys(far, int(word) if word.isdigit() else word)
    less = dict.fromkeys(base.owners[:-1], 0)
    return {"all": {"": 0}, "less": less}.get(word, placed)


class Recorder:
    """Asks one tiecheck, and has what it says in a form that does not hang on places and times."""

    def __init__(self, where: Path, tiecheck: Path, fixtures: Path | None) -> None:
        fixtures = (fixtures or tiecheck / "fixtures" / "models").resolve()
        self.where, self.places = where, {where: "DIR", fixtures: "FIXTURES", tiecheck: "TIECHECK"}
        self.homes = {"fixture": fixtures}
        os.environ.update(PYTHONPATH=str(tiecheck), COLUMNS="100", NO_COLOR="1")
        sys.path.insert(0, str(tiecheck))
        self.module = importlib.import_module("tiecheck")
        if not Path(str(self.module.__file__)).is_relative_to(tiecheck):
            raise SystemExit(f"tiecheck comes from {self.module.__file__}, not from {tiecheck}")
        names = [m.name for m in pkgutil.walk_packages(self.module.__path__, "tiecheck.") if m.name.endswith("json")]
        made = (vars(importlib.import_module(name)) for name in names)
        found = [module[name] for module in made for name in DOCUMENT if name in module]
        if not found:
            raise SystemExit("no module of this tiecheck has the document of the JSON format")
        self.document = found[0]

    def run(self, kind: str, door: str, target: Any, *words: str, **options: Any) -> Ask:
        """An ask in this process, of a path or of what makes a module; an exception is an answer too."""
        told = words or (target, *(f"{k}={v}" for k, v in options.items()))

        def answer() -> Any:
            os.chdir(self.homes.get(kind, self.where))
            torch.manual_seed(0)
            try:
                report = getattr(self.module, door)(target if isinstance(target, str) else target(), **options)
            except Exception as error:  # noqa: BLE001 - whatever it raises is what is recorded
                return {"raises": f"{type(error).__name__}: {error}"}
            return self.document(report)

        return " ".join([kind, door, *told]), answer

    def cli(self, *words: str) -> Ask:
        """An ask on the command line, in a process of its own."""
        command = [sys.executable, "-m", "tiecheck", *words, *(["--isolated"] if words[0] != "rule" else [])]

        def answer() -> Any:
            done = subprocess.run(command, cwd=self.where, capture_output=True, text=True, check=False)
            out = json.loads(done.stdout) if "json" in words and done.stdout else done.stdout.splitlines()
            return {"exit": done.returncode, "out": out, "err": done.stderr.splitlines()}

        return " ".join(["cli", *words]), answer

    def told(self, value: Any) -> Any:
        """An answer without seconds, absolute paths and addresses in memory."""
        if isinstance(value, dict):
            return {key: self.told(item) for key, item in value.items() if key != "seconds"}
        if isinstance(value, list | tuple):
            return [self.told(item) for item in value]
        for place, word in self.places.items() if isinstance(value, str) else ():
            value = re.sub(r"\b\d+(\.\d+)? (ms|s|seconds)\b", "N s", value.replace(str(place), word))
        return re.sub(r"0x[0-9a-f]{6,}", "0x", value) if isinstance(value, str) else value

    def asks(self) -> Iterator[Ask]:
        """Everything that is asked, in a fixed order."""
        run, cli, manifest = self.run, self.cli, json.loads((self.where / "manifest.json").read_text())
        models, entries = [Base(*base) for base in manifest["bases"]], manifest["directories"]
        names, tied = [entry["name"] for entry in entries], [base for base in models if base.groups]
        fixtures = sorted(path.name for path in self.homes["fixture"].iterdir() if path.is_dir())
        for more in ({}, {"live": True, "trust_remote_code": True}, {"load": True, "trust_remote_code": True}):
            yield from (run("fixture", "check", name, **more) for name in fixtures)
        yield from (run("plain", "check", name) for name in names)
        yield from (run("options", "check", name, **OPTIONS[i % len(OPTIONS)]) for i, name in enumerate(names[3::10]))
        yield from (run("live-directory", "check", name, live=True) for name in names[1::13])
        yield from (run("loaded-directory", "check", name, load=True) for name in names[2::25])
        yield from (run("inspect", "inspect", name, live=i % 5 == 0) for i, name in enumerate(names[5::10]))
        for i in range(145):
            base, way, door = tied[i % len(tied)], list(BREAKS)[i % len(BREAKS)], "check" if i % 12 else "inspect"
            yield run("live", door, lambda b=base, w=way, i=i: broken(b, w, i), f"{i:03}", base.name, way)
        for i, style in enumerate([*STYLES] * len(CONTRACTS)):
            ties = CONTRACTS[i // len(STYLES)]
            yield run("plain-module", "check", lambda s=style: Plain(s), f"{i:03}", style, f"ties={ties}", ties=ties)
        placed = [entry for entry in entries if entry["placed"]][::2][:40]
        for i in range(200):
            entry, kind, memory = placed[i % 40], GATES[(i + i // 40) % len(GATES)], MEMORIES[i // 40]
            more = {"max_memory": memory} | ({"hash_seeds": 2} if i % 66 == 0 else {})
            where = placement(models[entry["base"]], kind)
            yield run("gate", "check", entry["name"], entry["name"], kind, str(more), device_map=where, **more)
        yield from (cli(name, "-v") for name in names[7::17])
        yield from (cli(name, "-f", "json") for name in names[8::50])
        yield from (cli("inspect", name, "-v") for name in names[9::50])
        yield from (cli(e["name"], "--device-map", "auto", "--max-memory", "0=100KB") for e in placed[:4])
        yield from (cli("rule", *code) for code in ((), ("TIE101",), ("TIE301",), ("TIE999",)))


def record(recorder: Recorder, out: Path, sample: int | None) -> None:
    """Ask everything, or every n-th thing so that about a sample is left, and write a line for each."""
    asks, spent, counts = list(recorder.asks()), Counter[str](), Counter[str]()
    with out.open("w") as lines:
        for key, answer in asks[:: max(1, len(asks) // sample) if sample else 1]:
            start, kind = time.perf_counter(), key.split()[0]
            with contextlib.redirect_stdout(sys.stderr):
                lines.write(json.dumps({"key": key, "report": recorder.told(answer())}) + "\n")
            counts[kind] += 1
            spent[kind] += time.perf_counter() - start
    print(*(f"{kind}: {counts[kind]} in {spent[kind]:.1f} s" for kind in counts), sep="\n")
    print(f"all: {counts.total()} in {spent.total():.0f} s")


ABSENT = "<absent>"


def without(value: Any, ignored: Sequence[str], path: str = "") -> Any:
    """A document without the fields whose path is ignored."""
    if isinstance(value, list):
        return [without(item, ignored, f"{path}[]") for item in value]
    if not isinstance(value, dict):
        return value
    paths = {key: f"{path}.{key}".lstrip(".") for key in value}
    return {key: without(item, ignored, paths[key]) for key, item in value.items() if paths[key] not in ignored}


def differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Path, old and new value of everything that is not the same; of lists of two lengths, what only one has."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from differences(old.get(key, ABSENT), new.get(key, ABSENT), f"{path}.{key}".lstrip("."))
        if [*old] != [*new] and old.keys() == new.keys():
            yield path, "<keys in one order>", "<in another>"
    elif isinstance(old, list) and isinstance(new, list):
        sides = [[json.dumps(item) for item in side] for side in (old, new)]
        if sides[0] != sides[1] and sorted(sides[0]) == sorted(sides[1]):
            yield path, "<items in one order>", "<in another>"
            return
        if len(old) != len(new):
            sides = [[*(Counter(a) - Counter(b)).elements()] for a, b in (sides, sides[::-1])]
        for i in range(max(map(len, sides))):
            yield from differences(*(json.loads(s[i]) if i < len(s) else ABSENT for s in sides), f"{path}[]")
    elif json.dumps(old) != json.dumps(new):
        yield path, old, new


def short(value: Any) -> str:
    """A value in few words; the figures of a long text are left out, so that alike changes are one."""
    text = value if value == ABSENT else json.dumps(value)
    return (re.sub(r"(?<![TIE\d])\d+", "#", text) if len(text) > 20 else text)[:90]


def reports(recorded: Path) -> dict[str, Any]:
    """The report of each ask of a record."""
    return {line["key"]: line["report"] for line in map(json.loads, recorded.read_text().splitlines())}


def verdict(target: Any) -> tuple[str, set[str], str]:
    """The status of a target, the codes of its errors, and the reason in a form that does not hang on names."""
    told = target["errors"][0]["message"] if target["errors"] else target.get("reason") or ""
    codes = {finding["code"] for finding in target["findings"] if finding["severity"] == "error"}
    return target["status"], codes, re.sub(r"[\w.]*\.(weight|bias)\b|[\w./]*/[\w./-]+|\d+", "#", told)[:110]


def verdicts(before: Path, after: Path) -> int:
    """Print which statuses and error codes changed, with what the later record says of it; 0 where none did."""
    old, new, kinds, same = reports(before), reports(after), dict[str, list[str]](), 0
    for key in [key for key in old if key in new]:
        sides = [side.get("out", side) if isinstance(side, dict) else side for side in (old[key], new[key])]
        pairs = [side["targets"] if isinstance(side, dict) and "targets" in side else [] for side in sides]
        for (status, codes, _), (later, others, reason) in zip(*(map(verdict, side) for side in pairs), strict=True):
            if (status, codes) == (later, others):
                same += 1
                continue
            moved = [*(f"-{code}" for code in sorted(codes - others)), *(f"+{code}" for code in sorted(others - codes))]
            kinds.setdefault(" ".join([status, "->", later, *moved, reason]), []).append(key)
    print(f"{same} targets have the same status and error codes")
    for kind, keys in sorted(kinds.items(), key=lambda item: -len(item[1])):
        print(f"{len(keys):6}  {kind}\n        as in: {keys[0]}")
    return int(bool(kinds))


def diff(before: Path, after: Path, ignored: Sequence[str]) -> int:
    """Print how two records differ; 0 where they do not."""
    old, new = reports(before), reports(after)
    counts, example, changed = Counter[str](), {}, 0
    for key in [key for key in old if key in new]:
        found = list(differences(without(old[key], ignored), without(new[key], ignored)))
        changed += bool(found)
        for signature in {f"{path}: {short(a)} -> {short(b)}" for path, a, b in found}:
            counts[signature] += 1
            example.setdefault(signature, key)
    alone = sorted(old.keys() ^ new.keys())
    print(f"{len(old)} before, {len(new)} after, {changed} changed, {len(alone)} in one of them only")
    for signature, times in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        print(f"{times:6}  {signature}\n        as in: {example[signature]}")
    for key in alone[:20]:
        print(f"only {'before' if key in old else 'after'}: {key}")
    return int(bool(changed or alone))


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("make", "record", "diff", "verdicts"))
    parser.add_argument("paths", nargs="+", type=lambda text: Path(text).resolve(), help="as above")
    parser.add_argument("--tiecheck", type=Path, default=Path(), help="the folder that holds the package")
    parser.add_argument("--fixtures", type=Path, help="default: fixtures/models in that folder")
    parser.add_argument("--sample", type=int, help="record about so many lines only")
    parser.add_argument("--ignore", action="append", default=[], metavar="JSONPATH", help="diff leaves it out")
    options = parser.parse_args()
    if len(options.paths) != (1 if options.command == "make" else 2):
        parser.error(f"{options.command} takes other paths")
    if options.command == "verdicts":
        return verdicts(*options.paths)
    if options.command == "diff":
        return diff(*options.paths, options.ignore)
    wanted = {"PYTHONHASHSEED": "0", "HF_HUB_OFFLINE": "1"}  # one order of the sets that accelerate walks over
    if wanted.keys() - os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], wanted | os.environ)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if options.command == "make":
        make(*options.paths)
    else:
        where, out = options.paths
        record(Recorder(where, options.tiecheck.resolve(), options.fixtures), out, options.sample)
    return 0


if __name__ == "__main__":
    sys.exit(main())
