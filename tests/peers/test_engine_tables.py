"""The generator of the engines' table on small hand-made source trees, and the committed table against real ones."""

from __future__ import annotations

import json
import os
from pathlib import Path

import engine_sections
import pytest

from tiecheck.tables.generate.engines import (
    ORDER,
    PATH,
    read_engine,
    render,
    section_text,
    split_sections,
    write_engine_table,
)
from tiecheck.tables.generate.engines_gguf import gguf_facts
from tiecheck.tables.generate.engines_mergekit import mergekit_facts
from tiecheck.tables.generate.engines_mlx import mlx_facts
from tiecheck.tables.generate.engines_torch import class_facts, vllm_classes

VLLM = """
class Tied(nn.Module):
    def __init__(self, *, vllm_config, prefix=""):
        config = vllm_config.model_config.hf_config
        self.model = Inner()
        if get_pp_group().is_last_rank:
            self.lm_head = ParallelLMHead(config.vocab_size, config.hidden_size)
            if config.tie_word_embeddings:
                self.lm_head = self.lm_head.tie_weights(self.model.embed_tokens)
        else:
            self.lm_head = PPMissingLayer()

    def load_weights(self, weights):
        loader = AutoWeightsLoader(self, skip_prefixes=(["lm_head."] if self.config.tie_word_embeddings else None))
        return loader.load_weights(weights)

class Child(Tied):
    pass

class Nested(nn.Module):
    def __init__(self, *, vllm_config, prefix=""):
        config = vllm_config.model_config.hf_config
        self.tied = getattr(config.text_config, "tie_word_embeddings", True)
        self.lm_head = ParallelLMHead(1, 2)
        if self.tied:
            self.lm_head = self.lm_head.tie_weights(self.model.embed_tokens)

    def load_weights(self, weights):
        return AutoWeightsLoader(self).load_weights(weights)

class Own(nn.Module):
    def __init__(self, *, vllm_config, prefix=""):
        self.lm_head = ParallelLMHead(1, 2)

    def load_weights(self, weights):
        return AutoWeightsLoader(self).load_weights(weights)

class Shared(nn.Module):
    def __init__(self, *, vllm_config, prefix=""):
        self.model = Inner()

    def compute_logits(self, hidden):
        return self.logits_processor(self.model.embed_tokens, hidden)

    def load_weights(self, weights):
        return AutoWeightsLoader(self).load_weights(weights)

class Outer(nn.Module):
    def __init__(self, *, vllm_config, prefix=""):
        config = vllm_config.model_config.hf_config
        self.language_model = init_vllm_registered_model(
            vllm_config=vllm_config, hf_config=config.text_config, architectures=["TiedForCausalLM"])

    def load_weights(self, weights):
        return AutoWeightsLoader(self).load_weights(weights)

class Odd(nn.Module):
    def __init__(self, *, vllm_config, prefix=""):
        config = vllm_config.model_config.hf_config
        self.lm_head = ParallelLMHead(1, 2)
        if config.tie_word_embeddings or surprise():
            self.lm_head = self.lm_head.tie_weights(self.model.embed_tokens)

class Late(nn.Module):
    def __init__(self, *, vllm_config, prefix=""):
        self.lm_head = ParallelLMHead(1, 2)

    def load_weights(self, weights):
        if self.config.tie_word_embeddings:
            weights = (w for w in weights)
"""


def vllm_tree(root: Path, alias: bool) -> Path:
    models = root / "vllm/model_executor/models"
    models.mkdir(parents=True)
    names = ("Tied", "Child", "Nested", "Own", "Shared", "Outer", "Odd", "Late")
    table = {f"{name}ForCausalLM": ("mine", name) for name in names}
    (models / "registry.py").write_text(f"_TEXT_GENERATION_MODELS = {table!r}\n_MULTIMODAL_MODELS = {{}}\n")
    (models / "utils.py").write_text("def _get_tied_embedding_params(): ...\n" if alias else "")
    (models / "mine.py").write_text(VLLM)
    return root


def test_vllm_classes_are_those_of_the_registry(tmp_path: Path) -> None:
    classes, alias = vllm_classes(vllm_tree(tmp_path, True))
    assert alias
    assert classes["TiedForCausalLM"].name == "Tied"
    assert class_facts(classes["TiedForCausalLM"], False, classes).head == "skip"


def test_vllm_patterns(tmp_path: Path) -> None:
    old, new = (
        read_engine("vllm", vllm_tree(tmp_path / "old", False)),
        read_engine("vllm", vllm_tree(tmp_path / "new", True)),
    )
    assert old["TiedForCausalLM"] == old["ChildForCausalLM"] == "flag||-|skip|"
    assert old["NestedForCausalLM"] == "flag|text_config|1|load|"
    assert new["NestedForCausalLM"] == "flag|text_config|1|alias|"
    assert old["OwnForCausalLM"] == "never||-|-|"
    assert old["SharedForCausalLM"] == new["SharedForCausalLM"] == "always||-|refuse|"
    assert old["OuterForCausalLM"] == "flag|>text_config|-|skip|"


