"""Drawn configs, configuration files, contracts and command lines."""

from __future__ import annotations

import json
import os
import re
from functools import cache
from importlib import resources
from typing import Any

from cases import FORMATS, Case, Draw, Pairs, Raw, encoded, written

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "tie_word_embeddings": True,
    "vocab_size": 4,
    "hidden_size": 2,
    "num_attention_heads": 1,
}
CONFIG = json.dumps(LLAMA).encode()
KEYS = ("architectures", "model_type", "tie_word_embeddings", "tie_encoder_decoder", "tie_weights", "vocab_size",
    "hidden_size",
        "d_model", "n_embd", "dim", "text_config", "decoder", "encoder", "vision_config", "thinker_config",
        "quantization_config",
        "auto_map", "torch_dtype", "dtype", "logit_scale", "logits_scaling", "embedding_multiplier", "scale_embedding",
        "initializer_range", "init_std", "num_hidden_layers", "num_labels", "id2label", "pruned_heads", "rope_scaling",
        "transformers_version", "_name_or_path", "backbone", "is_encoder_decoder", "num_codebooks", "share_embeddings",
        "feature_size", "hidden_sizes", "mup_base_width", "dim_model_base", "final_logit_softcapping")  # fmt: skip


@cache
def classes() -> tuple[tuple[str, str], ...]:
    """Every class of the tie table, each with a model type."""
    text = resources.files("tiecheck.tables").joinpath("architectures.txt").read_text("utf-8")
    return tuple(re.findall(r"^(\w+)\t([\w.-]+)", text, re.MULTILINE))


def drawn_config(draw: Draw) -> bytes:
    """A config: of some class, with odd values at some keys, some of them below others."""
    made = Pairs(LLAMA.items())
    if draw.chance(0.6):
        name, kind = draw.choice(classes())
        made[0], made[1] = ("architectures", [name]), ("model_type", kind)
    for _ in range(draw.choice((1, 1, 2, 4))):
        level = made
        while draw.chance(0.3):
            inner = Pairs([("tie_word_embeddings", draw.choice((True, False, draw.value())))])
            level.append((draw.choice(("text_config", "decoder", "encoder", "thinker_config", draw.word())), inner))
            level = inner
        value = draw.choice((draw.value(), draw.number(), draw.word(), True, False, [draw.word()], {"x": draw.value()}))
        level.append((draw.choice(KEYS) if draw.chance(0.95) else draw.text(), value))
    if draw.chance(0.02):
        made.append(("tie_word_embeddings", Raw("[" * 990 + "]" * 990)))
    return encoded(draw, written(draw.value() if draw.chance(0.03) else made))


def config_case(draw: Draw) -> Case:
    """A drawn config beside sound weights."""
    from weights import PAIR, safetensors, sound_header

    names = (
        PAIR if draw.chance(0.7) else draw.choice((("shared.weight", "lm_head.weight"), ("transformer.wte.weight",)))
    )
    header, size = sound_header(draw, names)
    return Case("config", {"config.json": drawn_config(draw),
                           "model.safetensors": safetensors(written(header).encode(),
                           bytes(range(256))[:1] * size)})  # fmt: skip


TOML_KEYS = ("select", "ignore", "fail-on", "strict", "values", "for", "offline", "ties", "device-map",
    "max-memory", "dtype",
             "no-split", "hash-seeds", "fail_on", "timeout", "baseline")  # fmt: skip
TOML_VALUES = ('["TIE101"]', '["TIE"]', "true", '"error"', '"never"', '["vllm"]', '["transformers==4.57"]', "1",
    "-1", "1e400",
               "nan", "9" * 30, '{ M = [["a.weight", "b.weight"]] }', '{ M = [["a"]] }', '{ "*" = [] }', "[[1]]",
               '"auto"', "[]",
               '{ 0 = "10GiB", cpu = "nan" }', '["0=10GiB"]', "1979-05-27", '"\\u0000"', '"""x\ny"""', "{}",
               '"\\u001b[31m"',
               '{ "" = "cpu" }', '{ 0 = "1e308GiB" }', "[" * 500 + "]" * 500)  # fmt: skip


