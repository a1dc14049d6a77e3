"""Groups of real small directories, judged by the whole command line: what looks broken and is not stays quiet."""

from __future__ import annotations

import json
import math
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

import tiecheck
from tiecheck.tables.architectures import load_architecture

CORPUS = Path(__file__).parents[3] / "shared" / "corpus"
EMBED, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


A = ("F32", [4, 2], floats(*range(8)))
B = ("F32", [4, 2], floats(*range(1, 9)))
ZERO = ("F32", [4, 2], bytes(32))
ONE = ("F32", [2], floats(0.5, 0.6))
BIAS = ("F32", [4], bytes(16))


@pytest.fixture
def judge(make_model, tiecheck_cli):
    """Write a directory and give back its report and exit status."""

    def run(tensors: dict[str, Any], *options: str, **config: Any) -> tuple[dict[str, Any], int]:
        root = make_model(tensors, **config)
        result = tiecheck_cli(str(root), "-f", "json", *options)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        (target,) = json.loads(result.stdout)["targets"]
        assert target["errors"] == []
        return target, result.exit_code

    return run


def of(class_name: str, model_type: str, **more: Any) -> dict[str, Any]:
    return {"architectures": [class_name], "model_type": model_type, **more}


T5 = of("T5ForConditionalGeneration", "t5", d_model=2)
BERT = of("BertForMaskedLM", "bert")
GEMMA = of("GemmaForCausalLM", "gemma")
REMOTE = of("OddForCausalLM", "odd", auto_map={"AutoModelForCausalLM": "modeling_odd.OddForCausalLM"})

QUIET = {
    "untied on purpose": ({EMBED: A, HEAD: B}, {"tie_word_embeddings": False}),
    "an equal copy": ({EMBED: A, HEAD: A}, {"tie_word_embeddings": True}),
    "tied and stored once": ({EMBED: A}, {"tie_word_embeddings": True}),
    "tied by default and stored once": ({EMBED: A}, GEMMA),
    "a base model": ({"embed_tokens.weight": A}, of("LlamaModel", "llama", tie_word_embeddings=False)),
    "a base model, tied": ({"embed_tokens.weight": A}, of("LlamaModel", "llama", tie_word_embeddings=True)),
    "a reward model": (
        {EMBED: A, "score.weight": ONE},
        of("LlamaForSequenceClassification", "llama", tie_word_embeddings=False),
    ),
    "an encoder": ({"embeddings.word_embeddings.weight": A}, of("BertModel", "bert")),
    "T5's encoder": ({"shared.weight": A}, of("T5EncoderModel", "t5", tie_word_embeddings=False)),
    "T5's false, with a head of its own": ({"shared.weight": A, HEAD: B}, {**T5, "tie_word_embeddings": False}),
    "T5, every name stored": (
        {"shared.weight": A, "encoder.embed_tokens.weight": A, "decoder.embed_tokens.weight": A, HEAD: A},
        {**T5, "tie_word_embeddings": True},
    ),
    "BERT's biases, both zero": (
        {
            "bert.embeddings.word_embeddings.weight": A,
            "cls.predictions.bias": BIAS,
            "cls.predictions.decoder.bias": BIAS,
        },
        BERT,
    ),
    "BERT without the decoder": ({"bert.embeddings.word_embeddings.weight": A, "cls.predictions.bias": BIAS}, BERT),
    "untied, and all zeros": ({EMBED: ZERO, HEAD: ZERO}, {"tie_word_embeddings": False}),
    "tied by default, declared untied, and all zeros": (
        {EMBED: ZERO, HEAD: ZERO},
        {**GEMMA, "tie_word_embeddings": False},
    ),
    "just untied": ({EMBED: A, HEAD: A}, {"tie_word_embeddings": False}),
    "a quantised head": (
        {EMBED: A, "lm_head.qweight": B, "lm_head.scales": ONE, "lm_head.bias": BIAS},
        {"tie_word_embeddings": False},
    ),
    "a quantised head whose bias comes first": (
        {"lm_head.bias": BIAS, EMBED: A, "lm_head.qweight": B},
        {"tie_word_embeddings": False},
    ),
    "another dtype": ({EMBED: A, HEAD: ("BF16", [4, 2], bytes(16))}, {"tie_word_embeddings": False}),
    "norms that are equal": ({EMBED: A, HEAD: B, NORM: ONE, "model.norm2.weight": ONE}, {"tie_word_embeddings": False}),
    "code of its own, untied": ({EMBED: A, HEAD: B}, {**REMOTE, "tie_word_embeddings": False}),
    "code of its own, and no word on tying": ({EMBED: A, HEAD: B}, REMOTE),
    "code of its own, stored once": ({EMBED: A}, {**REMOTE, "tie_word_embeddings": True}),
    "code of its own, headless": ({EMBED: A, "value_head.weight": ONE}, {**REMOTE, "tie_word_embeddings": False}),
    "code of its own, two models with equal embeddings": (
        {"student.embed.weight": A, "teacher.embed.weight": A, "student.head.weight": B, "teacher.head.weight": B},
        REMOTE,
    ),
    "code of its own, all zeros": ({EMBED: ZERO, HEAD: ZERO}, {**REMOTE, "tie_word_embeddings": False}),
    "a draft model without a head": ({EMBED: A}, of("LlamaForCausalLMEagle3", "llama", tie_word_embeddings=False)),
    "no names at all that are known": ({"a": A, "b": A}, {"tie_word_embeddings": False}),
}


