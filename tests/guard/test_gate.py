"""The Python gate: what it promises, and what real loads of transformers and accelerate keep of it, on cpu and disk."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from accelerate import (
    cpu_offload,
    dispatch_model,
    init_empty_weights,
    load_checkpoint_and_dispatch,
    load_checkpoint_in_model,
)
from gates import gate_of, on_two, placement_of, report_of
from safetensors.torch import load_file, save_file
from tiny_models import SMALL, built, groups_of, logits
from torch import nn

import tiecheck
from tiecheck.guard.gate import Gate
from tiecheck.guard.verify import ADVICE, same_device
from tiecheck.placement.load_outcomes import chosen_map, promises_of
from tiecheck.placement.map_lookup import by_accelerate as device_of
from tiecheck.records.placement import Crash, Placed, Placement, Plan, Proposal
from tiecheck.records.report import Finding, Skip

pytestmark = pytest.mark.filterwarnings(r"ignore:.*do not match any submodules.*:UserWarning")

LLAMA = "LlamaForCausalLM"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    folder = tmp_path / "llama"
    built().save_pretrained(folder)
    return folder


def finding(code: str = "TIE501", severity: str = "error", names=(HEAD, EMBEDDING)) -> Finding:
    name, message, mend = "tied-group-split-across-devices", "the group is split", "keep it on one device"
    return Finding(code, name, severity, "high", message, names, mend, False, (), "f", None)


def everything_on_disk(model: nn.Module) -> dict[str, int | str]:
    """`{"": "disk"}` ends in a FileNotFoundError of accelerate 1.15, so that each child is named."""
    root = [name for name, _ in (*model.named_parameters(recurse=False), *model.named_buffers(recurse=False))]
    return {name: "disk" for name, _ in model.named_children()} | dict.fromkeys(root, "cpu")


def untie(model: nn.Module) -> int:
    """Part head and embedding."""
    model.lm_head.weight = nn.Parameter(torch.zeros_like(model.lm_head.weight))
    return 1


# Loads that keep the promise.


@pytest.mark.parametrize("name", SMALL)
def test_from_pretrained_keeps_it(name: str, tmp_path: Path) -> None:
    model = built(name)
    model.save_pretrained(tmp_path)
    with gate_of(model, on_two(model, "cpu", "disk")) as gate:
        loaded = gate.watch(
            type(model).from_pretrained(tmp_path, device_map=gate.device_map, offload_folder=tmp_path / "off")
        )
        assert torch.equal(logits(loaded), logits(model))
    assert loaded.hf_device_map == gate.device_map
    assert gate.promises
    assert {d for promise in gate.promises for d in promise.devices} == {"cpu"}


@pytest.mark.parametrize("name", SMALL)
def test_called_around_from_pretrained(name: str, tmp_path: Path) -> None:
    model = built(name)
    model.save_pretrained(tmp_path)
    gate = gate_of(model, on_two(model, "cpu", "disk"))
    loaded, info = gate(
        type(model).from_pretrained, tmp_path, offload_folder=tmp_path / "off", output_loading_info=True
    )
    assert loaded.hf_device_map == gate.device_map
    assert not info["missing_keys"]


@pytest.mark.parametrize("name", SMALL)
def test_everything_on_disk_is_as_promised(name: str, tmp_path: Path) -> None:
    """accelerate writes a tied tensor to two files; that is what a plan for the disk promises."""
    model = built(name)
    gate = gate_of(model, everything_on_disk(model))
    expected = logits(model)
    loaded = gate(dispatch_model, model, offload_dir=tmp_path / "off")
    assert torch.equal(logits(loaded), expected)
    assert {d for promise in gate.promises for d in promise.devices} == {"disk"}


@pytest.mark.parametrize("name", SMALL)
def test_dispatch_model_with_disk_is_looked_through(name: str, tmp_path: Path) -> None:
    model = built(name)
    gate = gate_of(model, on_two(model, "cpu", "disk"))
    loaded = gate(dispatch_model, model, offload_dir=tmp_path / "off")
    assert gate.verify(loaded) == ()


def test_offload_to_the_cpu_is_looked_through() -> None:
    """What `cpu` with a GPU in the map leaves: meta parameters, and values in the hooks' map over one memory."""
    model = built()
    gate = gate_of(model, {"": "cpu"})
    cpu_offload(model, execution_device=torch.device("cpu"), state_dict=model.state_dict())
    assert model.lm_head.weight.is_meta
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    assert gate.verify(model) == ()


