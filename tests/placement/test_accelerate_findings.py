"""What accelerate 1.15 does to ties that nobody would expect, each as the library itself does it.

The planner's surprises are in the planners' tests. What its saver drops of every kind of tie is in test_views.py,
function by function, and here once by the whole of `Accelerator.save_model`.
"""

from __future__ import annotations

import logging
import warnings

import accelerate
import pytest
import torch
from accelerate.utils.modeling import check_tied_parameters_on_same_device, load_checkpoint_in_model
from placing_runs import HEAD, Slot, Tied, llama
from safetensors.torch import load_file, save_file
from torch import nn

from tiecheck.placement.loads.follow import Load, loads_under
from tiecheck.placement.loads.slots import live_groups
from tiecheck.placement.map_lookup import device_word

pytestmark = pytest.mark.filterwarnings("ignore")
WTE = "transformer.wte.weight"


class Model(nn.Module):
    """A language model that ties by assigning the weight."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = nn.Module()
        self.transformer.wte = nn.Embedding(8, 4)
        self.lm_head = nn.Linear(4, 8, bias=False)
        self.tie_weights()

    def tie_weights(self) -> None:
        self.lm_head.weight = self.transformer.wte.weight

    def loaded(self) -> bool:
        """Whether both names have the stored sevens."""
        return all(
            not weight.is_meta and bool((weight == 7).all())
            for weight in (self.lm_head.weight, self.transformer.wte.weight)
        )


@pytest.fixture
def checkpoint(tmp_path):
    """Write a file of sevens under some names."""

    def write(*names: str) -> str:
        path = tmp_path / "model.safetensors"
        save_file({name: torch.full((8, 4), 7.0) for name in names}, path, metadata={"format": "pt"})
        return str(path)

    return write


class TestLoadDestroysTheLoadedWeight:
    """Finding 1, and which mends mend it."""

    def test_the_loaded_weight_is_lost_without_a_word(self, checkpoint, caplog) -> None:
        model = Model()
        with caplog.at_level(logging.WARNING):
            load_checkpoint_in_model(model, checkpoint(WTE), device_map={"": "cpu"})
        assert model.lm_head.weight is model.transformer.wte.weight
        assert not model.loaded()
        assert caplog.messages == []
        model.tie_weights()
        assert not model.loaded(), "to tie after the load brings nothing back"

    def test_it_is_told(self) -> None:
        groups = live_groups(Model(), [WTE])
        (load,) = loads_under({"": "cpu"}, groups, Load("load_checkpoint_and_dispatch", on_meta=False))
        assert (load.form, load.names, load.stored) == ("overwrites", (HEAD, WTE), (WTE,))  # type: ignore[union-attr]

    @pytest.mark.parametrize("device_map", [{"": "cpu"}, {"transformer": "cpu", "lm_head": "disk"}])
    def test_strict_does_not_help(self, checkpoint, tmp_path, device_map) -> None:
        model = Model()
        load_checkpoint_in_model(
            model, checkpoint(WTE), device_map=device_map, strict=True, offload_folder=str(tmp_path / "offload")
        )
        assert not model.loaded()

    def test_mended_by_no_map(self, checkpoint) -> None:
        model = Model()
        load_checkpoint_in_model(model, checkpoint(WTE))
        assert model.loaded()

    def test_mended_by_storing_the_first_name(self, checkpoint) -> None:
        for names in ((HEAD,), (HEAD, WTE)):
            model = Model()
            load_checkpoint_in_model(model, checkpoint(*names), device_map={"": "cpu"})
            assert model.loaded()

    def test_mended_by_building_on_meta(self, checkpoint) -> None:
        with torch.device("meta"):
            model = Model()
        assert loads_under({"": "cpu"}, live_groups(model, [WTE]), Load("load_checkpoint_and_dispatch")) == ()
        load_checkpoint_in_model(model, checkpoint(WTE), device_map={"": "cpu"})
        assert model.loaded()

    def test_init_empty_weights_mends_it_once_the_tie_is_made_anew(self, checkpoint) -> None:
        """Finding 11: each registration makes a new Parameter, so that the tie is gone and the head stays on meta."""
        with accelerate.init_empty_weights():
            model = Model()
        load_checkpoint_in_model(model, checkpoint(WTE), device_map={"": "cpu"})
        assert model.lm_head.weight.is_meta
        with accelerate.init_empty_weights():
            model = Model()
        model.tie_weights()
        load_checkpoint_in_model(model, checkpoint(WTE), device_map={"": "cpu"})
        assert model.loaded()


class TestDeviceCheck:
    """Finding 5: devices are compared as they are written."""

    GROUP = (["lm_head.weight", "transformer.wte.weight"],)

    @pytest.mark.parametrize("other", ["cuda:0", "cuda", torch.device("cuda", 0)])
    def test_one_device_in_two_words_is_an_alarm(self, other, caplog) -> None:
        with caplog.at_level(logging.WARNING):
            check_tied_parameters_on_same_device(self.GROUP, {"transformer": 0, "lm_head": other})
        (message,) = caplog.messages
        assert message.startswith("Tied parameters are on different devices")
        assert device_word(other) == device_word(0)

    def test_a_module_that_is_missing_has_no_name(self, checkpoint) -> None:
        with pytest.raises(ValueError, match=r"The `device_map` does not contain the module \.$"):
            load_checkpoint_in_model(Model(), checkpoint(WTE), device_map={"transformer": "cpu"})


class TestAliasInAMap:
    """Finding 6: a second path to a module has to be in the map, and is not known there."""

    def test_left_out_and_put_in(self) -> None:
        paths = ("wte", "ff_out")
        with pytest.raises(ValueError, match=r"does not give any device for the following parameters: ff_out.weight"):
            accelerate.dispatch_model(Tied(paths, "module"), {"wte": "cpu", "other": "cpu"}, force_hooks=True)
        whole = {"wte": "cpu", "other": "cpu", "ff_out": "cpu"}
        with pytest.warns(UserWarning, match=r"do not match any submodules in the model: \['ff_out'\]"):
            accelerate.dispatch_model(Tied(paths, "module"), whole, force_hooks=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            accelerate.dispatch_model(Tied(paths, "parameter"), whole, force_hooks=True)


def test_save_model_drops_disjoint_slices(tmp_path) -> None:
    """Finding 7, by `Accelerator.save_model` itself; the function behind it is in test_views.py."""
    model = nn.Module()
    flat = torch.arange(8.0)
    model.a, model.b = nn.Parameter(flat[:4]), nn.Parameter(flat[4:])
    accelerate.Accelerator(cpu=True).save_model(model, tmp_path)
    assert list(load_file(tmp_path / "model.safetensors")) == ["a"], "b is lost"


def test_a_tied_slice_and_the_whole_have_one_address(tmp_path) -> None:
    """Finding 8: `tied_params_map` goes by `data_ptr`, so that a slice takes the place of the whole."""
    flat = torch.randn(16)
    model = nn.Module()
    model.a, model.b, model.c, model.d = Slot(), Slot(), Slot(), Slot()
    model.a.weight = model.b.weight = nn.Parameter(flat[:4].view(2, 2))
    model.c.weight = nn.Parameter(flat.view(4, 4))
    accelerate.dispatch_model(model, {"a": "cpu", "b": "cpu", "c": "cpu", "d": "disk"}, offload_dir=tmp_path)
    assert model.c.weight.shape == (2, 2)


def test_fsdp_helper_takes_patterns_for_names() -> None:
    """Finding 9: `ensure_weights_retied` looks for modules under the keys, which may be patterns (transformers 5)."""
    from accelerate.utils.fsdp_utils import ensure_weights_retied

    model = llama()
    assert ensure_weights_retied(lambda module: module, model, torch.device("cpu")) is not None
    model._tied_weights_keys = {r"lm_hea[d].weight": "model.embed_tokens.weight"}
    assert model.get_expanded_tied_weights_keys() == {HEAD: "model.embed_tokens.weight"}
    with pytest.raises(AttributeError):
        ensure_weights_retied(lambda module: module, model, torch.device("cpu"))