def test_patterns_that_are_not_known_stay_unknown_with_the_reason(tmp_path: Path) -> None:
    found = read_engine("vllm", vllm_tree(tmp_path, True))
    assert found["OddForCausalLM"].startswith("unknown:the tie stands under config.tie_word_embeddings or surprise()")
    assert found["LateForCausalLM"].startswith("unknown:a head of its own, yet the class mentions")


SGLANG = """
class {name}(nn.Module):
    def __init__(self, config, quant_config=None, prefix=""):
        self.model = Inner(config)
        if config.tie_word_embeddings:
            self.lm_head = self.model.embed_tokens
        else:
            self.lm_head = ParallelLMHead(1, 2)

    def load_weights(self, weights):
        params_dict = dict(self.named_parameters())
        for name, loaded_weight in weights:
            {first}
            for param_name, weight_name, shard_id in stacked:
                if weight_name not in name:
                    continue
                break
            else:
                {guard}
                param = params_dict[name]

EntryClass = {name}
"""


@pytest.mark.parametrize(
    ("first", "guard", "head"),
    [
        ('if self.config.tie_word_embeddings and "lm_head.weight" in name: continue', "pass", "skip"),
        ("pass", "if name not in params_dict: continue", "skip"),
        ("pass", 'if name.endswith(".bias") and name not in params_dict: continue', "keyerror"),
        ('name = name.replace("lm_head", "head")', "pass", "unknown:load_weights names the head in a way"),
        ('if odd() and "lm_head" in name and other(): continue', "pass", "unknown:the head is skipped under"),
    ],
)
def test_sglang_loops(tmp_path: Path, first: str, guard: str, head: str) -> None:
    models = tmp_path / "sglang/srt/models"
    models.mkdir(parents=True)
    (models / "mine.py").write_text(SGLANG.format(name="MineForCausalLM", first=first, guard=guard))
    assert read_engine("sglang", tmp_path)["MineForCausalLM"].startswith(f"flag||-|{head}")


MLX = """
@dataclass
class ModelArgs(BaseModelArgs):
    tie_word_embeddings: bool{default}

class Model(nn.Module):
    def __init__(self, args):
        self.model = Inner(args)
        if not args.tie_word_embeddings:
            self.lm_head = nn.Linear(1, 2)

    def sanitize(self, weights):
        {body}
        return weights
"""


def test_mlx_lm_models(tmp_path: Path) -> None:
    models = tmp_path / "mlx_lm/models"
    models.mkdir(parents=True)
    (tmp_path / "mlx_lm/utils.py").write_text("MODEL_REMAPPING = {'other': 'one'}\n")
    pop = 'weights.pop("lm_head.weight", None)'
    (models / "one.py").write_text(MLX.format(default=" = True", body=f"if self.args.tie_word_embeddings: {pop}"))
    (models / "two.py").write_text(MLX.format(default="", body="pass"))
    (models / "three.py").write_text(MLX.format(default=" = chosen()", body="pass"))
    (models / "four.py").write_text(MLX.format(default=" = False", body=f"if odd(): {pop}"))
    assert mlx_facts(tmp_path)["one"].default == "1"
    found = read_engine("mlx-lm", tmp_path)
    assert found["one"] == found["other"] == "flag||1|skip|"
    assert found["two"] == "flag||-|refuse|"
    assert found["three"].startswith("unknown:ModelArgs has no such flag")
    assert found["four"].startswith("flag||0|unknown:sanitize names the head")