UNCLEAR = {
    "no names at all that are known": 0,
    "code of its own, headless": 2,
    "code of its own, two models with equal embeddings": 2,
    "a draft model without a head": 2,
    "a quantised head": 0,
    "a quantised head whose bias comes first": 0,
    "code of its own, untied": 0,
    "code of its own, and no word on tying": 0,
    "code of its own, stored once": 0,
    "code of its own, all zeros": 0,
}
"""The cases of which the ties cannot be told, with the exit status: 2 where no rule at all could judge."""


@pytest.mark.parametrize("case", QUIET)
def test_what_only_looks_broken_is_no_error_and_no_warning(judge, case: str) -> None:
    tensors, config = QUIET[case]
    report, status = judge(tensors, **config)
    assert [f for f in report["findings"] if f["severity"] != "info"] == []
    assert (report["status"], status) == (("unknown", UNCLEAR[case]) if case in UNCLEAR else ("pass", 0))
    if case in UNCLEAR:
        assert all(skip["reason"] for skip in report["skips"])


FINE_IN_5 = {
    "TIE104": ({EMBED: A, HEAD: B}, {}),
    "TIE111": ({HEAD: A, NORM: ONE}, {"tie_word_embeddings": True}),
    "TIE105": ({"shared.weight": A}, {**T5, "tie_word_embeddings": False}),
}
"""What transformers 5 loads well and other loaders do not: untied by default, where mlx-lm ties by default; stored
under the head's name alone; T5's false, head absent."""


@pytest.mark.parametrize("code", FINE_IN_5)
def test_what_only_other_loaders_mind_is_a_note_for_this_one(judge, code: str) -> None:
    tensors, config = FINE_IN_5[code]
    report, status = judge(tensors, "--for", "transformers==5", **config)
    assert [(f["code"], f["severity"]) for f in report["findings"]] == [(code, "info")]
    assert (report["status"], status) == ("pass", 0)
    (entry,) = report["loaders"]
    assert (entry["versions"], entry["outcome"] in ("tied", "kept-apart")) == ("5", True)


BROKEN = {
    "TIE101": ({EMBED: A, HEAD: B}, {"tie_word_embeddings": True}),
    "TIE102": ({EMBED: A, NORM: ONE}, {"tie_word_embeddings": False}),
    "TIE109": ({EMBED: A, HEAD: A}, {**GEMMA, "tie_word_embeddings": False}),
}


@pytest.mark.parametrize("code", BROKEN)
def test_what_is_broken_is_found(judge, code: str) -> None:
    tensors, config = BROKEN[code]
    report, status = judge(tensors, **config)
    assert [f["code"] for f in report["findings"]] == [code]
    assert status == 1


