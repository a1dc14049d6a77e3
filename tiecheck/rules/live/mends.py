"""The mends of the live rules as edits: Python for the model as its user holds it, and the code that its class needs.

Which values win is the user's to say wherever two differ: each is an alternative of its own, by the name that is kept,
and never by the order in which a contract lists its names.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from tiecheck.records.edits import Edit, Step, python_edit, source_step
from tiecheck.records.hops import Route
from tiecheck.records.live import Candidate, DeclaredTie, Head, KeyProblem, Tie
from tiecheck.records.mending import Mending
from tiecheck.records.words import TIED
from tiecheck.rules.base import Draft
from tiecheck.wording import cause_of, counted, listed

FLAG = "config.tie_word_embeddings"

FIXED = "the flag of the class cannot say that they are apart: a save and a load make it true."
"""Reason for which a group cannot be untied."""

FSDP2 = "FSDP2"
PEFT = "PEFT"

HOLDERS = (FSDP2, "FSDP", "DeepSpeed", "DistributedDataParallel", PEFT)
"""Wrappers that keep parameters of their own, or those that they saw when they were made: mended before."""


def model_path(mending: Mending, name: str = "") -> str:
    """Return a name as the user's Python reaches and assigns it."""
    return Route(mending.hops, mending.keyed).to(name)


def tie_again(claim: DeclaredTie, mending: Mending) -> tuple[Edit, ...]:
    """Return the ways out of a declared group that is not one parameter: each member's values kept, or none tied."""
    data = [part for part, device in zip(claim.parts, claim.devices, strict=False) if device != "meta"]
    fitting = [part for part in data or claim.parts if set(part).isdisjoint(claim.unfit)]
    by_class, alike = claim_flag(claim) is not None, claim.kind == "copy" or len(data) == 1 < len(claim.parts)
    parts = sorted(fitting or claim.parts, key=lambda part: (not (by_class and claim.source in part), part))
    holder = " or ".join(title for title in HOLDERS if title in mending.wrappers) or None
    if FSDP2 in mending.wrappers:
        return (sharded_together(Route(mending.hops, mending.keyed), claim.names),)
    mending = mending._replace(hops=tuple(hop for hop in mending.hops if hop.title not in HOLDERS))
    edits = []
    for part in parts[:1] if alike else parts:
        kept = claim.source if claim.source in part else part[0]
        choice = "tied" if by_class and part == parts[0] else kept
        when = _when(None if alike else f"the values of {kept} are right", holder)
        edits.append(python_edit(choice, when, *_tying_lines(claim, mending, kept), safe=alike))
    return (*edits, *_untied(claim, mending, holder), *_listening(mending))


def norm_off(layer: str, *, old: bool) -> str:
    """Return the statement that takes a weight norm off a layer: the older one by hooks, or a parametrization."""
    if old:
        return f"torch.nn.utils.remove_weight_norm({layer})"
    return f'torch.nn.utils.parametrize.remove_parametrizations({layer}, "weight")'


def own_tensors(mending: Mending, names: Iterable[str]) -> tuple[str, ...]:
    """Return the lines that give names a tensor of their own, with their values; an aliased module becomes a copy."""
    aliased = {name for alias in mending.aliases for name in alias.names}
    paths = dict.fromkeys(model_path(mending, n.rpartition(".")[0] if n in aliased else n) for n in names)
    lines = tuple(f"{path} = copy.deepcopy({path})" for path in paths)
    return ("import copy", *lines) if lines else ()


def untying_edits(
    mending: Mending, names: tuple[str, ...], when: str, parted: tuple[str, ...] = (), choice: str = "untied"
) -> tuple[Edit, ...]:
    """Return the way to two parameters of a group: by class the flag says so too, for all that it ties.

    `parted` get a tensor of their own; where there are none, all but one of those that are one.
    """
    claim = next((c for c in mending.declared if not set(c.names).isdisjoint(names)), None)
    if claim is None:
        return (python_edit(choice, when, *own_tensors(mending, parted or names[1:])),)
    flag = claim_flag(claim)
    if flag in mending.fixed:
        return ()
    alike = [c for c in mending.declared if flag and claim_flag(c) == flag] or [claim]
    parts = [part for c in alike for part in c.parts if not (c is claim and parted)]
    heads = {c.source for c in alike}
    own = [name for part in parts for name in part if name != next((n for n in part if n in heads), part[0])]
    if not parted:  # what was tied beside the members that are declared, as a wrapped head is
        parted = tuple(name for name in names if not any(name in c.names for c in alike))
    lines = own_tensors(mending, (*parted, *own))
    return (python_edit(choice, when, *lines, *((f"{model_path(mending, flag)} = False",) if flag else ())),)


def claim_flag(claim: DeclaredTie) -> str | None:
    """Return the flag that makes a group tied, from the module on; None for a contract's."""
    return next((word for word in claim.by if word.endswith(FLAG)), None)


