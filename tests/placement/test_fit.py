"""Whether a map fits a model is judged as accelerate and transformers judge it."""

from __future__ import annotations

import random
import warnings
from pathlib import Path

import pytest
import torch
from accelerate.utils import check_device_map
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.integrations.accelerate import expand_device_map

from tiecheck.errors import UsageError
from tiecheck.placement.asked.fit import check_map, check_room
from tiecheck.placement.map_lookup import transformers_key


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(2, 2)
        self.scale = nn.Parameter(torch.ones(1))


class Olmo(nn.Module):
    """Blocks, an embedding, and a head that is the embedding's module by another path; a bare parameter on the root."""

    def __init__(self, *, alias: bool = True) -> None:
        super().__init__()
        self.transformer = nn.ModuleDict({"wte": nn.Embedding(4, 2)})
        self.transformer["blocks"] = nn.ModuleList(Block() for _ in range(12))
        self.transformer["ff_out"] = self.transformer["wte"] if alias else nn.Linear(2, 4)
        self.bare = nn.Parameter(torch.ones(1))


class Deep(nn.Module):
    """A whole subtree under two paths."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(Block(), Block())
        self.second = self.first
        self.head = nn.Linear(2, 2)


def parts(model: nn.Module) -> tuple[list[str], list[str], dict[str, str]]:
    """Names, modules and aliases of a model, as the collector gives them."""
    kept = {id(module): path for path, module in model.named_modules()}
    every = dict(model.named_modules(remove_duplicate=False))
    aliases = {path: kept[id(module)] for path, module in every.items() if kept[id(module)] != path}
    return list(model.state_dict()), list(kept.values()), aliases


def theirs(model: nn.Module, device_map: dict) -> tuple[bool, bool]:
    """Whether accelerate raises, and whether it warns."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            check_device_map(model, device_map)
        except ValueError:
            return True, bool(caught)
    return False, bool(caught)


@pytest.mark.parametrize("model", [Olmo(), Olmo(alias=False), Deep()], ids=["alias", "plain", "deep"])
def test_any_map_is_judged_as_accelerate_judges_it(model: nn.Module) -> None:
    names, modules, aliases = parts(model)
    pool = [*names, *modules, *aliases, "", "nope", "transformer.", "transformer.block", "transformer.wte.weigh"]
    draw = random.Random(0)
    seen = set()
    for _ in range(1500):
        keys = draw.sample(pool, draw.randint(1, min(len(pool), draw.choice([2, 6, 40]))))
        if draw.random() < 0.6:  # all but some of what it needs
            keys += [name for name in names if draw.random() < 0.99]
        device_map = {key: draw.choice([0, "cpu"]) for key in keys}
        raises, warns = theirs(model, device_map)
        seen.add((raises, warns))
        if raises:
            with pytest.raises(UsageError, match="gives no device to"):
                check_map(device_map, names, modules, aliases)
        else:
            assert bool(check_map(device_map, names, modules, aliases)) == warns
    assert seen == {(True, True), (True, False), (False, True), (False, False)} or type(model) is Deep


def test_finding_6_an_alias_left_out_raises_and_put_in_warns() -> None:
    model = Olmo()
    names, modules, aliases = parts(model)
    without = {"transformer.wte": 0, "transformer.blocks": 0, "bare": "cpu"}
    assert theirs(model, without) == (True, True)  # `bare` is a tensor and no module
    with pytest.raises(UsageError) as raised:
        check_map(without, names, modules, aliases, place="map.json")
    assert str(raised.value) == (
        "map.json gives no device to 'transformer.ff_out' (the module 'transformer.wte' by another path) (1 tensor): "
        "add a key for each; accelerate 1.15 raises ValueError"
    )
    given = without | {"transformer.ff_out": 0}
    assert theirs(model, given) == (False, True)
    first, second = check_map(given, names, modules, aliases, place="map.json")
    assert first == (
        "map.json names 'transformer.ff_out' (the module 'transformer.wte' by another path): accelerate 1.15 warns "
        "that such keys do not match any submodules, and wants them all the same"
    )
    assert second.startswith("map.json names 'bare', of tensors and not of modules: accelerate 1.15 warns")


def test_the_modules_that_lack_a_device_are_named_once() -> None:
    names, modules, aliases = parts(Olmo(alias=False))
    with pytest.raises(UsageError) as raised:
        check_map({f"transformer.blocks.{i}": 0 for i in range(4)} | {"transformer.ff_out": 0}, names, modules, aliases)
    assert (
        "gives no device to 'bare', 'transformer.wte', 'transformer.blocks.4', 'transformer.blocks.5' and 6 more "
        "(26 tensors)" in str(raised.value)
    )


