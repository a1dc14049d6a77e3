"""The gate as its users meet it: real models and directories, the installed planners, loads on cpu and disk."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import accelerate
import jsonschema
import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import nn

import tiecheck
from tiecheck.records.report import Report

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
ROOMY = {0: "1MB", "cpu": "1GB"}
IDS = torch.tensor([[1, 2, 3]])


class Small(nn.Module):
    """An embedding, some layers and a tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(96, 16)
        self.h = nn.ModuleList(nn.Linear(16, 16, bias=False) for _ in range(4))
        self.lm_head = nn.Linear(16, 96, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, ids: Any) -> Any:
        hidden = self.wte(ids)
        for layer in self.h:
            hidden = layer(hidden)
        return self.lm_head(hidden)


class Contained(nn.Module):
    """A tie whose names accelerate takes for one inside the other (peers' finding 2b)."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 96, bias=False)
        self.lm_head = nn.Linear(16, 96, bias=False)
        self.lm_head.weight = self.head.weight


def codes(report: Report, severity: str = "") -> list[str]:
    return [f.code for f in report.findings if f.code.startswith("TIE5") and severity in ("", f.severity)]


def placed(report: Report) -> Any:
    assert not report.errors, report.errors
    placement = report.targets[0].placement
    assert placement is not None
    return placement


@pytest.fixture
def llama(models: Path) -> str:
    """A healthy tied Llama, stored once."""
    return str(models / "llama-healthy-tied")


@pytest.mark.parametrize("strategy", ["auto", "balanced", "balanced_low_0", "sequential"])
def test_a_sound_model_passes_under_every_strategy(llama: str, strategy: str) -> None:
    report = tiecheck.check(llama, device_map=strategy, max_memory={0: "30KB", 1: "30KB", "cpu": "1GB"})
    placement = placed(report)
    assert [plan.tool for plan in placement.plans] == ["transformers", "accelerate"]
    assert codes(report) == []
    assert report.targets[0].status == "pass"
    for plan in placement.plans:
        assert [len(set(group.devices)) for group in plan.placed] == [1]
        assert sum(plan.used.values()) == sum(plan.counted.values()) == 26_976  # 32 of them a buffer


def test_what_is_used_is_what_lies_there_by_another_count() -> None:
    model = Small()
    total = sum(parameter.nbytes for parameter in model.parameters())
    for memory in (ROOMY, {0: "9KB", "cpu": "1GB"}):
        placement = placed(tiecheck.check(model, device_map="auto", max_memory=memory))
        for plan in placement.plans:
            assert sum(plan.used.values()) == total
    split = tiecheck.check(model, device_map={"wte": "cpu", "h": "cpu", "lm_head": "disk"})
    assert placed(split).plans[0].used == {"cpu": total, "disk": model.wte.weight.nbytes}


def test_the_map_of_the_plan_is_what_from_pretrained_uses(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = {"cpu": "22KB"}
    used = []
    real = transformers.modeling_utils._get_device_map

    def spied(*args: Any, **kwargs: Any) -> Any:
        used.append(real(*args, **kwargs))
        return used[-1]

    monkeypatch.setattr(transformers.modeling_utils, "_get_device_map", spied)
    transformers.AutoModelForCausalLM.from_pretrained(llama, device_map="auto", max_memory=dict(memory))
    plan = placed(tiecheck.check(llama, device_map="auto", max_memory=memory)).plans[0]
    assert dict(plan.device_map) == dict(used[0])


@pytest.mark.parametrize(
    ("device_map", "code", "error"),
    [
        ({"model": "cpu", "lm_head": "disk"}, "TIE511", KeyError),
        ({"model.embed_tokens": "disk", "model.layers": "cpu", "model.norm": "cpu", "lm_head": "cpu"}, "TIE511", None),
        ({"model": 0, "lm_head": "cpu"}, "TIE501", None),
        ({"model": "cuda:0", "lm_head": 0}, None, None),
        ({"": "cpu"}, None, None),
        ("cpu", None, None),
        ({"model": "disk", "lm_head": "disk"}, None, None),
    ],
    ids=str,
)
def test_given_maps(llama: str, tmp_path: Path, device_map: Any, code: str | None, error: type[Exception]) -> None:
    report = tiecheck.check(llama, device_map=device_map)
    assert codes(report, "error") == ([code] if code else [])
    if "0" in str(device_map):
        return  # there is no GPU to load to
    words = {"device_map": device_map, "offload_folder": str(tmp_path)}
    plain = transformers.AutoModelForCausalLM.from_pretrained(llama)(IDS).logits
    load = transformers.AutoModelForCausalLM.from_pretrained
    if code is None:
        assert torch.equal(load(llama, **words)(IDS).logits, plain)
        return
    with pytest.raises(error or Exception):
        load(llama, **words)(IDS)
    mended = dict(placed(report).proposal.device_map)
    assert torch.equal(load(llama, **(words | {"device_map": mended}))(IDS).logits, plain)


def test_a_given_map_is_changed_where_it_has_to_be(llama: str) -> None:
    report = tiecheck.check(
        llama, device_map={"model.embed_tokens": 0, "model.layers": 0, "model.norm": 1, "lm_head": 1}
    )
    assert dict(placed(report).proposal.device_map) == {
        "model.embed_tokens": 0,
        "model.layers": 0,
        "model.norm": 1,
        "lm_head": 0,
    }
    (finding,) = (f for f in report.findings if f.severity == "error")
    assert finding.code == "TIE511"  # for two GPUs by the library's source
    assert finding.edits[0].steps[0].code == "device_map['lm_head'] = 0"


def test_a_crash_and_a_map_that_loads() -> None:
    model = Contained()
    with pytest.raises(IndexError):
        accelerate.infer_auto_device_map(model, max_memory={0: 10**6, "cpu": 10**9})
    report = tiecheck.check(model, device_map="auto", max_memory=ROOMY)
    assert codes(report, "error") == ["TIE508"]
    assert placed(report).proposal.device_map == {"": 0}


def test_the_load_that_loses_the_weight(tmp_path: Path) -> None:
    stored = Small()
    state = {name: value.clone() for name, value in stored.state_dict().items() if name != HEAD}
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    model = Small()
    report = tiecheck.check(model, device_map={"": "cpu"}, checkpoint=str(tmp_path / "model.safetensors"))
    assert codes(report, "error") == ["TIE510"]
    assert placed(report).proposal is None  # no map mends it
    accelerate.load_checkpoint_in_model(model, str(tmp_path / "model.safetensors"), device_map={"": "cpu"})
    assert not torch.equal(model.wte.weight, stored.wte.weight)

    with torch.device("meta"):
        fresh = Small()
    report = tiecheck.check(fresh, device_map={"": "cpu"}, checkpoint=str(tmp_path / "model.safetensors"))
    assert codes(report, "error") == []
    accelerate.load_checkpoint_in_model(fresh, str(tmp_path / "model.safetensors"), device_map={"": "cpu"})
    assert torch.equal(fresh.lm_head.weight, stored.wte.weight)


def test_the_olmo_forms_are_no_warning(models: Path) -> None:
    for form in ("module-alias", "parameter-tie", "functional-head"):
        report = tiecheck.check(
            str(models / f"olmo-{form}"), device_map="auto", max_memory=ROOMY, trust_remote_code=True
        )
        assert placed(report).plans
        assert not [f for f in report.findings if f.severity != "info"], form


def test_what_is_wrapped_is_planned_as_what_it_wraps() -> None:
    plain = placed(tiecheck.check(Small(), device_map="auto", max_memory=ROOMY))
    compiled: Any = torch.compile(Small())
    assert placed(tiecheck.check(compiled, device_map="auto", max_memory=ROOMY)) == plain


def test_what_cannot_be_placed_is_an_error(models: Path, tiecheck_cli: Any) -> None:
    import peft

    adapted = peft.get_peft_model(Small(), peft.LoraConfig(target_modules=["h.0"]))
    report = tiecheck.check(adapted, device_map="auto", max_memory=ROOMY)
    assert [error.message for error in report.errors] == [
        "no placement could be judged: the model is wrapped by PEFT; plan for the model before it is"
    ]
    cycle = Small()
    cycle.h[0].above = cycle
    report = tiecheck.check(cycle, device_map={"": "cpu"})
    assert "a module is registered inside itself" in report.errors[0].message
    result = tiecheck_cli(str(models / "olmo-module-alias"), "--device-map", "auto")
    assert result.exit_code == 2
    assert "--trust-remote-code" in result.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("{'model': 'cpu', 'lm_head.bias': 'disk'}", None), "gives no device to 'lm_head'"),
        (("{'model': 0, 'lm_head': 0}", "0=9KB"), "is an impossible map: cuda:0 gets 26.3 KiB and has 8.79 KiB"),
        (("{'model': 'gpu0', 'lm_head': 0}", None), "'gpu0'"),
        (("{'model': 0, 'lm_head': 0, 'lm_head[': 0}", None), "a key that is no pattern"),
        (("{'model': 0, 'lm.head': 0}", None), "'lm.head' matches 'lm_head', which is no key"),
        (("{'model': 0, 'lm_head': 0}", "0=10G"), "'10G' is no size"),
    ],
)
def test_bad_maps_end_with_one_sentence(
    llama: str, tmp_path: Path, tiecheck_cli: Any, words: tuple[str, str | None], says: str
) -> None:
    path = tmp_path / "map.json"
    path.write_text(words[0].replace("'", '"'))
    memory = ["--max-memory", words[1]] if words[1] else []
    result = tiecheck_cli(llama, "--device-map", str(path), *memory)
    assert result.exit_code == 2, result.output
    assert says in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_json_holds_to_its_schema_and_is_stable(llama: str, tiecheck_cli: Any) -> None:
    words = (llama, "--device-map", "auto", "--max-memory", "0=30KB", "--max-memory", "cpu=1GB", "-f", "json")
    first, second = (json.loads(tiecheck_cli(*words).stdout) for _ in range(2))
    schema = json.loads((Path(tiecheck.__file__).parent / "render" / "report.schema.json").read_text())
    jsonschema.validate(first, schema)
    for one in (first, second):
        one["summary"].pop("seconds")
    assert first == second
    assert first["targets"][0]["placement"]["plans"][0]["tool"] == "transformers"


def test_a_plain_check_has_no_placement(llama: str) -> None:
    assert tiecheck.check(llama).targets[0].placement is None


def test_the_door_in_one_call_and_around_a_load(llama: str) -> None:
    tiecheck.gate(llama, device_map="auto", max_memory={"cpu": "1GB"})
    with tiecheck.gate(llama, device_map="auto", max_memory={"cpu": "1GB"}) as gate:
        model = gate.watch(transformers.AutoModelForCausalLM.from_pretrained(llama, device_map=gate.device_map))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert [len(promise.names) for promise in gate.promises] == [2]


def test_the_door_stays_shut_and_says_what_opens_it(llama: str, tmp_path: Path) -> None:
    apart = {"model": "cpu", "lm_head": "disk"}
    with pytest.raises(tiecheck.PlacementError, match="TIE511") as raised:
        tiecheck.gate(llama, device_map=apart)
    assert dict(raised.value.device_map) == {"model": "cpu", "lm_head": "cpu"}
    gate = tiecheck.gate(llama, device_map=apart, check=False)
    assert not gate.ok
    model = gate(transformers.AutoModelForCausalLM.from_pretrained, llama)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not model.lm_head.weight.is_meta


def test_the_door_for_a_live_module(tmp_path: Path) -> None:
    model = Small()
    before = model(IDS)
    gate = tiecheck.gate(model, device_map={"wte": "cpu", "h": "disk", "lm_head": "cpu"})
    dispatched = gate(accelerate.dispatch_model, model, offload_dir=str(tmp_path))
    assert torch.equal(dispatched(IDS), before)
    assert gate.verify(dispatched) == ()


def test_what_the_planners_log_is_kept_and_shown_to_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Model(transformers.LlamaForCausalLM):
        _tied_weights_keys = {}  # noqa: RUF012  # the flag says tied and nobody ties

    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    config.tie_word_embeddings = True
    model = Model(config)
    with caplog.at_level(logging.DEBUG):
        report = tiecheck.check(model, device_map="sequential", max_memory=ROOMY)
    assert [plan.tool for plan in placed(report).plans] == ["accelerate", "transformers"]
    assert any("not tied" in text for text in placed(report).plans[0].logged)
    assert not [record for record in caplog.records if "accelerate" in record.name]


CODE = """
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel


