"""TIE201 and TIE202 against their failures as the real libraries produce them, and the traps beside them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from accelerate import init_empty_weights, load_checkpoint_in_model
from file_failures import EMBEDDING, HEAD, found, save
from rule_failures import codes, llama
from safetensors.torch import load_file
from torch import nn

import tiecheck
from tiecheck.rules.files.shards import IndexDisagreesWithShards, MemberStoredTwice


class TestIndex:
    def test_shard_that_was_not_downloaded(self, tmp_path: Path) -> None:
        llama(tied=False).save_pretrained(tmp_path, max_shard_size="6KB")
        shards = sorted(tmp_path.glob("model-*.safetensors"))
        assert len(shards) > 2
        holder = next(s for s in shards if "lm_head.weight" in load_file(s))
        holder.unlink()
        report = tiecheck.check(tmp_path)
        assert [f.code for f in report.findings] == [IndexDisagreesWithShards.code]
        (entry,) = report.targets[0].ties
        assert entry.stored == "unknown"
        assert holder.name in (entry.reason or "")


class TestStoredTwice:
    """TIE202: a script writes a head anew and leaves the old one in another shard."""

    @staticmethod
    def sharded(directory: Path, model: nn.Module) -> list[Path]:
        model.save_pretrained(directory, max_shard_size="6KB")
        shards = sorted(directory.glob("model-*.safetensors"))
        assert len(shards) > 2
        return shards

    @pytest.mark.parametrize(("name", "where"), [(HEAD, 0), (EMBEDDING, -1)], ids=["in-the-first", "in-the-last"])
    def test_new_tensor_beside_the_old_one(self, tmp_path: Path, name: str, where: int) -> None:
        shards = self.sharded(tmp_path, llama(tied=False))
        holder = next(s for s in shards if name in load_file(s))
        other = shards[where]
        assert other != holder
        save(load_file(other) | {name: torch.full((64, 16), 2.0)}, other)
        (finding,) = found(tmp_path, MemberStoredTwice.code)
        assert finding.severity == "error"
        assert finding.names == (name,)
        assert "64 of 64 rows differ" in finding.message
        last = max(holder, other)
        assert f"what {last.name} has, the last file by name" in finding.message
        model = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
        assert torch.equal(model.get_parameter(name), load_file(last)[name]), "transformers lets the last file win"
        with init_empty_weights():
            empty = llama(tied=False)
        load_checkpoint_in_model(empty, tmp_path, device_map={"": "cpu"})
        assert torch.equal(empty.get_parameter(name), load_file(last)[name]), "and so does accelerate"

    def test_other_shape(self, tmp_path: Path) -> None:
        shards = self.sharded(tmp_path, llama(tied=False))
        save(load_file(shards[0]) | {"model.norm.weight": torch.ones(8)}, shards[0])
        (finding,) = found(tmp_path, MemberStoredTwice.code)
        assert "different shapes or types (float32 [8] and float32 [16])" in finding.message

    def test_equal_copy_is_a_note(self, tmp_path: Path) -> None:
        shards = self.sharded(tmp_path, llama(tied=False))
        head = next(load_file(s)[HEAD] for s in shards if HEAD in load_file(s))
        save(load_file(shards[0]) | {HEAD: head}, shards[0])
        assert [f.severity for f in found(tmp_path, MemberStoredTwice.code)] == ["info"]

    def test_bytes_that_were_not_to_be_read(self, tmp_path: Path) -> None:
        shards = self.sharded(tmp_path, llama(tied=False))
        save(load_file(shards[0]) | {HEAD: torch.ones(64, 16)}, shards[0])
        report = tiecheck.check(tmp_path, values="never")
        assert MemberStoredTwice.code in {skip.code for skip in report.targets[0].skips}

    def test_shards_as_they_are_saved(self, tmp_path: Path) -> None:
        self.sharded(tmp_path, llama())
        assert codes(tmp_path) == []

    def test_pickled_shards(self, tmp_path: Path) -> None:
        model = llama(tied=False)
        model.config.save_pretrained(tmp_path)
        state = {k: v.detach().clone() for k, v in model.state_dict().items()}
        one, two = "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"
        torch.save({k: v for k, v in state.items() if k != HEAD}, tmp_path / one)
        torch.save({HEAD: state[HEAD], EMBEDDING: state[EMBEDDING] + 1}, tmp_path / two)
        index = {"metadata": {}, "weight_map": dict.fromkeys(state, one) | {HEAD: two}}
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        (finding,) = found(tmp_path, MemberStoredTwice.code)
        assert finding.names == (EMBEDDING,)
        loaded = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
        assert torch.equal(loaded.model.embed_tokens.weight, state[EMBEDDING] + 1)
