"""Saved optimizer states, read without running them, against what torch itself reads from the same files."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import distributed, nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, get_state_dict

from tiecheck.files.pickle.archive import read_torch_file
from tiecheck.files.pickle.records import PickledTensor, TorchFile
from tiecheck.records.files import TiedMoments
from tiecheck.records.words import Unknown
from tiecheck.rules.cases import PAIR, llama_group
from tiecheck.stored.optimizer_state import _moment, compare_moments
from tiecheck.stored.optimizer_ties import tied_moments
from tiecheck.stored.training_signs import find_states

TENSORS = {
    "float32": torch.arange(12.0).reshape(3, 4),
    "bfloat16": torch.arange(6.0).to(torch.bfloat16),
    "float8": torch.arange(4.0).to(torch.float8_e4m3fn),
    "uint16": torch.arange(5).to(torch.uint16),
    "bool": torch.tensor([True, False]),
    "complex": torch.ones(2, dtype=torch.complex64),
    "parameter": nn.Parameter(torch.ones(2, 3)),
    "scalar": torch.tensor(3.0),
    "empty": torch.zeros(0, 4),
    "slice": torch.arange(20.0)[5:9],
}


def bytes_at(saved: TorchFile, tensor: PickledTensor) -> bytes:
    """The elements of a tensor, by the place it is said to have."""
    place = _moment(saved, tensor).locate()
    assert not isinstance(place, Unknown)
    (part,) = place
    with open(part.path, "rb") as file:
        file.seek(part.start)
        return file.read(part.nbytes)


class TestPickle:
    """The static reader against `torch.load`."""

    @pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
    def test_shape_dtype_and_bytes_of_every_tensor(self, tmp_path: Path, zipped: bool) -> None:
        path = tmp_path / "state.bin"
        tensors = {k: v for k, v in TENSORS.items() if zipped or k not in {"float8", "uint16"}}
        torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
        saved = read_torch_file(str(path))
        assert isinstance(saved, TorchFile)
        assert set(saved.tree) == set(tensors)
        for name, loaded in torch.load(path).items():
            found = saved.tree[name]
            assert (found.shape, f"torch.{found.dtype}") == (tuple(loaded.shape), str(loaded.dtype))
            raw = loaded.detach().contiguous().view(-1).view(torch.uint8)
            assert bytes_at(saved, found) == bytes(raw.tolist()), name

    def test_shared_memory_is_seen(self, tmp_path: Path) -> None:
        weight = torch.randn(4, 4)
        torch.save({"a": weight, "b": weight, "c": weight.t(), "d": weight[1:], "e": weight.clone()}, tmp_path / "x.pt")
        saved = read_torch_file(str(tmp_path / "x.pt"))
        assert isinstance(saved, TorchFile)
        assert saved.tree["a"] == saved.tree["b"]
        assert len(set(saved.tree.values())) == 4
        assert isinstance(_moment(saved, saved.tree["c"]).locate(), Unknown), "its elements are not in one piece"

    def test_what_is_no_plain_tensor_lies_nowhere(self, tmp_path: Path) -> None:
        odd = {"sparse": torch.eye(2).to_sparse(), "conj": torch.ones(2, dtype=torch.cfloat).conj()}
        torch.save(odd | {"meta": torch.zeros(2, device="meta")}, tmp_path / "x.pt")
        saved = read_torch_file(str(tmp_path / "x.pt"))
        assert isinstance(saved, TorchFile)
        assert all(isinstance(_moment(saved, value).locate(), Unknown) for value in saved.tree.values())

    def test_nothing_is_run(self, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> tuple[object, ...]:
                return os.mkdir, (str(tmp_path / "pwned"),)

        torch.save({"state": Evil(), "weight": torch.ones(2)}, tmp_path / "x.pt")
        saved = read_torch_file(str(tmp_path / "x.pt"))
        assert isinstance(saved, TorchFile)
        assert saved.tree["state"].function.name == "mkdir"
        assert isinstance(saved.tree["weight"], PickledTensor)
        assert not (tmp_path / "pwned").exists()

    def test_files_that_are_not_torchs(self, tmp_path: Path) -> None:
        cases = {
            "plain": pickle.dumps({"state": {}}),
            "text": b"hello",
            "empty": b"",
            "pointer": b"version https://git-lfs.github.com/spec/v1\n",
            "cut": b"PK\x03\x04" + bytes(40),
        }
        for name, raw in cases.items():
            (tmp_path / name).write_bytes(raw)
            assert isinstance(read_torch_file(str(tmp_path / name)), Unknown), name
        with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
            archive.writestr("readme.txt", "hello")
        assert isinstance(read_torch_file(str(tmp_path / "other.zip")), Unknown)

    def test_nested_keys_that_would_hash_forever(self, tmp_path: Path) -> None:
        pair_of_itself = b")" + b"2\x86" * 200
        raw = b"\x80\x02}" + pair_of_itself + b"Ns."
        with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
            archive.writestr("x/data.pkl", raw)
        assert isinstance(read_torch_file(str(tmp_path / "x.pt")), TorchFile)

    @settings(max_examples=200, deadline=None)
    @given(st.integers(0, 1600), st.binary(min_size=1, max_size=4))
    def test_damaged_files_never_raise(self, tmp_path_factory: pytest.TempPathFactory, at: int, with_: bytes) -> None:
        path = tmp_path_factory.getbasetemp() / "damaged.pt"
        whole = tmp_path_factory.getbasetemp() / "whole.pt"
        if not whole.exists():
            torch.save({"state": {0: {"exp_avg": torch.ones(2, 2)}}, "param_groups": [{"params": [0]}]}, whole)
        raw = bytearray(whole.read_bytes())
        raw[at : at + len(with_)] = with_
        path.write_bytes(raw)
        assert isinstance(read_torch_file(str(path)), (TorchFile, Unknown))

    def test_parts_that_do_not_fit_are_not_compared(self, tmp_path: Path) -> None:
        torch.save({"a": torch.ones(2, 2), "b": torch.ones(4)}, tmp_path / "x.pt")
        saved = read_torch_file(str(tmp_path / "x.pt"))
        assert isinstance(saved, TorchFile)
        moments = [_moment(saved, tensor) for tensor in saved.tree.values()]
        assert isinstance(compare_moments(moments, exact=False), Unknown)


def llama(*, split: bool = False) -> transformers.LlamaForCausalLM:
    """A tiny tied Llama, or one whose tie somebody has broken without telling its config."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads, tie_word_embeddings=True))
    if split:
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    return model


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """One step of training."""
    ids = torch.arange(8)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()


