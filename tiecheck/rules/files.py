"""TIE2xx: the files of a checkpoint against one another."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.facts import Checkpoint, Unknown
from tiecheck.report import Location
from tiecheck.rules.base import Case, Draft, Rule


class IndexDisagreesWithShards(Rule):
    """A name stands in the index and in no shard, or a shard is not there at all.

    ## What it does
    Holds the `weight_map` of a sharded checkpoint against the headers of its shards: a file that the index
    names must be there, and hold the names the index gives it.

    ## Why it is bad
    A loader follows the index. With a shard missing (a partial download, a file left out of a commit) loading
    fails, or, where the loader is told to go on, the missing weights stay random. Where the index names a
    tied member that no shard holds, the loader may take the tie for stored and never make it.

    ## How to mend it
    Fetch the missing file again, or write the index anew by saving the model once more. tiecheck judges such a
    checkpoint by the names in the index; values that lie in a missing shard are not compared, and the report
    says so.
    """

    code = "TIE201"
    name = "index-disagrees-with-shards"
    summary = "a name is in the index and in no shard, or a shard is missing"
    severity = "error"
    confidence = "high"
    messages = ("does not appear to have a file named",)
    threads = ("ggml-org/llama.cpp#12456", "huggingface/transformers#46835")

    def check(self, index: Checkpoint) -> Iterator[Draft | Unknown]:
        """One finding for the files that are not there, one for each shard that lacks names."""
        checkpoint, file_name = index, index.index_file or ""
        if checkpoint.missing_files:
            yield self._missing(checkpoint, file_name)
        absent: dict[str, list[str]] = {}
        by_path = {shard.path: shard for shard in checkpoint.shards}
        for name, file in checkpoint.weight_map.items():
            shard = by_path.get(file)
            if shard is not None and name not in shard.entries:
                absent.setdefault(file, []).append(name)
        for file, names in sorted(absent.items()):
            yield self._lacking(checkpoint, file_name, file, sorted(names))

    @staticmethod
    def _missing(checkpoint: Checkpoint, index: str) -> Draft:
        files = checkpoint.missing_files
        absent = set(files)
        names = sorted(n for n, f in checkpoint.weight_map.items() if f in absent)
        shown = ", ".join(files[:3]) + (" ..." if len(files) > 3 else "")
        total = len(set(checkpoint.weight_map.values()))
        return Draft(
            f"{len(files)} of the {total} weight files named by {index} are not here ({shown}); they hold "
            f"{len(names):,} tensors. A loader fails, or leaves those tensors random.",
            tuple(names[:8]),
            (Location(index, None, None, "primary", f"names {shown}"),),
            "Download the missing file again, or save the model anew.",
        )

    @staticmethod
    def _lacking(checkpoint: Checkpoint, index: str, file: str, names: list[str]) -> Draft:
        elsewhere = [n for n in names if checkpoint.shard_of(n)]
        it = "it lies" if len(names) == 1 else "they lie"
        pronoun = "it" if len(names) == 1 else "them"
        where = f"{it} in another shard" if len(elsewhere) == len(names) else f"no shard holds {pronoun}"
        shown = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
        return Draft(
            f"{index} says that {file} holds {shown}, and its header does not; {where}.",
            tuple(names[:8]),
            (
                Location(
                    index, None, None, "primary", f"puts {len(names):,} name{'' if len(names) == 1 else 's'} in {file}"
                ),
                Location(file, None, None, "related", f"its header lacks {pronoun}"),
            ),
            "Save the model anew, so that index and shards are written together.",
        )

    @staticmethod
    def cases() -> Iterator[Case]:
        """A whole checkpoint, a partial download, a name no shard holds."""
        from tiecheck.rules.cases import EMBEDDING, HEAD, checkpoint

        first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
        whole = {EMBEDDING: first, HEAD: second}
        yield Case("index and shards agree", {"index": checkpoint({first: (EMBEDDING,), second: (HEAD,)}, whole)})
        yield Case(
            "index and three shards agree",
            {"index": checkpoint({first: (EMBEDDING,), second: (HEAD,), "x": ("n",)}, whole | {"n": "x"})},
        )
        yield Case(
            "the second shard was not downloaded",
            {"index": checkpoint({first: (EMBEDDING,)}, whole, (second,))},
            finds=("error",),
        )
        yield Case(
            "the index names a head that its shard lacks",
            {"index": checkpoint({first: (EMBEDDING,), second: ("norm.weight",)}, whole)},
            finds=("error",),
        )
