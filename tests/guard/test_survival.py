"""`tiecheck.survive`: the measured table cell by cell, and that nothing of the user's is touched."""

from __future__ import annotations

import importlib.metadata
import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
import transformers
from click.testing import CliRunner
from lanes import sampled
from rule_failures import gpt2, llama
from survival_table import PUBLISHED, TOLD_OTHERWISE, cells_of
from tie_kinds import KINDS, Pair, Param
from torch import nn

import tiecheck
from tiecheck.cli.survive import command
from tiecheck.guard.life_targets import live_model_of
from tiecheck.guard.operations import by_libraries, in_training, on_modules, on_state
from tiecheck.guard.operations.registry import Operation, all_operations, faithful_copy
from tiecheck.guard.remembered_ties import remember_ties
from tiecheck.guard.survival import judge_survival
from tiecheck.records.life import SurvivalMatrix
from tiecheck.render import survival, survival_markdown, survival_page
from tiecheck.render.reports import Style
from tiecheck.rules.life.broken import ResizeBrokeTie
from tiecheck.rules.life.survived import SaveDroppedMember, TieMadeByOperation

MODELS = Path(__file__).parents[2] / "fixtures" / "models"
MODEL, OLMO = str(MODELS / "llama-healthy-tied"), str(MODELS / "olmo-module-alias")

pytestmark = pytest.mark.filterwarnings("ignore")

SCHEMA = Path(tiecheck.__file__).parent / "render" / "survive.schema.json"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_measured_table_cell_by_cell(kind: type[Pair]) -> None:
    for name, published, here in cells_of(kind):
        assert here == TOLD_OTHERWISE.get((name, kind.__name__), published), name


def test_the_committed_page_has_every_cell_of_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "evidence" / "survival.md").read_text(encoding="utf-8")
    rows = {cells[1]: cells[3:-1] for line in page.splitlines() if len(cells := line.split("|")) == len(KINDS) + 4}
    for name, *published in PUBLISHED:
        told = [TOLD_OTHERWISE.get((name, kind.__name__), cell) for kind, cell in zip(KINDS, published, strict=True)]
        written = [cell.split()[-1] for cell in rows[f" {name} "]]
        assert written == told, name


def state_of(model: nn.Module) -> list[Any]:
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    bytes_ = [tensor.detach().clone() for _, tensor in named]
    return [[(name, id(t), t.data_ptr(), t.requires_grad, id(t.grad)) for name, t in named], bytes_, model.training]


@pytest.mark.parametrize("build", sampled([llama, gpt2, Param]), ids=["llama", "gpt2", "plain"])
def test_the_users_model_comes_back_equal_by_bytes_and_identity(build: Callable[[], Any]) -> None:
    model = build()
    model.train()
    hooks = [dict(vars(module)) for module in model.modules()]
    before, threads, seed = state_of(model), torch.get_num_threads(), torch.random.get_rng_state()
    found = tiecheck.survive(model)
    after = state_of(model)
    assert before[0] == after[0]
    assert all(map(torch.equal, before[1], after[1]))
    assert before[2] == after[2]
    assert [dict(vars(module)).keys() for module in model.modules()] == [one.keys() for one in hooks]
    assert (threads, seed.tolist()) == (torch.get_num_threads(), torch.random.get_rng_state().tolist())
    assert not torch.distributed.is_initialized()
    assert not torch.__future__.get_swap_module_params_on_conversion()
    ran = [row for row in found.operations if row.status == "ran"]
    assert len(ran) >= (45 if build is llama else 35)
    assert not any(row.lost for row in ran if row.operation in ("save-pretrained", "torch-save-state", "pickled"))


@pytest.mark.parametrize("seed", sampled(range(3)))
def test_whatever_is_drawn_comes_back_and_no_file_is_written(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(seed)
    kind = draw.choice(KINDS)
    model = nn.ModuleDict({"a": kind(), "b": draw.choice([gpt2, llama, Param])()})
    for parameter in model.parameters():
        parameter.requires_grad_(draw.random() < 0.8)
        if draw.random() < 0.3 and parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    model.train(draw.random() < 0.5)
    files = tmp_path / "files"
    shutil.copytree(MODEL, files)
    held = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files.iterdir()}
    monkeypatch.chdir(files)
    before = state_of(model)
    drawn = draw.sample([one.name for one in all_operations()], 14)
    tiecheck.survive(model, operations=drawn)
    found = CliRunner().invoke(command, [str(files), "--load", "-q", "--operations", ",".join(drawn[:3])])
    assert found.exit_code in (0, 1), found.output
    after = state_of(model)
    assert (before[0], before[2]) == (after[0], after[2]), drawn
    assert all(map(torch.equal, before[1], after[1])), drawn
    assert held == {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files.iterdir()}


