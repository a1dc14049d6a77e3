"""What training frameworks leave: really made on gloo in one process where they run here, else in their names.

DeepSpeed itself runs in `test_real_artefacts.py`; here its directory is in its names alone, and a recovery that gives a
tied tensor one name is written by hand, as versions without shared parameters in their checkpoints did.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import transformers
from click.testing import CliRunner
from rule_failures import llama, set_flag
from safetensors.torch import save_file
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import tiecheck
from tiecheck.cli.main import cli

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def sharded() -> Iterator[Any]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    mesh = init_device_mesh("cpu", (1,))

    def shard(model: Any) -> Any:
        fully_shard([model.model.embed_tokens, model.lm_head], mesh=mesh)
        return fully_shard(model, mesh=mesh)

    yield shard
    dist.destroy_process_group()


def codes(where: Path) -> dict[str, str]:
    report = tiecheck.check(where)
    assert not report.errors, report.errors
    return {f.code: f.severity for f in report.findings if f.severity != "info"}


def loaded(where: Path) -> tuple[Any, set[str]]:
    model, info = transformers.AutoModelForCausalLM.from_pretrained(where, output_loading_info=True)
    return model, set(info["missing_keys"])


@pytest.mark.parametrize("tied", [True, False])
def test_a_whole_state_dict_of_fsdp_is_judged_as_it_loads(tied: bool, sharded: Any, tmp_path: Path) -> None:
    model = sharded(llama(tied=tied))
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.save_pretrained(tmp_path)
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    torch.save(get_model_state_dict(model, options=options), tmp_path / "pytorch_model.bin")
    found, missing = loaded(tmp_path)
    assert (found.lm_head.weight is found.model.embed_tokens.weight, missing) == (tied, set())
    report = tiecheck.check(tmp_path).targets[0]
    assert report.status == "pass", (report.reason, report.findings)
    assert report.ties[0].declared is tied


def test_shards_of_fsdp_and_dcp_are_named_and_refused(sharded: Any, tmp_path: Path) -> None:
    model = sharded(llama())
    inner = tmp_path / "run" / "pytorch_model_fsdp_0"
    dcp.save({"model": get_model_state_dict(model)}, checkpoint_id=inner)
    for target, said in ((tmp_path / "run", "a sharded checkpoint of FSDP"), (inner, "(DCP)")):
        out = CliRunner().invoke(cli, [str(target)])
        assert (out.exit_code, said in " ".join(out.output.split())) == (2, True), out.output
    dcp_to_torch_save(inner, tmp_path / "run" / "model.pt")  # what the sentence names makes one that is read
    (tie,) = tiecheck.check(tmp_path / "run" / "model.pt").targets[0].ties
    assert set(tie.names) == {"lm_head.weight", "model.embed_tokens.weight"}


@pytest.mark.parametrize("stage", [1, 3])
def test_a_directory_of_zero_is_named_and_its_recovery_judged(stage: int, tmp_path: Path) -> None:
    model = llama()
    step = tmp_path / "global_step5"
    step.mkdir()
    (tmp_path / "latest").write_text("global_step5")
    (tmp_path / "zero_to_fp32.py").write_text("")
    state = {"module": model.state_dict(), "param_shapes": [{n: p.shape for n, p in model.named_parameters()}]}
    names = ("mp_rank_00_model_states.pt",) if stage == 1 else ("zero_pp_rank_0_mp_rank_00_model_states.pt",)
    for name in (*names, "zero_pp_rank_0_mp_rank_00_optim_states.pt"):
        torch.save(state, step / name)
    for target in (tmp_path, *([step] if stage == 3 else [])):
        (error,) = tiecheck.check(target).errors
        assert "DeepSpeed" in error.message
        assert "zero_to_fp32.py" in error.message
    model.config.save_pretrained(tmp_path)
    torch.save({n: p.detach() for n, p in model.named_parameters()}, tmp_path / "pytorch_model.bin")
    assert codes(tmp_path) == {}
    assert loaded(tmp_path)[1] == set()


def aliases(model: Any, kept: str) -> dict[str, torch.Tensor]:
    """What a recovery of ZeRO gives: both names; no alias; or each name the first tensor, all pointers being 0."""
    found = {n: p.detach() for n, p in model.named_parameters(remove_duplicate=kept == "no alias")}
    return dict.fromkeys(found, next(iter(found.values()))) if kept == "the first" else found


@pytest.mark.parametrize("flag", [True, False])
@pytest.mark.parametrize("kept", ["both", "no alias", "the first"])
def test_a_recovery_without_the_alias_is_told(kept: str, flag: bool, tmp_path: Path) -> None:
    """Told is what does not load, or loads a random head, and nothing else."""
    model = llama()
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.save_pretrained(tmp_path)
    set_flag(tmp_path, flag)
    torch.save(aliases(model, kept), tmp_path / "pytorch_model.bin")
    try:
        _, missing = loaded(tmp_path)
    except RuntimeError:
        assert codes(tmp_path) == {"TIE207": "error"}
        return
    assert codes(tmp_path) == ({"TIE102": "error"} if missing else {})
    assert missing == ({"lm_head.weight"} if kept == "no alias" and not flag else set())


KEYS = {
    "declared": {"lm_head.weight": "model.embed_tokens.weight"},
    "itself": {"lm_head.weight": "lm_head.weight"},
    "the source": {"model.embed_tokens.weight": "lm_head.weight"},
}
"""What a class may declare: an exporter that goes by it alone drops the names on the left."""


@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize(("flag", "tied"), [(True, True), (True, False), (False, False)])
def test_an_exporter_that_trusts_the_declared_tie_is_told(flag: bool, tied: bool, keys: str, tmp_path: Path) -> None:
    """What is lost is told before the export by the live model, or after it by the files; nothing else is told."""
    made = type("LlamaForCausalLM", (transformers.LlamaForCausalLM,), {"_tied_weights_keys": KEYS[keys]})
    config = llama(tied=tied).config
    model = made(config)
    model.load_state_dict(llama(tied=False).state_dict() | (llama().state_dict() if tied else {}))
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    model.config.tie_word_embeddings = flag
    live = {f.code for f in tiecheck.check(model).findings if f.severity in ("error", "warning")}
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.save_pretrained(tmp_path)
    kept = {n: t.clone() for n, t in model.state_dict().items() if n not in KEYS[keys]}
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    found, _ = loaded(tmp_path)
    ours = {n: model.state_dict()[n] for n in ("lm_head.weight", "model.embed_tokens.weight")}
    lost = any(not torch.equal(found.state_dict()[n], tensor) for n, tensor in ours.items())
    assert bool(live | set(codes(tmp_path))) >= lost
    if keys == "declared":
        assert live == ({"TIE301"} if flag and not tied else set())
        assert codes(tmp_path) == ({} if flag else {"TIE102": "error"})


def test_an_untie_over_shared_memory_that_drops_the_head_is_told(tmp_path: Path) -> None:
    model = llama()
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.model.embed_tokens.weight.data)  # meant as a copy
    assert {f.code for f in tiecheck.check(model).findings} >= {"TIE302"}
    model.save_pretrained(tmp_path)
    stored = torch.load if not (tmp_path / "model.safetensors").exists() else None
    assert stored is None
    _, missing = loaded(tmp_path)
    assert ("TIE102" in codes(tmp_path)) is bool(missing)
