"""The matrix: each group before each loader once, with 4.57's own reading of it, and odd flags left open."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
import torch
import transformers
from older import run_older
from safetensors.torch import load_file, save_file
from tiny_models import SMALL, built

from tiecheck.facts.checkpoint import architecture, groups
from tiecheck.files.checkpoint import read_checkpoint
from tiecheck.files.model_config import read_config
from tiecheck.peers.loaders.matrix import loader_views
from tiecheck.peers.loaders.registry import loaders_of
from tiecheck.records.loaders import LoaderView

pytestmark = pytest.mark.filterwarnings("ignore")


def views(where: Path) -> tuple[LoaderView, ...]:
    config, checkpoint = read_config(str(where)), read_checkpoint(str(where))
    known = architecture(config)
    return loader_views(config, known, checkpoint, groups(config, known, checkpoint, "auto"))


@pytest.mark.parametrize("name", SMALL)
def test_each_group_stands_before_each_loader_at_most_once_in_the_matrix_order(name: str, tmp_path: Path) -> None:
    built(name).save_pretrained(tmp_path)
    found = views(tmp_path)
    cells = [(view.loader, view.versions, view.names) for view in found]
    assert len(set(cells)) == len(cells)
    order = [(one.name, one.versions) for one in loaders_of()]
    places = [order.index((view.loader, view.versions)) for view in found]
    assert places == sorted(places)
    ours = {view.versions: view.outcome for view in found if view.loader == "transformers"}
    assert set(ours.values()) == {"tied"}
    assert len(ours) == 2


def test_nothing_stored_stands_before_nobody(tmp_path: Path) -> None:
    built().save_pretrained(tmp_path)
    config, checkpoint = read_config(str(tmp_path)), read_checkpoint(str(tmp_path))
    assert loader_views(config, architecture(config), checkpoint, ()) == ()


@pytest.mark.parametrize("value", ["false", 1, 0, "", None])
def test_an_odd_flag_is_judged_for_transformers_alone(value: object, tmp_path: Path) -> None:
    built().save_pretrained(tmp_path)
    data = json.loads((tmp_path / "config.json").read_text()) | {"tie_word_embeddings": value}
    (tmp_path / "config.json").write_text(json.dumps(data))
    found = views(tmp_path)
    assert {view.outcome for view in found if view.loader != "transformers"} == {"unknown"}
    older = next(view for view in found if (view.loader, view.versions) == ("transformers", "4.57"))

    assert older.ties is bool(value), "4.57 asks only if Python takes it for true"


def test_a_class_of_its_own_code_has_no_outcome_in_4_57(tmp_path: Path) -> None:
    built().save_pretrained(tmp_path)
    config, checkpoint = read_config(str(tmp_path)), read_checkpoint(str(tmp_path))
    known = architecture(config)
    own = known._replace(known=False, origin="transformers 5.23.0 does not have Own", class_name="Own")
    data = json.loads((tmp_path / "config.json").read_text()) | {"architectures": ["Own"]}
    (tmp_path / "config.json").write_text(json.dumps(data))
    found = loader_views(read_config(str(tmp_path)), own, checkpoint, groups(config, known, checkpoint, "auto"))
    (older,) = [view for view in found if (view.loader, view.versions) == ("transformers", "4.57")]
    assert (older.outcome, older.message) == (
        "unknown",
        "the class is not transformers' own, and its code was not run",
    )


TYPES = ("float32", "bfloat16", "float16", "float64")


@pytest.mark.parametrize("seed", range(12))
def test_members_of_two_dtypes_end_as_the_cast_of_the_load_has_them(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    wide, narrow = rng.sample(TYPES, 2)
    asked, exact = rng.choice(("float32", narrow, wide, "bfloat16")), rng.random() < 0.3
    model = built()
    value = model.model.embed_tokens.weight.detach().clone()
    if exact:  # what every type holds
        value = value.sign()
    tensors = model.state_dict() | {"model.embed_tokens.weight": value.to(getattr(torch, wide))}
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].float().to(getattr(torch, narrow))
    model.config.save_pretrained(tmp_path)
    data = json.loads((tmp_path / "config.json").read_text()) | {
        "dtype": asked,
        "architectures": [type(model).__name__],
        "tie_word_embeddings": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(data))
    save_file(
        {name: one.contiguous() for name, one in tensors.items()}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    loaded = type(model).from_pretrained(tmp_path)
    tied = loaded.lm_head.weight is loaded.model.embed_tokens.weight
    told = next(v.outcome for v in views(tmp_path) if (v.loader, v.line) == ("transformers", "5"))
    assert told in ("tied" if tied else "kept-apart", "unknown"), (wide, narrow, asked, exact)
    halves = {wide, narrow} == {"bfloat16", "float16"}
    assert told != "unknown" or halves or asked not in ("float32", narrow), (wide, narrow, asked, exact)


def test_what_4_57_loses_of_a_false_flag_is_named(tmp_path: Path) -> None:
    """As 4.57.6 loads them: Blenderbot keeps its head and loses embeddings; GPT-NeoX's head is `embed_out` there."""
    config = transformers.BlenderbotConfig(**SMALL["BartForConditionalGeneration"] | {"tie_word_embeddings": False})
    transformers.BlenderbotForConditionalGeneration(config).save_pretrained(tmp_path / "blenderbot")
    (older,) = [view for view in views(tmp_path / "blenderbot") if view.versions == "4.57"]
    assert older.outcome == "member-discarded"
    lost = "model.decoder.embed_tokens.weight and model.encoder.embed_tokens.weight"
    assert older.message == f"model.shared.weight takes the place of {lost}"
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.GPTNeoXConfig(vocab_size=400, tie_word_embeddings=False, **small)
    transformers.GPTNeoXForCausalLM(config).save_pretrained(tmp_path / "neox")
    (older,) = [view for view in views(tmp_path / "neox") if view.versions == "4.57"]
    assert older.outcome == "kept-apart"
    file = tmp_path / "neox" / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] = tensors.pop("embed_out.weight")
    save_file(tensors, file, metadata={"format": "pt"})
    (older,) = [view for view in views(tmp_path / "neox") if view.versions == "4.57"]
    assert (older.outcome, older.message) == ("head-random", "it looks for embed_out.weight, and makes it at random")


