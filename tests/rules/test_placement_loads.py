"""TIE510 and TIE511 against loads under device maps: what they say, the failure as it really comes, and the mend."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
import transformers
from plans_by_hand import run_mend
from rule_failures import llama
from safetensors.torch import load_file, load_model, save_file, save_model

from tiecheck.fix.plan import make_plan
from tiecheck.fix.writing import commit_copy, stage_copy
from tiecheck.placement.loads.follow import Load, loads_under
from tiecheck.placement.loads.slots import declared_groups, live_groups
from tiecheck.records.placement import PlacedLoad, Placement, Plan
from tiecheck.records.words import Unknown
from tiecheck.rules.base import Draft
from tiecheck.rules.placement.loads import LoadFailsUnderMap, LoadOverwritesTie

pytestmark = pytest.mark.filterwarnings("ignore")

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
PAIR = (HEAD, EMBEDDING)


def saved(where: Path, *, tied: bool = True) -> Any:
    """A tiny Llama and its checkpoint, which stores the embedding alone where it is tied."""
    model = llama(tied=tied).eval()
    model.save_pretrained(where)
    return model


def placement(found: tuple[PlacedLoad | Unknown, ...], device_map: Any = None) -> Placement:
    """The layer with nothing but loads in it, and the map under which they were made where it is given."""
    loads = tuple(load for load in found if isinstance(load, PlacedLoad))
    untold = tuple(load.reason for load in found if isinstance(load, Unknown))
    plans = () if device_map is None else (Plan("given", "", None, device_map),)
    return Placement("map", "--device-map", None, plans, None, loads, untold=untold)


def said(rule: Any, found: tuple[PlacedLoad | Unknown, ...], device_map: Any = None) -> list[Draft]:
    answers = list(rule().check(placement=placement(found, device_map)))
    return [answer for answer in answers if isinstance(answer, Draft)]


def pretrained(where: Path, device_map: Any, *, form: Any = "safetensors", equal: bool | None = None) -> Any:
    """What is foretold for a model directory, by its class on meta and the names in its file."""
    cls = transformers.LlamaForCausalLM
    with torch.device("meta"):
        model = cls(transformers.AutoConfig.from_pretrained(where))
    file = where / ("model.safetensors" if form == "safetensors" else "pytorch_model.bin")
    stored = load_file(file) if form == "safetensors" else torch.load(file)
    groups = declared_groups(model.all_tied_weights_keys, stored, {} if equal is None else {PAIR: equal})
    return loads_under(device_map, groups, Load("from_pretrained", form))


def rewrite(where: Path, keep: tuple[str, ...]) -> None:
    """Store some of the members, as other tools than save_pretrained do."""
    file = where / "model.safetensors"
    state = load_file(file)
    weight = state.pop(EMBEDDING)
    save_file(state | {name: weight.clone() for name in keep}, file, metadata={"format": "pt"})


def load(where: Path, device_map: Any) -> Any:
    model = transformers.LlamaForCausalLM.from_pretrained(
        where, device_map=device_map, offload_folder=str(where / "offload")
    )
    return model, model(input_ids=torch.arange(6)[None]).logits


class TestFromPretrained:
    """TIE511 by transformers: a tie between the CPU and the disk."""

    @pytest.mark.parametrize(
        ("stored", "device_map", "error", "at"),
        [
            ((EMBEDDING,), {"model": "cpu", "lm_head": "disk"}, KeyError, "forward"),
            ((EMBEDDING,), {"model": "disk", "lm_head": "cpu"}, ValueError, "load"),
            (PAIR, {"model": "cpu", "lm_head": "disk"}, NotImplementedError, "load"),
            (PAIR, {"model": "disk", "lm_head": "cpu"}, NotImplementedError, "load"),
            ((HEAD,), {"model": "disk", "lm_head": "disk"}, KeyError, "forward"),
        ],
    )
    def test_it_raises_as_told_and_the_mend_mends(self, tmp_path, stored, device_map, error, at) -> None:
        model = saved(tmp_path)
        rewrite(tmp_path, stored)
        (draft,) = said(LoadFailsUnderMap, pretrained(tmp_path, device_map), device_map)
        assert draft.severity is None
        with pytest.raises(error) as raised:
            load(tmp_path, device_map)
        text = str(raised.value).partition(", but there was")[0]
        assert f"{error.__name__}: {text}" in draft.message
        assert ("first forward pass" in draft.message) == (at == "forward")
        plain = model(input_ids=torch.arange(6)[None]).logits
        mended = run_mend(draft, device_map)["device_map"]
        assert set(mended.values()) == {"cpu"}
        assert said(LoadFailsUnderMap, pretrained(tmp_path, mended)) == []
        assert torch.allclose(load(tmp_path, mended)[1], plain)

    def test_a_target_alone_may_go_to_the_disk_once_it_is_saved_again(self, tmp_path) -> None:
        saved(tmp_path)
        rewrite(tmp_path, (HEAD,))
        again = tmp_path / "again"
        transformers.LlamaForCausalLM.from_pretrained(tmp_path).save_pretrained(again)
        both = {"model": "disk", "lm_head": "disk"}
        assert EMBEDDING in load_file(again / "model.safetensors")
        assert pretrained(again, both) == ()
        load(again, both)

    def test_a_pickle_that_stores_one_member(self, tmp_path) -> None:
        """The same checkpoint is right as safetensors: only there the head's entry follows the embedding's."""
        saved(tmp_path)
        both = {"model": "disk", "lm_head": "disk"}
        assert pretrained(tmp_path, both) == ()
        load(tmp_path, both)
        torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
        (tmp_path / "model.safetensors").unlink()
        (draft,) = said(LoadFailsUnderMap, pretrained(tmp_path, both, form="pickle"))
        with pytest.raises(KeyError, match=r"lm_head\.weight"):
            load(tmp_path, both)
        assert "KeyError: 'lm_head.weight'" in draft.message

    def test_two_copies_on_the_disk_are_a_note(self, tmp_path) -> None:
        """And a save of the loaded model stores both."""
        model = saved(tmp_path)
        rewrite(tmp_path, PAIR)
        both = {"model": "disk", "lm_head": "disk"}
        (draft,) = said(LoadFailsUnderMap, pretrained(tmp_path, both, equal=True))
        assert draft.severity == "info"
        assert pretrained(tmp_path, both) == (), "unread values say nothing that hurts"
        loaded, logits = load(tmp_path, both)
        assert loaded.lm_head.weight is not loaded.model.embed_tokens.weight
        assert torch.allclose(logits, model(input_ids=torch.arange(6)[None]).logits)
        loaded.save_pretrained(tmp_path / "again")
        assert set(PAIR) <= set(load_file(tmp_path / "again" / "model.safetensors"))

    def test_what_fails_without_a_tie_as_well_is_not_laid_to_the_tie(self, tmp_path) -> None:
        saved(tmp_path)
        (told,) = pretrained(tmp_path, {"": "cpu", "lm_head": "disk"})
        assert isinstance(told, Unknown)
        assert "whether anything is tied or not" in told.reason
        untied = saved(tmp_path / "untied", tied=False)
        assert untied.all_tied_weights_keys == {}
        with pytest.raises(ValueError, match="on the meta device"):
            load(tmp_path / "untied", {"": "cpu", "lm_head": "disk"})

    def test_several_gpus_are_told_by_the_source(self, tmp_path) -> None:
        saved(tmp_path)
        (apart,) = pretrained(tmp_path, {"model": 0, "lm_head": 1})
        assert (apart.form, apart.at) == ("raises", "forward")
        assert apart.versions.endswith("by its source")
        assert pretrained(tmp_path, {"model": 0, "lm_head": "cuda:0"}) == ()
        assert pretrained(tmp_path, {"": "cuda:1"}) == ()

    def test_meta_and_an_empty_map_are_not_told(self, tmp_path) -> None:
        saved(tmp_path)
        for device_map in ({"model": "meta", "lm_head": "cpu"}, {}):
            (told,) = pretrained(tmp_path, device_map)
            assert isinstance(told, Unknown)
            answers = list(LoadFailsUnderMap().check(placement=placement((told,))))
            assert answers == [told]


class TestLoadCheckpoint:
    """TIE510: a CPU model of transformers, loaded by accelerate from what save_pretrained wrote."""

    @pytest.mark.parametrize("function", ["load_checkpoint_in_model", "load_checkpoint_and_dispatch"])
    def test_the_embedding_is_overwritten(self, tmp_path, function) -> None:
        trained = saved(tmp_path)
        fresh = transformers.LlamaForCausalLM(trained.config)
        stored = load_file(tmp_path / "model.safetensors")
        device_map = {"model": "cpu", "lm_head": "cpu"}
        load = Load("load_checkpoint_and_dispatch", on_meta=False)
        (draft,) = said(LoadOverwritesTie, loads_under(device_map, live_groups(fresh, stored), load))
        assert "lm_head.weight" in draft.message
        getattr(accelerate, function)(fresh, str(tmp_path / "model.safetensors"), device_map=device_map)
        assert not torch.equal(fresh.model.embed_tokens.weight, trained.model.embed_tokens.weight)
        assert torch.equal(fresh.model.norm.weight, trained.model.norm.weight), "the rest is loaded"

    def test_the_name_that_is_stored_as_well_brings_the_values_back(self, tmp_path) -> None:
        broken, mended = tmp_path / "broken", tmp_path / "mended"
        trained, fresh = saved(broken), llama()
        device_map, load = {"model": "cpu", "lm_head": "cpu"}, Load("load_checkpoint_and_dispatch", on_meta=False)
        stored = load_file(broken / "model.safetensors")
        (draft,) = said(LoadOverwritesTie, loads_under(device_map, live_groups(fresh, stored), load), device_map)
        stage = stage_copy(make_plan(str(broken), draft.edits[0].steps), str(mended), lambda _: None)
        commit_copy(stage, str(mended), lambda _: None)
        stored = load_file(mended / "model.safetensors")
        assert said(LoadOverwritesTie, loads_under(device_map, live_groups(fresh, stored), load), device_map) == []
        accelerate.load_checkpoint_in_model(fresh, str(mended / "model.safetensors"), device_map=device_map)
        assert torch.equal(fresh.model.embed_tokens.weight, trained.model.embed_tokens.weight)
        assert torch.equal(fresh.lm_head.weight, trained.lm_head.weight)

    def test_mended_on_meta(self, tmp_path) -> None:
        trained = saved(tmp_path)
        with torch.device("meta"):
            everything = transformers.LlamaForCausalLM(trained.config)
        assert any(buffer.is_meta for buffer in everything.buffers()), "why the rule names the other way first"
        with accelerate.init_empty_weights():
            fresh = transformers.LlamaForCausalLM(trained.config)
        fresh.tie_weights()
        stored = load_file(tmp_path / "model.safetensors")
        groups = live_groups(fresh, stored)
        assert [group.names for group in groups] == [PAIR]
        assert loads_under({"": "cpu"}, groups, Load("load_checkpoint_and_dispatch")) == ()
        accelerate.load_checkpoint_in_model(fresh, str(tmp_path / "model.safetensors"), device_map={"": "cpu"})
        assert torch.equal(fresh.lm_head.weight, trained.lm_head.weight)
        assert fresh.lm_head.weight is fresh.model.embed_tokens.weight
        tokens = torch.arange(6)[None]
        assert torch.equal(fresh.eval()(input_ids=tokens).logits, trained(input_ids=tokens).logits)

    def test_safetensors_own_loader_is_no_matter_of_maps(self, tmp_path) -> None:
        """`save_model` keeps the alphabetically first name, so that what it writes is not overwritten."""
        trained = saved(tmp_path)
        save_model(trained, str(tmp_path / "own.safetensors"), metadata={"format": "pt"})
        stored = load_file(tmp_path / "own.safetensors")
        assert HEAD in stored
        assert EMBEDDING not in stored
        fresh = transformers.LlamaForCausalLM(trained.config)
        found = loads_under(
            {"": "cpu"}, live_groups(fresh, stored), Load("load_checkpoint_and_dispatch", on_meta=False)
        )
        assert found == ()
        accelerate.load_checkpoint_in_model(fresh, str(tmp_path / "own.safetensors"), device_map={"": "cpu"})
        assert torch.equal(fresh.model.embed_tokens.weight, trained.model.embed_tokens.weight)
        load_model(fresh, str(tmp_path / "own.safetensors"))


class TestDispatch:
    """TIE511 by accelerate alone."""

    def test_both_on_the_disk_are_written_twice(self, tmp_path) -> None:
        model = saved(tmp_path / "model")
        plain = model(input_ids=torch.arange(6)[None]).logits
        device_map = {"model": "disk", "lm_head": "disk"}
        (draft,) = said(
            LoadFailsUnderMap, loads_under(device_map, live_groups(model), Load("dispatch_model", on_meta=False))
        )
        assert draft.severity == "info"
        assert "a copy of its own in the offload folder" in draft.message
        accelerate.dispatch_model(model, device_map, offload_dir=tmp_path / "off")
        assert {path.stem for path in (tmp_path / "off").glob("*.dat")} >= set(PAIR)
        assert model.lm_head.weight is not model.model.embed_tokens.weight
        assert torch.equal(model(input_ids=torch.arange(6)[None]).logits, plain)

    def test_between_the_cpu_and_the_disk_it_is_right(self, tmp_path) -> None:
        for one, other in itertools.permutations(("cpu", "disk")):
            model = saved(tmp_path / "model")
            plain = model(input_ids=torch.arange(6)[None]).logits
            device_map = {"model": one, "lm_head": other}
            assert loads_under(device_map, live_groups(model), Load("dispatch_model", on_meta=False)) == ()
            accelerate.dispatch_model(model, device_map, offload_dir=tmp_path / one)
            assert torch.equal(model(input_ids=torch.arange(6)[None]).logits, plain)

    def test_a_member_that_is_not_stored_and_goes_to_the_disk(self, tmp_path) -> None:
        trained = saved(tmp_path)
        with accelerate.init_empty_weights():
            fresh = transformers.LlamaForCausalLM(trained.config)
        fresh.tie_weights()
        torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "weights.bin")
        parts = dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb"), "cpu")
        device_map = parts | dict.fromkeys(("model.layers", "lm_head"), "disk")
        groups = live_groups(fresh, torch.load(tmp_path / "weights.bin"))
        (draft,) = said(
            LoadFailsUnderMap, loads_under(device_map, groups, Load("load_checkpoint_and_dispatch", "pickle"))
        )
        assert (
            "the first forward pass after load_checkpoint_and_dispatch raises KeyError: 'lm_head.weight'"
            in draft.message
        )
        loaded = accelerate.load_checkpoint_and_dispatch(
            fresh, str(tmp_path / "weights.bin"), device_map=device_map, offload_folder=str(tmp_path / "off")
        )
        with pytest.raises(KeyError, match=r"lm_head\.weight"):
            loaded.lm_head(torch.zeros(1, 16))
