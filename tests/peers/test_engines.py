"""The engines of the loader matrix: what the table and the policies make of each cell.

Each expectation was read in the source of the version that it names; file and line stand beside it.
"""

from __future__ import annotations

from typing import Any

import pytest
from engine_sections import section
from situations import STORED, situation

from tiecheck.errors import UsageError
from tiecheck.peers.loaders.loader_rules import Decision, Situation
from tiecheck.peers.loaders.registry import MODULES, ask_loaders, loaders_of, parse_for

TRUE: dict[str, Any] = {"tie_word_embeddings": True}
FALSE: dict[str, Any] = {"tie_word_embeddings": False}
SILENT: dict[str, Any] = {}
LLAMA: dict[str, Any] = {"model_type": "llama"}


def decided(loader: str, asked: Situation, versions: str | None = None) -> Decision | None:
    """The one decision of a loader, in one range of its versions."""
    fitting = [entry for entry in loaders_of((loader,)) if versions is None or entry.versions == versions]
    made = [found for entry in fitting if (found := entry.decide(asked)) is not None]
    assert len(made) <= 1, made
    return made[0] if made else None


def outcome(loader: str, asked: Situation, versions: str | None = None) -> str | None:
    found = decided(loader, asked, versions)
    return None if found is None else found.outcome


BEFORE, AFTER = "0.25.1-0.28", "0.29-0.33"

LLAMA_CELLS: dict[tuple[str, str | None], dict[tuple[str, bool], str | None]] = {
    # vllm 0.28.0 models/llama.py: LlamaForCausalLM ties under the flag and skips "lm_head." under it.
    ("vllm", BEFORE): {
        ("head absent", True): "tied",
        ("equal", True): "tied",
        ("differ", True): "head-discarded",
        ("only head", True): "embedding-random",
        ("head absent", False): "head-random",
        ("differ", False): "kept-apart",
        ("only head", False): "embedding-random",
    },
    # vllm 0.33.0 config/model.py:1255 and model_executor/model_loader/weight_tying.py:73.
    ("vllm", AFTER): {
        ("head absent", True): "tied",
        ("equal", True): "tied",
        ("differ", True): "kept-apart",
        ("only head", True): "embedding-random",
        ("not compared", True): "unknown",
        ("head absent", False): "head-random",
        ("differ", False): "kept-apart",
    },
    # sglang 0.5.23 srt/models/llama.py: `if self.config.tie_word_embeddings and "lm_head.weight" in name: continue`.
    ("sglang", None): {
        ("head absent", True): "tied",
        ("equal", True): "tied",
        ("differ", True): "head-discarded",
        ("only head", True): "embedding-random",
        ("head absent", False): "head-random",
        ("differ", False): "kept-apart",
    },
    # llama.cpp 0c1e57098 src/models/llama.cpp: TENSOR_NOT_REQUIRED, then TENSOR_DUPLICATED; the flag is never read.
    ("llama.cpp", None): {
        ("head absent", True): "tied",
        ("head absent", False): "tied",
        ("equal", True): "kept-apart",
        ("differ", True): "kept-apart",
        ("differ", False): "kept-apart",
        ("only head", True): "crash",
        ("only head", False): "crash",
    },
    # mlx-lm 0.32.2 models/llama.py: `if not args.tie_word_embeddings: self.lm_head = ...`, sanitize pops the head.
    ("mlx-lm", None): {
        ("head absent", True): "tied",
        ("equal", True): "tied",
        ("differ", True): "head-discarded",
        ("only head", True): "crash",
        ("neither", True): "crash",
        ("head absent", False): "crash",
        ("differ", False): "kept-apart",
    },
    # mergekit 0.1.5 _data/architectures/llama.json: lm_head.weight is optional, with a tied name.
    ("mergekit", None): {
        ("head absent", True): "tied",
        ("head absent", False): None,
        ("equal", True): "kept-apart",
        ("differ", True): "kept-apart",
        ("only head", True): "crash",
    },
}


@pytest.mark.parametrize(
    ("loader", "versions", "cell", "flag", "expected"),
    [(*key, *cell, expected) for key, cells in LLAMA_CELLS.items() for cell, expected in cells.items()],
)
def test_llama_in_every_cell(loader: str, versions: str | None, cell: str, flag: bool, expected: str | None) -> None:
    asked = situation("LlamaForCausalLM", cell, LLAMA | {"tie_word_embeddings": flag})
    assert outcome(loader, asked, versions) == expected


