"""The table of layouts: each named for what it is and refused, and what a word stands for."""

from __future__ import annotations

import json
import os
import random
import subprocess
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from click.testing import CliRunner
from rule_failures import llama

import tiecheck
from tiecheck.cli.main import cli
from tiecheck.errors import TargetError
from tiecheck.fleet.sources import list_models
from tiecheck.targets.layouts import LAYOUTS, folder_walk, models_below
from tiecheck.targets.parse import layout_word, parse_target, targets_below, whole_weights


def fill(root: Path, *names: str) -> Path:
    """Make empty files, and folders where a name ends in a slash."""
    for name in names:
        if name.endswith("/"):
            (root / name).mkdir(parents=True)
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(b"")
    return root


KNOWN = [
    (("zero_to_fp32.py", "latest", "global_step5/"), "DeepSpeed"),
    (("bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", "zero_pp_rank_1_mp_rank_00_optim_states.pt"), "DeepSpeed"),
    ((".metadata", "__0_0.distcp"), r"\(DCP\)"),
    (("pytorch_model_fsdp_0/", "optimizer_0/"), "FSDP"),
    (("latest_checkpointed_iteration.txt", "iter_0000100/"), "Megatron"),
    (("mp_rank_00/", "mp_rank_01/"), "Megatron"),
    (("model.nemo",), "NeMo"),
    (("config.json", "model.bin", "vocabulary.json"), "CTranslate2"),
    (("model.bin", "shared_vocabulary.txt"), "CTranslate2"),
    (("flax_model.msgpack",), "Flax"),
    (("tf_model.h5",), "TensorFlow"),
    (("saved_model.pb", "variables/"), "TensorFlow"),
    (("model_index.json", "unet/", "vae/"), "diffusers"),
    (("tf_model-00001-of-00002.h5", "tf_model.h5.index.json"), "TensorFlow"),
    (("flax_model-00001-of-00002.msgpack", "flax_model.msgpack.index.json"), "Flax"),
    (("openvino_model.xml", "openvino_model.bin"), "OpenVINO"),
    (("model.weights.h5",), "Keras"),
    (("rank0.engine",), "TensorRT-LLM"),
    (("model.tflite",), "LiteRT"),
    (("model.mlpackage/",), "Core ML"),
    (("model.pte",), "ExecuTorch"),
]


@pytest.mark.parametrize(("names", "what"), KNOWN)
def test_a_layout_is_named_for_what_it_is(names: tuple[str, ...], what: str, tmp_path: Path) -> None:
    report = tiecheck.check(fill(tmp_path, *names))
    (error,) = report.errors
    assert __import__("re").search(what, error.message), error.message
    assert "adapter" not in error.message
    assert CliRunner().invoke(cli, [str(tmp_path)]).exit_code == 2


def test_every_layout_of_the_table_is_met() -> None:
    assert len({layout_word([name.rstrip("/") for name in names]) and what for names, what in KNOWN}) == len(
        {layout.what.split(" (")[0] for layout in LAYOUTS} - {"a model of TensorFlow"}
    )


@pytest.mark.parametrize("beside", ["flax_model.msgpack", "tf_model.h5", "zero_to_fp32.py", ".metadata", "x.nemo"])
def test_weights_that_are_read_go_first(beside: str, tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path)
    assert tiecheck.check(fill(tmp_path, beside)).targets[0].status == "pass"


