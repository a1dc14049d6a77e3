"""TIE502: what accelerate says of ties, and what transformers' planner does not hear of: real, or harmless and why."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tiecheck.records.edits import Edit, python_edit
from tiecheck.records.live import Alias, Head, LiveClass, Tie
from tiecheck.records.mending import Mending
from tiecheck.records.placement import Placement, Plan
from tiecheck.records.report import Location
from tiecheck.records.words import TIED, Unknown
from tiecheck.rules.base import Case, Draft, Rule, class_place
from tiecheck.rules.cases import EMBEDDING, HEAD, declared_tie, live_head, live_llama, live_tie
from tiecheck.rules.live.applied import NOT_TIED
from tiecheck.rules.live.mends import tie_again
from tiecheck.rules.placement.plans import (
    Loading,
    declare_edit,
    hurt_by_plans,
    is_split,
    loading_of,
    placed_pair,
    placing_facts,
    plain_plan,
    plan_title,
    tool_place,
)
from tiecheck.wording import listed, size

NO_MODULE = "The following device_map keys do not match any submodules in the model: "
"""accelerate 1.15 `check_device_map`, which `dispatch_model` and `from_pretrained` call; a list of the keys follows."""

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

    ## How to fix it
    Nothing, where it is harmless. Else call `model.tie_weights()`, or assign the weight, before the plan is made.
    """

    code = "TIE502"
    summary = "accelerate or transformers warns of a tie or plans without it; whether that is harmless"
    severity = "warning"
    messages = (NOT_TIED, NO_MODULE + "[...]")
    threads = (
        "allenai/OLMo#485 allenai/OLMo#503 huggingface/accelerate#1761 huggingface/accelerate#2984 "
        "huggingface/accelerate#1529 huggingface/accelerate#3049 huggingface/transformers#30001"
    )

    def check(  # noqa: PLR0913, PLR0917  # the facts that it wants
        self,
        placement: Placement,
        live_class: LiveClass,
        live_ties: tuple[Tie, ...],
        heads: tuple[Head, ...],
        aliases: tuple[Alias, ...],
        mending: Mending,
    ) -> Iterator[Draft | Unknown]:
        loading = loading_of(placement, live_class, mending.declared)
        tied = next((tie for tie in live_ties if tie.kind in TIED and not tie.buffer), None)
        accelerates = next((plan for plan in placement.plans if plan.tool == "accelerate"), None)
        logged = any(NOT_TIED in plan.logged for plan in placement.plans)
        if loading.broken and (logged or (accelerates is not None and tied is not None and live_class.library)):
            finds = "warns" if logged or tied is None else f"warns of nothing, since it finds {listed(tied.names)} tied"
            yield _broken(finds, placement, loading, mending)
        elif logged or (placement.warns and not loading.broken):
            yield _harmless(placement, live_class, tied, heads, aliases)
        for plan in placement.plans:
            yield from _unheard(plan)
            yield from _strange_keys(plan, placement, live_class, aliases)

    @staticmethod
    def cases() -> Iterator[Case]:
        logs, silent = plain_plan("accelerate", logged=(NOT_TIED,)), plain_plan("accelerate")
        functional = live_head(head=(EMBEDDING,), embedding=(EMBEDDING,), same=True)
        olmo = live_llama(ties=(), declared=(), heads=(functional,))
        yield Case("OLMo, MPT: the embedding is the head", placing_facts(logs, of=olmo), finds=("info",))
        slots, paths = ("model.ff_out.weight", "model.wte.weight"), ("model.ff_out", "model.wte")
        alias = Alias(paths, 2, "Embedding", siblings=True, names=slots)
        aliased = live_llama(ties=(live_tie(*slots, kind="module"),), aliases=(alias,))
        older = placing_facts(silent, of=aliased, warns=("0.20-0.33",))
        twice = placing_facts(logs, of=live_llama(ties=(), declared=(), heads=()))
        twice["live_class"] = twice["live_class"]._replace(twice=((EMBEDDING,),))
        yield Case("MPT, traced: one parameter, used twice", twice, finds=("info",))
        yield Case("an alias that older versions miss", older, finds=("info",))
        apart = live_llama(ties=(), declared=(declared_tie("separate"),))
        yield Case("really untied, and nothing ties it", placing_facts(logs, of=apart), finds=("warning",))
        late = apart._replace(origin="built on meta")
        ours = plain_plan(logged=(NOT_TIED,))
        yield Case("untied until from_pretrained ties it", placing_facts(ours, of=late), finds=("info",))
        lone = live_llama(ties=(), declared=(), heads=(live_head(head=(HEAD,), embedding=(EMBEDDING,)),))
        yield Case("a flag that nothing follows", placing_facts(logs, of=lone), finds=("info",))
        stored = apart._replace(declared=(declared_tie("separate", stored="separate"),))
        yield Case("stored apart and kept apart: no warning", placing_facts(silent, of=stored))
        yield Case("tied, and nobody warns", placing_facts())
        shared = ("model.layers.0.mlp.weight", "model.layers.1.mlp.weight")
        behind = apart._replace(ties=(live_tie(*shared),))
        yield Case("a broken head behind another tie", placing_facts(silent, of=behind), finds=("warning",))
        contract = behind._replace(declared=(declared_tie("separate", by=("tiecheck.toml",)),))
        yield Case("a group of the user's contract, of which no tool hears", placing_facts(silent, of=contract))
        yield Case("a plain module: accelerate never warns", placing_facts(silent, of=behind._replace(library=None)))
        yield Case("no other tie: accelerate warns, by its log", placing_facts(silent, of=apart))
        unheard = placed_pair(names=shared, declared=False, seen=False)
        yield Case(
            "an undeclared tie, together all the same", placing_facts(plain_plan("transformers", unheard)), ("info",)
        )
        large = plain_plan("transformers", unheard, counted={"cuda:0": 30000}, used={"cuda:0": 20000})
        yield Case("and counted apart", placing_facts(large), finds=("warning",))
        split = unheard._replace(devices=("cuda:0", "cuda:1"))
        yield Case("split: TIE501", placing_facts(plain_plan("transformers", split)))
        yield Case("no tie at all", placing_facts(plain_plan("transformers", unheard._replace(kind="copy"))))
        typo = plain_plan("given", logged=(f"{NO_MODULE}['model.embed_token']",))
        yield Case("a key that names nothing", placing_facts(typo), finds=("warning",))
        second = plain_plan("given", logged=(f"{NO_MODULE}['{paths[0]}', '{EMBEDDING}']",))
        yield Case("a key for an alias, and for a parameter", placing_facts(second, of=aliased))