def test_an_absent_flag_is_the_class_default_and_not_false() -> None:
    silent = situation("LlamaForCausalLM", "differ", LLAMA, default=True)
    assert outcome("sglang", silent) == "head-discarded"
    assert outcome("sglang", situation("LlamaForCausalLM", "differ", LLAMA, default=False)) == "kept-apart"
    unknown = decided("sglang", situation("LlamaForCausalLM", "differ", LLAMA, default=None))
    assert unknown is not None
    assert unknown.outcome == "unknown"
    assert unknown.value is None
    # mlx-lm 0.32.2 models/llama.py: `tie_word_embeddings: bool = True`, whatever transformers' own default is.
    assert outcome("mlx-lm", situation("LlamaForCausalLM", "differ", LLAMA, default=False)) == "head-discarded"
    # mlx-lm 0.32.2 models/qwen3.py: `tie_word_embeddings: bool` without a default.
    qwen = decided("mlx-lm", situation("Qwen3ForCausalLM", "head absent", {"model_type": "qwen3"}))
    assert qwen is not None
    assert qwen.outcome == "crash"
    assert "required positional argument" in (qwen.message or "")


def test_vllm_before_and_after_its_change() -> None:
    asked = situation("LlamaForCausalLM", "differ", LLAMA | TRUE)
    before, after = decided("vllm", asked, BEFORE), decided("vllm", asked, AFTER)
    assert before == Decision("head-discarded", None, "tie_word_embeddings", True, True)
    assert after is not None
    assert after.ties is False
    assert "has been used instead of tying" in (after.message or "")
    # A head under another name does not end in lm_head.weight, so nothing is untied and the alias is skipped.
    named = situation(
        "GPTNeoXForCausalLM",
        "differ",
        {"model_type": "gpt_neox"} | TRUE,
        names=("gpt_neox.embed_in.weight", "embed_out.weight"),
    )
    assert section("vllm", "0.29.0")["GPTNeoXForCausalLM"].startswith("flag||-|alias")
    assert outcome("vllm", named, AFTER) == "unknown", "0.33.0 serves it through the Transformers backend"
    # vllm 0.28.0 models/gpt2.py: AutoWeightsLoader(self) without prefixes to skip.
    loaded = situation(
        "GPT2LMHeadModel", "differ", {"model_type": "gpt2"} | TRUE, names=("transformer.wte.weight", "lm_head.weight")
    )
    found = decided("vllm", loaded, BEFORE)
    assert found is not None
    assert found.outcome == "unknown"
    assert "whichever comes later" in (found.message or "")


@pytest.mark.parametrize("cell", ["equal", "differ", "only head"])
def test_a_head_that_an_engine_has_no_place_for(cell: str) -> None:
    gemma = situation("Gemma2ForCausalLM", cell, {"model_type": "gemma2"} | TRUE, default=True)
    # vllm 0.33.0 models/gemma2.py: no head module, AutoWeightsLoader(self); utils.py:434 raises.
    found = decided("vllm", gemma, AFTER)
    assert found is not None
    assert found.outcome == "crash"
    assert found.message == "There is no module or parameter named 'lm_head' in Gemma2ForCausalLM."
    # vllm 0.28.0 models/gemma2.py skips it under the flag.
    assert outcome("vllm", gemma, BEFORE) != "crash"
    # mlx-lm 0.32.2 models/gemma2.py: as_linear and no sanitize.
    found = decided("mlx-lm", gemma)
    assert found is not None
    assert found.message == "Received 1 parameters not in model: lm_head.weight."
    # sglang 0.5.23 srt/models/starcoder2.py: `param = params_dict[name]` without a guard.
    starcoder = decided("sglang", situation("Starcoder2ForCausalLM", cell, TRUE))
    assert starcoder is not None
    assert (starcoder.outcome, starcoder.message) == ("crash", "KeyError: 'lm_head.weight'")
    # llama.cpp 0c1e57098: MODEL_TENSORS[COMMAND_R] has no OUTPUT.
    cohere = decided("llama.cpp", situation("CohereForCausalLM", cell, TRUE))
    assert cohere is not None
    assert cohere.message == "ValueError: Can not map tensor 'lm_head.weight'"