def source_edits(problems: Iterable[KeyProblem]) -> tuple[Edit, ...]:
    """Return the one change of a class's code that ends all of some problems; none where one cannot be written down."""
    steps: list[Step] = []
    for problem in problems:
        method = "__init__" if problem.form == "uninitialised" else None
        out = problem.wanted is None and problem.form in ("signature", "inert")
        if problem.wanted is None and not out:
            return ()
        steps.append(source_step(problem.class_name, problem.wanted, problem.written, method=method))
    return (Edit("source", None, True, tuple(dict.fromkeys(steps))),) if steps else ()


def idle_methods(mending: Mending) -> list[KeyProblem]:
    """Return the classes whose `tie_weights` does nothing, so that no call of it ties."""
    return [problem for problem in mending.problems if problem.form == "inert"]


def idle_words(mending: Mending) -> str:
    """Return why no call of a method that does nothing ties."""
    names = tuple(problem.class_name for problem in idle_methods(mending))
    return f" {listed(names)}.tie_weights does nothing, so that no call of it ties." if names else ""


def _listening(mending: Mending) -> tuple[Edit, ...]:
    """Return the change of a class whose `tie_weights` does nothing: then each load ties by itself."""
    return tuple(edit._replace(when="the class is yours to change") for edit in source_edits(idle_methods(mending)))


def _when(*conditions: str | None) -> str | None:
    """Join a decision and the wrapper that has to wait."""
    decision, holder = conditions
    wait = f"the model is not wrapped by {holder} yet" if holder else None
    return " and ".join(filter(None, (decision, wait))) or None


def _tying_lines(claim: DeclaredTie, mending: Mending, kept: str) -> Iterator[str]:
    """Yield the lines that tie a group to one of its names: the model's own method where that does it."""
    flag = claim_flag(claim) or ""
    path, owner, source = flag.removesuffix(FLAG).removesuffix("."), flag.rpartition(".")[0], model_path(mending, kept)
    deaf = any(problem.model == path and problem.form in ("inert", "signature", "list") for problem in mending.problems)
    biases = [name for name in claim.biases if name.rpartition(".")[0] != kept.rpartition(".")[0]]
    if kept in claim.buffers or biases:
        yield "import torch"
    if kept in claim.buffers:
        yield f"{source} = torch.nn.Parameter({source})"
    if flag and kept == claim.source and not deaf:
        yield f"{model_path(mending, path)}.tie_weights()"
    else:
        held = next(part for part in claim.parts if kept in part)
        yield from (f"{model_path(mending, name)} = {source}" for name in claim.names if name not in held)
    for bias in (f"{model_path(mending, name)}.data" for name in biases):
        yield f"{bias} = torch.nn.functional.pad({bias}, (0, len({source}) - len({bias})))"
    if flag and len(set(claim.shapes)) > 1:
        yield f"{model_path(mending, owner)}.get_text_config().vocab_size = len({source})"


def _untied(claim: DeclaredTie, mending: Mending, holder: str | None) -> tuple[Edit, ...]:
    """Return the way to leave the members apart, where a flag says that they are."""
    if claim_flag(claim) is None or "meta" in claim.devices or len(set(claim.shapes)) > 1:
        return ()
    return untying_edits(mending, claim.names, _when("they are meant to be apart", holder) or "")


def sharded_together(route: Route, names: tuple[str, ...]) -> Edit:
    """Return what FSDP2 wants of a tie: its modules in one group. What was sharded apart cannot be put together."""
    owners = dict.fromkeys(route.to(name.rpartition(".")[0]) for name in names)
    lines = ("from torch.distributed.fsdp import fully_shard", f"fully_shard([{', '.join(owners)}])")
    return python_edit("tied", "the model is made again and no part of it is sharded yet", *lines)


def against_flag(mending: Mending, candidates: Iterable[Candidate]) -> Iterator[Candidate]:
    """Yield groups that the class could tie, under a flag that is false and stays so through a save and a load."""
    claimed = {name for claim in mending.declared for name in claim.names}
    for one in candidates:
        if one.flag is False and one.reloaded is not True and claimed.isdisjoint(one.names):
            yield one


def saved_as_one(tie: Tie, names: Iterable[str]) -> bool:
    """Return True if a tie holds two or more of some names; frozen tensors over one memory are saved as one too."""
    frozen = tie.kind == "storage" and tie.device != "meta" and not any(tie.requires_grad)
    return (tie.kind in TIED or frozen) and len({*tie.names} & {*names}) > 1


def of_one_cause(ties: Iterable[Tie], lost: Iterable[Candidate] = ()) -> Iterable[list[Tie]]:
    """Return the ties that share memory alone, those of one cause together; of the lost ones another rule speaks."""
    alike: dict[tuple[object, ...], list[Tie]] = {}
    spoken = [one.names for one in lost]
    for tie in ties:
        if tie.kind == "storage" and not tie.buffer and not any(saved_as_one(tie, names) for names in spoken):
            key = tie.device == "meta", any(tie.requires_grad), tie.alike, tie.lent, cause_of(tie.names)
            alike.setdefault(key, []).append(tie)
    return alike.values()


