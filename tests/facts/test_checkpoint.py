"""The facts of a checkpoint as functions: what each makes where a layer, a class or a value is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_models import built

from tiecheck.config.options import Config
from tiecheck.facts import checkpoint as made
from tiecheck.facts.artefacts import onnx_copies
from tiecheck.facts.live import gradients, traced_uses
from tiecheck.facts.opening import facts_of
from tiecheck.facts.registry import all_facts
from tiecheck.files.checkpoint import read_checkpoint
from tiecheck.files.model_config import read_config
from tiecheck.live.build import Built
from tiecheck.records.artefacts import OnnxGraph
from tiecheck.records.declared import ModelConfig
from tiecheck.records.live import Tie
from tiecheck.records.stored import Checkpoint
from tiecheck.records.words import Unknown
from tiecheck.rules.cases import live_tie
from tiecheck.scale.built import built_scales
from tiecheck.scale.stored import stored_scale
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


def test_on_meta_a_scale_needs_a_file_with_the_values(tmp_path: Path) -> None:
    built().save_pretrained(tmp_path)
    checkpoint, module = read_checkpoint(str(tmp_path)), Built(built(), "built on meta")
    tie = ("lm_head.weight", "model.embed_tokens.weight")
    assert checkpoint is not None

    def scales(file: Checkpoint | None, *ties: Tie):
        return built_scales(module, ties, file, (), measure=False)

    (scale,) = scales(checkpoint, live_tie(*tie))
    stored = stored_scale(checkpoint, tie, tie[1], None)
    assert (scale.names, scale.std, scale.untrained) == (tie, pytest.approx(stored.std), stored.untrained)
    (nowhere,) = scales(checkpoint, live_tie("a.weight", "b.weight"))
    assert "is stored under a name that is known" in nowhere.reason
    assert isinstance(scales(None, live_tie(*tie)), Unknown)
    assert scales(None) == ()


def test_a_pass_is_traced_and_its_gradients_compared_with_the_inputs_that_were_given() -> None:
    module = Built(built(), "given")
    seen = traced_uses(module, Config(uses=True))
    assert {use.role for use in seen.uses} >= {"embedding", "linear"}
    (tied,) = gradients(module, Config(uses=True))
    assert tied.names == ("lm_head.weight", "model.embed_tokens.weight")


def test_the_copies_of_a_graph_are_unknown_where_no_bytes_may_be_read(tmp_path: Path) -> None:
    built().save_pretrained(tmp_path)
    graph = OnnxGraph(read_checkpoint(str(tmp_path)), (), (), ())
    assert "--values never" in onnx_copies(graph, "never").reason
    assert onnx_copies(graph, "auto").found == ()


def test_parameters_of_a_module_are_counted_once(tmp_path: Path) -> None:
    model = built()
    model.save_pretrained(tmp_path)
    elements = sum(parameter.numel() for parameter in model.parameters())
    target = parse_target(str(tmp_path))
    assert facts_of(target, Config(live=True)).get("counts").unique.elements == elements
    assert facts_of(target, Config()).get("counts") == Unknown("there is no module")
