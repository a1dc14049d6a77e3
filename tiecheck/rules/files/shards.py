"""TIE2xx: the files of a checkpoint against one another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tiecheck.records.report import Severity
from tiecheck.records.stored import Checkpoint
from tiecheck.records.words import Unknown
from tiecheck.rules.base import Case, Draft, Rule, file_place
from tiecheck.rules.stored.groups import rows_text
from tiecheck.wording import listed

if TYPE_CHECKING:
    from tiecheck.records.files import Duplicate, IndexGap


_SEVERAL = "some of them lie in several shards"
_AGAIN = "save the model again, so that index and shards are written together."


class IndexDisagreesWithShards(Rule):
    """A name stands in the index and not in its shard, or the reverse, or a shard is not there at all.

    ## What it does
    Holds the `weight_map` of a sharded checkpoint against the headers of its shards: a file that the index
    names must be there, and hold the names the index gives it and no others. It is a note where transformers finds the
    tensor all the same, in another shard or by its tie, and a warning where 4.57 does not.

    ## Why it is bad
    With a shard missing (a partial download, a file left out of a commit) loading fails, or, where the loader is
    told to go on, the missing weights stay random; so does what the index names and no shard holds. What a shard
    holds and the index does not name is loaded by transformers 5 and left out by 4.57, without a word. A tool that
    follows the index to one tensor does not find it where the index names another shard.

    ## How to fix it
    Fetch the missing file again, or write the index again by saving the model once more. tiecheck judges such a
    checkpoint by the names in the index; values that lie in a missing shard are not compared, and the report
    says so.
    """

    code = "TIE201"
    summary = "a name is in the index and not in its shard, or the reverse, or a shard is missing"
    severity = "error"
    messages = ("does not appear to have a file named",)
    threads = "ggml-org/llama.cpp#12456 huggingface/transformers#46835"

    def check(self, index: Checkpoint, index_gaps: tuple[IndexGap, ...]) -> Iterator[Draft | Unknown]:
        if index.missing_files:
            yield self._missing(index, index.index_file or "")
        for gap in index_gaps:
            yield self._unindexed(index, gap) if gap.gap == "unindexed" else self._lacking(index, gap)

    @staticmethod
    def _missing(checkpoint: Checkpoint, index: str) -> Draft:
        files = checkpoint.missing_files
        absent = set(files)
        names = sorted(n for n, f in checkpoint.weight_map.items() if f in absent)
        shown = ", ".join(files[:3]) + (" ..." if len(files) > 3 else "")
        total = len(set(checkpoint.weight_map.values()))
        return Draft(
            f"{len(files)} of the {total} weight files named by {index} {'is' if len(files) == 1 else 'are'} not here "
            f"({shown}), with {len(names):,} tensor{'' if len(names) == 1 else 's'}. A loader fails, or leaves them "
            "random.",
            tuple(names[:8]),
            (file_place(index, f"names {shown}"),),
            no_mend="the values are not here; download the missing file again, or save the model again.",
        )

    @staticmethod
    def _lacking(checkpoint: Checkpoint, gap: IndexGap) -> Draft:
        from tiecheck.rules.stored.fixes import entries_put_right

        index, names, one = checkpoint.index_file or "", gap.names, len(gap.names) == 1
        it, pronoun = ("it lies", "it") if one else ("they lie", "them")
        where = {
            "elsewhere": f"{it} in another shard, where transformers finds {pronoun}",
            "tied": f"no shard holds {pronoun}, and the tie makes {pronoun} from what is stored",
        }.get(gap.gap, f"no shard holds {pronoun}")
        return Draft(
            f"{index} says that {gap.file} holds {_first_names(names)}, and its header does not; {where}.",
            names[:8],
            (
                file_place(index, f"puts {len(names):,} name{'' if one else 's'} in {gap.file}"),
                file_place(gap.file, f"its header lacks {pronoun}", "related"),
            ),
            severity=None if gap.gap == "nowhere" else "info",
            edits=entries_put_right(checkpoint, index, list(names)) if gap.gap != "nowhere" else (),
            no_mend=f"{'the values are not here' if gap.gap == 'nowhere' else _SEVERAL}; {_AGAIN}",
        )

    @staticmethod
    def _unindexed(checkpoint: Checkpoint, gap: IndexGap) -> Draft:
        from tiecheck.rules.stored.fixes import entries_put_right

        index, names, one = checkpoint.index_file or "", gap.names, len(gap.names) == 1
        lost = ", and what it ties comes out random" if gap.hurts else ""
        return Draft(
            f"{gap.file} holds {_first_names(names)}, and {index} does not name {'it' if one else 'them'}. "
            f"transformers 4.57 loads what the index names and nothing else{lost}; 5 loads every shard whole.",
            names[:8],
            (file_place(index, f"lacks {_first_names(names)}"), file_place(gap.file, "its header has more", "related")),
            severity="warning" if gap.hurts else "info",
            hurts=gap.hurts or None,
            edits=entries_put_right(checkpoint, index, list(names)),
            no_mend=f"{_SEVERAL}; {_AGAIN}",
        )

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.records.files import IndexGap
        from tiecheck.rules.cases import EMBEDDING, HEAD, loader_view, sharded_checkpoint

        first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
        whole = {EMBEDDING: first, HEAD: second}
        whole_index = sharded_checkpoint({first: (EMBEDDING,), second: (HEAD,)}, whole)

        def case(
            title: str, *gaps: IndexGap, index: Checkpoint = whole_index, finds: tuple[Severity, ...] = ()
        ) -> Case:
            return Case(title, {"index": index, "index_gaps": gaps}, finds=finds)

        yield case("index and shards agree")
        three = sharded_checkpoint({first: (EMBEDDING,), second: (HEAD,), "x": ("n",)}, whole | {"n": "x"})
        yield case("index and three shards agree", index=three)
        partial = sharded_checkpoint({first: (EMBEDDING,)}, whole, (second,))
        yield case("the second shard was not downloaded", index=partial, finds=("error",))
        gone = IndexGap(second, "nowhere", (HEAD,), ())
        yield case("the index names a head that no shard holds", gone, finds=("error",))
        yield case("the same, and the tie makes it", gone._replace(gap="tied"), finds=("info",))
        yield case("it lies in the other shard", gone._replace(gap="elsewhere"), finds=("info",))
        unseen = gone._replace(gap="unindexed")
        yield case("a name that the index lacks", unseen, finds=("info",))
        random = loader_view("transformers", "head-random", versions="4.57", checked="run")
        yield case("a head that the index lacks", unseen._replace(hurts=(random,)), finds=("warning",))


def _first_names(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")


class MemberStoredTwice(Rule):
    """One name stands in two shards.

    ## What it does
    Finds names that the headers of several shards hold, whatever the index says, and compares their bytes. Different
    values, shapes or types are an error, equal ones a note. The bytes of the first 64 such names are compared.

    ## Why it is bad
    Only one of the two can be loaded, and it need not be the one that the index names: transformers 4.57 and 5.23
    and accelerate 1.15 read every shard in the order of the file names and let the last one win, without
    a word. A tool that follows the index may get the other. So the same files are two models, depending on who reads
    them. It happens where a script writes a tensor again and leaves the old one where it was, and where the shards of
    two saves lie in one directory.

    ## How to fix it
    Find out which save the right values come from, and save the checkpoint again from there, into an empty directory,
    so that shards and index are written together.
    """

    code = "TIE202"
    summary = "one name in two shards: which one is loaded depends on the loader"
    severity = "error"

    def check(self, duplicates: tuple[Duplicate, ...]) -> Iterator[Draft | Unknown]:
        for shards in sorted({tuple(t.file for t in d.tensors) for d in duplicates}):
            here = [d for d in duplicates if tuple(t.file for t in d.tensors) == shards]
            differ = [d for d in here if d.reason is None and (d.comparison is None or not d.comparison.equal)]
            equal = [d for d in here if d.comparison is not None and d.comparison.equal and d.tensors[0].nbytes]
            if differ:
                yield self._draft(differ, equal=False)
            if equal:
                yield self._draft(equal, equal=True)
            unread = [d for d in here if d.reason is not None]
            if unread:
                yield Unknown(
                    f"{listed(tuple(d.name for d in unread))} stand in {listed(shards)}, and were not compared: "
                    f"{unread[0].reason}"
                )

    @staticmethod
    def _draft(found: list[Duplicate], *, equal: bool) -> Draft:
        first = found[0]
        files = tuple(tensor.file for tensor in first.tensors)
        names = tuple(d.name for d in found)
        if equal:
            how = "with equal values: nothing is lost but disk space."
        else:
            how = (
                f"with {_difference(first)}. transformers and accelerate take what {files[-1]} has, the last file by "
                f"name; {_by_index(first, files[-1])}."
            )
        from tiecheck.rules.stored.fixes import one_of_two

        return Draft(
            f"{listed(names)} {'stands' if len(names) == 1 else 'stand'} in {listed(files)}, {how}",
            names[:8],
            tuple(
                file_place(
                    tensor.file,
                    f"{tensor.name}, {tensor.dtype} {list(tensor.shape)}"
                    + (", the one in the index" if tensor.file == first.indexed else ""),
                    "related" if i else "primary",
                )
                for i, tensor in enumerate(first.tensors)
            ),
            severity="info" if equal else None,
            edits=one_of_two(found, equal=equal),
            no_mend=f"they stand in more than two files; {_AGAIN}",
        )

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.records.files import Duplicate
        from tiecheck.rules.cases import EMBEDDING, HEAD, row_comparison, stored_tensor

        one, two = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
        both = (stored_tensor(HEAD, file=one), stored_tensor(HEAD, file=two))
        differ = Duplicate(HEAD, both, one, row_comparison(rows_differ=128, first=0), None)
        yield Case("two different heads", {"duplicates": (differ,)}, finds=("error",))
        other = differ._replace(name=EMBEDDING, comparison=row_comparison())
        yield Case("one that differs and one that is equal", {"duplicates": (differ, other)}, finds=("error", "info"))
        shape = differ._replace(tensors=(both[0], stored_tensor(HEAD, (130, 16), two)), comparison=None, indexed=None)
        yield Case("two shapes", {"duplicates": (shape,)}, finds=("error",))
        yield Case("an equal copy", {"duplicates": (other,)}, finds=("info",))
        yield Case("each name once", {"duplicates": ()})
        empty = other._replace(tensors=(stored_tensor(HEAD, (0, 16), one), stored_tensor(HEAD, (0, 16), two)))
        yield Case("an empty tensor, of which nothing is lost", {"duplicates": (empty,)})
        unread = differ._replace(comparison=None, reason="the bytes were not read")
        yield Case("not read", {"duplicates": (unread,)}, unknown=True)
        yield Case("a file that is gone", {"duplicates": (unread._replace(reason="it is gone"),)}, unknown=True)


def _difference(duplicate: Duplicate) -> str:
    if duplicate.comparison is not None:
        return f"different values ({rows_text(duplicate.comparison)})"
    kinds = tuple(f"{t.dtype} {list(t.shape)}" for t in duplicate.tensors)
    return f"different shapes or types ({listed(kinds)})"


def _by_index(duplicate: Duplicate, last: str) -> str:
    if duplicate.indexed is None:
        return "the index does not have the name"
    if duplicate.indexed == last:
        return "the index names that one too, and the other is left over"
    return f"the index names {duplicate.indexed}, which a tool that follows it takes"