class TestStored:
    def only(self, report: dict[str, Any]) -> dict[str, Any]:
        (tie,) = report["ties"]
        return tie

    def test_spelling_of_an_older_checkpoint_is_found(self, judge) -> None:
        report, _ = judge({"word_embeddings.weight": A}, **of("BloomForCausalLM", "bloom"))
        tie = self.only(report)
        assert tie["stored_names"] == ["word_embeddings.weight"]
        assert tie["stored"] == "absent"

    def test_bytes_are_not_read_where_they_must_not_be(self, judge) -> None:
        report, status = judge({EMBED: A, HEAD: B}, "--values", "never", tie_word_embeddings=True)
        tie = self.only(report)
        assert (tie["stored"], "--values never" in tie["reason"]) == ("unknown", True)
        assert status == 0

    def test_differing_shape_is_separate_and_says_why(self, judge) -> None:
        report, _ = judge({EMBED: A, HEAD: ("F32", [3, 2], bytes(24))}, tie_word_embeddings=False)
        tie = self.only(report)
        assert tie["stored"] == "separate"
        assert "differ in shape" in tie["reason"]

    def test_flag_at_the_wrong_level_leaves_the_question_open(self, judge) -> None:
        report, _ = judge({EMBED: A, HEAD: B}, text_config={"tie_word_embeddings": True})
        assert self.only(report)["declared"] is None

    @pytest.mark.parametrize(
        ("value", "kind", "taken"), [("false", "text", "true"), (None, "null", "false"), (1, "a number", "true")]
    )
    def test_flag_that_is_no_truth_value_leaves_the_question_open(self, judge, value, kind: str, taken: str) -> None:
        for config in (GEMMA, {}):
            report, status = judge({EMBED: A}, **config, tie_word_embeddings=value)
            tie = self.only(report)
            assert (tie["declared"], tie["kind"]) == (None, None)
            assert tie["reason"].startswith(f"tie_word_embeddings is {kind}, not true or false")
            assert tie["reason"].endswith(f"takes it for {taken}")
            assert ([finding["code"] for finding in report["findings"]], status) == (["TIE112"], 1)

    def test_member_in_a_shard_that_is_missing_is_unknown_and_the_file_is_named(self, judge, tmp_path: Path) -> None:
        names = {EMBED: "model-1.safetensors", HEAD: "model-2.safetensors"}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
        report, status = judge(None, tie_word_embeddings=True)
        tie = self.only(report)
        assert tie["stored"] == "unknown"
        assert "is in a file that is not here (model-" in tie["reason"]
        assert [f["code"] for f in report["findings"]] == ["TIE201"]
        assert status == 1

    def test_pickle_keeps_the_tie(self, judge, tmp_path: Path) -> None:
        import torch

        weight = torch.arange(8.0).reshape(4, 2)
        torch.save({EMBED: weight, HEAD: weight}, tmp_path / "pytorch_model.bin")
        report, status = judge(None, tie_word_embeddings=True)
        assert self.only(report)["stored"] == "storage"
        assert (report["findings"], status) == ([], 0)

    def test_pickle_of_equal_copies_with_nan_is_a_copy(self, judge, tmp_path: Path) -> None:
        import torch

        weight = torch.arange(8.0).reshape(4, 2)
        weight[0] = float("nan")
        torch.save({EMBED: weight, HEAD: weight.clone()}, tmp_path / "pytorch_model.bin")
        report, _ = judge(None, tie_word_embeddings=True)
        assert self.only(report)["stored"] == "copy"
        assert [f["code"] for f in report["findings"]] == ["TIE106"]


def test_table_is_there_for_the_classes_above() -> None:
    for config in (T5, BERT, GEMMA, of("LlamaForCausalLM", "llama")):
        assert load_architecture(config["architectures"][0], config["model_type"]).known


def pairs(*, indexed: bool = False) -> list[Any]:
    """The published pairs; those alone that have an index, if asked."""
    found = sorted(CORPUS.glob("pairs/*/config.json"))
    found = [path for path in found if not indexed or any(path.parent.glob("*.index.json"))]
    if not found:
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"there is no corpus at {CORPUS.name}"))]
    return [pytest.param(path.parent, id=path.parent.name) for path in found]


@pytest.mark.parametrize("pair", pairs())
def test_published_config_and_index_give_no_verdict_on_tying(pair: Path, tiecheck_cli) -> None:
    result = tiecheck_cli(str(pair), "-f", "json")
    (target,) = json.loads(result.stdout)["targets"]
    assert target["errors"] == []
    indexed = any(pair.glob("*.index.json"))
    assert [f["code"] for f in target["findings"]] == (["TIE201"] if indexed else [])
    assert result.exit_code == (1 if indexed else 2)


WIDE = ("hidden_size", "d_model", "n_embd", "n_embed")


MATRICES = {"embed_tokens", "lm_head", "word_embeddings", "wte", "embed_in"}
OTHER_MATRICES = ("cls.predictions.decoder.weight", "transformer.ff_out.weight")