def _broken(finds: str, placement: Placement, loading: Loading, mending: Mending) -> Draft:
    """Return what is said of groups that are really untied: harmless where `from_pretrained` ties them at the load."""
    names = tuple(sorted({name for group in loading.broken for name in group}))
    what = f"{listed(names)} are declared as one tensor and are {'two' if len(names) == 2 else 'several'}"
    place = (class_place(mending.class_name, f"{names[0]} is not {names[-1]}"),)
    if loading.loader == "transformers":
        message = f"{what}, which is harmless: from_pretrained ties them while it loads. accelerate {finds}."
        return Draft(message, names, place, severity="info", no_mend="from_pretrained needs none.")
    placed = {g.names: g for plan in placement.plans for g in plan.placed if g.names in loading.broken}
    extra = sum((group.nbytes or 0) * (len(group.names) - 1) for group in placed.values())
    more = f" They take {size(extra)} more than tied." if extra else ""
    broken = next(claim for claim in mending.declared if claim.names in loading.broken)
    plans = tuple(plan for plan in placement.plans if plan.tool == "accelerate")
    return Draft(
        f"{what}: accelerate plans, loads and moves them as different tensors, ties nothing, and {finds}.{more}",
        names,
        place,
        "It is to be done before the plan is made.",
        hurts=hurt_by_plans(plans, names) or None,
        edits=tie_again(broken, mending),
    )


