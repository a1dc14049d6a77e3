"""The stored names against those of the class, as a strict load holds them."""

from __future__ import annotations

import pytest

from tiecheck.records.declared import Architecture
from tiecheck.records.words import Unknown
from tiecheck.rules.cases import EMBEDDING, HEAD, llama_group, sharded_checkpoint
from tiecheck.stored.strict_load import fit_names
from tiecheck.stored.training_signs import may_be_wrapped
from tiecheck.tables.architectures import load_architecture

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
