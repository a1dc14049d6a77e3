"""TIE502: what accelerate says of ties, and what transformers' planner does not hear of: real, or harmless and why."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tiecheck.records.live import LiveModel
from tiecheck.records.placement import Placed, Placement, Plan
from tiecheck.records.report import Location
from tiecheck.records.words import TIED, Unknown
from tiecheck.rules.base import Case, Draft, Rule
from tiecheck.rules.live.applied import NOT_TIED
from tiecheck.rules.live.precedence import retie_code
from tiecheck.rules.placement.plans import (
    NO_MODULE,
    broken_groups,
    how_to_declare,
    hurt_by_plans,
    is_bound,
    is_split,
    natural_loader,
    plan_title,
    version_words,
)
from tiecheck.wording import listed, size

LARGE = 0.1
"""From this share of a model's bytes on, memory counted apart is worth a warning."""


class TieInvisibleToLoader(Rule):
    """A tool warns of a tie, or would have to, or plans without it; and whether that is harmless.

    ## What it does
    Says what is behind accelerate's "The model weights are not tied": a tie that it cannot see (one module under two
    paths, or an embedding that is used as the head), which is harmless and a note, or declared members that really are
    different parameters. Finds broken groups of which accelerate says nothing because it finds another tie, real ties
    that transformers' planner does not hear of since nobody declares them, and keys of a given map that name no module.

    ## Why it is bad
    A false warning teaches people to ignore the true one. Where the group really is untied and nothing ties it at the
    load, the head is planned, loaded and trained apart, or stays random.

    ## How to mend it
    Nothing, where it is harmless. Else call `model.tie_weights()`, or assign the weight, before the plan is made.
    """

    code = "TIE502"
    name = "tie-invisible-to-loader"
    summary = "accelerate or transformers warns of a tie or plans without it; whether that is harmless"
    severity = "warning"
    messages = (NOT_TIED, NO_MODULE + "[...]")
    threads = (
        "allenai/OLMo#485",
        "allenai/OLMo#503",
        "huggingface/accelerate#1761",
        "huggingface/accelerate#2984",
        "huggingface/accelerate#1529",
        "huggingface/accelerate#3049",
        "huggingface/transformers#30001",
    )

    def check(self, placement: Placement, live: LiveModel) -> Iterator[Draft | Unknown]:
        yield from _not_tied_warning(placement, live)
        yield from _unwarned_groups(placement, live)
        yield from _unheard_ties(placement, live)
        yield from _strange_keys(placement, live)

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.rules.placement.cases import unseen_cases

        yield from unseen_cases()


def _not_tied_warning(placement: Placement, live: LiveModel) -> Iterator[Draft]:
    """Yield the warning "not tied" of accelerate, where a version of it would log it, with what is behind it."""
    ours = next((plan for plan in placement.plans if NOT_TIED in plan.logged), None)
    if ours is None and not placement.warns:
        return
    versions = f"accelerate {ours.version}" if ours else f"accelerate {version_words(placement.warns)}"
    says = f'{versions} {"logs" if ours else "log"} "The model weights are not tied"'
    apart = broken_groups(live)
    if apart and ours is None:
        return  # _unwarned_groups() tells what the installed one does not
    if apart:
        yield _untied(f"{says}, and it is right", apart, placement, live)
        return
    why, names = _harmless(live)
    yield Draft(
        f"{says}. {why}",
        names,
        (Location(live.class_name, None, None, "primary", NOT_TIED, "class"),),
        "Nothing has to be done; calling tie_weights() does not make it go away."
        if _settled(live)
        else f"If {listed(names)} are meant to be one tensor, declare it in the class's _tied_weights_keys.",
        severity="info",
    )


def _unwarned_groups(placement: Placement, live: LiveModel) -> Iterator[Draft]:
    """Broken groups of which accelerate says nothing, since it finds another tie and looks no further."""
    apart = broken_groups(live)
    plan = next((plan for plan in placement.plans if plan.tool == "accelerate"), None)
    found = next((tie for tie in live.ties if tie.kind in TIED and not tie.buffer), None)
    if not apart or plan is None or NOT_TIED in plan.logged or found is None or live.library is None:
        return
    says = f"accelerate {plan.version} warns of nothing here, since it finds another tie ({listed(found.names)})"
    yield _untied(f"{says}: it warns only where there is none at all", apart, placement, live)


def _untied(says: str, apart: tuple[tuple[str, ...], ...], placement: Placement, live: LiveModel) -> Draft:
    """Groups that are really untied: harmless where `from_pretrained` ties them before the model is used."""
    names = tuple(sorted({name for group in apart for name in group}))
    what = f"{listed(names)} are declared as one tensor and are {'two' if len(names) == 2 else 'several'}"
    places = (Location(live.class_name, None, None, "primary", f"{names[0]} is not {names[-1]}", "class"),)
    if natural_loader(placement, live) == "transformers":
        message = f"{says}. {what}, which is harmless: from_pretrained ties them while it loads, and plans by itself."
        return Draft(message, names, places, "Nothing has to be done with from_pretrained.", severity="info")
    sizes = {group.names: _again(group) for plan in placement.plans for group in plan.placed if group.names in apart}
    more = f" They take {size(sum(sizes.values()))} more than tied." if any(sizes.values()) else ""
    mends = "; ".join(retie_code(claim, live) for claim in live.declared if claim.names in apart)
    message = f"{says}. {what}: accelerate plans, loads and moves them as different tensors, and ties nothing.{more}"
    plans = tuple(plan for plan in placement.plans if plan.tool == "accelerate")
    return Draft(
        message, names, places, f"Before the plan is made: {mends}.", hurts=hurt_by_plans(plans, names) or None
    )


