"""Messages in the real formats of the libraries, with other classes, paths, lists and numbers in what varies."""

from __future__ import annotations

import ast
import importlib.util
import random
from pathlib import Path

import pytest

from tiecheck.rules.search import search_rules

OLDER = (
    (
        (
            "Some weights of {} were not initialized from the model checkpoint at {} and are newly initialized: {}\n"
            "You should probably TRAIN this model on a down-stream task to be able to use it for predictions."
        ),
        "TIE102",
    ),
    ("Some weights of {} were not initialized from the model checkpoint at {} and are newly initialized: {}", "TIE102"),
    (
        (
            "Some weights of {} were not initialized from the model checkpoint at {} and are newly initialized because "
            "the shapes did not match:\n- {}: found shape {} in the checkpoint and {} in the model instantiated"
        ),
        "TIE108",
    ),
    (
        (
            "Some weights of the model checkpoint at {} were not used when initializing {}: {}\n- This IS expected if "
            "you are initializing {} from the checkpoint of a model trained on another task"
        ),
        "TIE106",
    ),
    (
        "The state dictionary of the model you are trying to load is corrupted. Are you sure it was properly saved?",
        "TIE207",
    ),
    ("Error(s) in loading state_dict for {}:\n\tsize mismatch for {}: copying a param with shape {} from", "TIE108"),
)
"""Formats of transformers 4.57.6's modeling_utils.py and of torch's load_state_dict, and a rule behind each."""

INSTALLED = (
    ("transformers.modeling_utils", "The tied weights mapping and config", "TIE101"),
    ("transformers.modeling_utils", "This checkpoint seem corrupted", "TIE110"),
    ("transformers.modeling_utils", "There is an issue with your definition of `tie_weights_keys`", "TIE309"),
    ("transformers.modeling_utils", "which are not properly defined", "TIE304"),
    ("transformers.integrations.accelerate", "Tied parameters are on different devices", "TIE501"),
    ("transformers.integrations.accelerate", "The `device_map` does not contain the module", "TIE511"),
    ("accelerate.utils.modeling", "were not used when initializing", "TIE106"),
    ("accelerate.utils.modeling", "Tied parameters are on different devices", "TIE501"),
    ("accelerate.utils.modeling", "does not give any device for the following parameters", "TIE502"),
    ("accelerate.utils.modeling", "do not match any submodules in the model", "TIE502"),
    ("accelerate.utils.other", "Removed shared tensor", "TIE205"),
    ("accelerate.accelerator", "FSDP2 mapping failed", "TIE504"),
    ("safetensors.torch", "Some tensors share memory", "TIE304"),
    ("safetensors.torch", "You are trying to save a non contiguous tensor", "TIE302"),
    ("safetensors.torch", "Error while trying to find names to remove", "TIE317"),
)
"""Module, words by which one of its messages is known, and a rule behind it."""


def filled(form: str, draw: random.Random) -> str:
    """Put what varies into a format: at each place something else."""
    while "{}" in form:
        form = form.replace("{}", something(draw), 1)
    return form


def something(draw: random.Random) -> str:
    """A class, a path, a list of names, a set, a shape, a number, a version."""
    word = "".join(draw.choices("abcdefghijklm", k=draw.randint(1, 9)))
    names = [f"{word}.{draw.randrange(40)}.{end}" for end in draw.sample(("weight", "bias", "proj.weight"), 2)]
    some = (f"{word.title()}ForCausalLM", f"/tmp/{word} of mine/v{draw.randrange(9)}", f"org/{word}-7B-v0.1", names[0])
    return draw.choice(
        (*some, str(names), str(set(names)), str(tuple(names)), f"torch.Size([{len(word)}, 64])", "5.23.0")
    )


def format_of(module: str, words: str) -> str:
    """Read a message in a module's source, `{}` for what is put in."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    return next(
        text
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and call.args
        for text in [text_of(call.args[0])]
        if words in text
    )


def text_of(node: ast.expr) -> str:
    """The text of a literal; `{}` for all that is put in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(map(text_of, node.values))
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "{}"


@pytest.mark.parametrize(("form", "code"), OLDER)
def test_what_varies_in_an_older_message_does_not_hide_it(form: str, code: str) -> None:
    draw = random.Random(form)
    for _ in range(12):
        pasted = filled(form, draw)
        found = search_rules(pasted)
        assert found.symptom is not None, pasted
        assert found.rules[0].code == code, pasted


@pytest.mark.parametrize(("module", "words", "code"), INSTALLED)
def test_what_varies_in_an_installed_library_s_message_does_not_hide_it(module: str, words: str, code: str) -> None:
    form = format_of(module, words)
    draw = random.Random(form)
    for _ in range(12):
        pasted = filled(form, draw)
        found = search_rules(pasted)
        assert found.symptom is not None, pasted
        assert code in [rule.code for rule in found.rules], pasted


@pytest.mark.parametrize("seed", range(12))
def test_a_row_of_the_loading_report_is_known_whatever_the_name(seed: int) -> None:
    from transformers.utils.loading_report import LoadStateDictInfo

    draw = random.Random(seed)
    name = (
        f"model.{draw.choice(('text_model', 'towers.3', 'h'))}.{draw.choice(('embed_tokens', 'wte', 'lm_head'))}.weight"
    )
    for kind, code in (("missing_keys", "TIE102"), ("unexpected_keys", "TIE106"), ("mismatched_keys", "TIE108")):
        fields = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set()}
        fields[kind] = {(name, (draw.randrange(99), 4), (7, 4))} if kind == "mismatched_keys" else {name}
        report = LoadStateDictInfo(**fields, error_msgs=[], conversion_errors={}, skipped_pp_keys=set())
        table = report.create_loading_report()
        assert table is not None
        for pasted in (table, "\x1b[1mGPT2 LOAD REPORT\x1b[0m from: x\n" + table.replace("|", "\x1b[0m|\x1b[31m", 3)):
            assert code in [rule.code for rule in search_rules(pasted).rules], pasted
