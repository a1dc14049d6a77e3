"""TIE812, TIE818: deep copies where one module was to be shared."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.source import Event, Method, SourceFile
from tiecheck.rules.base import Case, Draft, Rule
from tiecheck.rules.source.rewrites import uncopied
from tiecheck.rules.source.sightings import STATELESS, asked, classes_in, event_draft, source_draft, source_facts
from tiecheck.wording import with_article


class CloneInsteadOfShare(Rule):
    """A module is deep-copied where the config asks for sharing.

    ## What it does
    Finds `_get_clones(self.bbox_embed, n)` or `deepcopy` of a module in the branch of an `if` in which a flag with
    `share` or `tie` in its name is true.

    ## Why it is bad
    The copies are equal at the start, and the first step separates them. A checkpoint of the shared model has one
    tensor, which fills one of them; the others stay random.

    ## How to fix it
    Put one object n times into the list, `nn.ModuleList([self.bbox_embed for _ in range(n)])`, or reverse the
    condition.
    """

    code = "TIE812"
    summary = "a deep copy in the branch in which the config asks for sharing"
    severity = "info"
    confidence = "medium"
    threads = "huggingface/transformers#22437 huggingface/transformers#38238"

    def check(self, sources: tuple[SourceFile, ...]) -> Iterator[Draft]:
        for file, owner in classes_in(sources):
            found = {(e.line, e.target): (e, flag) for m in owner.methods for e, flag in _cloned_though(m)}
            for event, flag in found.values():
                yield event_draft(
                    file,
                    event,
                    f"{owner.name}: {event.target} gets deep copies of {event.source} where `{flag}` asks for "
                    "one that is shared: the first step separates them.",
                    "the way in which the copies are made is not one that is known.",
                    "copies, where one was meant",
                    uncopied(file, owner, event),
                )

    @staticmethod
    def cases() -> Iterator[Case]:
        net = """
            class Net(nn.Module):
                def __init__(self, config):
                    self.bbox_embed = nn.Linear(8, 4)
                    if {test}:
                        self.heads = {one}
                    else:
                        self.heads = {other}
        """
        copies, shared = "_get_clones(self.bbox_embed, 6)", "nn.ModuleList([self.bbox_embed for _ in range(6)])"
        flag = "config.decoder_bbox_embed_share"
        yield Case("copied", source_facts(net.format(test=flag, one=copies, other=shared)), finds=("info",))
        each = "nn.ModuleList([copy.deepcopy(self.bbox_embed) for _ in range(6)])"
        turned = net.format(test="not self.config.tie_heads", one=shared, other=each)
        yield Case("by hand, in the other branch", source_facts(turned), finds=("info",))
        yield Case("shared", source_facts(net.format(test=flag, one=shared, other=copies)))
        for no in ("not config.share_heads", "config.untie_heads", "config.share_heads is False"):
            yield Case(f"copied where {no}", source_facts(net.format(test=no, one=copies, other=shared)))
        yield Case("by another flag", source_facts(net.format(test="config.with_box_refine", one=copies, other=shared)))
        both = net.format(test=f"{flag} and config.two_stage", one=copies, other=shared)
        yield Case("a condition of two parts", source_facts(both))


def _cloned_though(method: Method) -> Iterator[tuple[Event, str]]:
    """Yield the deep copies of a method that happen where a flag asks for sharing, with the condition."""
    for event in method.events:
        for wanted, test in asked(event, method) if event.kind == "clone" else ():
            if wanted:
                yield event, test


class ClonedWithSharedChild(Rule):
    """Layers are deep copies of one that holds a module which was to be shared.

    ## What it does
    Finds a layer that is handed a module, keeps it, and is then deep-copied for each layer (`_get_clones`, a
    comprehension with `deepcopy`, `nn.TransformerEncoder`, or a class of the file that does it), where whoever copies
    keeps that module too, or the module is an embedding: a table that stands outside of the layers.

    ## Why it is bad
    Each copy has a table of its own. They are equal at the start, and each learns something else; the one outside is
    not what the layers use.

    ## How to fix it
    Build the layers one by one, `nn.ModuleList(Layer(table) for _ in range(n))`, or hand the table to `forward`.
    """

    code = "TIE818"
    summary = "layers are deep copies of one that holds a module which was to be shared"
    severity = "warning"
    confidence = "medium"
    threads = "https://discuss.pytorch.org/t/1173"

    def check(self, sources: tuple[SourceFile, ...]) -> Iterator[Draft]:
        for file in sources:
            for one in file.copied:
                last = one.child_class.rpartition(".")[2]
                if not (one.kept or "Embedding" in last) or STATELESS.fullmatch(last):
                    continue
                yield source_draft(
                    file,
                    (one.layer, one.child),
                    (one.line, one.column),
                    f"{one.layer} holds {one.child} ({last}), and is deep-copied for each layer: each gets "
                    f"{with_article(last)} of its own, equal at the start, and the first step separates them.",
                    f"whoever copies gets one {one.layer} and not what builds it: each has to be built with "
                    f"{one.child}, or to get it in forward.",
                    "copied with what it shares",
                )

    @staticmethod
    def cases() -> Iterator[Case]:
        attention = """
            class Attn(nn.Module):
                def __init__(self, table):
                    self.q = nn.Linear(8, 8)
                    self.bias = table

            class Encoder(nn.Module):
                def __init__(self, layer, n):
                    self.layers = nn.ModuleList([copy.deepcopy(layer) for _ in range(n)])
        """
        build = "\n            def build():\n                table = {table}\n                return {encoder}\n"
        table = build.format(table="nn.Embedding(6, 6)", encoder="Encoder(Attn(table), 3)")
        yield Case("a table in a copied layer", source_facts(attention + table), finds=("warning",))
        kept = """
            class Model(nn.Module):
                def __init__(self):
                    self.pos = nn.Linear(6, 6)
                    layer = Attn(self.pos)
                    self.layers = _get_clones(layer, 3)
        """
        yield Case("a module that the model keeps", source_facts(attention + kept), finds=("warning",))
        named = (attention + kept).replace("self.bias = table", "self.table = table")
        yield Case("kept under the argument's name", source_facts(named), finds=("warning",))
        each = table.replace("Encoder(Attn(table), 3)", "nn.ModuleList(Attn(table) for _ in range(3))")
        yield Case("one layer after another", source_facts(attention + each))
        parts = build.format(table="MultiHeadedAttention(8)", encoder="Encoder(Attn(table), 3)")
        yield Case("a part that each layer is to have", source_facts(attention + parts))
        copied = table.replace("Attn(table)", "Attn(copy.deepcopy(table))")
        yield Case("a copy for each on purpose", source_facts(attention + copied))
