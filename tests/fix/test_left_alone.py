"""What loads right is left alone: no fix is offered, and one that is asked for all the same changes no byte."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file

import tiecheck
from tiecheck.config.options import Config
from tiecheck.fix.run import FixOptions, fix_target

Write = Callable[[Path], None]


def flat_qwen2_vl(where: Path) -> None:
    """Write a tied Qwen2-VL as transformers before 4.52 did: a flat config, and the older names."""
    text = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 1}
    ids = {"image_token_id": 60, "video_token_id": 61, "vision_start_token_id": 62, "vision_end_token_id": 63}
    rope = {"type": "mrope", "mrope_section": [1, 1, 2]}
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4}
    config = transformers.Qwen2VLConfig(
        text_config={**text, "rope_scaling": dict(rope)}, vision_config=dict(vision), tie_word_embeddings=True, **ids
    )
    state = transformers.Qwen2VLForConditionalGeneration(config).state_dict()
    old = {
        name.replace("model.language_model.", "model.").replace("model.visual.", "visual."): value.clone()
        for name, value in state.items()
        if name != "lm_head.weight"
    }
    flat = {"architectures": ["Qwen2VLForConditionalGeneration"], "model_type": "qwen2_vl", **text, **ids}
    flat |= {"tie_word_embeddings": True, "rope_scaling": rope, "torch_dtype": "float32"}
    flat |= {"vision_config": {**vision, "in_chans": 3, "model_type": "qwen2_vl"}}
    (where / "config.json").write_text(json.dumps(flat))
    save_file(old, where / "model.safetensors", metadata={"format": "pt"})


def unshared_marian(where: Path) -> None:
    """Write a Marian whose encoder has a vocabulary of its own."""
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    sizes |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 32}
    config = transformers.MarianConfig(
        **sizes, vocab_size=99, decoder_vocab_size=99, pad_token_id=1, share_encoder_decoder_embeddings=False
    )
    transformers.MarianMTModel(config).save_pretrained(where)


def packed(*, tied: bool, head: bool) -> Write:
    """Return a writer of a Qwen3-MoE in MLX's four bits: each matrix is packed words, scales and biases."""

    def write(where: Path) -> None:
        shared = {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "tie_word_embeddings": tied}
        sizes = {"vocab_size": 128, "hidden_size": 64, "num_hidden_layers": 1, "num_experts": 2}
        bits = {"group_size": 64, "bits": 4}
        config = {**shared, **sizes, "quantization": bits, "quantization_config": bits}
        (where / "config.json").write_text(json.dumps(config))
        generator = torch.Generator().manual_seed(3)
        tensors = {"model.norm.weight": torch.ones(64)}
        for name in ("model.embed_tokens", *(["lm_head"] if head else [])):
            words = torch.randint(0, 2**31, (128, 8), generator=generator, dtype=torch.int64)
            tensors[f"{name}.weight"] = words.to(torch.uint32)
            tensors |= {f"{name}.{part}": torch.rand(128, 1, generator=generator) for part in ("scales", "biases")}
        save_file(tensors, where / "model.safetensors", metadata={"format": "mlx"})

    return write


REPORTS: dict[str, Write] = {
    "flat Qwen2-VL": flat_qwen2_vl,
    "unshared Marian": unshared_marian,
    "packed, tied": packed(tied=True, head=False),
    "packed, untied": packed(tied=False, head=True),
}


def attempts() -> Iterator[FixOptions]:
    """Everything that a fix can be told."""
    for word in (None, "tied", "untied", "stored"):
        yield FixOptions(word, unsafe=True, apply=True, rehearse=False)


@pytest.mark.parametrize("title", REPORTS)
def test_models_that_were_reported_are_left_alone(title: str, tmp_path: Path) -> None:
    REPORTS[title](tmp_path)
    old = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for finding in tiecheck.check(tmp_path).findings:
        assert finding.edits == (), finding
    for options in attempts():
        assert fix_target(str(tmp_path), Config(), options).chosen == ()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == old


def test_a_packed_head_loses_no_part(tmp_path: Path) -> None:
    """Deleting `weight` alone would leave scales and biases that mlx-lm refuses; the flag alone keeps all of it."""
    packed(tied=True, head=True)(tmp_path)
    edits = [edit for finding in tiecheck.check(tmp_path).findings for edit in finding.edits]
    assert all(step.kind == "set-config" for edit in edits for step in edit.steps), edits


def test_a_mend_that_is_code_is_left_to_its_reader(tmp_path: Path) -> None:
    """An untrained model whose embedding's draw is far too large: no change of files mends it."""
    sizes = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2)
    )
    model.config.tie_word_embeddings = True
    model.tie_weights()
    torch.nn.init.normal_(model.model.embed_tokens.weight)
    model.save_pretrained(tmp_path)
    outcome = fix_target(str(tmp_path), Config(), FixOptions("drawn", unsafe=True, apply=True, rehearse=False))
    ((finding, told),) = outcome.left
    assert (finding.code, outcome.chosen, outcome.written) == ("TIE701", (), False)
    assert "torch.nn.init.normal_(model.lm_head.weight" in told
