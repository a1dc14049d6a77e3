"""TIE1xx: members that cannot be one tensor, by their shape or dtype."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.loaders import LoaderView
from tiecheck.records.stored import Comparison, Group
from tiecheck.records.words import Unknown
from tiecheck.rules.base import Case, Draft, Rule
from tiecheck.rules.stored.groups import (
    declaration_place,
    declarer_text,
    fit_text,
    flags_to_set,
    losing_views,
    stored_places,
    tied_by_intent,
    views_of,
)
from tiecheck.wording import listed

_CAST = "The loader casts before it compares, so that the dtype asked for decides whether they are tied."


def _only_wider(group: Group, dtypes: set[str]) -> bool:
    """Tell whether one member is the other in float64, to which no loader casts: all that load it get equal values."""
    return "float64" in dtypes and group.relation is not None and group.relation.alike


class TiedShapeMismatch(Rule):
    """The group is declared as tied, and its members are stored in different shapes or dtypes.

    ## What it does
    Finds groups that the class ties as whole tensors and whose stored members differ in shape (an error) or only in
    dtype (a warning).

    ## Why it is bad
    One tensor has one shape. transformers refuses to load members of different shapes ("size mismatch"); other
    loaders keep the first and drop the rest, or read past the vocabulary. The usual causes are rows that padding
    or added tokens gave to one side only, and a draft model's smaller vocabulary under a flag that is true. With
    different dtypes the loader casts before it compares, so that the dtype you ask for decides whether it ties.

    ## How to fix it
    Give both members one row a token: trim the padding, or resize with `model.resize_token_embeddings(n)` and save
    again, so that the rows and the config's `vocab_size` agree. Turn a transposed matrix back. Of two dtypes delete the
    cast copy; casting it up again makes two different tensors of one (TIE101).
    """

    code = "TIE108"
    summary = "declared tied, stored in different shapes or dtypes: the loader fails or mixes them up"
    severity = "error"
    messages = ("size mismatch for lm_head.weight", "aten::equal: attempted to run this operator with Meta tensors")
    threads = ("sgl-project/SpecForge#139", "NVIDIA-NeMo/Megatron-Bridge#625", "huggingface/transformers#46835")

    def check(self, groups: tuple[Group, ...], loaders: tuple[LoaderView, ...]) -> Iterator[Draft | Unknown]:
        for group in groups:
            if not tied_by_intent(group) or group.inferred or group.misfit or len(group.tensors) < 2:
                continue
            shapes = {tensor.shape for tensor in group.tensors}
            dtypes = {tensor.dtype for tensor in group.tensors}
            if len(shapes) == len(dtypes) == 1:
                continue
            views = views_of(group, loaders)
            what = "shapes" if len(shapes) > 1 else "dtypes"
            forms = ", ".join(f"{t.name} {list(t.shape)} {t.dtype}" for t in group.tensors)
            from tiecheck.rules.stored.fixes import shape_edits

            yield Draft(
                f"{declarer_text(group)} that {listed(group.names)} are one tensor, but they are stored in different "
                f"{what}: "
                f"{forms}{fit_text(group)}. " + ("transformers refuses to load them." if len(shapes) > 1 else _CAST),
                group.stored_names,
                (*stored_places(group, primary=True), declaration_place(group, "related")),
                severity=None if len(shapes) > 1 else "info" if _only_wider(group, dtypes) else "warning",
                hurts=losing_views(views) or None,
                edits=shape_edits(group, groups, flags_to_set(group, views)),
                no_mend="none of them has the shape that the config builds; load the model where it is whole, give it "
                "one row a token with resize_token_embeddings, and save it again.",
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.rules.cases import EMBEDDING, HEAD, PAIR, group_facts, llama_group, stored_tensor

        both = llama_group(stored=PAIR)._replace(stored="separate", reason="the members differ in shape or dtype")
        padded = both._replace(tensors=(stored_tensor(HEAD, (128, 16)), stored_tensor(EMBEDDING, (136, 16))))
        yield Case("eight rows of padding on one side", group_facts(padded), finds=("error",))
        cast = both._replace(tensors=(stored_tensor(HEAD), stored_tensor(EMBEDDING)._replace(dtype="bfloat16")))
        yield Case("another dtype", group_facts(cast), finds=("warning",))
        exact = Comparison(True, 128, 0, 128, None, None, constant=False, form="cast")
        wide = (stored_tensor(HEAD), stored_tensor(EMBEDDING)._replace(dtype="float64"))
        wider = both._replace(relation=exact, tensors=wide)
        yield Case("the same values in float64", group_facts(wider), finds=("info",))
        yield Case("different on purpose", group_facts(padded._replace(declared=False)))
        yield Case("alike in both", group_facts(both))
        yield Case("stored once", group_facts(llama_group()))