def shared_object_edits(mending: Mending, tie: Tie, normed: list[str]) -> tuple[Edit, ...]:
    """Return the way to one object over the memory; none where one member is the other's transpose."""
    if normed:
        owner, old = normed[0].removesuffix(".parametrizations.weight.original1"), normed[0].endswith("weight_v")
        layer = model_path(mending, owner.removesuffix(".weight_v"))
        plain = next((name for name in tie.names if name not in normed), tie.names[-1])
        lines = ("import torch", norm_off(layer, old=old), f"{layer}.weight = {model_path(mending, plain)}")
        return (python_edit("tied", "the norm is not wanted", *lines, safe=False),)
    if not tie.alike:
        return ()
    kept = next((claim.source for claim in mending.declared if claim.source in tie.names), tie.names[-1])
    others = (name for name in tie.names if name != kept)
    return (python_edit("tied", None, *(f"{model_path(mending, n)} = {model_path(mending, kept)}" for n in others)),)


def joined_drafts(drafts: list[Draft]) -> Draft:
    """Return ties of one cause as one finding with all of their names, and the fixes of all."""
    first = drafts[0]
    if len(drafts) == 1:
        return first
    codes = [step.code or "" for draft in drafts for edit in draft.edits[:1] for step in edit.steps]
    edits = first.edits[:1] if codes else ()
    if codes:
        lines = list(dict.fromkeys(line for code in codes for line in code.splitlines()))
        edits = (python_edit(first.edits[0].choice, first.edits[0].when, *lines, safe=first.edits[0].safe),)
    return first._replace(
        message=f"{first.message} The same cause has {counted(len(drafts) - 1, 'more group')}.",
        names=tuple(sorted(name for draft in drafts for name in draft.names)),
        edits=edits,
    )


def joined_declarations(declarations: list[str]) -> str | None:
    """Return one declaration with the keys of several; None where one of them is no plain mapping."""
    keys: dict[str, str] = {}
    for text in declarations:
        try:
            keys |= ast.literal_eval(text.partition("=")[2].strip())
        except (ValueError, SyntaxError, TypeError):
            return None
    return f"_tied_weights_keys = {keys!r}"


BROKEN = ("copy", "separate", "overlap")


def speaking_rule(claim: DeclaredTie, declared: tuple[DeclaredTie, ...], heads: tuple[Head, ...]) -> str | None:
    """Return the code of the one rule that reports a declared group; None where the group is not broken.

    Where one cause fits several rules, the more precise one speaks: half on meta, half tied, a bias out of step with
    its weight, a head tied to an embedding that was replaced, and last that the tie is not applied.
    """
    lent = claim.kind == "storage" and 0 < len(claim.buffers) < len(claim.names)  # else storage-only-tie speaks
    if (claim.kind not in BROKEN and not lent) or claim.stored == "separate":
        return None  # a loader that keeps apart what is stored apart is right; the checkpoint is TIE101's matter
    if "meta" in claim.devices and set(claim.devices) - {"meta", "offloaded"}:
        return "TIE314"
    if len(claim.names) > 2 and any(len(part) > 1 for part in claim.parts):
        return "TIE307"
    if follows_weight(claim, declared):
        return "TIE308"
    return "TIE306" if why_stale(claim, heads) else "TIE301"


def follows_weight(claim: DeclaredTie, declared: tuple[DeclaredTie, ...]) -> bool:
    """Tell whether a group is of biases, one of which stands beside a weight that is declared tied as well."""
    if not all(name.rpartition(".")[2].endswith("bias") for name in claim.names):
        return False
    owners = {name.rpartition(".")[0] for name in claim.names}
    weights = {name for other in declared for name in other.names if name.endswith("weight")}
    return any(weight.rpartition(".")[0] in owners for weight in weights)


def why_stale(claim: DeclaredTie, heads: tuple[Head, ...]) -> str | None:
    """Return why a broken group looks like a tie to an embedding that was replaced; None where nothing says so."""
    two = [shape for shape in claim.shapes if shape is not None and len(shape) == 2]
    if len(two) > 1 and len(set(two)) > 1 and claim.reason is None:  # a transposed copy was never tied
        return "they have different shapes: " + " and ".join(str(list(shape)) for shape in dict.fromkeys(two))
    for head in heads:
        others = set(head.head) - set(claim.names)
        if set(head.head) & set(claim.names) and others and set(head.embedding) & set(claim.names):
            return f"the head is one tensor with {min(others)}"
    return None


def parts_text(claim: DeclaredTie) -> str:
    """Return the members as they fall apart."""
    return "; ".join(" = ".join(part) for part in claim.parts[:4])