def _harmless(
    placement: Placement, live_class: LiveClass, tied: Tie | None, heads: tuple[Head, ...], aliases: tuple[Alias, ...]
) -> Draft:
    """Return why the warning "not tied" of accelerate, or of a version of it, can be ignored."""
    ours = next((plan for plan in placement.plans if NOT_TIED in plan.logged), None)
    alias = next((alias for alias in aliases if alias.siblings), None)
    same = next((head for head in heads if head.same and len(head.head) == 1), None)
    apart = None if tied else next((head for head in heads if head.alike and not head.same), None)
    mends: tuple[Edit, ...] = ()
    if alias is not None:
        why = f"It is harmless: {listed(alias.paths)} are one module, which accelerate before 0.34 does not see"
        names = alias.names
    elif same is not None:
        why = f"It is harmless: get_output_embeddings() of {same.class_name} gives the embedding itself"
        names = same.head
    elif tied is not None:
        why, names = f"It is harmless: {listed(tied.names)} are one tensor, which these versions do not see", tied.names
    elif apart is not None:
        names = tuple(sorted({*apart.head[:1], *apart.embedding[:1]}))
        why = f"The flag says tied, {apart.class_name} declares no tie, and {listed(names)} are two tensors"
        mends = (declare_edit(names, "they are meant to be one tensor"),)
    else:
        why, names = "It is harmless: the model has one tensor for it under one name", ("config.tie_word_embeddings",)
    used = next((group for group in live_class.twice if not set(group).isdisjoint(names)), None)
    if used is None and why.endswith("under one name") and live_class.twice:
        used = names = live_class.twice[0]
        why = f"It is harmless: {listed(names)} {'is' if len(names) == 1 else 'are'} the one tensor for it"
    if used is not None and why.startswith("It is harmless"):
        why += ". A forward pass was traced: one parameter, used twice, as embedding and as head"
    versions = ours.version if ours else f"{', '.join(placement.warns)} (versions)"
    says = f'accelerate {versions} logs "The model weights are not tied". {why}.'
    reason = "nothing is wrong, and tie_weights does not make it go away."
    return Draft(
        says, names, (class_place(live_class.class_name, NOT_TIED),), severity="info", edits=mends, no_mend=reason
    )


def _unheard(plan: Plan) -> Iterator[Draft]:
    """Yield the real ties that transformers' planner does not hear of, and that its map keeps together all the same."""
    if plan.tool != "transformers" or plan.crash is not None:
        return
    twice = {name for double in plan.doubles for name in double.names}
    groups = [g for g in plan.placed if not g.seen and g.kind in TIED and not is_split(g) and twice.isdisjoint(g.names)]
    if not groups:
        return
    first = groups[0].names
    names = tuple(sorted({name for group in groups for name in group.names}))
    again = sum((group.nbytes or 0) * (len(group.names) - 1) for group in groups)
    over = min(sum(plan.counted.values()) - sum(plan.used.values()), again)
    large = over > 0 and over >= LARGE * sum(plan.used.values())
    counts = f" It counts {size(over)} for them that nothing takes." if large else ""
    kept = "keeps them together all the same; with less memory it may not"
    if any(group.kind == "parameter" for group in groups):
        kept = "keeps them together, but from_pretrained too ties only what is declared: it makes parameters apart"
    ties = f"a tie that the module has ({listed(first)})"
    if len(groups) > 1:
        ties = f"{len(groups)} ties that the module has ({listed(first)} among them)"
    yield Draft(
        f"{plan_title(plan)} knows only what is declared, and not {ties}. The map {kept}.{counts}",
        names,
        (tool_place(plan, f"{first[0]}: not declared"),),
        severity=None if large else "info",
        edits=(declare_edit(first),),
        hurts=hurt_by_plans((plan,), names) if large else None,
    )


def _strange_keys(
    plan: Plan, placement: Placement, live_class: LiveClass, aliases: tuple[Alias, ...]
) -> Iterator[Draft]:
    """Yield the keys of a given map that name no module, by accelerate's own warning; an alias and a tensor may."""
    lines = [line for line in plan.logged if plan.tool == "given" and line.startswith(NO_MODULE)]
    tensors = {name for group in plan.placed for name in group.names}
    paths = {path for alias in aliases for path in alias.paths}
    for key in (key for line in lines for key in ast.literal_eval(line.removeprefix(NO_MODULE))):
        inside = any(f"{key}.".startswith(f"{path}.") for path in paths)
        if not inside and key not in tensors and key.rpartition(".")[2] not in {"weight", "bias"}:
            yield Draft(
                f"The key {key!r} of the map matches no submodule of {live_class.class_name}, and places nothing: "
                "what it was meant for goes where a shorter key puts it, or nowhere.",
                (key,),
                (Location(placement.origin, None, None, "primary", f"the key {key!r}", "tool"),),
                "model.named_modules() has the paths that there are.",
                edits=(python_edit("dropped", "it is not needed", f"del device_map[{key!r}]"),),
            )