@pytest.fixture
def gloo(tmp_path: Path) -> Iterator[None]:
    """One process of torch.distributed."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def judge(root: Path) -> tuple[TiedMoments | Unknown, ...]:
    """What the states of a directory say of Llama's tie, no weights being there."""
    files = find_states(str(root), os.listdir(root))
    assert files
    found = tied_moments(str(root), files, (llama_group(stored=()),), None, "auto")
    assert not isinstance(found, Unknown)
    return found


@pytest.mark.parametrize("split", [False, True], ids=["tied", "split"])
class TestNamed:
    """States whose entries have names: one entry for a tie is silence, two that differ are told."""

    @staticmethod
    def check(root: Path, *, split: bool, keys: tuple[str, ...] = PAIR) -> None:
        found = judge(root)
        if not split:
            assert found == ()
            return
        (fact,) = found
        assert isinstance(fact, TiedMoments)
        assert (fact.keys, fact.named, fact.shape) == (keys, True, (64, 16))
        assert fact.comparison is not None
        assert not fact.comparison.equal

    @pytest.mark.parametrize("flat", [False, True])
    def test_distributed_checkpoint(self, tmp_path: Path, gloo: None, split: bool, flat: bool) -> None:
        model = llama(split=split)
        optimizer = torch.optim.AdamW(model.parameters())
        step(model, optimizer)
        options = StateDictOptions(flatten_optimizer_state_dict=flat)
        weights, state = get_state_dict(model, optimizer, options=options)
        (tmp_path / "step-1").mkdir()
        dcp.save({"model": weights, "optim": state}, checkpoint_id=tmp_path / "step-1")
        self.check(tmp_path, split=split)
        self.check(tmp_path / "step-1", split=split)

    def test_full_state_by_names(self, tmp_path: Path, gloo: None, split: bool) -> None:
        model = llama(split=split)
        optimizer = torch.optim.AdamW(model.parameters())
        step(model, optimizer)
        torch.save(get_optimizer_state_dict(model, optimizer), tmp_path / "optimizer.bin")
        self.check(tmp_path, split=split)

    def test_optimizer_that_was_given_names(self, tmp_path: Path, split: bool) -> None:
        model = llama(split=split)
        optimizer = torch.optim.AdamW(model.named_parameters())
        step(model, optimizer)
        torch.save({"optimizer": optimizer.state_dict(), "step": 1}, tmp_path / "optim.pt")
        self.check(tmp_path, split=split)

    @pytest.mark.parametrize("form", ["exp_avg.{}", "{}.exp_avg", "optimizer.state.{}.exp_avg", "{}.m"])
    def test_safetensors(self, tmp_path: Path, split: bool, form: str) -> None:
        model = llama(split=split)
        optimizer = torch.optim.AdamW(model.parameters())
        step(model, optimizer)
        tensors = {form.format(n): optimizer.state[p]["exp_avg"] for n, p in model.named_parameters()}
        save_file(tensors, tmp_path / "optimizer.safetensors")
        self.check(tmp_path, split=split)