def gguf_tree(root: Path) -> Path:
    """A converter with four architectures, and their loaders."""
    files = {
        "conversion/__init__.py": "TEXT_MODEL_MAP: dict[str, str] = {k: 'one' for k in ()}\n",
        "conversion/one.py": """
@ModelBase.register("FallsForCausalLM")
class Falls(TextModel):
    model_arch = gguf.MODEL_ARCH.FALLS

@ModelBase.register("NeedsForCausalLM")
class Needs(TextModel):
    model_arch = gguf.MODEL_ARCH.NEEDS
    def modify_tensors(self, data, name, bid):
        if name == "lm_head.weight":
            if self.hparams.get("tie_word_embeddings", False):
                return []

@ModelBase.register("NeverForCausalLM")
class Never(TextModel):
    model_arch = gguf.MODEL_ARCH.NEVER

@ModelBase.register("OddForCausalLM")
class Odd(Falls):
    def modify_tensors(self, data, name, bid):
        if name.startswith("lm_head") and odd():
            return []
""",
        "gguf-py/gguf/constants.py": """
MODEL_ARCH_NAMES: dict[A, str] = {MODEL_ARCH.FALLS: "falls", MODEL_ARCH.NEEDS: "needs", MODEL_ARCH.NEVER: "never"}
MODEL_TENSORS: dict[A, list[T]] = {
    MODEL_ARCH.FALLS: [MODEL_TENSOR.TOKEN_EMBD, MODEL_TENSOR.OUTPUT],
    MODEL_ARCH.NEEDS: [MODEL_TENSOR.TOKEN_EMBD, MODEL_TENSOR.OUTPUT],
    MODEL_ARCH.NEVER: [MODEL_TENSOR.TOKEN_EMBD],
}
""",
        "gguf-py/gguf/tensor_mapping.py": '        MODEL_TENSOR.OUTPUT: (\n            "lm_head",  # all\n        ),\n',
        "src/llama-arch.cpp": "".join(f'{{ LLM_ARCH_{n.upper()}, "{n}" }},\n' for n in ("falls", "needs", "never")),
        "src/llama-model.cpp": "".join(
            f"case LLM_ARCH_{n.upper()}:\n  return new llama_model_{n}(params);\n" for n in ("falls", "needs", "never")
        ),
        "src/models/models.h": "",
    }
    out, embd = 'tn(LLM_TENSOR_OUTPUT, "weight"), {n}', 'tn(LLM_TENSOR_TOKEN_EMBD, "weight"), {n}'
    bodies = {
        "falls": f"    output = create_tensor({out}, TENSOR_NOT_REQUIRED);\n    if (output == NULL) {{\n"
        f"        output = create_tensor({embd}, TENSOR_DUPLICATED);\n    }}\n",
        "needs": f"    output = create_tensor({out}, 0);\n",
        "never": f"    output = create_tensor({embd}, TENSOR_DUPLICATED);\n",
    }
    for name, body in bodies.items():
        files[f"src/models/{name}.cpp"] = (
            f"void llama_model_{name}::load_arch_tensors(llama_model_loader &) {{\n{body}}}\n"
        )
    names = {f"{name}ForCausalLM": "one" for name in ("Falls", "Needs", "Never", "Odd")}
    files["conversion/__init__.py"] = f"TEXT_MODEL_MAP: dict[str, str] = {names!r}\n"
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def test_llama_cpp_converter_and_loader(tmp_path: Path) -> None:
    facts, names, own = gguf_facts(gguf_tree(tmp_path))
    assert own == {"falls": "fallback", "needs": "required", "never": "embedding"}
    assert (facts["FallsForCausalLM"], names["OUTPUT"]) == (("fallback", "keep"), ("lm_head",))
    found = read_engine("llama.cpp", tmp_path)
    assert found["FallsForCausalLM"] == "fallback|keep"
    assert found["NeedsForCausalLM"] == "required|flag"
    assert found["NeverForCausalLM"] == "embedding|unmapped"
    assert found["OddForCausalLM"].startswith("unknown:the converter names the head in a way that was not recognised")
    assert found["=OUTPUT"] == "lm_head"
    (tmp_path / "src/models/falls.cpp").write_text("void llama_model_falls::load_arch_tensors(int) {\n    x();\n}\n")
    found = read_engine("llama.cpp", tmp_path)
    assert found["FallsForCausalLM"].startswith("unknown:the loader reads the head in a way")
    assert (found["gguf:falls"], found["gguf:needs"]) == ("none", "required")
    with (tmp_path / "src/models/falls.cpp").open("a") as graph:
        graph.write("cur = build_lora_mm(model.tok_embd, cur);")
    assert read_engine("llama.cpp", tmp_path)["gguf:falls"].startswith("unknown:")


def test_mergekit_definitions(tmp_path: Path) -> None:
    folder = tmp_path / "mergekit/_data/architectures"
    folder.mkdir(parents=True)
    weights = [
        {"name": "e.weight", "vocabulary_axis": 0},
        {"name": "h.weight", "vocabulary_axis": 0, "optional": True, "tied_names": ["e.weight"]},
    ]
    (folder / "a.json").write_text(json.dumps({"architectures": ["A"], "pre_weights": weights}))
    (folder / "b.json").write_text(json.dumps({"architectures": ["B"], "modules": {}}))
    assert (
        read_engine("mergekit", tmp_path)
        == mergekit_facts(tmp_path)
        == {
            "A": "e.weight h.weight?=e.weight",
            "B": "unknown:a definition of several modules",
        }
    )


def test_the_table_is_its_sections_and_stays_small() -> None:
    text = PATH.read_text(encoding="utf-8")
    held = split_sections(text)
    assert render(held) == text
    assert [engine for engine, _ in held] == sorted((engine for engine, _ in held), key=ORDER.index)
    assert len(text) < 64_000
    for engine, version in held:
        lines = engine_sections.section(engine, version)
        assert section_text(engine, version, lines) == held[engine, version]


SOURCES = os.environ.get("TIECHECK_ENGINE_SOURCES")


@pytest.mark.slow
@pytest.mark.parametrize("key", sorted(split_sections(PATH.read_text(encoding="utf-8"))), ids="-".join)
def test_the_table_is_what_the_sources_say(key: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    if SOURCES is None:  # some hundred megabytes of foreign source, which nothing else needs
        pytest.skip("TIECHECK_ENGINE_SOURCES names no folder of unpacked sources (ENGINE-VERSION)")
    folder = Path(SOURCES, "-".join(key))
    if not folder.is_dir():  # whoever looks at one engine need not unpack the others
        pytest.skip(f"no {folder.name} among the sources")
    assert write_engine_table([*key, str(folder), "--check"]) == 0, capsys.readouterr().out