def test_a_key_that_is_misspelt_is_told_with_the_nearest() -> None:
    names, modules, aliases = parts(Olmo(alias=False))
    (remark,) = check_map({"": 0, "transformer.ff_ou": 1}, names, modules, aliases)
    assert "'transformer.ff_ou', which the model does not have (for 'transformer.ff_ou', did you mean" in remark
    assert "did you mean 'transformer.ff_out'?" in remark
    (remark,) = check_map({"": 0, "x\x1b[31m": 1}, names, modules, aliases)
    assert remark.isprintable()


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("transfomer.wte", "transformer.wte"),
        ("transfomer.blocks.3.lin", "transformer.blocks.3.lin"),
        ("transformer.blocks.3.lim", "transformer.blocks.3.lin"),
        ("wte", "transformer.wte"),
        ("transformer.wte.", None),
        ("nothing", None),
        ("blocks.1", "transformer.blocks.1"),
    ],
)
def test_what_was_meant_by_a_key(key: str, meant: str | None) -> None:
    names, modules, aliases = parts(Olmo(alias=False))
    (remark,) = check_map({"": 0, key: 1}, names, modules, aliases)
    assert ("did you mean" in remark) == (meant is not None)
    assert meant is None or f"did you mean {meant!r}?" in remark


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LlamaForCausalLM]:
    """A tiny tied Llama of twelve layers, saved."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=32, num_hidden_layers=12, tie_word_embeddings=True, **sizes))
    path = tmp_path_factory.mktemp("llama")
    model.save_pretrained(path)
    return path, model


MAPS = [
    ({"model.norm": "cpu"}, True),
    ({"nope": "cpu"}, True),
    ({"model": "cpu"}, True),
    ({"model": "cpu", "nope": "disk"}, False),
    ({"model.embed_tokens": "cpu", "model.layers": "disk", "model.norm": "cpu"}, False),
    ({"model.layers": "disk"}, False),
    ({"model": "cpu", "lm_head": "cpu", "nope": "cpu"}, True),
]


@pytest.mark.filterwarnings("ignore:The following device_map keys")
@pytest.mark.parametrize(("device_map", "loads"), MAPS, ids=repr)
def test_transformers_minds_a_hole_only_where_it_dispatches(llama, tmp_path: Path, device_map: dict, loads) -> None:
    path, model = llama
    try:
        LlamaForCausalLM.from_pretrained(path, device_map=device_map, offload_folder=tmp_path)
        really = True
    except ValueError:
        really = False
    assert really == loads
    names, modules, aliases = parts(model)
    if loads:
        assert all(
            "warns" not in remark for remark in check_map(device_map, names, modules, aliases, loader="transformers")
        )
    else:
        with pytest.raises(UsageError, match="gives no device to"):
            check_map(device_map, names, modules, aliases, loader="transformers")


def test_transformers_takes_a_key_for_the_beginning_of_a_name(llama) -> None:
    names, modules, aliases = parts(llama[1])
    pool = [*modules, *names, "model.layers.1", "model.lay", "lm", "m"]
    draw = random.Random(1)
    for _ in range(200):
        device_map = {key: i for i, key in enumerate(draw.sample([key for key in pool if key], 8))}
        real = expand_device_map(device_map, names)
        for name in names:
            key = transformers_key(name, device_map)
            assert real[name] == ("cpu" if key is None else device_map[key])
    device_map = {"model": "cpu", "model.layers.1": "disk", "lm_head": "cpu"}
    assert expand_device_map(device_map, ["model.layers.11.mlp.up_proj.weight"]) == {
        "model.layers.11.mlp.up_proj.weight": "disk"
    }
    (remark,) = check_map(device_map, names, modules, aliases, loader="transformers")
    assert remark == (
        "device_map: transformers 5.23 takes the key 'model.layers.1' for the beginning of names, and loads "
        "'model.layers.10', 'model.layers.11' to disk as well; give each a key"
    )
    assert check_map(device_map, names, modules, aliases) == (), "accelerate does not"


GIB = 2**30


def test_a_map_that_does_not_fit_is_impossible() -> None:
    memory = {0: 10 * GIB, 1: 20 * GIB, "cpu": 30 * GIB}
    check_room({"cuda:0": 10 * GIB, "cuda:1": GIB, "disk": 900 * GIB, "cpu": 0}, memory)
    check_room({"cuda:0": 900 * GIB}, None)
    with pytest.raises(UsageError) as raised:
        check_room({"cuda:0": int(14.2 * GIB), "cpu": 31 * GIB, "disk": 5}, memory, "map.json")
    assert str(raised.value) == (
        "map.json is an impossible map: cuda:0 gets 14.2 GiB and has 10 GiB, cpu gets 31 GiB and has 30 GiB"
    )


def test_a_map_that_fails_by_a_byte_says_so() -> None:
    with pytest.raises(UsageError, match="cuda:0 gets 10,737,418,241 bytes and has 10,737,418,240"):
        check_room({"cuda:0": 10 * GIB + 1}, {0: 10 * GIB})
    with pytest.raises(UsageError, match="gets 15,000,000,001 bytes and has 15,000,000,000"):
        check_room({"cuda:0": 15_000_000_001}, {0: 15_000_000_000})


def test_memory_of_a_number_is_that_of_the_accelerator_used() -> None:
    with pytest.raises(UsageError, match="xpu:0 gets 2 GiB and has 1 GiB"):
        check_room({"xpu:0": 2 * GIB}, {0: GIB})