def test_load_checkpoint_and_dispatch_keeps_it(llama: Path, tmp_path: Path) -> None:
    with init_empty_weights():
        model = built()
    model.tie_weights()
    gate = gate_of(model, on_two(model, "cpu", "disk"))
    loaded = gate(
        load_checkpoint_and_dispatch, model, str(llama / "model.safetensors"), offload_folder=tmp_path / "off"
    )
    assert gate.verify(loaded) == ()


def test_a_live_module_is_watched_until_the_end() -> None:
    model = built()
    gate = gate_of(model, {"": "cpu"})
    with pytest.raises(tiecheck.TieBroken, match="separate memory"), gate:
        untie(gate.watch(model))
    with gate:  # what was watched before is not watched any more
        pass


def test_an_error_inside_is_not_hidden() -> None:
    model = built()
    with pytest.raises(ZeroDivisionError), gate_of(model, {"": "cpu"}) as gate:
        _ = untie(gate.watch(model)) // 0


# Loads that break it.


def test_a_checkpoint_with_two_values_is_not_tied(llama: Path) -> None:
    tensors = load_file(llama / "model.safetensors")
    tensors[HEAD] = torch.randn_like(tensors[EMBEDDING])
    save_file(tensors, llama / "model.safetensors", metadata={"format": "pt"})
    gate = gate_of(built(), {"": "cpu"})
    with pytest.raises(tiecheck.TieBroken) as caught:
        gate(transformers.LlamaForCausalLM.from_pretrained, llama)
    (broken,) = caught.value.broken
    assert (broken.what, broken.names) == ("tie", (HEAD, EMBEDDING))
    assert "separate memory with different bytes" in str(caught.value)
    assert broken.help.endswith(ADVICE)
    assert "model.lm_head.weight = model.model.embed_tokens.weight" in broken.help


class Undeclared(transformers.LlamaForCausalLM):
    """Ties two projections in `__init__` and tells nobody."""

    def __init__(self, config):
        super().__init__(config)
        first, second = (self.model.layers[n].mlp for n in (0, 1))
        second.up_proj.weight = first.up_proj.weight


def test_a_tie_made_in_init_without_a_declaration_is_lost(llama: Path) -> None:
    names = ("model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight")
    config = transformers.LlamaConfig.from_pretrained(llama)
    torch.manual_seed(0)
    model = Undeclared(config)
    assert names in groups_of(model)
    gate = gate_of(model, {"": "cpu"}, groups=[names])
    with pytest.raises(tiecheck.TieBroken) as caught:
        gate(Undeclared.from_pretrained, llama)
    assert caught.value.broken[0].names == names


class Tied(nn.Module):
    """The tie of finding 1: the loader puts the value under one name, and the other's old one comes back."""

    def __init__(self):
        super().__init__()
        self.transformer = nn.ModuleDict({"wte": nn.Embedding(10, 4)})
        self.lm_head = nn.Linear(4, 10, bias=False)
        self.lm_head.weight = self.transformer["wte"].weight

    def forward(self, ids):
        return self.lm_head(self.transformer["wte"](ids))


def test_a_model_that_is_built_on_meta_or_loaded_without_a_map_keeps_the_stored_values(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"transformer.wte.weight": torch.full((10, 4), 7.0)}, file)
    gate = gate_of(Tied(), {"": "cpu"})
    with torch.device("meta"):
        on_meta = Tied()
    gate(load_checkpoint_in_model, on_meta, str(file))
    assert on_meta.lm_head.weight.mean() == 7
    plain = Tied()
    gate(load_checkpoint_in_model, plain, str(file), device_map=None)
    assert plain.lm_head.weight.mean() == 7


