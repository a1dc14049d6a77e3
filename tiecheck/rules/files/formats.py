"""TIE203: several weight formats in one directory against one another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tiecheck.records.edits import Edit, Step
from tiecheck.records.words import Unknown
from tiecheck.rules.base import Case, Draft, Rule, file_place
from tiecheck.wording import listed

if TYPE_CHECKING:
    from tiecheck.records.files import LayoutGroup, LayoutView


class FormatsDisagree(Rule):
    """Two weight formats in one directory tell different ties.

    ## What it does
    Where a directory has several of the standard files (`model.safetensors`, its index, `pytorch_model.bin`,
    its index), it looks at each tie in each of them: stored once, stored as one memory or with equal bytes,
    or as two different tensors. A pickle is read without running it. A difference is reported where one file has two
    tensors and the other has one, or where one file lacks a member and no flag ties it. Not reported is what
    every converted model shows: the pickle has both names over one memory, safetensors, which cannot
    hold that, has one, and the flag ties them.

    ## Why it is bad
    Who reads the directory decides which model it is. transformers takes `model.safetensors`; with
    `use_safetensors=False`, and in tools that ask for `*.bin`, the pickle is read. One user gets the
    trained head, the other one a tied or a random one, from the same revision. It happens where one format is
    written anew after a training and the other one is left as it was.

    ## How to fix it
    Keep one format. Load the model from the right one, look at `lm_head.weight is embed_tokens.weight`, save it with
    `save_pretrained` into an empty directory, and replace all the weight files by what is there.
    """

    code = "TIE203"
    summary = "two weight formats in one directory tell different ties"
    severity = "warning"

    def check(self, layouts: tuple[LayoutGroup | Unknown, ...]) -> Iterator[Draft | Unknown]:
        for group in layouts:
            if isinstance(group, Unknown):
                yield group
                continue
            there = [view for view in group.views if view.names]
            unclear = next((v for v in there if v.stored == "unknown"), None)
            apart = [v for v in there if v.stored in ("separate", "overlap")]
            one = [v for v in there if v.stored in ("storage", "copy")]
            alone = [v for v in there if v.stored == "absent"]
            if apart and (one or alone):
                yield self._draft(group, apart[0], (one or alone)[0])
            elif one and alone and group.declared is False:
                yield self._draft(group, one[0], alone[0])
            elif unclear is not None and len(there) > 1:
                yield Unknown(f"{listed(unclear.names)} in {unclear.file} were not compared: {unclear.reason}")

    @staticmethod
    def _draft(group: LayoutGroup, more: LayoutView, less: LayoutView) -> Draft:
        first = next(view for view in group.views if view.names)
        other = less if first is more else more
        gone = tuple(n for n in more.names if n not in less.names)
        end = (
            f" Nothing ties {listed(gone)} for whoever reads {less.file}: random there."
            if group.declared is False and gone and less.stored == "absent"
            else " What was trained apart is lost for whoever reads the one tensor."
        )
        return Draft(
            f"{more.file} {_says(more)}, and {less.file} {_says(less)}. transformers reads {first.file}; a loader "
            f"that takes {other.file} gets another model.{end}",
            group.names,
            (
                file_place(first.file, _says(first)),
                file_place(other.file, _says(other), "related"),
            ),
            edits=one_format(group),
        )

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.records.files import LayoutGroup, LayoutView
        from tiecheck.rules.cases import EMBEDDING, HEAD, PAIR

        single = LayoutView("model.safetensors", "absent", (EMBEDDING,), None)
        apart = LayoutView("pytorch_model.bin", "separate", PAIR, None)
        shared = apart._replace(stored="storage")
        group = LayoutGroup(PAIR, declared=True, views=(single, apart))
        yield Case("a head of its own in the pickle alone", {"layouts": (group,)}, finds=("warning",))
        both = single._replace(names=PAIR, stored="separate")
        yield Case(
            "one memory in the pickle, two tensors in safetensors",
            {"layouts": (group._replace(declared=None, views=(both, shared)),)},
            finds=("warning",),
        )
        untied = group._replace(declared=False, views=(single, shared))
        yield Case("safetensors lost the head, and no flag ties it", {"layouts": (untied,)}, finds=("warning",))
        yield Case("the two forms of every tied model", {"layouts": (group._replace(views=(single, shared)),)})
        copies = group._replace(views=(both._replace(stored="copy"), shared))
        yield Case("both names in both, equal", {"layouts": (copies,)})
        yield Case("untied in both", {"layouts": (group._replace(declared=False, views=(both, apart)),)})
        head = single._replace(file="pytorch_model.bin", names=(HEAD,))
        yield Case("each has another one of the two names", {"layouts": (group._replace(views=(single, head)),)})
        unread = apart._replace(stored="unknown", reason="not read")
        yield Case("bytes that were not read", {"layouts": (group._replace(views=(single, unread)),)}, unknown=True)
        yield Case("a pickle that cannot be read", {"layouts": (Unknown("broken"),)}, unknown=True)


def one_format(group: LayoutGroup) -> tuple[Edit, ...]:
    """Return the ways to keep one format and let go of the others."""
    files = [view.file for view in group.views]
    others = {kept: tuple(Step("drop-file", (file,)) for file in files if file != kept) for kept in files}
    return tuple(Edit(kept, f"{kept} has the right weights", False, steps) for kept, steps in others.items())


def _says(view: LayoutView) -> str:
    names = listed(view.names)
    return {
        "absent": f"stores {names} alone",
        "storage": f"stores {names} as one tensor",
        "copy": f"stores {names} with equal values",
    }.get(view.stored, f"stores {names} as different tensors")