def toml_case(draw: Draw) -> Case:
    """A configuration file, named by `--config`."""
    lines = []
    for _ in range(draw.choice((0, 1, 1, 2, 3))):
        key = draw.choice(TOML_KEYS) if draw.chance(0.9) else json.dumps(draw.text())
        lines.append(f"{key} = {draw.choice(TOML_VALUES) if draw.chance(0.8) else written(draw.value())}")
    if draw.chance(0.3):
        lines.append(f"[ties]\n{json.dumps(draw.word())} = {written(draw.value())}")
    name = draw.choice(("tiecheck.toml", "tiecheck.toml", "pyproject.toml"))
    text = ("[tool.tiecheck]\n" if name == "pyproject.toml" else "") + "\n".join(lines)
    files = {"config.json": CONFIG, name: encoded(draw, text)}
    if draw.chance(0.02):
        files[name] = draw.choice(({"link": "/dev/zero"}, {"fifo": True}, {"link": "/dev/full"}))  # type: ignore[assignment]
    return Case("toml", files, ("--config", "{}/" + name, "{}"), {"config": "{}/" + name})


def contract_case(draw: Draw) -> Case:
    """A contract that is given to a call: any Python value."""
    ties = draw.choice(
        (draw.value(), {draw.word(): draw.value()}, {"M": [[draw.word(), draw.value()]]}, [[draw.word()]])
    )
    return Case("contract", {"config.json": CONFIG}, (), {"ties": _plain(ties)})


def _plain(value: Any) -> Any:
    if isinstance(value, Raw):
        return value.text[:50]
    if isinstance(value, dict):
        return {str(_plain(k)): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list) else value


ARGUMENTS = ("{}", "{}/model.safetensors", "{}/config.json", "check", "inspect", "rule", "TIE101", "TIE999",
    "--live", "--load",
             "--select", "TIE1", "--ignore", "--for", "vllm", "transformers==4.57", "--fail-on", "error",
             "--strict", "--exit-zero",
             "--values", "never", "-f", "json", "text", "json={}/out", "-f=json", "-o", "{}/out", "/dev/full",
             "--revision", "main",
             "--offline", "--device-map", "auto", "--max-memory", "0=10GiB", "cpu=1e999", "--dtype", "float16",
             "--no-split",
             "--hash-seeds", "3", "--checkpoint", "--config", "/dev/zero", "{}/tiecheck.toml", "--isolated", "-v",
             "-q", "--color",
             "always", "--", "-", "", "--help", "--version", "a/b", "hf://a/b", "hf://", "file://{}", "http://[::1",
             "memory://x", "no.module:Thing", "{}/m.py:f",
             "json:loads", "a.b:c", "--timeout", "5", "nan", "--trust-remote-code", "--no-such", "{}/../x",
             "rule/")  # fmt: skip
LIVE = {
    "--live",
    "--load",
    "--device-map",
    "--trust-remote-code",
    "--max-memory",
    "--dtype",
    "--no-split",
    "--hash-seeds",
    "--checkpoint",
}


def command_case(draw: Draw) -> Case:
    """A command line of drawn arguments; what builds a class is asked for now and then only, since it imports torch."""
    words = []
    allowed = (
        ARGUMENTS if draw.chance(0.01) else [word for word in ARGUMENTS if word not in LIVE and ":" not in word[3:]]
    )
    allowed = [*allowed, *(word for word in ARGUMENTS if "://" in word)]
    for _ in range(draw.choice((0, 1, 2, 3, 5, 8))):
        word = (
            draw.choice(allowed)
            if draw.chance(0.9)
            else draw.choice((draw.text().replace("\0", "?"), str(draw.number())))
        )
        words.append("x" if word.startswith("/") and os.path.isdir(word) else word)  # `/` is all of this machine
    if draw.chance(0.5):
        words.append("{}")
    if draw.chance(0.1):  # first, so that it is a target and no option's value
        words.insert(0, draw.choice(("http://u:secret@127.0.0.1:9/x?token=secret", "x::http://u:secret@h/p",
            "http://[::1]:9/?k=secret",
                                     "HTTP://secret@127.0.0.1:9", "ftp://u:secret@127.0.0.1:9/",
                                     "https://127.0.0.1:9/a?secret#x")))  # fmt: skip
    from weights import drawn_weights

    files: dict[str, Any] = {"config.json": CONFIG, "model.safetensors": drawn_weights(draw)}
    return Case(
        "command",
        files,
        tuple(words),
        environment={"TIECHECK_CHECK_STRICT": draw.word().replace("\0", "")} if draw.chance(0.05) else {},
    )


FORMATS |= {"config": config_case, "toml": toml_case, "contract": contract_case, "command": command_case}