LOADED = (
    "import sys, json, transformers as t, torch\n"
    "from safetensors.torch import load_file\n"
    "for folder, name in json.load(sys.stdin):\n"
    "    state = getattr(t, name).from_pretrained(folder).state_dict()\n"
    "    kept = load_file(folder + '/model.safetensors')\n"
    "    print(json.dumps([n for n in kept if n.endswith('bias') and not torch.equal(kept[n], state[n])]))\n"
)
"""What prints the biases of each model that 4.57 loads with other values than those that are stored."""


TAKEN = ("Roberta", "XLMRoberta", "Camembert", "Albert", "RobertaPreLayerNorm")
"""Whose own code takes the decoder's bias for both; of the others the bias beside it stays."""


def two_biases(kind: str, where: Path) -> tuple[str, list[str]]:
    """Save an untied model with unlike biases; return its class, and what the matrix says that 4.57 throws away."""
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "pad_token_id": 0}
    config = getattr(transformers, f"{kind}Config")(**sizes, num_attention_heads=2, tie_word_embeddings=False)
    model = getattr(transformers, f"{kind}ForMaskedLM")(config)
    for parameter in model.parameters():
        parameter.data.normal_()
    config.architectures = [type(model).__name__]
    config.save_pretrained(where)
    save_file(model.state_dict(), where / "model.safetensors", {"format": "pt"})
    older = [view for view in views(where) if view.versions == "4.57" and view.message]
    assert all((view.outcome == "tied") == ("no forward pass reads" in str(view.message)) for view in older)
    return type(model).__name__, [
        re.findall(r"(?:of )?([\w.]+)(?: is thrown.*)?$", str(view.message))[0] for view in older
    ]


def test_of_two_biases_the_one_is_named_that_the_own_code_throws_away(tmp_path: Path) -> None:
    kind = random.Random(20261201).choice(TAKEN)
    (lost,) = two_biases(kind, tmp_path)[1]
    assert lost.endswith(".bias")
    assert not lost.endswith(".decoder.bias")  # which nothing reads, so that it is no loss


@pytest.mark.slow
def test_of_two_biases_4_57_throws_that_away_which_is_named(tmp_path: Path) -> None:
    rng = random.Random(20261202)
    kinds = (*rng.sample(TAKEN, 2), *rng.sample(("Bert", "RoFormer", "Ernie", "BigBird", "MegatronBert"), 2))
    found = {kind: two_biases(kind, tmp_path / kind) for kind in kinds}
    asked = [(str(tmp_path / kind), name) for kind, (name, _) in found.items()]
    done = run_older("-c", LOADED, stdin=json.dumps(asked))
    assert [json.loads(line) for line in done.stdout.splitlines()] == [lost for _, lost in found.values()]
