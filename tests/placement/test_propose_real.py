"""Our own plan in the hands of accelerate and transformers: it loads, keeps the ties, and computes the same."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
import transformers
from accelerate import dispatch_model, load_checkpoint_and_dispatch
from accelerate.utils import check_device_map, infer_auto_device_map
from safetensors.torch import save_file
from subjects import every, make, quiet
from tiny_models import SMALL, built, groups_of, logits
from torch import nn

from tiecheck.live.group_kind import judge_members
from tiecheck.live.member_lookup import look_up
from tiecheck.placement.model import module_tree
from tiecheck.placement.proposal.propose import propose_map
from tiecheck.placement.proposal.units import units_of
from tiecheck.records.placement import ModuleTree
from tiecheck.records.words import TIED, Unknown

pytestmark = pytest.mark.filterwarnings("ignore:.*torch_dtype.*", "ignore::FutureWarning")


def tree_of(model: nn.Module) -> ModuleTree:
    tree = module_tree(model)
    assert not isinstance(tree, Unknown)
    return tree


def split(model, **kind: str):
    """A proposal that leaves about half of the model to the second device."""
    tree = tree_of(model)
    total = sum(tree.sizes)
    biggest = max(p.nbytes for p in model.parameters())
    first, second = kind["first"], kind["second"]
    memory = {first: biggest * 2 + total // 3, second: total}
    return propose_map(tree, [], memory, model._no_split_modules or ())


@pytest.mark.parametrize("name", SMALL)
def test_from_pretrained_takes_it_and_the_ties_hold(name: str, tmp_path: Path) -> None:
    model = built(name)
    model.save_pretrained(tmp_path)
    proposal = split(model, first="cpu", second="disk")
    assert set(proposal.device_map.values()) == {"cpu", "disk"}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message=r".*\['final_logits_bias'\]")  # a buffer of BART's root: no module
        loaded = type(model).from_pretrained(tmp_path, device_map=dict(proposal.device_map), offload_folder=tmp_path)
    assert loaded.hf_device_map == dict(proposal.device_map)
    groups = groups_of(model)
    assert groups
    for names in groups:
        assert judge_members([look_up(loaded, name) for name in names]).kind in TIED
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize("name", SMALL)
def test_dispatch_model_takes_it_and_the_ties_hold(name: str, tmp_path: Path) -> None:
    model = built(name)
    expected, groups = logits(model), groups_of(model)
    proposal = split(model, first="cpu", second="disk")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message=r".*\['final_logits_bias'\]")  # a buffer of BART's root: no module
        loaded = dispatch_model(model, dict(proposal.device_map), offload_dir=tmp_path)
    for names in groups:
        assert judge_members([look_up(loaded, name) for name in names]).kind in TIED
    assert torch.equal(logits(loaded), expected)


@pytest.mark.parametrize("name", SMALL)
def test_it_asks_no_more_than_is_there(name: str) -> None:
    """What the proposal says of bytes, against a count of the real parameters under the map."""
    model = built(name)
    proposal = split(model, first=0, second=1)
    seen: dict[str, set[int]] = {}
    bytes_on: dict[str, int] = {}
    for key, tensor in [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]:
        where = next(d for k, d in proposal.device_map.items() if k in ("", key) or key.startswith(k + "."))
        device = f"cuda:{where}"
        if id(tensor) not in seen.setdefault(device, set()):
            seen[device].add(id(tensor))
            bytes_on[device] = bytes_on.get(device, 0) + tensor.nbytes
    assert bytes_on == proposal.used
    assert len(bytes_on) == 2


class Substring(nn.Module):
    """A tie on which accelerate 1.15 trips: `head.` is inside `lm_head.weight.`, and the smaller name comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 8, bias=False)
        self.mid = nn.Linear(8, 8)
        self.mid2 = nn.Linear(8, 8)
        self.lm_head = nn.Linear(8, 8, bias=False)
        self.lm_head.weight = self.head.weight

    def forward(self, x):
        return self.lm_head(self.mid2(self.mid(self.head(x))))