def test_a_tied_checkpoint_that_stores_its_head_once_crashes_where_the_head_is_required() -> None:
    # llama.cpp 0c1e57098 src/models/olmo2.cpp: LLM_TENSOR_OUTPUT with flags 0; src/llama-model-loader.cpp:1159.
    found = decided("llama.cpp", situation("Olmo2ForCausalLM", "head absent", TRUE))
    assert found is not None
    assert (found.outcome, found.message) == ("crash", "missing tensor 'output.weight'")
    # mergekit 0.1.5 _data/architectures/phi3.json: lm_head.weight is neither optional nor has it a tied name.
    found = decided("mergekit", situation("Phi3ForCausalLM", "head absent", TRUE))
    assert found is not None
    assert found.outcome == "crash"
    assert "Tensor lm_head.weight required" in (found.message or "")
    # sglang 0.5.23 srt/models/mixtral.py has a head of its own whatever the flag says, and misses nothing.
    assert outcome("sglang", situation("MixtralForCausalLM", "head absent", TRUE)) == "head-random"


def test_llama_cpp_reads_the_flag_for_a_few_with_the_text_config_on_top() -> None:
    # llama.cpp 0c1e57098 conversion/hunyuan.py:115: skipped under `hparams.get("tie_word_embeddings", False)`.
    name = "HunYuanDenseV1ForCausalLM"
    assert outcome("llama.cpp", situation(name, "differ", TRUE)) == "head-discarded"
    assert outcome("llama.cpp", situation(name, "differ", SILENT, default=True)) == "kept-apart"
    both = decided("llama.cpp", situation(name, "differ", TRUE | {"text_config": FALSE}))
    assert both == Decision("kept-apart", None, "text_config.tie_word_embeddings", False, False)


def test_a_composite_asks_for_the_language_model_that_its_config_names() -> None:
    # vllm 0.33.0 models/llava.py: init_vllm_registered_model(hf_config=config.text_config); config/vllm.py:1011.
    text = {"text_config": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": True}}
    found = decided("vllm", situation("LlavaForConditionalGeneration", "head absent", text | FALSE), AFTER)
    assert found == Decision("head-random", found and found.message, "tie_word_embeddings", False, False)
    nameless = decided("vllm", situation("LlavaForConditionalGeneration", "head absent", FALSE), AFTER)
    assert nameless is not None
    assert nameless.outcome == "unknown"
    assert "does not name" in (nameless.message or "")


@pytest.mark.parametrize("loader", [name for name in MODULES if name != "transformers"])
def test_nothing_is_said_of_what_an_engine_does_not_have(loader: str) -> None:
    assert outcome(loader, situation("NoSuchForCausalLM", "differ", {"model_type": "no_such"} | TRUE)) is None
    other = situation("LlamaForCausalLM", "differ", LLAMA | TRUE)
    elsewhere = other._replace(architecture=other.architecture._replace(head="elsewhere.weight"))
    assert all(entry.decide(elsewhere) is None for entry in loaders_of((loader,)))


def test_every_line_of_the_table_can_be_decided_in_every_cell() -> None:
    """No class of any engine raises or leaves the words of the matrix, whatever is stored and written."""
    engines = loaders_of(name for name in MODULES if name != "transformers")
    sections = [("vllm", "0.33.0"), ("sglang", "0.5.23"), ("llama.cpp", "0c1e57098"), ("mergekit", "0.1.5")]
    names = {name for key in sections for name in section(*key)}  # "=OUTPUT", no class, among them
    assert len(names) > 400
    seen = set()
    for name in sorted(names):
        for cell in STORED:
            for flag in (TRUE, FALSE, SILENT):
                for view in ask_loaders([situation(name, cell, flag)], engines):
                    seen.add((view.loader, view.outcome))
                    assert view.outcome != "unknown" or view.message
    assert {loader for loader, _ in seen} == {"vllm", "sglang", "llama.cpp", "mergekit"}


def test_versions_that_were_not_read_are_refused() -> None:
    assert parse_for(["vllm==0.28.0"]) == {("vllm", BEFORE)}
    assert parse_for(["vllm==0.31"]) == {("vllm", AFTER)}
    for spec in ("vllm==0.11", "vllm==0.40", "sglang==0.4", "mlx-lm==0.20", "mergekit==0.0.6"):
        with pytest.raises(UsageError, match="known in the versions"):
            parse_for([spec])
