"""The stored names against those of the class, as a strict load holds them."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import tiecheck
from tiecheck.records.declared import Architecture
from tiecheck.records.words import Unknown
from tiecheck.rules.cases import EMBEDDING, HEAD, llama_group, sharded_checkpoint
from tiecheck.stored.strict_load import fit_names
from tiecheck.stored.training_signs import may_be_wrapped
from tiecheck.tables.architectures import load_architecture
from tiecheck.tables.generate.classes import ClassCandidate, class_candidates, resolve_classes
from tiecheck.tables.generate.head_scale import tiny_config
from tiecheck.tables.generate.probe import Probe

REST = "model.norm.weight"
RESUMED = ("trainer_state.json",)


@pytest.mark.parametrize(
    ("names", "wrapped"),
    [
        (("module.a", "module.b"), True),
        (("module.a", "other.b"), False),
        (("a", "a"), False),
        ((), False),
    ],
)
def test_names_that_all_begin_alike_may_be_wrapped(names: tuple[str, ...], wrapped: bool) -> None:
    assert may_be_wrapped(sharded_checkpoint({"model.safetensors": names})) == wrapped


def test_a_wrappers_prefix_is_told_with_a_name_that_it_hides() -> None:
    llama = load_architecture("LlamaForCausalLM", "llama")
    wrapped = sharded_checkpoint({"model.safetensors": (f"module.{HEAD}", f"module.{EMBEDDING}", f"module.{REST}")})
    found = fit_names(wrapped, llama, (llama_group(),), (), ())
    assert not isinstance(found, Unknown)
    assert found.prefix == "module."
    assert found.aliases == ()


def test_an_alias_that_is_not_stored_is_told_with_what_is() -> None:
    llama = load_architecture("LlamaForCausalLM", "llama")
    found = fit_names(
        sharded_checkpoint({"model.safetensors": (EMBEDDING, REST)}),
        llama,
        (llama_group(),),
        (),
        ("trainer_state.json",),
    )
    assert not isinstance(found, Unknown)
    assert found.prefix is None
    assert found.aliases == (((HEAD,), (EMBEDDING,)),)
    assert found.resumed == RESUMED


def test_groups_that_are_unknown_stay_so() -> None:
    nobody = Architecture("Own", False, (), "not transformers' own", None)
    assert fit_names(sharded_checkpoint({"m.safetensors": ("a.b",)}), nobody, Unknown("no"), (), ()) == Unknown("no")
    built = fit_names(sharded_checkpoint({"m.safetensors": ("x.a.b", "x.c")}), nobody, Unknown("no"), ("a.b", "c"), ())
    assert not isinstance(built, Unknown)
    assert built.prefix == "x."


def untied() -> list[ClassCandidate]:
    """Classes that the table has, and that tie nothing."""
    known = ((one, load_architecture(one.class_name, one.model_type)) for one in class_candidates())
    return [one for one, found in known if found.known and not found.ties]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(4))
def test_a_wrapped_class_without_ties_is_told_too(seed: int, tmp_path: Path) -> None:
    """By drawn classes: with the prefix of a wrapper the library loads no tensor, and without it is silent."""
    draw = random.Random(seed)
    model, data = None, {}
    while model is None:
        with contextlib.suppress(Exception):  # some do not build small
            model_class, config_class = resolve_classes(draw.choice(untied()))
            asked = Probe(model_class, config_class, {})
            data = tiny_config(asked.full, asked.config, 32, 2)
            model = model_class(config_class.from_dict(data))
    prefix = draw.choice(("module.", "_orig_mod.", "module._orig_mod.", "_fsdp_wrapped_module."))
    for before in ("", prefix):
        model.save_pretrained(tmp_path)
        held = load_file(tmp_path / "model.safetensors")
        save_file({before + name: t for name, t in held.items()}, tmp_path / "model.safetensors", {"format": "pt"})
        _, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
        codes = [finding.code for finding in tiecheck.check(tmp_path).targets[0].findings]
        assert (len(info["unexpected_keys"]) == len(held)) is ("TIE205" in codes) is bool(before), type(model)