@pytest.mark.parametrize(("name", "what"), [("flax_model.msgpack", "Flax"), ("tf_model.h5", "TensorFlow")])
def test_a_config_beside_other_weights_is_refused_and_still_builds(name: str, what: str, tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    report = tiecheck.check(fill(tmp_path, name)).targets[0]
    assert [what in error.message for error in report.errors] == [True]
    if name == "tf_model.h5":
        built = tiecheck.check(tmp_path, live=True).targets[0]
        assert (what in (built.reason or ""), built.status, "live" in built.layers) == (True, "unknown", True)


@pytest.mark.parametrize(("name", "what"), [("model.nemo", "NeMo"), ("__0_0.distcp", "DCP"), (".metadata", "DCP"),
                                            ("tf_model.h5", "TensorFlow"), ("flax_model.msgpack", "Flax")])  # fmt: skip
def test_a_file_of_a_layout_is_named_too(name: str, what: str, tmp_path: Path) -> None:
    (error,) = tiecheck.check(fill(tmp_path, name) / name).errors
    assert what in error.message


def test_a_run_of_deepspeed_is_no_folder_of_sources(tmp_path: Path) -> None:
    step = "checkpoint-10/global_step10/mp_rank_00_model_states.pt"
    run = fill(tmp_path, "checkpoint-10/zero_to_fp32.py", "checkpoint-10/config.json", step)
    (error,) = tiecheck.check(run).errors
    assert "checkpoint-10 is a checkpoint of DeepSpeed" in error.message
    (run / "train.py").write_text("x = 1\n")
    assert tiecheck.check(run).targets[0].type == "source"


@pytest.mark.parametrize("beside", [False, True])
def test_steps_of_a_run_are_named_below_it_and_each_for_itself(beside: bool, tmp_path: Path) -> None:
    steps = ("out/step-1/.metadata", "out/step-1/optimizer_0/.metadata", "out/step-2/pytorch_model_fsdp_0/.metadata")
    fill(tmp_path, *steps, "out/step-2/optimizer_0/.metadata")
    if beside:  # in a folder that a file of another kind lies in
        llama().save_pretrained(fill(tmp_path, "whole/x.nemo") / "whole" / "er")
    (error,) = tiecheck.check(tmp_path).errors
    assert (f"{tmp_path}/out/step-1 is a distributed checkpoint" in error.message) is not beside
    assert ("--recursive" in error.message) is beside
    reports = [tiecheck.check(one).targets[0] for one in targets_below(str(tmp_path), recursive=True)]
    told = {os.path.relpath(one.target, tmp_path): one.errors[0].message if one.errors else "" for one in reports}
    assert set(told) == {"out/step-1", "out/step-2", *(["whole", "whole/er"] if beside else [])}
    assert "DCP" in told["out/step-1"]
    assert "FSDP" in told["out/step-2"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("beside", ["common.pt", "metadata.json", "optimizer.pt", "scheduler.pt"])
def test_what_lies_in_a_distributed_checkpoint_makes_no_model_of_it(beside: str, tmp_path: Path) -> None:
    dcp.save({"model": {"w": torch.ones(2)}}, checkpoint_id=tmp_path, no_dist=True)
    torch.save({"args": {"tp": 1}, "iteration": 10}, tmp_path / beside)
    (error,) = tiecheck.check(tmp_path).errors
    assert "(DCP)" in error.message


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_that_torch_wrote_is_dcp(tmp_path: Path) -> None:
    dcp.save({"model": {"w": torch.ones(2)}}, checkpoint_id=tmp_path, no_dist=True)
    (error,) = tiecheck.check(tmp_path).errors
    assert "(DCP)" in error.message


def test_a_vendor_config_is_read_where_there_is_no_other(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"tok_embeddings.weight": torch.randn(64, 16)}, tmp_path / "consolidated.safetensors")
    (tmp_path / "params.json").write_text(json.dumps({"vocab_size": 64, "tied_embeddings": True}))
    report = tiecheck.check(tmp_path).targets[0]
    (tie,) = report.ties
    assert (tie.declared, tie.declared_by, tie.stored) == (True, ("params.json:tied_embeddings",), "absent")
    assert (report.status, {view.loader: view.outcome for view in report.loaders}) == ("pass", {"vllm": "tied"})


@pytest.mark.parametrize(
    ("flag", "head", "status", "said"),
    [
        (True, "equal", "pass", "tied"),
        (True, "other", "fail", "head-discarded"),
        (True, "rows", "fail", "head-discarded"),
        (False, None, "fail", "head-random"),
        (False, "equal", "pass", "kept-apart"),
        (False, "other", "pass", "kept-apart"),
        (False, "rows", "unknown", "unknown"),
        (None, None, "unknown", None),
        ("yes", "other", "unknown", None),
    ],
)
def test_the_vendors_own_layout_is_judged_by_the_loader_that_reads_it(
    flag: object, head: str | None, status: str, said: str | None, tmp_path: Path
) -> None:
    """By the source of vLLM 0.33: `configs/mistral.py` reads the flag, false where there is none."""
    from safetensors.torch import save_file

    table = torch.randn(64, 16)
    heads = {"equal": table.clone(), "other": table + 1, "rows": torch.randn(60, 16)}
    more = {"output.weight": heads[head]} if head else {}
    save_file(
        {"tok_embeddings.weight": table, "norm.weight": torch.ones(16), **more}, tmp_path / "consolidated.safetensors"
    )
    params = {"dim": 16, "n_layers": 1, "vocab_size": 64} | ({} if flag is None else {"tied_embeddings": flag})
    (tmp_path / "params.json").write_text(json.dumps(params))
    report = tiecheck.check(tmp_path).targets[0]
    assert report.status == status, report.findings
    assert [view.outcome for view in report.loaders] == ([said] if said else [])
    places = [place.path for f in report.findings for place in f.locations]
    assert "config.json" not in {str(path).rpartition("/")[2] for path in places}


def test_a_pipeline_stands_for_its_text_models(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path / "text_encoder")
    fill(tmp_path, "model_index.json")
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae/config.json").write_text('{"_class_name": "AutoencoderKL"}')
    os.mkfifo(tmp_path / "scheduler")
    llama().save_pretrained(tmp_path / "safety_checker")  # as its config has it, it names a class of its own
    index = {"text_encoder": ["transformers", "CLIP"], "safety_checker": ["stable_diffusion", "X"], "x": None}
    for text in ("", "[1]", json.dumps(index)):
        (tmp_path / "model_index.json").write_text(text)
        for below in (False, True):
            found = list(targets_below(str(tmp_path), recursive=below))
            parts = ["text_encoder"] if text.startswith("{") else ["safety_checker", "text_encoder"]
            assert found == [str(tmp_path / name) for name in parts]
    (report,) = tiecheck.check(tmp_path).targets
    assert (report.target, report.status) == (str(tmp_path / "text_encoder"), "pass")


def test_the_other_modules_of_sentence_transformers_are_no_models(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path / "root")
    fill(tmp_path, "root/modules.json", "root/1_Pooling/config.json", "root/2_Dense/model.safetensors")
    assert list(targets_below(str(tmp_path), recursive=True)) == [str(tmp_path / "root")]


def test_recursive_judges_every_model_below(tmp_path: Path) -> None:
    for name in ("a", "deep/er/b", ".hidden"):
        llama().save_pretrained(tmp_path / name)
    fill(tmp_path, "deep/x.gguf", "deep/notes.txt")
    os.symlink(tmp_path, tmp_path / "loop")
    found = sorted(os.path.relpath(t, tmp_path) for t in targets_below(str(tmp_path), recursive=True))
    assert found == ["a", "deep/er/b", "deep/x.gguf"]
    report = CliRunner().invoke(cli, ["--recursive", str(tmp_path)])
    assert report.exit_code == 2
    assert "3 targets: 2 pass, 1 error" in report.output
    assert "--recursive" in CliRunner().invoke(cli, [str(tmp_path)]).output
    assert list(targets_below(str(tmp_path / "deep/er/b"), recursive=True)) == [str(tmp_path / "deep/er/b")]


def test_folders_are_walked_as_by_the_library_and_as_deep_as_they_are(tmp_path: Path) -> None:
    draw = random.Random(3)
    for _ in range(60):
        folder = tmp_path.joinpath(*draw.choices("abc.", k=draw.randint(0, 5)))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "x").touch()
        if not (folder / "loop").is_symlink():
            (folder / "loop").symlink_to(draw.choice((tmp_path, folder / "loop", folder / "gone")))
    theirs = {(f, *sorted(n for n in names if n == "x")) for f, _, names in os.walk(tmp_path)}
    assert {(f, *(n for n in names if n == "x")) for f, _, names in folder_walk(str(tmp_path))} == theirs
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        for _ in range(1300):
            os.mkdir("d")
            os.chdir("d")
        Path("model.py").write_text("tied = 1")
    finally:
        os.chdir(here)
    assert sum(1 for _ in folder_walk(str(tmp_path))) > 1300
    assert tiecheck.check(tmp_path).targets[0].type == "source"
    assert sum(1 for _ in models_below(str(tmp_path), whole_weights)) == 1
    assert list(list_models([str(tmp_path)])) == []
    subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)  # shutil goes as deep as it can, too


def test_a_pipe_in_the_hubs_cache_keeps_nobody_waiting(tmp_path: Path) -> None:
    folder = tmp_path / "models--org--name"
    (folder / "snapshots" / "one").mkdir(parents=True)
    (folder / "refs").mkdir()
    os.mkfifo(folder / "refs" / "main")
    with pytest.raises(TargetError, match="snapshots/one"):
        parse_target(str(folder))