def test_another_place_is_a_broken_promise(llama: Path, tmp_path: Path) -> None:
    gate = gate_of(built(), everything_on_disk(built()))
    with pytest.raises(tiecheck.TieBroken, match="found: on cpu") as caught:
        gate(transformers.LlamaForCausalLM.from_pretrained, llama, device_map={"": "cpu"})
    (broken,) = caught.value.broken
    assert (broken.what, broken.names, broken.promised) == ("device", (HEAD, EMBEDDING), "on disk")
    other = gate_of(built(), {"": "cpu"})
    loaded = dispatch_model(built(), everything_on_disk(built()), offload_dir=tmp_path / "off")
    assert {b.what for b in other.verify(loaded)} == {"device"}  # equal files tell nothing of the tie


def test_a_missing_name_is_a_broken_promise() -> None:
    model = built()
    (names,) = groups_of(model)
    gate = Gate(report_of(placement_of(model, {"": "cpu"})))
    assert gate.verify(model) == ()
    (gone,) = gate.verify(nn.Linear(2, 2))
    assert (gone.what, gone.names) == ("missing", names)


def test_what_cannot_be_told_is_not_broken() -> None:
    """Behind a hook that has no values to show nothing is known, and nothing is claimed."""
    model = built()
    gate = gate_of(model, {"": "cpu"})
    cpu_offload(model, execution_device=torch.device("cpu"), state_dict=model.state_dict())
    for module in (model.lm_head, model.model.embed_tokens):
        module._hf_hook.weights_map = {}
    assert gate.verify(model) == ()


# What the gate is and says.


def test_a_sound_plan_is_taken_and_a_split_one_replaced() -> None:
    model = built()
    split = {"model.embed_tokens": 0, "model.layers": 0, "model.norm": 1, "model.rotary_emb": 0, "lm_head": 1}
    proposal = Proposal({"": 1}, {"cuda:1": 1}, 0, None)
    assert chosen_map(placement_of(model, {"": 0}, proposal=proposal)) == {"": 0}
    assert chosen_map(placement_of(model, split, proposal=proposal)) == {"": 1}
    assert chosen_map(placement_of(model, split, proposal=Proposal({}, {}, 5, "too big"))) == split
    gate = Gate(report_of(placement_of(model, split, proposal=proposal)))
    assert gate.device_map == {"": 1}
    assert gate.promises[0].devices == ("cuda:1", "cuda:1")
    gate.device_map.clear()  # a loader may write into its map
    assert gate.device_map == {"": 1}


def test_findings_raise_with_code_devices_mend_and_map() -> None:
    model = built()
    split = {"model": 0, "lm_head": 1}
    placement = placement_of(model, split, proposal=Proposal({"": 1}, {"cuda:1": 1}, 0, None))
    gate = Gate(report_of(placement, finding()))
    assert not gate.ok
    with pytest.raises(tiecheck.PlacementError) as caught:
        gate.raise_if_it_hurts()
    assert caught.value.report is gate.report
    assert caught.value.device_map == {"": 1}
    assert str(caught.value).splitlines() == [
        "loading model under device_map will hurt",
        "  TIE501 tied-group-split-across-devices: the group is split",
        f"    {HEAD} on cuda:1, {EMBEDDING} on cuda:0",
        "    keep it on one device",
        "  this device_map keeps them together:",
        "    {'': 1}",
    ]


def test_fail_on_is_heard() -> None:
    placement = placement_of(built(), {"": 0})
    report = report_of(placement, finding("TIE509", "warning"))
    with pytest.raises(tiecheck.PlacementError, match="TIE509"):
        Gate(report).raise_if_it_hurts()
    mild = Gate(report, fail_on="error")
    assert mild.ok
    mild.raise_if_it_hurts()
    Gate(report_of(placement, finding("TIE502", "info"))).raise_if_it_hurts()


def test_no_plan_at_all_says_why() -> None:
    crash = Crash("IndexError: list index out of range", "substring", "head", ("head.weight",))
    plan = Plan("accelerate", "1.15.0", "auto", {}, crash=crash)
    nothing = Placement(
        "auto", "device_map=", {0: 1}, (plan,), Proposal({}, {}, 9, "there is too little room on cuda:0")
    )
    gate = Gate(report_of(nothing))
    assert gate.max_memory == {0: 1}
    assert not gate.ok
    with pytest.raises(tiecheck.TiecheckError, match=r"raises IndexError.* on cuda:0; 9 bytes are missing"):
        _ = gate.device_map
    with pytest.raises(tiecheck.TiecheckError):
        gate.raise_if_it_hurts()
    skip = Skip("TIE501", "tied-group-split-across-devices", "accelerate is not installed")
    with pytest.raises(tiecheck.TiecheckError, match="accelerate is not installed"):
        Gate(report_of(None, skips=(skip,)))


