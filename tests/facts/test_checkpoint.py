"""The facts of a checkpoint as functions: what each makes where a layer, a class or a value is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_models import built

from tiecheck.config.options import Config
from tiecheck.facts import checkpoint as made
from tiecheck.facts.opening import facts_of
from tiecheck.facts.registry import all_facts
from tiecheck.files.checkpoint import read_checkpoint
from tiecheck.files.model_config import read_config
from tiecheck.records.declared import ModelConfig
from tiecheck.records.words import Unknown
from tiecheck.targets.parse import parse_target

pytestmark = pytest.mark.filterwarnings("ignore")

FACTS = {one.name: one for one in all_facts()}


def make(name: str, **given: Any) -> Any:
    """Make one fact of some others; the rest of what it wants is not there."""
    return FACTS[name].make(**{want.name: given.get(want.name) for want in FACTS[name].wants})


def test_a_class_is_known_by_the_table_and_never_by_code_beside_the_weights() -> None:
    none = made.architecture(None)
    assert (none.known, none.class_name) == (False, None)
    assert "no config.json" in none.origin
    own = {"architectures": ["LlamaForCausalLM"], "auto_map": {"AutoModelForCausalLM": "own.LlamaForCausalLM"}}
    remote = made.architecture(ModelConfig("config.json", own, ()))
    assert (remote.known, remote.class_name) == (False, "LlamaForCausalLM")
    assert "was not run" in remote.origin
    assert made.architecture(ModelConfig("config.json", {"architectures": ["LlamaForCausalLM"]}, ())).known
    assert made.flags(None) == ()


def test_no_group_has_no_outcome_in_any_loader(tmp_path: Path) -> None:
    built().save_pretrained(tmp_path)
    facts = facts_of(parse_target(str(tmp_path)), Config())
    wants = {want.name: facts.known(want.name) for want in FACTS["loaders"].wants}
    assert make("loaders", **wants | {"groups": ()}) == ()
    assert {view.names for view in make("loaders", **wants)} == {group.names for group in facts.get("groups")}


def test_the_rehearsed_column_is_the_librarys_own_word(tmp_path: Path) -> None:
    built().save_pretrained(tmp_path)
    target = parse_target(str(tmp_path))
    plain, rehearsed = facts_of(target, Config()), facts_of(target, Config(rehearse=True))
    assert "rehearsal" not in plain
    assert plain.known("rehearsal") is None
    column = [view for view in rehearsed.get("loaders") if view.checked == "rehearsed"]
    assert [(view.loader, view.outcome) for view in column] == [("transformers", "tied")]
    assert len(rehearsed.get("loaders")) == len(plain.get("loaders"))


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        ({"groups": Unknown("the shard is elsewhere")}, "the shard is elsewhere"),
        ({"built": Unknown("it cannot be built")}, "it cannot be built"),
        ({"live": Unknown("it cannot be read")}, "it cannot be read"),
    ],
)
def test_a_scale_is_unknown_for_the_reason_of_its_layer(layers: dict, reason: str) -> None:
    asked = {"architecture": made.architecture(None), "checkpoint": None, "groups": (), "values": "auto"}
    assert make("scale", **{**asked, "built": None, "live": None, **layers}) == Unknown(reason)


def test_a_scale_is_read_from_safetensors_where_values_may_be_read(tmp_path: Path) -> None:
    built().save_pretrained(tmp_path)
    config, checkpoint = read_config(str(tmp_path)), read_checkpoint(str(tmp_path))
    known = made.architecture(config)
    groups = make("groups", model_config=config, architecture=known, checkpoint=checkpoint, values="auto")
    asked = {"architecture": known, "checkpoint": checkpoint, "groups": groups, "built": None, "live": None}
    (scale,) = make("scale", **asked, values="auto")
    assert scale.names == groups[0].names
    assert "--values never" in make("scale", **asked, values="never").reason
    pickled = checkpoint._replace(format="pickle")
    assert "safetensors only" in make("scale", **asked | {"checkpoint": pickled}, values="auto").reason
    assert make("scale", **asked | {"groups": ()}, values="auto") == ()


def test_parameters_are_counted_once_by_whatever_layer_there_is(tmp_path: Path) -> None:
    model = built()
    model.save_pretrained(tmp_path)
    elements = sum(parameter.numel() for parameter in model.parameters())
    target = parse_target(str(tmp_path))
    for config, layer in ((Config(), "stored"), (Config(live=True), "live")):
        counts = facts_of(target, config).get("counts")
        assert (counts.layer, counts.unique.elements) == (layer, elements)
    assert make("counts", groups=()) == Unknown("there are no weights")
