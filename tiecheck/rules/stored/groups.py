"""Readings of a group for the rules on stored groups: who declares it, where it is stored, what could not be told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from tiecheck.records.declared import VENDOR_FLAG, Flag
from tiecheck.records.loaders import LoaderView
from tiecheck.records.report import Confidence, Location, Severity
from tiecheck.records.stored import Comparison, Group
from tiecheck.records.words import DISCARDED, RANDOM, Unknown
from tiecheck.rules.base import Role, file_place
from tiecheck.wording import listed, verb_form

Cause = Literal["levels", "silent", "meaning"]
"""Reasons to disagree on a group: flags at several levels, a default that differs, a false that means two things."""

WORDS = {
    "tied": "one tensor, nothing lost",
    "kept-apart": "each member as it is stored",
    "head-discarded": "the stored head is thrown away",
    "member-discarded": "a stored member is thrown away",
    "head-random": "the head comes out random",
    "embedding-random": "the embedding comes out random",
    "member-random": "a member comes out as in a new model",
    "crash": "it fails",
    "unknown": "not known",
}
"""Meaning of each outcome to somebody who loads the checkpoint."""


def views_of(group: Group, loaders: tuple[LoaderView, ...]) -> tuple[LoaderView, ...]:
    """Return what the loaders make of one group, of those that come to it: what ends a whole load is TIE206's kin."""
    return tuple(view for view in loaders if view.names == group.names and not view.stopped)


def losing_views(views: tuple[LoaderView, ...]) -> tuple[LoaderView, ...]:
    """The loaders in which something is lost."""
    return tuple(view for view in views if view.hurts)


def loses_silently(views: tuple[LoaderView, ...]) -> bool:
    """Tell whether a loader throws a stored member away, or makes one at random, and goes on."""
    return any(view.outcome in DISCARDED | RANDOM for view in views)


def view_titles(views: tuple[LoaderView, ...]) -> str:
    """The loaders in a sentence."""
    return listed(tuple(dict.fromkeys(view.title for view in views)))


def why_disputed(views: tuple[LoaderView, ...]) -> Cause | None:
    """Return the reason why only some loaders tie a group; None where they agree, or where no flag is behind it.

    Loaders that read no flag at all are left out, but for those that tie against a false and throw something away.
    Where every transformers takes the group alike and loses something, that it is lost is the news, and not that
    another does not.
    """
    asked = [view for view in views if view.ties is not None and view.reads is not None]
    if len({view.ties for view in asked}) < 2:
        deaf = any(view.ties and view.reads is None and view.outcome in DISCARDED for view in views)
        return "meaning" if deaf and {(view.value, view.ties) for view in asked} == {(False, False)} else None
    own = [view for view in asked if view.loader == "transformers"]
    if own and all(view.hurts for view in own) and len({view.ties for view in own}) == 1:
        return None
    said = {view.value for view in asked}
    if len(said) > 1:
        return "levels"
    (value,) = said
    return "silent" if value is None else "meaning" if value is False else None


def spoken_for(views: tuple[LoaderView, ...]) -> bool:
    """Return True where TIE103 to TIE105 have the group: they name the cause, a rule on tensors the effect."""
    return why_disputed(views) is not None and bool(losing_views(views))


def endings_text(failing: tuple[LoaderView, ...]) -> str:
    """Tell how each loader ends, those that end alike together."""
    alike: dict[str, list[LoaderView]] = {}
    for view in failing:
        said = view.message or WORDS[view.outcome]
        alike.setdefault(said if said.endswith("...") else said.rstrip("."), []).append(view)
    return " ".join(f"{view_titles(tuple(held))}: {message}." for message, held in alike.items())


