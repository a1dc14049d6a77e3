"""A config beside the tensors that it was saved with, and with one of its numbers changed: told by its own name."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import tiecheck
from tiecheck.files.checkpoint import read_checkpoint
from tiecheck.files.model_config import read_config
from tiecheck.records.declared import ModelConfig
from tiecheck.records.files import LoadProblem
from tiecheck.records.stored import Checkpoint
from tiecheck.stored.config_fit import LINES, size_problems

WIDTHS = ("hidden_size", "intermediate_size", "vocab_size")


def problems(model: ModelConfig, checkpoint: Checkpoint, **changed: object) -> list[LoadProblem]:
    return list(size_problems(model._replace(data=model.data | changed), checkpoint))


@pytest.fixture(scope="module")
def llama() -> tuple[ModelConfig, Checkpoint]:
    where = str(Path(__file__).parents[2] / "fixtures" / "models" / "llama-healthy-tied")
    model, checkpoint = read_config(where), read_checkpoint(where)
    assert isinstance(model, ModelConfig)
    assert isinstance(checkpoint, Checkpoint)
    return model, checkpoint


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(WIDTHS), more=st.integers(1, 64).map(lambda n: 16 * n))
def test_a_size_that_is_not_the_stored_one_crashes_both_lines(llama, key: str, more: int) -> None:
    model, checkpoint = llama
    assert problems(model, checkpoint) == []
    (found,) = problems(model, checkpoint, **{key: model.data[key] + more})
    (name,) = found.names
    assert (found.kind, found.outcome, found.versions) == ("shape", "crash", LINES)
    assert f"{key} {model.data[key] + more}" in found.why
    assert model.data[key] in checkpoint.tensor(name).shape


def test_heads_that_do_not_divide_the_width_are_named(llama) -> None:
    model, checkpoint = llama
    (found,) = problems(model, checkpoint, num_attention_heads=3)
    assert (found.kind, found.outcome, found.names) == ("field", "crash", ("num_attention_heads",))


@pytest.mark.parametrize("value", [None, 0])
def test_a_size_that_is_not_told_is_open_and_no_crash(llama, value: object) -> None:
    found = problems(*llama, hidden_size=value)
    assert {one.outcome for one in found} == {"unknown"}


def test_a_class_that_the_table_lacks_has_no_sizes(llama) -> None:
    assert problems(*llama, architectures=["NobodysModel"], model_type="nobodys", vocab_size=1) == []


SMALL = {"vocab_size": 96, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def saved(family: str, where: Path, **more: int) -> None:
    import transformers

    config = getattr(transformers, f"{family}Config")(**SMALL, pad_token_id=0, tie_word_embeddings=False, **more)
    getattr(transformers, f"{family}ForCausalLM")(config).save_pretrained(where)


def test_an_older_name_beside_the_own_one_in_another_shape_is_no_crash(tmp_path: Path) -> None:
    import transformers

    saved("GPTNeoX", tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    for own, stray in (("embed_out.weight", "lm_head.weight"), ("lm_head.weight", "embed_out.weight")):
        both = {k: v for k, v in tensors.items() if k not in (own, stray)}
        head = next(v for k, v in tensors.items() if k in (own, stray))
        save_file(both | {own: head, stray: head.T.contiguous()}, file, metadata={"format": "pt"})
        (found,) = tiecheck.check(tmp_path).targets
        assert (found.status, found.findings) == ("unknown", ())
        if own == "embed_out.weight":
            transformers.GPTNeoXForCausalLM.from_pretrained(tmp_path)


def test_the_key_is_named_that_the_config_lacks(tmp_path: Path) -> None:
    saved("Qwen3Moe", tmp_path, num_experts=2, moe_intermediate_size=16)
    text = (tmp_path / "config.json").read_text()
    for key, there in (("num_experts", True), ("num_local_experts", False)):
        (tmp_path / "config.json").write_text(text.replace('"num_experts"', f'"{key}"'))
        whys = [one.why for one in size_problems(read_config(str(tmp_path)), read_checkpoint(str(tmp_path)))]
        assert there or any("128 of num_experts 128" in why for why in whys)
        assert not any("num_local_experts" in why for why in whys)