class TyingConfig(PreTrainedConfig):
    model_type = "tying"


class TyingModel(PreTrainedModel):
    config_class = TyingConfig

    def __init__(self, config):
        super().__init__(config)
        self.wte = nn.Embedding(32, 8)
        self.head = nn.Linear(8, 32, bias=False)
        self.head.weight = self.wte.weight
        self.post_init()

    def forward(self, ids):
        return self.head(self.wte(ids))
"""


def test_an_undeclared_tie_is_lost_by_from_pretrained(tmp_path: Path) -> None:
    auto = {"AutoConfig": "modeling_tying.TyingConfig", "AutoModel": "modeling_tying.TyingModel"}
    words = {"model_type": "tying", "architectures": ["TyingModel"], "auto_map": auto, "dtype": "float32"}
    (tmp_path / "config.json").write_text(json.dumps(words))
    (tmp_path / "modeling_tying.py").write_text(CODE)
    weight = torch.randn(32, 8)
    save_file({"wte.weight": weight}, tmp_path / "model.safetensors", {"format": "pt"})
    loaded = transformers.AutoModel.from_pretrained(tmp_path, trust_remote_code=True)
    assert torch.equal(loaded.wte.weight, weight)
    assert not torch.equal(loaded.head.weight, weight)

    report = tiecheck.check(str(tmp_path), device_map="cpu", trust_remote_code=True)
    assert codes(report, "error") == ["TIE511"]
    (finding,) = (f for f in report.findings if f.code == "TIE511")
    assert "head.weight, which is not stored, is drawn at random" in finding.message
    assert "{'head.weight': 'wte.weight'}" in finding.help

    save_file({"wte.weight": weight, "head.weight": weight.clone()}, tmp_path / "model.safetensors", {"format": "pt"})
    both = tiecheck.check(str(tmp_path), device_map="cpu", trust_remote_code=True)
    assert codes(both, "error") == []
    (tmp_path / "modeling_tying.py").write_text(
        CODE.replace("config_class =", '_tied_weights_keys = {"head.weight": "wte.weight"}\n    config_class =')
    )
    save_file({"wte.weight": weight}, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(words | {"tie_word_embeddings": True}))
    assert codes(tiecheck.check(str(tmp_path), device_map="cpu", trust_remote_code=True), "error") == []


@pytest.mark.parametrize(
    "device_map",
    [
        {"model": "cpu", "model.layers.1": "disk", "lm_head": "cpu"},
        {"model": "disk", "model.layers": "cpu", "lm_head": "disk"},
        {"model": "cpu", "model.layers.0.self_attn": "disk", "lm_head": "cpu"},
    ],
    ids=str,
)
def test_keys_below_others_that_the_hooks_do_not_bear(llama: str, tmp_path: Path, device_map: Any) -> None:
    report = tiecheck.check(llama, device_map=device_map)
    assert "is an impossible map" in report.errors[0].message
    with pytest.raises(ValueError, match="meta device"):
        transformers.AutoModelForCausalLM.from_pretrained(llama, device_map=device_map, offload_folder=str(tmp_path))


@pytest.mark.parametrize(
    "device_map",
    [
        {"model": "disk", "model.norm": "disk", "lm_head": "disk"},
        {"model": "cpu", "model.norm": "cpu", "lm_head": "cpu"},
        {"model": "cpu", "lm_head.weight": "disk"},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:The following device_map keys")
def test_keys_below_others_that_they_bear(llama: str, tmp_path: Path, device_map: Any) -> None:
    report = tiecheck.check(llama, device_map=device_map)
    assert not report.errors
    assert codes(report, "error") == []
    load = transformers.AutoModelForCausalLM.from_pretrained
    loaded = load(llama, device_map=device_map, offload_folder=str(tmp_path))
    assert torch.equal(loaded(IDS).logits, load(llama)(IDS).logits)


def test_a_live_module_bears_a_part_on_the_disk_below_the_cpu(tmp_path: Path) -> None:
    model = Small()
    before = model(IDS)
    apart = {"wte": "cpu", "h": "cpu", "h.1": "disk", "lm_head": "cpu"}
    assert not tiecheck.check(model, device_map=apart).errors
    assert torch.equal(accelerate.dispatch_model(model, apart, offload_dir=str(tmp_path))(IDS), before)


def test_a_changed_map_never_puts_a_key_below_one_that_is_elsewhere(llama: str, tmp_path: Path) -> None:
    report = tiecheck.check(llama, device_map={"model": "disk", "lm_head": "cpu"})
    assert codes(report, "error") == ["TIE511"]
    mended = dict(placed(report).proposal.device_map)
    assert mended == {"model": "disk", "lm_head": "disk"}
    load = transformers.AutoModelForCausalLM.from_pretrained
    loaded = load(llama, device_map=mended, offload_folder=str(tmp_path))
    assert torch.equal(loaded(IDS).logits, load(llama)(IDS).logits)


def test_the_disk_as_memory_is_no_tie_of_a_sound_model(llama: str) -> None:
    memory = {0: "1MB", "cpu": "1MB", "disk": "1GB"}
    report = tiecheck.check(llama, device_map="auto", max_memory=memory)
    assert codes(report, "error") == codes(report, "warning") == []
    live = tiecheck.check(Small(), device_map="auto", max_memory=memory)
    with pytest.raises(RuntimeError):
        accelerate.utils.get_balanced_memory(Small(), max_memory={0: 10**6, "cpu": 10**6, "disk": 10**9})
    (finding,) = (f for f in live.findings if f.code == "TIE508")
    names = {"max_memory": dict(memory)}
    exec(finding.edits[0].steps[0].code or "", names)
    again = tiecheck.check(Small(), device_map="auto", max_memory=names["max_memory"])
    assert [f.code for f in again.findings if f.severity != "info"] == []


def test_the_door_judges_the_placement_alone(models: Path) -> None:
    torn = str(models / "llama-diverged-head")
    assert {f.code for f in tiecheck.check(torn, device_map="cpu").findings if f.severity == "error"} == {"TIE101"}
    gate = tiecheck.gate(torn, device_map="cpu")
    assert gate.ok
    with pytest.raises(tiecheck.PlacementError, match="TIE101") as raised:
        tiecheck.gate(torn, device_map="cpu", select=())
    assert raised.value.device_map == {"": "cpu"}
    with pytest.raises(tiecheck.TiecheckError, match="device_map=None"):
        tiecheck.gate(torn, device_map=None)  # type: ignore[arg-type]


def test_everything_on_the_disk_with_accelerate(tmp_path: Path) -> None:
    with pytest.raises(tiecheck.TiecheckError, match="FileNotFoundError"):
        tiecheck.check(Small(), device_map={"": "disk"})
    with pytest.raises(FileNotFoundError):
        accelerate.dispatch_model(Small(), {"": "disk"}, offload_dir=str(tmp_path / "one"))
    apart = dict.fromkeys(("wte", "h", "lm_head"), "disk")
    assert not tiecheck.check(Small(), device_map=apart).errors
    accelerate.dispatch_model(Small(), dict(apart), offload_dir=str(tmp_path / "two"))

    file = str(tmp_path / "model.safetensors")
    save_file({name: value.clone() for name, value in Small().state_dict().items()}, file, {"format": "pt"})
    with pytest.raises(tiecheck.TiecheckError, match="device disk is invalid"):
        tiecheck.check(Small(), device_map=apart, checkpoint=file)
    with pytest.raises(Exception, match="device disk is invalid"):
        accelerate.load_checkpoint_and_dispatch(Small(), file, dict(apart), offload_folder=str(tmp_path / "three"))