def _settled(live: LiveModel) -> bool:
    """Return whether the head is the embedding, one way or the other."""
    tied = any(tie.kind in TIED and not tie.buffer for tie in live.ties)
    return tied or not any(head.alike and not head.same for head in live.heads)


def _harmless(live: LiveModel) -> tuple[str, tuple[str, ...]]:
    """Return why the warning can be ignored, and the names it is about."""
    for alias in live.aliases:
        if alias.siblings:
            paths = " and ".join(alias.paths[:2])
            why = f"It is harmless: {paths} are one module, which accelerate before 0.34 does not see. The tie holds."
            return why, alias.names
    head = next((head for head in live.heads if head.same), None)
    if head is not None and len(head.head) == 1:
        why = (
            f"It is harmless: get_output_embeddings() of {head.class_name} gives the embedding itself. "
            f"{head.head[0]} is one parameter under one name, so there are no two names to be found tied."
        )
        return why, head.head
    tied = next((tie for tie in live.ties if tie.kind in TIED and not tie.buffer), None)
    if tied is not None:
        return f"It is harmless: {listed(tied.names)} are one tensor, which these versions do not see.", tied.names
    head = next((head for head in live.heads if head.alike and not head.same), None)
    if head is not None:
        names = tuple(sorted({*head.head[:1], *head.embedding[:1]}))
        why = f"The flag says tied, {head.class_name} declares no tie, and {listed(names)} are two tensors: "
        return f"{why}nothing will tie them, and accelerate treats them as what they are.", names
    why = "It is harmless: the flag says tied, and the model has one tensor for it under one name, used twice."
    return why, ("config.tie_word_embeddings",)


def _unheard_ties(placement: Placement, live: LiveModel) -> Iterator[Draft]:
    """Real ties that transformers' planner does not hear of, and that its map keeps together all the same."""
    for plan in placement.plans:
        if plan.tool != "transformers" or plan.crash is not None:
            continue
        twice = {name for double in plan.doubles for name in double.names}
        groups = [g for g in plan.placed if not g.seen and is_bound(g, plan, placement, live) and g.kind in TIED]
        groups = [g for g in groups if not is_split(g) and twice.isdisjoint(g.names)]
        if groups:
            yield _unheard(plan, groups)


def _unheard(plan: Plan, groups: list[Placed]) -> Draft:
    first = groups[0]
    names = tuple(sorted({name for group in groups for name in group.names}))
    ties = "a tie" if len(groups) == 1 else f"{len(groups)} ties"
    which = listed(first.names) if len(groups) == 1 else f"{listed(first.names)} among them"
    over = min(sum(plan.counted.values()) - sum(plan.used.values()), sum(_again(group) for group in groups))
    large = over > 0 and over >= LARGE * sum(plan.used.values())
    apart = f" It counts {size(over)} for them that nothing takes." if large else ""
    them = "it" if len(groups) == 1 else "them"
    kept = f"keeps {them} together all the same; with less memory it may not"
    if any(group.kind == "parameter" for group in groups):
        kept = f"keeps {them} together, but from_pretrained too ties only what is declared: it makes parameters apart"
    return Draft(
        f"{plan_title(plan)} knows only what is declared, and not {ties} that the module has ({which}). "
        f"The map {kept}.{apart}",
        names,
        (Location(f"transformers {plan.version}", None, None, "primary", f"{first.names[0]}: not declared", "tool"),),
        f"{how_to_declare(first.names)}.",
        severity=None if large else "info",
        hurts=hurt_by_plans((plan,), names) if large else None,
    )


def _again(group: Placed) -> int:
    return (group.nbytes or 0) * (len(group.names) - 1)


def _strange_keys(placement: Placement, live: LiveModel) -> Iterator[Draft]:
    """Keys of a given map of which accelerate says that they match no submodule: an alias's path, or nothing."""
    logged = [line for plan in placement.plans if plan.tool == "given" for line in plan.logged]
    for line in logged:
        if not line.startswith(NO_MODULE):
            continue
        for key in _keys(line):
            draft = _stranger(key, placement, live)
            if draft is not None:
                yield draft


def _keys(line: str) -> tuple[str, ...]:
    """Return the keys that the warning lists; none where it is written otherwise."""
    try:
        return tuple(str(key) for key in ast.literal_eval(line.removeprefix(NO_MODULE).strip()))
    except (ValueError, SyntaxError, TypeError):
        return ()


def _stranger(key: str, placement: Placement, live: LiveModel) -> Draft | None:
    alias = next((a for a in live.aliases if any(key == path or key.startswith(path + ".") for path in a.paths)), None)
    at = (Location(placement.origin, None, None, "primary", f"the key {key!r}", "tool"),)
    if alias is not None:
        others = listed(tuple(path for path in alias.paths if path != key))
        return Draft(
            f"accelerate warns that the key {key!r} of the map matches no submodule. It is harmless: it is another "
            f"path of {others}, one module, which named_modules() lists once. Where no shorter key covers that path, "
            "accelerate refuses the map without it.",
            alias.names,
            at,
            "Nothing has to be done; keep the key.",
            severity="info",
        )
    given = (group.names for plan in placement.plans if plan.tool == "given" for group in plan.placed)
    if key.rpartition(".")[2] in {"weight", "bias"} or any(key in names for names in given):
        return None  # a parameter's own name, which a map may have and the planners write themselves
    return Draft(
        f"The key {key!r} of the map matches no submodule of {live.class_name}, and places nothing: what it was meant "
        "for goes where a shorter key puts it, or nowhere.",
        (key,),
        at,
        "Write the module's own path, as model.named_modules() gives it, or leave the key out.",
    )
