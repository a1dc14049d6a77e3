"""Releases of transformers 5 that end a group otherwise than the newest: each by its own word, and `--for` by name."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import transformers
from harness.cases import Case
from reported import DECODER, both_with, causal, changed
from safetensors.torch import load_file, save_file

import tiecheck
from tiecheck.errors import UsageError
from tiecheck.peers.loaders.registry import parse_for
from tiecheck.peers.loaders.transformers import covers_release, release_named
from tiecheck.tables.releases import first_release, first_with_copies, known_releases

pytestmark = pytest.mark.filterwarnings("ignore")

SMALL: dict[str, Any] = {**DECODER, "num_hidden_layers": 1, "hidden_size": 16, "vocab_size": 40, "head_dim": 8}
AUDIO = ("backbone_model.embed_tokens.embed_audio_tokens.weight", "depth_decoder.model.embed_tokens.weight")


def csm(where: Path) -> None:
    """Save a tied CSM as it is published: the flag false, the key of its own true, the audio table stored once."""
    small = {key: value for key, value in SMALL.items() if key != "max_position_embeddings"}
    depth = {**small, "num_codebooks": 4, "backbone_hidden_size": 16, "max_position_embeddings": 5}
    codec = {
        "model_type": "mimi",
        "hidden_size": 16,
        "num_filters": 4,
        "upsampling_ratios": [2, 2],
        "codebook_size": 16,
    }
    codec |= {"codebook_dim": 8, "vector_quantization_hidden_dimension": 8, "num_hidden_layers": 1, "head_dim": 8}
    codec |= {"num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 16, "num_semantic_quantizers": 1}
    codec |= {"num_quantizers": 4, "upsample_groups": 16}
    own = {"num_codebooks": 4, "text_vocab_size": 64, "codebook_pad_token_id": 38, "codebook_eos_token_id": 0}
    model = transformers.CsmForConditionalGeneration(
        transformers.CsmConfig(**small, **own, depth_decoder_config=depth, codec_config=codec)
    )
    model.save_pretrained(where)
    config = json.loads((where / "config.json").read_text())
    config |= {"tie_word_embeddings": False, "tie_codebooks_embeddings": True, "architectures": [type(model).__name__]}
    (where / "config.json").write_text(json.dumps(config))
    stored = load_file(where / "model.safetensors")
    assert AUDIO[0] in stored or AUDIO[1] in stored
    stored[AUDIO[1]] = stored.pop(AUDIO[0], stored.get(AUDIO[1]))
    save_file(stored, where / "model.safetensors", metadata={"format": "pt"})


def outcomes(where: Path, *judge_for: str) -> dict[str, str]:
    """Each version of transformers with its word on the one group."""
    (report,) = tiecheck.check(where, judge_for=list(judge_for)).targets
    assert len(report.ties) == 1
    return {view.versions: view.outcome for view in report.loaders if view.loader == "transformers"}


def test_csm_is_tied_by_4_57_and_the_newest_and_random_in_releases_between(tmp_path: Path) -> None:
    csm(tmp_path)
    told = outcomes(tmp_path)
    assert told.pop("4.57") == told.pop("5") == "tied"
    assert set(told.values()) == {"member-random"}
    assert any(covers_release(versions, (5, 18)) for versions in told)
    assert not any(covers_release(versions, (5, 23)) for versions in told)
    (report,) = tiecheck.check(tmp_path).targets
    assert report.status == "pass", "a release of months ago fails nobody who does not name it"
    (note,) = [finding for finding in report.findings if finding.hurts]
    assert (note.severity, note.code) == ("info", "TIE107")
    assert set(note.hurts or ()) == {f"transformers {versions}" for versions in told}


@pytest.mark.parametrize(
    ("asked", "status"), [("5.18", "fail"), ("5.18.0", "fail"), ("5.23", "pass"), ("4.57", "pass")]
)
def test_a_release_that_is_named_is_judged_by_itself(asked: str, status: str, tmp_path: Path) -> None:
    csm(tmp_path)
    (report,) = tiecheck.check(tmp_path, judge_for=[f"transformers=={asked}"]).targets
    assert report.status == status, report.reason
    assert {view.versions for view in report.loaders} == {".".join(asked.split(".")[:2])}


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Qwen2ForCausalLM", "GPT2LMHeadModel"])
def test_equal_copies_were_kept_apart_before_5_4_and_that_is_no_loss(name: str, tmp_path: Path) -> None:
    make = causal(name) if name != "GPT2LMHeadModel" else gpt2
    changed(make, both_with(0.5))(tmp_path)
    last = f"5.{max(one for one in known_releases() if one < first_with_copies())[1]}"
    told = outcomes(tmp_path)
    assert told["5"] == told["4.57"] == "tied"
    assert {versions: word for versions, word in told.items() if versions not in ("5", "4.57")} == {
        f"5.0-{last}" if last != "5.0" else last: "kept-apart"
    }
    assert tiecheck.check(tmp_path).targets[0].status == "pass"


@pytest.mark.parametrize("value", [{}, [], "false", 1, None, [True]])
def test_a_flag_of_any_type_is_no_error_of_ours(value: object, tmp_path: Path) -> None:
    case = Case("UMT5ForSequenceClassification", "umt5")
    case.write(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"tie_word_embeddings": value}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for judge_for in ([], ["transformers==5.0"], ["transformers==5.2", "transformers==5.18"]):
        (report,) = tiecheck.check(tmp_path, judge_for=judge_for).targets
        assert report.errors == ()


def gpt2(where: Path) -> Any:
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=40))
    model.save_pretrained(where)
    return model


def test_what_is_stored_once_has_no_word_of_an_earlier_release(tmp_path: Path) -> None:
    causal("LlamaForCausalLM")(tmp_path)
    assert outcomes(tmp_path) == {"4.57": "tied", "5": "tied"}
    for major, minor in random.Random(1).sample(known_releases(), min(4, len(known_releases()))):
        release = f"{major}.{minor}"
        assert outcomes(tmp_path, f"transformers=={release}") == {release: "tied"}


def test_a_release_that_lacks_the_class_lets_nothing_pass(tmp_path: Path) -> None:
    case = Case("HYV4ForCausalLM", "hy_v4", (("tie_word_embeddings", True),))
    case.write(tmp_path)
    came = first_release(case.class_name)
    assert came is not None
    before = max(one for one in known_releases() if one < came)
    (report,) = tiecheck.check(tmp_path, judge_for=[f"transformers==5.{before[1]}"]).targets
    assert report.status == "unknown"
    assert f"nothing is known of this class or group in transformers 5.{before[1]}" in (report.reason or "")
    assert tiecheck.check(tmp_path, judge_for=[f"transformers==5.{came[1]}"]).targets[0].status == "pass"


def test_a_release_that_was_not_asked_is_refused() -> None:
    for word in ("5.99", "5.99.1", "6", "4.1"):
        with pytest.raises(UsageError, match=r"known in the versions 4\.57, 5 only|the releases 5\.0, .* are known"):
            parse_for([f"transformers=={word}"])
    assert parse_for(["transformers==5"]) == {("transformers", "5")}
    assert parse_for(["transformers==5.18.0"]) == {("transformers", "5.18")}


def test_versions_name_a_release_a_range_or_the_whole_line() -> None:
    assert [release_named(word) for word in ("5.18", "5.18.0", "5", "4.57", "<0.25", "5.x")] == [
        *((5, 18), (5, 18)),
        *(None,) * 4,
    ]
    drawn = random.Random(3)
    for _ in range(50):
        first, last, asked = (drawn.randrange(30) for _ in range(3))
        word = f"5.{first}-5.{last}" if first < last else f"5.{first}"
        assert covers_release(word, (5, asked)) is (first <= asked <= max(first, last))
    assert not covers_release("5", (5, 18))