def test_one_entry_written_under_both_names_is_a_sound_tie(tmp_path: Path) -> None:
    moments = {"step": torch.tensor(1.0), "exp_avg": torch.randn(64, 16)}
    entry = {name: {k: v.clone() for k, v in moments.items()} for name in PAIR}
    torch.save({"state": entry, "param_groups": []}, tmp_path / "optimizer.bin")
    assert judge(tmp_path) == ()


def test_master_weights_and_options_are_no_moments(tmp_path: Path) -> None:
    save_file({name: torch.randn(64, 16) for name in PAIR}, tmp_path / "optimizer.safetensors")
    assert judge(tmp_path) == ()


def test_states_that_cannot_tell_say_why(tmp_path: Path) -> None:
    (tmp_path / "global_step500").mkdir()
    model = llama()
    torch.save(torch.optim.SGD(model.parameters(), lr=0.1).state_dict(), tmp_path / "optimizer.pt")
    torch.save({"lr": 0.1}, tmp_path / "optimizer.bin")
    found = judge(tmp_path)
    assert all(isinstance(fact, Unknown) for fact in found)
    reasons = " / ".join(fact.reason for fact in found)
    assert "DeepSpeed" in reasons
    assert "holds no moments" in reasons
    assert "optimizer.bin holds no state" in reasons


def test_truncated_distributed_metadata_is_unknown(tmp_path: Path, gloo: None) -> None:
    model = llama(split=True)
    optimizer = torch.optim.AdamW(model.parameters())
    step(model, optimizer)
    dcp.save({"optim": get_optimizer_state_dict(model, optimizer)}, checkpoint_id=tmp_path / "x")
    metadata = tmp_path / "x" / ".metadata"
    metadata.write_bytes(metadata.read_bytes()[:-50])
    (fact,) = judge(tmp_path)
    assert isinstance(fact, Unknown)


def test_what_is_no_state_is_not_looked_for(tmp_path: Path) -> None:
    for name in ("model.safetensors", "optimizer.json", "my_optimizer.pt", "scheduler.pt", "global_stepping"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder").mkdir()
    assert find_states(str(tmp_path), os.listdir(tmp_path)) == ()