def test_a_group_that_no_class_ties_is_not_promised_of_a_live_module() -> None:
    rows = (
        Placed(("a", "b"), "separate", True, ("cpu", "cpu"), 4, True),
        Placed(("c", "d"), "storage", False, ("cpu", "cpu"), 4, True),
        Placed(("e", "f"), "module", False, ("cpu", "cpu"), 4, True),
    )
    placement = Placement("map", "", None, (Plan("given", "", "map", {"": "cpu"}, placed=rows),), None)
    live = promises_of(report_of(placement, kind="module").targets[0], {"": "cpu"})
    stored = promises_of(report_of(placement).targets[0], {"": "cpu"})
    assert [promise.names for promise in live] == [("e", "f")]
    assert [promise.names for promise in stored] == [("a", "b"), ("e", "f")]


def test_devices_of_a_map_by_the_longest_key() -> None:
    found = {"": "cpu", "model.layers.1": 1, "model.layers.10": "disk", "lm_head": "cuda"}
    assert device_of(found, "model.layers.1.w") == "cuda:1"
    assert device_of(found, "model.layers.10.w") == "disk"
    assert device_of(found, "model.layers.11.w") == "cpu"
    assert device_of(found, "lm_head.weight") == "cuda:0"
    assert device_of({"model": 0}, "lm_head.weight") is None


def test_an_accelerator_by_its_number() -> None:
    assert same_device("cuda:1", "xpu:1")
    assert same_device("mps", "mps:0")
    assert not same_device("cuda:0", "cuda:1")
    assert not same_device("cuda:0", "cpu")
    assert not same_device("disk", "cpu")


# The door.


def test_the_door_tells_bad_options_and_targets(tmp_path: Path) -> None:
    with pytest.raises(tiecheck.TiecheckError, match="there is no severity 'fatal'"):
        tiecheck.gate(tmp_path, fail_on="fatal")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no option 'selekt'; did you mean 'select'"):
        tiecheck.gate(tmp_path, selekt="TIE5")
    with pytest.raises(tiecheck.TiecheckError, match="nowhere"):
        tiecheck.gate(tmp_path / "nowhere")


def test_the_door_needs_a_module_to_verify() -> None:
    gate = gate_of(built(), {"": "cpu"})
    with pytest.raises(TypeError, match="not a dict"):
        gate.watch({})
    with pytest.raises(TypeError, match="not a NoneType"):
        gate(lambda device_map: None)


def test_a_map_that_is_given_is_left(llama: Path) -> None:
    gate = gate_of(built(), {"": "cpu"})
    seen = []

    def load(model, device_map=None):
        seen.append(device_map)
        return model

    model = built()
    gate(load, model)
    gate(load, model, {"": "meta"})
    gate(load, model, device_map=None)
    assert seen == [{"": "cpu"}, {"": "meta"}, None]


def test_importing_the_door_imports_no_torch() -> None:
    code = "import sys, tiecheck; tiecheck.gate, tiecheck.TieBroken; print({'torch', 'click'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    assert issubclass(tiecheck.TieBroken, AssertionError)
    assert issubclass(tiecheck.PlacementError, tiecheck.TiecheckError)


def test_its_map_can_be_written_as_json() -> None:
    gate = gate_of(built(), on_two(built(), "cpu", "disk"))
    assert json.loads(json.dumps(gate.device_map)) == gate.device_map
    assert repr(gate) == "<Gate model: ok, 1 ties>"


def test_auto_plans_for_the_devices_that_the_memory_names_and_not_for_those_of_this_machine(tmp_path: Path) -> None:
    built().save_pretrained(tmp_path)
    total = sum(parameter.nbytes for parameter in built().parameters())
    gate = tiecheck.gate(tmp_path, device_map="auto", max_memory={0: int(0.6 * total), "cpu": 10 * total}, check=False)
    for plan in gate.placement.plans:
        assert {0, "cpu"} == set(plan.device_map.values())