class Siblings(nn.Module):
    """A module alias among siblings, which `named_children()` does not list."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Linear(8, 8, bias=False)
        self.mid = nn.Linear(8, 8)
        self.mid2 = nn.Linear(8, 8)
        self.last = nn.Linear(8, 8, bias=False)
        self.ff_out = self.wte
        self.last.weight = self.wte.weight

    def forward(self, x):
        return self.last(self.mid2(self.mid(self.wte(x))))


class OnTheRoot(nn.Module):
    """Two names on the root module itself."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(8, 8))
        self.v = self.w
        self.mid = nn.Linear(8, 8)
        self.mid2 = nn.Linear(8, 8)

    def forward(self, x):
        return self.mid2(self.mid(x @ self.w)) @ self.v


class OneList(nn.Module):
    """Two modules tied into one list, which the planner places with the first and does not find for the second."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(2))
        self.mid = nn.Linear(8, 8)
        self.mid2 = nn.Linear(8, 8)
        self.outputs = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(2))
        for layer, output in zip(self.layers, self.outputs, strict=True):
            output.weight = layer.weight

    def forward(self, x):
        for layer in (*self.layers, self.mid, self.mid2, *self.outputs):
            x = layer(x)
        return x


@pytest.mark.parametrize("cls", [Substring, Siblings, OnTheRoot, OneList])
def test_where_the_planner_crashes_the_proposal_loads(cls, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = cls()
    with pytest.raises(IndexError):
        infer_auto_device_map(model, max_memory={0: 600, "cpu": 10_000})
    proposal = propose_map(tree_of(model), [], {"cpu": 900 if cls is OneList else 600, "disk": 10_000})
    assert set(proposal.device_map.values()) == {"cpu", "disk"}
    x = torch.randn(2, 8)
    expected = model(x).detach()
    stored = {name: p.detach().clone() for name, p in model.named_parameters()}
    save_file(stored, tmp_path / "model.safetensors")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dispatched = dispatch_model(model, dict(proposal.device_map), offload_dir=tmp_path / "off")
    # What no parent's key covers is named by itself; accelerate says so, and uses it.
    said = [w for w in caught if "do not match any submodules" in str(w.message)]
    assert len(said) == (cls in {Siblings, OnTheRoot})
    assert torch.equal(dispatched(x).detach(), expected)


@pytest.mark.parametrize("case", ["olmo-module-alias", "olmo-parameter-tie", "olmo-functional-head"])
def test_every_form_of_the_olmo_tie_loads(case: str, models: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "code"))
    monkeypatch.syspath_prepend(tmp_path / "code")
    load = transformers.AutoModelForCausalLM.from_pretrained
    plain = load(models / case, trust_remote_code=True).eval()
    total = sum(tree_of(plain).sizes)
    proposal = propose_map(tree_of(plain), [], {"cpu": total * 2 // 3, "disk": total}, plain._no_split_modules)
    assert set(proposal.device_map.values()) == {"cpu", "disk"}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = load(models / case, trust_remote_code=True, device_map=dict(proposal.device_map))
    said = [str(w.message) for w in caught if "do not match" in str(w.message)]
    assert len(said) == (case == "olmo-module-alias")
    assert all("['model.transformer.ff_out']" in text for text in said)
    for names in groups_of(plain):
        assert judge_members([look_up(found, name) for name in names]).kind in TIED
    ids = torch.arange(1, 6)[None]
    assert torch.equal(found(ids).logits, plain(ids).logits)


def test_an_alias_needs_its_own_key_or_a_parents() -> None:
    model = Siblings()
    whole = propose_map(tree_of(model), [], {0: 10_000})
    assert whole.device_map == {"": 0}
    apart = propose_map(tree_of(model), [], {0: 300, 1: 600})
    assert apart.device_map == {"wte": 0, "mid": 1, "mid2": 1, "last": 0, "ff_out": 0}
    with pytest.warns(UserWarning, match=r"\['ff_out'\]"):
        check_device_map(model, apart.device_map)
    with pytest.raises(ValueError, match=r"ff_out\.weight"):
        check_device_map(model, {k: v for k, v in apart.device_map.items() if k != "ff_out"})


def test_load_checkpoint_and_dispatch_takes_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = Siblings()
    x = torch.randn(2, 8)
    expected = source(x).detach()
    save_file({n: p.detach().clone() for n, p in source.named_parameters()}, tmp_path / "model.safetensors")
    with torch.device("meta"):
        model = Siblings()
    proposal = propose_map(tree_of(model), [], {"cpu": 600, "disk": 10_000})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = load_checkpoint_and_dispatch(
            model, str(tmp_path / "model.safetensors"), device_map=dict(proposal.device_map), offload_folder=tmp_path
        )
    assert torch.equal(loaded(x).detach(), expected)


def judged_by_accelerate(step: int) -> int:
    """Proposals for every step-th class of transformers, full size on meta, held against `check_device_map`."""
    checked = 0
    for candidate in every()[::step]:
        with quiet():
            try:
                model = make(candidate, "default")
            except Exception:  # noqa: BLE001 - some classes do not build from their default config
                continue
        tree = tree_of(model)
        no_split = getattr(model, "_no_split_modules", None) or ()
        total = sum(tree.sizes)
        biggest = max((item.nbytes for item in units_of(tree, [], no_split).items), default=0)
        if not total:
            continue
        modules, groups = dict(model.named_modules()), groups_of(model)
        for memory in ({0: total * 2 // 3, 1: total * 2 // 3, "cpu": total}, {"cpu": biggest * 2 + total // 3}):
            proposal = propose_map(tree, [], memory, no_split)
            assert proposal.device_map, (candidate, proposal.reason)
            odd = [key for key in proposal.device_map if key and key not in modules]
            tensors = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
            assert not [key for key in odd if key not in tensors and key not in model.state_dict()], candidate
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                check_device_map(model, proposal.device_map)
            assert len(caught) == bool(odd), candidate
            for names in groups:
                where = {
                    d for n in names for k, d in proposal.device_map.items() if not k or f"{n}.".startswith(f"{k}.")
                }
                assert len(where) == 1, (candidate, names)
            checked += 1
    return checked


def test_accelerate_accepts_it_for_a_sample_of_transformers() -> None:
    assert judged_by_accelerate(60) > 20


@pytest.mark.slow
def test_accelerate_accepts_it_for_every_class_of_transformers() -> None:
    assert judged_by_accelerate(1) > 1000


def test_the_dtype_of_the_load_counts() -> None:
    model = built("LlamaForCausalLM")
    own, half = module_tree(model), module_tree(model, "bfloat16")
    assert not isinstance(own, Unknown)
    assert not isinstance(half, Unknown)
    parameters = sum(p.nbytes for p in model.parameters())
    assert sum(own.sizes) - sum(half.sizes) == parameters // 2


def test_a_cycle_and_a_lazy_module_have_no_tree() -> None:
    model = Substring()
    model.mid.inner = nn.Sequential()
    model.mid.inner.register_module("again", model)
    assert "inside itself" in getattr(module_tree(model), "reason", "")
    assert "not initialised" in getattr(module_tree(nn.LazyLinear(3)), "reason", "")


def test_the_tree_of_a_deep_model_needs_no_recursion() -> None:
    model: nn.Module = nn.Linear(2, 2)
    for _ in range(3000):
        model = nn.Sequential(model)
    assert len(tree_of(model).nodes) == 3001


def test_the_tree_counts_a_tensor_once_and_knows_aliases() -> None:
    tree = tree_of(Siblings())
    assert tree.sizes == (256, 256, 32, 256, 32)
    assert [node.label for node in tree.nodes if node.alias] == ["ff_out"]
    assert json.dumps([tree.path(n) for n in range(len(tree.nodes))]) == '["", "wte", "mid", "mid2", "last", "ff_out"]'