def t5() -> Any:
    sizes = {"vocab_size": 64, "d_model": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2, "d_kv": 8}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, decoder_start_token_id=0))


def bart() -> Any:
    sizes = {"vocab_size": 64, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    return transformers.BartForConditionalGeneration(transformers.BartConfig(**sizes, **heads, pad_token_id=1))


def llava() -> Any:
    text = {"model_type": "llama", "vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "tie_word_embeddings": True}
    vision = {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "image_size": 8, "patch_size": 4}
    config = transformers.LlavaConfig(text_config=text, vision_config=vision, tie_word_embeddings=True)
    return transformers.LlavaForConditionalGeneration(config)


class Olmo(nn.Module):
    """OLMo's form: the head is the embedding's module, and forward uses its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(16, 8)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.ff_out = self.wte

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.wte(input_ids)
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return nn.functional.linear(x, self.wte.weight)


KEEP = ("half", "deepcopy", "pickled", "torch-save-model", "load-state-dict", "step-of-adamw", "safetensors-model")
"""Operations that keep a shared parameter."""


@pytest.mark.slow
@pytest.mark.parametrize("build", [llama, gpt2, t5, bart, llava, Olmo], ids=lambda build: build.__name__)
def test_real_classes_go_through_the_whole_matrix(build: Callable[[], Any]) -> None:
    found = tiecheck.survive(build())
    rows = {row.operation: row for row in found.operations}
    assert found.ties
    for name in (*KEEP, *(("save-pretrained", "resize-token-embeddings") if build is not Olmo else ())):
        assert rows[name].status == "ran", (name, rows[name].reason)
        assert all(cell.kept for cell in rows[name].cells), name
    if build is not Olmo:
        assert not all(cell.kept for cell in rows["half-overwriting"].cells)
        assert not all(cell.kept for cell in rows["load-clones-assign"].cells)


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted(path.name for path in Path(MODEL).parent.iterdir() if path.is_dir()))
def test_every_fixture_goes_through_the_whole_matrix_and_is_left_as_it_was(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = Path(MODEL).with_name(case)
    held = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    try:
        model = live_model_of(str(folder), load=True, trust=True)
    except tiecheck.TiecheckError:  # the library refuses some of them
        model = live_model_of(str(folder))
    before = state_of(model)
    found = tiecheck.survive(model)
    after = state_of(model)
    assert (before[0], before[2]) == (after[0], after[2])
    assert all(torch.equal(one, other) or one.isnan().any() for one, other in zip(before[1], after[1], strict=True))
    assert held == {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    ran = {row.operation: row for row in found.operations if row.status == "ran"}
    assert len(ran) >= 25
    for name in KEEP:
        assert all(cell.kept for cell in ran[name].cells if cell.before in ("parameter", "module")), name
    assert not any("tiecheck" in (row.reason or "") for row in found.operations if row.status == "raised")


def codes(found: SurvivalMatrix) -> dict[str, tuple[str, ...]]:
    return {finding.code: finding.names for finding in judge_survival(found).findings}


def test_no_operation_of_a_module_is_lost_to_another_of_its_name() -> None:
    ours = [one for module in (on_modules, on_state, by_libraries, in_training) for one in module.OPERATIONS]
    assert list(all_operations())[: len(ours)] == ours


def test_operations_that_are_named_are_judged() -> None:
    assert codes(tiecheck.survive(llama(), operations=["half-overwriting"])) == {
        "TIE401": ("lm_head.weight", "model.embed_tokens.weight")
    }
    assert codes(tiecheck.survive(llama(), operations=["half", "deepcopy", "save-pretrained"])) == {}
    untied = llama()
    untied.lm_head.weight = nn.Parameter(untied.lm_head.weight.detach().clone())
    assert set(codes(tiecheck.survive(untied, operations=["save-pretrained"]))) == {"TIE402"}, (
        "a load ties equal copies again"
    )


def test_a_save_that_drops_a_diverged_member() -> None:
    untied = llama()
    untied.lm_head.weight = nn.Parameter(untied.lm_head.weight.detach() + 1)
    untied.lm_head.weight.data = untied.model.embed_tokens.weight.data
    moved = llama()
    moved.lm_head.weight = nn.Parameter(moved.lm_head.weight.detach() + 1)
    moved.config.tie_word_embeddings = True
    found = tiecheck.survive(moved, operations=["save-pretrained"])
    assert "TIE404" not in codes(found), "transformers 5 keeps both"

    def drops(it: Any) -> Any:  # what a trainer does that goes by the config: the head is not written
        state = {name: tensor for name, tensor in it.model.state_dict().items() if name != "lm_head.weight"}
        model = it.blank()
        model.load_state_dict(state, strict=False)
        model.lm_head.weight = model.model.embed_tokens.weight
        return model

    with pytest.MonkeyPatch.context() as patch:
        own = Operation("trainer", "trainer.save(model); resume", "files", drops, False, True)
        patch.setattr(importlib.metadata, "entry_points", lambda **_: [Entry("trainer", own)])
        found = tiecheck.survive(moved, operations=["trainer"])
    assert set(codes(found)) == {TieMadeByOperation.code, SaveDroppedMember.code}
    assert codes(found)["TIE404"] == ("lm_head.weight",)


def test_a_functional_call_leaves_the_originals_and_refuses_a_value_for_each_name() -> None:
    names = ["functional-call", "functional-call-of-all-names"]
    one, other = tiecheck.survive(llama(), operations=names).operations
    assert (one.status, one.cells[0].kept, one.cells[0].values, one.outputs) == ("ran", True, "same", "same")
    assert other.status == "raised"
    assert "multiple values for keys" in str(other.reason)


def test_torchao_parts_a_tied_pair_of_layers() -> None:
    pytest.importorskip("torchao")

    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(32, 32, bias=False), nn.Linear(32, 32, bias=False)
            self.other.weight = self.one.weight

    (row,) = tiecheck.survive(Layers(), operations=["torchao-quantized"]).operations
    assert row.status == "ran", row.reason
    assert not row.cells[0].kept


def test_a_resize_that_ties_what_the_flag_leaves_apart() -> None:
    from zoo import animal, by_name

    model = animal(by_name("BartForConditionalGeneration")).model(value=False)
    found = tiecheck.survive(model, operations=["resize-token-embeddings"])
    assert found.ties == ()
    assert set(codes(found)) == {ResizeBrokeTie.code}


class Sliced(nn.Module):
    """Two parameters over disjoint halves of one buffer."""

    def __init__(self) -> None:
        super().__init__()
        flat = torch.randn(8)
        self.a, self.b = nn.Parameter(flat[:4]), nn.Parameter(flat[4:])


def test_a_saver_that_drops_slices() -> None:
    found = tiecheck.survive(Sliced(), operations=["accelerator-save-model", "torch-save-state"])
    assert codes(found) == {"TIE405": ("b",)}


class Entry:
    """An entry point of another package."""

    def __init__(self, name: str, made: Any) -> None:
        self.name = name
        self._made = made

    def load(self) -> Any:
        return self._made


def test_third_parties_add_operations_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    def unties(it: Any) -> Any:
        it.model.lin = nn.Linear(6, 6)
        return it.model

    own = Operation("their-own", "theirs(model)", "files", unties)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: [Entry("theirs", own)])
    assert "their-own" in [one.name for one in all_operations()]
    (row,) = tiecheck.survive(Param(), operations=["their-own"]).operations
    assert (row.status, row.cells[0].kept, row.cells[0].moves) == ("ran", False, False)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: [Entry("theirs", unties)])
    with pytest.raises(tiecheck.TiecheckError, match="no Operation"):
        all_operations()


def test_a_copy_keeps_every_kind_of_tie_and_shares_nothing() -> None:
    for kind in KINDS:
        model = kind()
        made = faithful_copy(model)
        assert tiecheck.compare(model, made).equal is not False
        one, other = made.one(), made.other()
        assert (one is other) == (model.one() is model.other())
        assert one.untyped_storage()._cdata == other.untyped_storage()._cdata
        assert one.untyped_storage()._cdata != model.one().untyped_storage()._cdata


def test_a_model_that_cannot_be_copied_is_a_sentence() -> None:
    model = Param()
    model.lock = iter([1]).__iter__ and (one for one in [1])
    with pytest.raises(tiecheck.TiecheckError, match="cannot be copied"):
        tiecheck.survive(model)


def test_the_command(tmp_path: Path) -> None:
    run = CliRunner()
    found = run.invoke(command, [MODEL, "-f", "json", "--operations", "half,deepcopy"])
    assert found.exit_code == 0, found.output
    document = json.loads(found.stdout)
    jsonschema.validate(document, json.loads(SCHEMA.read_text()))
    assert [row["status"] for row in document["survival"]["operations"]] == ["ran", "ran"]
    found = run.invoke(command, [MODEL, "--operations", "half-overwriting", "-o", str(tmp_path / "out.txt")])
    assert found.exit_code == 1
    assert "TIE401" in found.stderr
    text = (tmp_path / "out.txt").read_text()
    assert "lm_head.weight = model.embed_tokens.weight" in text
    assert "copies" in text
    found = run.invoke(command, [MODEL, "-f", "markdown", "--operations", "state"])
    assert "| load-clones-assign | copies |" in found.stdout
    listed = run.invoke(command, ["--list"])
    assert listed.exit_code == 0
    rows = [line for line in listed.stdout.splitlines() if not line.startswith(" ")]
    assert len(rows) == len(all_operations())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "TARGET"),
        (["nowhere-at-all"], "nowhere-at-all"),
        ([MODEL, "--operations", "hafl"], "half"),
        ([f"{MODEL}/model.safetensors"], "module:attribute"),
        ([OLMO], "--trust-remote-code"),
    ],
    ids=["no target", "no such path", "misspelt", "a file", "remote code"],
)
def test_what_cannot_be_done_is_a_sentence(arguments: list[str], words: str) -> None:
    found = CliRunner().invoke(command, arguments)
    assert found.exit_code == 2
    assert words in found.stderr
    assert "Traceback" not in found.output


def test_load_takes_the_real_model() -> None:
    run = CliRunner()
    for more in ([], ["--load"]):
        found = run.invoke(command, [MODEL, "--operations", "deepcopy", *more])
        assert found.exit_code == 0, found.output
    olmo = [OLMO, "--load", "--trust-remote-code", "--operations", "half"]
    found = run.invoke(command, olmo)
    assert found.exit_code == 0, found.output


def test_the_model_of_a_target_is_built_small_and_its_matrix_is_shown(tmp_path: Path) -> None:
    model = live_model_of(MODEL)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    found = tiecheck.survive(model, operations=["half", "load-clones-assign"])
    shown = (
        (survival, "half", "load-clones-assign"),
        (survival_markdown, "| half |", "| copies"),
        (survival_page, '<td class="tied">kept</td>', '<td class="lost">copies</td>'),
    )
    for module, kept, copied in shown:
        stream = io.StringIO()
        module.render(found, Style(color="never", verbose=True), stream)
        assert kept in stream.getvalue()
        assert copied in stream.getvalue()
    with pytest.raises(tiecheck.TiecheckError, match="is an empty directory"):
        live_model_of(str(tmp_path))
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 4096, "num_hidden_layers": 9}
    transformers.LlamaConfig(**sizes, architectures=["LlamaForCausalLM"]).save_pretrained(tmp_path)
    small = live_model_of(str(tmp_path))
    assert (small.lm_head.out_features, small.model.layers[1].mlp.up_proj.out_features) == (512, 512)
    assert len(small.model.layers) == 2


WIDE = {"hidden_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 128}
ROTARY = {"n_embd": 1024, "n_layer": 2, "n_head": 4, "rotary_dim": 64}


@pytest.mark.parametrize(
    ("name", "config", "width"),
    [
        ("Gemma3ForCausalLM", transformers.Gemma3TextConfig(**WIDE), 128),
        ("LlamaForCausalLM", transformers.LlamaConfig(**WIDE | {"head_dim": None}, tie_word_embeddings=True), 64),
        ("LlamaForCausalLM", transformers.LlamaConfig(**WIDE | {"hidden_size": 1020}), 1020),
        ("GPTJForCausalLM", transformers.GPTJConfig(**ROTARY, tie_word_embeddings=True), 1024),
    ],
)
def test_a_wide_class_is_built_narrow_where_it_runs_so(name: str, config: Any, width: int, tmp_path: Path) -> None:
    config.architectures = [name]
    config.save_pretrained(tmp_path)
    small = live_model_of(str(tmp_path))
    assert small.get_input_embeddings().embedding_dim == width  # GPT-J rotates 64 elements of a head, and has 16
    tied = bool(config.tie_word_embeddings)
    assert (small.get_output_embeddings().weight is small.get_input_embeddings().weight) == tied
    assert tied == bool(remember_ties(small))
    (row,) = tiecheck.survive(small, operations=["deepcopy"]).operations
    assert row.outputs == ("same" if tied else None)