def form_of(name: str, config: dict[str, Any], shape: tuple[int, int]) -> tuple[str, list[int]]:
    """Return dtype and shape of a matrix or its companion: plain, or packed as mlx-lm does where the config says so."""
    how = config.get("quantization")
    if not how:
        return "F16", list(shape)  # of another size than the config's, which no float could have
    if name.endswith((".scales", ".biases")):
        return "F16", [shape[0], shape[1] // how["group_size"]]
    return "U32", [shape[0], shape[1] * how["bits"] // 32]


@pytest.mark.parametrize("pair", pairs(indexed=True))
def test_published_checkpoint_with_a_hole_for_data_is_sound(pair: Path, tmp_path: Path, tiecheck_cli) -> None:
    """Every index with headers that could be true: a matrix of the config's size for embedding and head."""
    (index,) = pair.glob("*.index.json")
    config = json.loads((pair / "config.json").read_text())
    levels = [config, *(v for k, v in config.items() if k.endswith("_config") and isinstance(v, dict))]
    rows = next(level[key] for level in levels for key in ("vocab_size",) if key in level)
    width = next(level[key] for level in levels for key in WIDE if key in level)
    files: dict[str, dict[str, Any]] = {}
    ends: dict[str, int] = {}
    for name, file in json.loads(index.read_text())["weight_map"].items():
        file = file.replace(".bin", ".safetensors")  # noqa: PLW2901
        matrix = name.removesuffix(".weight").rpartition(".")[2] in MATRICES or name.endswith(OTHER_MATRICES)
        packed = name.endswith((".scales", ".biases"))
        begin = ends.get(file, 0)
        dtype, shape = form_of(name, config, (rows, width)) if matrix or packed else ("I8", [8])
        ends[file] = begin + math.prod(shape) * {"I8": 1, "F16": 2, "U32": 4}[dtype]
        files.setdefault(file, {})[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, ends[file]]}
    for file, header in files.items():
        text = json.dumps(header).encode()
        with (tmp_path / file).open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            stream.truncate(8 + len(text) + ends[file])
    weight_map = {name: file for file, header in files.items() for name in header}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (tmp_path / "config.json").write_text(json.dumps(config))
    # Nothing can be concluded from the bytes of holes, and comparing gigabytes of them is slow.
    result = tiecheck_cli(str(tmp_path), "-f", "json", "--values", "never")
    (target,) = json.loads(result.stdout)["targets"]
    assert target["errors"] == []
    assert target["findings"] == []
    assert result.exit_code == 0
    unread = any(tie["declared"] and tie["stored"] == "unknown" for tie in target["ties"])
    ours = not config.get("auto_map") or load_architecture(target["architecture"], target["model_type"]).known
    assert target["status"] == ("pass" if target["ties"] and not unread and ours else "unknown")


@pytest.mark.parametrize(
    "key", ["tie_word_embedding", "tied_word_embeddings", "tie_words_embeddings", "tie_embeddings"]
)
def test_a_misspelt_flag_is_told_where_the_default_decides(tmp_path: Path, models: Path, key: str) -> None:
    for case, told in (("llama-healthy-tied", "TIE102"), ("llama-untied", "TIE104")):
        folder = tmp_path / case
        shutil.copytree(models / case, folder)
        text = (folder / "config.json").read_text()
        assert text.count('"tie_word_embeddings"') == 1
        (folder / "config.json").write_text(text.replace('"tie_word_embeddings"', f'"{key}"'))
        (target,) = tiecheck.check(folder).targets
        assert [f.code for f in target.findings] == [told], "as of a config that has no flag at all"
        assert f"{key} is no key that it reads, tie_word_embeddings is" in target.ties[0].declared_by[0]
        assert key in target.findings[0].locations[0].note


@pytest.mark.parametrize("extra", [{"tie_weights_later": True}, {"word_embeddings": True}, {"tie_word_embedding": "x"}])
def test_another_key_is_no_misspelling(tmp_path: Path, models: Path, extra: dict[str, object]) -> None:
    folder = tmp_path / "m"
    shutil.copytree(models / "llama-untied", folder)
    config = json.loads((folder / "config.json").read_text())
    del config["tie_word_embeddings"]
    (folder / "config.json").write_text(json.dumps(config | extra))
    assert "is no key" not in tiecheck.check(folder).targets[0].ties[0].declared_by[0]
