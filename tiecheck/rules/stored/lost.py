"""TIE1xx: what is stored against what is declared, where a tensor is lost or ends up wrong.

Needs headers and config, and bytes where two members are stored. `copies.py` has the rules on equal copies.
"""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.loaders import LoaderView
from tiecheck.records.stored import Group
from tiecheck.records.words import DISCARDED, RANDOM, Unknown
from tiecheck.rules.base import Case, Draft, Rule
from tiecheck.rules.stored.groups import (
    declaration_place,
    endings_text,
    fates_text,
    fit_text,
    flag_name,
    flag_word,
    flags_to_set,
    guess_confidence,
    losing_views,
    lost_in_part,
    one_tensor_text,
    rows_text,
    severity_of,
    spoken_for,
    stored_places,
    tied_by_intent,
    uncompared_reasons,
    view_titles,
    views_of,
    why_disputed,
)
from tiecheck.wording import listed, pronoun_for, verb_form


class TrainedHeadDiscarded(Rule):
    """The config ties head and embedding, and the checkpoint stores two different tensors for them.

    ## What it does
    Finds groups that config or class declare as tied, whose members are all stored and whose bytes differ. It
    says how many rows differ, and whether only the last ones do, as after adding tokens.

    ## Why it is bad
    Loaders do different things with such a checkpoint. transformers 4.57 ties, and throws the stored head away
    without a word; so do engines that skip `lm_head` whenever the flag is true. transformers 5 compares the
    values, keeps both untied, and logs a warning; but any later `tie_weights()` or `resize_token_embeddings()`
    ties them again, and `save_pretrained` keeps the flag. Where no loader that is known loses a member yet, it is a
    warning. The model that was trained is not the one that is served: fluent gibberish, repeated tokens, a worse score.

    ## How to fix it
    Find out which copy is right: "differs" does not say. After full fine-tuning, or after merging an adapter
    that trained the head, both are: set `tie_word_embeddings` to false, at the level the finding names, and keep
    both tensors. Where the second tensor is left over from a conversion, delete it from the checkpoint.
    """

    code = "TIE101"
    summary = "declared tied, stored as different tensors: some loaders throw one away"
    severity = "error"
    messages = (
        "The tied weights mapping and config for this model specifies to tie",
        "but both are present in the checkpoints with different values, so we will NOT tie them",
    )
    threads = (
        "huggingface/transformers#42612 huggingface/transformers#45127 vllm-project/vllm#51063 "
        "vllm-project/vllm#51665 huggingface/peft#2777 Lightning-AI/litgpt#1727"
    )

    def check(self, groups: tuple[Group, ...], loaders: tuple[LoaderView, ...]) -> Iterator[Draft | Unknown]:
        for group in groups:
            views = views_of(group, loaders)
            yield from uncompared_reasons(group, tied=True)
            if group.declared is None and not group.inferred and group.stored == "separate":
                yield Unknown(f"the stored values differ, and who decides is not clear: {group.reason}")
            # a tie of 4.57's alone (Qwen2-Audio), or a false that the class does not heed
            against = group.inert or (group.declared is True and not tied_by_intent(group))
            if not (tied_by_intent(group) or (against and any(_throws_away(view) for view in views))):
                continue
            if group.stored != "separate" or group.comparison is None or spoken_for(views):
                continue
            if why_disputed(views) is not None and not any(view.outcome in DISCARDED for view in views):
                continue  # nobody throws anything away; that the flags disagree is TIE103's to say
            kept = group.source if group.source in group.names else group.names[-1]
            others = tuple(n for n in group.names if n != kept and n not in group.missing)
            lost = lost_in_part(views, others)
            fates = fates_text(views, listed(lost))
            from tiecheck.rules.stored.fixes import apart_or_one

            yield Draft(
                f"{listed(group.names)} {one_tensor_text(group)}, but stored with different values: "
                f"{rows_text(group.comparison)}{fit_text(group)}.{fates and ' '}{fates}",
                group.stored_names,
                (declaration_place(group), *stored_places(group)),
                "No flag keeps them apart everywhere, since the class ties whatever it says." if group.forced else "",
                # The own code of a class may read the flag in its own way; and where nobody loses a member, it is one
                # that the next tie_weights() loses.
                severity=None if losing_views(views) and not group.inferred else "warning",
                confidence=guess_confidence(group),
                hurts=losing_views(views) or None,
                edits=apart_or_one(group, groups, flags_to_set(group, views), stay=set(others) - set(lost)),
                no_mend="the tensor that the others are tied to is not stored under its name, and which of these is "
                "the right one the files do not tell; save the model again from where it is whole.",
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.rules.cases import PAIR, group_facts, llama_group, row_comparison, tie_flag

        differ = row_comparison(rows_differ=128, first=0)
        separate = llama_group(stored=PAIR)._replace(stored="separate", comparison=differ)
        yield Case("both stored and different", group_facts(separate), finds=("error",))
        tail = separate._replace(comparison=row_comparison(rows_differ=3, first=125))
        yield Case("only the rows of three added tokens differ", group_facts(tail), finds=("error",))
        guessed = separate._replace(inferred=True, kind=None)
        yield Case("the same by names, in a class nobody knows", group_facts(guessed), finds=("warning",))
        yield Case("tied and stored once", group_facts(llama_group()))
        yield Case(
            "untied on purpose",
            group_facts(llama_group(value=False, stored=PAIR)._replace(stored="separate", comparison=differ)),
        )
        forced = separate._replace(flag=tie_flag(False), forced=True)
        head_apart = forced._replace(declared=False, forced=False)  # 4.57 reads T5's false as it stands
        yield Case("T5's false, which means that logits are not scaled", group_facts(forced, older=(head_apart,)))
        yield Case("a false that 4.57 does not heed either", group_facts(forced), finds=("error",))
        shapes = separate._replace(comparison=None, reason="the members differ in shape or dtype")
        yield Case("different shapes are another rule's matter", group_facts(shapes))
        unread = separate._replace(stored="unknown", comparison=None, reason="not read")
        yield Case("bytes that were not read", group_facts(unread), unknown=True)
        unclear = separate._replace(declared=None, reason="two flags disagree")
        yield Case("nobody knows which flag decides", group_facts(unclear), unknown=True)


def _throws_away(view: LoaderView) -> bool:
    """Return True where a loader that was run ties the group and throws a stored member away."""
    return view.checked != "source" and view.outcome in DISCARDED


class TiedMemberLost(Rule):
    """A member of a group is not stored, and nothing the loader reads ties it to one that is.

    ## What it does
    Finds groups that the class can tie, of which a member is missing in the checkpoint while the config, or the
    class's default, says that they are not tied. Also those stored whole under names that a transformers does not
    look for: 4.57 adds or strips the base model's prefix for the whole file, 5 for each name.

    ## Why it is bad
    The missing tensor is filled at random: gibberish, or logits that are nearly uniform. transformers says so
    in one line of its load report and speaks of training, not of tying; other loaders leave zeros and say
    nothing.

    ## How to fix it
    If the model was trained tied, the flag was lost on the way: set `tie_word_embeddings` to true at the level
    the finding names. If it was trained untied, the tensor was lost: save the model again, with the head.
    """

    code = "TIE102"
    summary = "a member is not stored and nothing ties it: a random or zero head"
    severity = "error"
    confidence = "medium"
    messages = (
        "were not initialized from the model checkpoint ... and are newly initialized: ['lm_head.weight']",
        "lm_head.weight | MISSING",
    )
    threads = (
        "huggingface/transformers#43429 huggingface/transformers#44931 huggingface/transformers#47620 "
        "vllm-project/vllm#53020 GradientHQ/parallax#444 huggingface/transformers#31467"
    )

    def check(self, groups: tuple[Group, ...], loaders: tuple[LoaderView, ...]) -> Iterator[Draft | Unknown]:
        for group in groups:
            if group.misfit:
                yield Unknown(f"{listed(group.stored_names)}: {group.reason}")
            if group.declared is False and not group.missing:
                yield from _unseen(group, tuple(v for v in views_of(group, loaders) if v.outcome in RANDOM))
            if group.inferred or not group.missing or group.stored == "unknown":
                continue
            nothing = not group.stored_names
            if nothing and not group.anchored:
                yield Unknown(
                    f"none of {listed(group.names)} is stored under a name that is known (another class's checkpoint, "
                    "or names with a prefix?)"
                )
            elif group.declared is None:
                yield Unknown(f"{listed(group.missing)}: not stored, and who decides is not clear: {group.reason}")
            views = views_of(group, loaders)
            if group.declared is not False or (nothing and not group.anchored):
                continue
            if spoken_for(views) and not nothing:
                continue
            if any(view.outcome == "kept-apart" and view.versions == "5" for view in views):
                continue  # a bias that nothing reads
            lost = listed(group.missing)
            verb = "is" if len(group.missing) == 1 else "are"
            why = (
                "the class has no tie for it, whatever the flag says"
                if group.inert or group.declared_by[0].endswith("whatever the flag says")
                else f"{group.declared_by[0]} is {flag_word(group)}"
                if group.flag
                else f"the config does not set {flag_name(group)}, and the class does not tie by default"
            )
            from tiecheck.rules.stored.fixes import every_member, one_tensor

            new = "as in a new model" if all(name.endswith(".bias") for name in group.missing) else "random"
            yield Draft(
                f"{lost} {verb} not stored, and {why}: nothing ties {pronoun_for(group.missing)} to "
                f"{listed(group.stored_names) if group.stored_names else 'anything'}, so "
                f"{'it comes' if len(group.missing) == 1 else 'they come'} out {new}.{_elsewhere(views)}",
                group.names,
                (declaration_place(group), *stored_places(group)),
                _remedy(group, lost),
                hurts=losing_views(views) or None,
                edits=every_member(group) if group.inert else one_tensor(group, groups, flags_to_set(group, views)),
                no_mend=_why_lost(group),
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.rules.cases import EMBEDDING, HEAD, PAIR, group_facts, llama_group, loader_view, tie_flag

        apart = llama_group(value=False, stored=PAIR)._replace(stored="separate")
        random = loader_view("transformers", "embedding-random", versions="4.57", checked="run")

        yield Case("flag false, head not stored", group_facts(llama_group(value=False)), finds=("error",))
        yield Case(
            "flag absent, default untied, head not stored", group_facts(llama_group(value=None)), finds=("error",)
        )
        yield Case(
            "flag false, embedding not stored", group_facts(llama_group(value=False, stored=(HEAD,))), finds=("error",)
        )
        yield Case(
            "both stored, under names that 4.57 does not look for",
            {"groups": (apart,), "loaders": (random,)},
            finds=("warning",),
        )
        yield Case("tied and stored once", group_facts(llama_group()))
        yield Case("tied and stored under the head's name", group_facts(llama_group(stored=(HEAD,))))
        yield Case(
            "untied and both stored", group_facts(llama_group(value=False, stored=PAIR)._replace(stored="separate"))
        )
        forced = llama_group(stored=(EMBEDDING,))._replace(flag=tie_flag(False), forced=True)
        yield Case("T5's false: the class ties all the same", group_facts(forced))
        stray = llama_group(value=False)._replace(strays=("output.weight",))
        yield Case("the head has a name that is nobody's", group_facts(stray), finds=("error",))
        inert = llama_group(value=True)._replace(declared=False, flag=None, inert=True)
        yield Case(
            "a class that lost its tie on the way to 5", group_facts(inert, older=(llama_group(),)), finds=("error",)
        )
        unclear = llama_group()._replace(declared=None, declared_by=(), reason="the flags are at other levels")
        yield Case("nobody knows which flag decides", group_facts(unclear), unknown=True)
        prefixed = llama_group(stored=())
        yield Case("every name has a prefix that nobody knows", group_facts(prefixed), unknown=True)
        packed = llama_group(value=False)._replace(stored="unknown", reason="lm_head is stored as lm_head.qweight")
        yield Case("the head is stored quantised, under other names", group_facts(packed))
        kept = (loader_view("transformers", "kept-apart", versions="5", checked="run"),)
        yield Case("a bias that nothing reads", {"groups": (llama_group(value=False),), "loaders": kept})
        yield Case("a class without a head", group_facts())


def _unseen(group: Group, random: tuple[LoaderView, ...]) -> Iterator[Draft]:
    """Yield a group that is stored whole, under names that a transformers does not look for."""
    random = tuple(view for view in random if view.loader == "transformers")
    if random:
        from tiecheck.rules.stored.fixes import once_prefixed

        ends = endings_text(random)
        yield Draft(
            f"{listed(group.stored_names)} are stored, but not under the names that every loader looks for. {ends}",
            group.names,
            (declaration_place(group), *stored_places(group)),
            severity=severity_of(random) or "warning",
            hurts=random,
            edits=once_prefixed(group),
            no_mend="the values are there, under other names; save the model again with save_pretrained.",
        )


def _remedy(group: Group, lost: str) -> str:
    """Tell what else gets the lost member back."""
    if group.inert:
        return "No flag helps here; transformers 4.57 loads it as it is."
    if group.strays:
        return ""
    return f"If it was trained untied, the values of {lost} are lost: they are in none of these files."


def _why_lost(group: Group) -> str:
    """Tell why no flag brings a lost member back."""
    if not group.stored_names:
        return "nothing of the group is stored; save the model again from where it is whole."
    if group.inert:
        return "the stored names are not those of the class."
    return "the flag that would tie it ties others as well, which differ, or the stored name is not the one it needs."


def _elsewhere(views: tuple[LoaderView, ...]) -> str:
    """Name the loaders that tie it all the same, so that the checkpoint works there."""
    fine = tuple(v for v in views if v.outcome == "tied")
    return f" {view_titles(fine)} {verb_form('tie', len(fine) > 1)} it all the same." if fine else ""