def fates_text(views: tuple[LoaderView, ...], lost: str) -> str:
    """Who throws the head away and who keeps both; what is not known of a loader is not said."""
    thrown = tuple(v for v in views if v.outcome in DISCARDED)
    apart = tuple(v for v in views if v.outcome == "kept-apart")
    failing = tuple(v for v in views if v.outcome == "crash")
    parts = []
    if thrown:
        parts.append(f"{view_titles(thrown)} {verb_form('throw', len(thrown) > 1)} {lost} away without a word")
    if apart:
        five = any(v.title == "transformers 5" for v in apart)
        warns = (
            ", untied, and transformers 5 warns" if five and len(apart) > 1 else ", untied, and warns" if five else ""
        )
        parts.append(f"{view_titles(apart)} {verb_form('keep', len(apart) > 1)} both{warns}")
        if not thrown:
            parts.append("any later tie_weights() or resize_token_embeddings() ties them, and one is lost")
    if failing:
        parts.append(f"{view_titles(failing)} {verb_form('fail', len(failing) > 1)}")
    if not parts and any(view.loader == "transformers" for view in views):
        return "What loads it is not known: the code of its class decides."
    return "; ".join(parts) + "." if parts else ""  # something else ends the load, and is told


def lost_in_part(views: tuple[LoaderView, ...], lost: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of some members that are thrown away, where 4.57 ties a part of a group and says which (T5's)."""
    told = {view.lost for view in views if view.outcome in DISCARDED}
    return tuple(name for name in lost if len(told) == 1 and name in next(iter(told))) or lost


def readings_text(views: tuple[LoaderView, ...]) -> str:
    """Who reads which flag and what comes of it, a sentence for each reading."""
    alike: dict[tuple[str | None, bool | None, bool | None, str], list[LoaderView]] = {}
    for view in views:
        if view.ties is not None:
            named = view.message if view.outcome == "member-discarded" else None
            alike.setdefault((view.reads, view.value, view.ties, named or WORDS[view.outcome]), []).append(view)
    sentences = []
    nested = any("." in (reads or "") for reads, *_ in alike)
    for (reads, value, ties, ending), held in alike.items():
        what = {None: "not set", True: "true", False: "false"}[value]
        many = len({view.title for view in held}) > 1
        level = "the top-level " if nested and reads and "." not in reads else ""
        asks = f"{verb_form('read', many)} {level}{reads} ({what})" if reads else f"{verb_form('ask', many)} no flag"
        does = verb_form("tie", many) if ties else f"{'do' if many else 'does'} not tie"
        sentences.append(f"{view_titles(tuple(held))} {asks} and {does}: {ending}.")
    return " ".join(sentences)


def severity_of(views: tuple[LoaderView, ...]) -> Severity | None:
    """An error where the current transformers loses something; else the rule's own severity."""
    return "error" if any(v.hurts and (v.loader, v.versions) == ("transformers", "5") for v in views) else None


def reads_alike(views: tuple[LoaderView, ...]) -> bool:
    """Return True where all loaders that read a flag take it alike, so that only those that read none stand apart."""
    return len({view.ties for view in views if view.ties is not None and view.reads is not None}) == 1


def _config_of(flag: Flag) -> str:
    return "params.json" if flag.key == VENDOR_FLAG else "config.json"


def flag_places(flags: tuple[Flag, ...], views: tuple[LoaderView, ...], group: Group) -> tuple[Location, ...]:
    """The lines of the flags that the loaders read; the config itself where none is written."""
    read = {view.reads for view in views}
    there = [flag for flag in flags if flag.dotted in read]
    if not there:
        return (declaration_place(group),)
    return tuple(
        file_place(
            _config_of(flag),
            f"{flag.dotted} is {str(flag.value).lower()}",
            "related" if i else "primary",
            line=flag.line,
            column=flag.column,
        )
        for i, flag in enumerate(there)
    )


def uncompared_reasons(group: Group, *, tied: bool) -> Iterator[Unknown]:
    """A group whose stored members could not be compared, for the rules that hang on it."""
    if group.stored == "unknown" and len(group.stored_names) > 1 and bool(group.declared) == tied:
        yield Unknown(f"{listed(group.stored_names)} were not compared: {group.reason}")


def tied_by_intent(group: Group) -> bool:
    """Declared as tied, and not merely forced by the class against a flag that says otherwise (T5's false)."""
    return group.declared is True and not (group.flag is not None and group.flag.value is False)


def fit_text(group: Group) -> str:
    """Tell how the stored members fit in another form, transposed, padded or cast, as the end of a sentence."""
    if group.relation is None or not group.reason:
        return ""
    return f" ({group.reason.partition(': ')[2] or group.reason})"


def guess_confidence(group: Group) -> Confidence:
    """Medium for a group that was guessed from names and shapes."""
    return "medium" if group.inferred else "high"


def flag_word(group: Group) -> str:
    """Return the value of the deciding flag, in words."""
    return "false" if group.flag is not None and group.flag.value is False else "true"


def flag_name(group: Group) -> str:
    """The flag that decides, with its level, written or not."""
    return group.flag.dotted if group.flag else ".".join((*group.level, group.key))


def declarer_text(group: Group) -> str:
    """Who declares the group, as the beginning of a sentence that goes on with "that"."""
    if not group.declared_by:
        return "the names suggest"
    by = group.declared_by[0]
    return f"{by}, declares" if by.endswith("says") else f"{by} says"


def one_tensor_text(group: Group) -> str:
    """Tell who takes the names of a group for one tensor, as the end of a sentence that begins with them."""
    if group.inert:
        return "are one tensor in transformers 4.57"
    return "are declared as one tensor" if group.declared_by else "seem to be one tensor by their names"


def main_member(group: Group) -> str | None:
    """The stored name that the others are tied to; the first where that one is not stored."""
    there = [tensor.name for tensor in group.tensors]
    if group.source in there:
        return group.source
    ends = [name for name in there if group.source is not None and name.endswith(group.source.rpartition(".")[0])]
    return ends[0] if ends else there[-1] if there else None


def flags_to_set(group: Group, views: tuple[LoaderView, ...]) -> frozenset[str]:
    """Return every flag that some loader reads for the group: one alone would leave the others to disagree."""
    return frozenset({flag_name(group), *flags_read(views)})


def flags_read(views: tuple[LoaderView, ...]) -> frozenset[str]:
    """Return the flags that loaders read where they tell whether they tie."""
    return frozenset(view.reads for view in views if view.reads is not None and view.ties is not None)


def declaration_place(group: Group, role: Role = "primary") -> Location:
    """Return the place of the declaration: the flag's line, or the config that does not say."""
    if group.flag:
        note = f"{group.flag.dotted} is {flag_word(group)}"
        return file_place(_config_of(group.flag), note, role, line=group.flag.line, column=group.flag.column)
    note = group.declared_by[0] if group.declared_by else "nothing is said about tying"
    return file_place("config.json", note, role)


def stored_places(group: Group, *, primary: bool = False) -> tuple[Location, ...]:
    """Where each stored member lies."""
    return tuple(
        file_place(
            tensor.file,
            f"{tensor.name}, {tensor.dtype} {list(tensor.shape)}",
            "primary" if primary and i == 0 else "related",
        )
        for i, tensor in enumerate(group.tensors)
    )


def rows_text(comparison: Comparison) -> str:
    """Tell how many rows differ, where, and by how much."""
    return _which_rows(comparison) + _how_far(comparison)


def _which_rows(comparison: Comparison) -> str:
    if comparison.rows_differ is None:
        return "their bytes differ"
    of = f"of {comparison.rows:,} rows"
    if comparison.rows_compared < comparison.rows:
        return f"{comparison.rows_differ:,} of the {comparison.rows_compared:,} rows compared differ ({of[3:]} in all)"
    tail = comparison.first_row is not None and comparison.last_row == comparison.rows - 1
    if tail and comparison.first_row and comparison.rows_differ == comparison.rows - comparison.first_row:
        return (
            f"only the last {comparison.rows_differ:,} {of} differ, from row {comparison.first_row:,} on, as after "
            "adding tokens"
        )
    return f"{comparison.rows_differ:,} {of} differ"


def _how_far(comparison: Comparison) -> str:
    """Tell the largest difference, and over how many rows it was looked for where that is not all of them."""
    odd = ", and NaN or infinity stands on one side alone" if comparison.nonfinite else ""
    if comparison.max_difference is None:
        return odd
    far = f"{comparison.max_difference:.3g}"
    measured = comparison.rows_measured
    if measured == comparison.rows_differ:
        return f", by up to {far}{odd}"
    return (
        f", by up to {far} in the {measured:,} of them that were measured" if measured else f", by {far} or more"
    ) + odd
