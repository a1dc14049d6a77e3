"""Verdicts that came before: of directories whose names, config and headers are alike, and whose bytes answer alike.

What a check of files reads is seen by its account: the files that it opened, and the questions that it asked of the
bytes of tensors. Where it opened nothing but config, index and headers, its verdict follows from the names in the
directory, these texts, the options, and the answers. So a directory that is alike gets the same questions, and where it
gives the same answers the same verdict. One verdict is proof of nothing: it is used once two directories have had it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, NamedTuple

from tiecheck.config.options import Config
from tiecheck.engine.findings import finding_of_target
from tiecheck.errors import TargetError
from tiecheck.facts.registry import Facts
from tiecheck.files.checkpoint import INDEX_ENDING, pick_weights_file
from tiecheck.files.compare.equality import compare_bytes
from tiecheck.files.compare.reshaped import surely_apart
from tiecheck.files.limits import CONFIG_BYTES, JSON_BYTES, Account, ByteQuestion, target_account
from tiecheck.files.local import read_bytes
from tiecheck.files.model_config import CONFIG_NAME
from tiecheck.files.remote.repeated_headers import SMALL, RecentItems
from tiecheck.files.safetensors.header import read_header
from tiecheck.records.edits import WORK
from tiecheck.records.report import TargetReport
from tiecheck.records.stored import Checkpoint, Comparison
from tiecheck.targets.parse import Target

if TYPE_CHECKING:
    Reporting = Callable[[Target, Facts, Config], TargetReport]

KINDS = 512
"""Kinds of directories that are kept; a kind holds its texts, of `SMALL` bytes each at most."""

VERDICTS = 64
"""Verdicts of one kind that are kept, one for each answer that its bytes have given."""

APART = "apart"
"""The answer that members differ, where no finding says by how much."""

_COMPARE: Any = compare_bytes.__wrapped__  # type: ignore[attr-defined]


class _Verdict(NamedTuple):
    report: TargetReport
    proven: bool


class _Kind(NamedTuple):
    """Directories that are alike but for the bytes of their tensors."""

    files: tuple[str, ...]
    """Names of its weights, the very tuple that is kept for its key."""
    texts: tuple[bytes, ...]
    """Their headers."""
    checkpoint: Checkpoint
    """The weights of the first of them."""
    known: dict[tuple[Hashable, ...], ByteQuestion | _Verdict]
    """The answers so far -> the next question, or the verdict."""
    parts: dict[Hashable, tuple[Any, bool]]
    """Parts of their checks that hang on no byte (`made_once`)."""


class Sight(NamedTuple):
    """A directory as it was seen."""

    folder: str
    key: tuple[Hashable, ...]
    """Options, names and texts, but for the headers."""
    listed: bool
    """True where the names are those of an earlier list."""
    report: TargetReport | None
    """The verdict, where it is known already."""


_files: RecentItems[tuple[str, ...]] = RecentItems(KINDS)
_kinds: RecentItems[_Kind] = RecentItems(KINDS)


def look_at(folder: str, config: Config, account: Account) -> Sight | None:
    """Look at a directory as far as it takes to know a verdict again; None for a sort whose verdicts are not kept.

    It is listed, unless its account has the names: all that it held a moment ago, files alone.
    """
    account.held = {}
    names = account.names_of(folder)
    try:
        key = _key(folder, config, names)
        files = _files.find(key) if key is not None else None
        report = _report(folder, files) if files is not None else None
    except (OSError, EOFError, TargetError, ValueError):  # the check itself says what is wrong
        return None
    finally:
        for descriptor in account.held.values():
            os.close(descriptor)
        account.held = None
        account.opened.clear()
        account.questions.clear()
    return None if key is None else Sight(folder, key, names is not None, report)


def keep_verdict(
    sight: Sight, config: Config, checkpoint: Checkpoint | None, account: Account, report: TargetReport
) -> None:
    """Keep the verdict of a directory that was seen, by what its check has opened and asked, for another like it."""
    if checkpoint is None or checkpoint.format != "safetensors" or report.errors:
        return
    if any(os.path.basename(name) != name for name in checkpoint.missing_files):  # it may be there elsewhere
        return
    names = tuple(shard.path for shard in checkpoint.shards)
    read = {os.path.join(checkpoint.root, name) for name in (*names, CONFIG_NAME, checkpoint.index_file or CONFIG_NAME)}
    shards = sorted(path for path in account.opened if not path.endswith(".json"))
    if not read.issuperset(account.opened) or shards != sorted(os.path.join(checkpoint.root, name) for name in names):
        return
    questions = account.questions.copy()
    try:
        other = sight.listed and _key(sight.folder, config) != sight.key  # the list is older than the check
        texts, place = _headers(sight.folder, names)
    except (OSError, TargetError):
        return
    if other or max(map(len, texts)) > SMALL:
        return
    kind = _kind_of(sight.key, names, texts, place, checkpoint)
    answers: tuple[Hashable, ...] = ()
    for question in questions:
        if len(kind.known) >= VERDICTS and answers not in kind.known:
            return
        kind.known.setdefault(answers, question)
        answers = (*answers, _noted(question, report))
    before = kind.known.get(answers)
    same = isinstance(before, _Verdict) and _for_target(before.report, report.target) == report
    if before is None or same or isinstance(before, _Verdict):
        kind.known[answers] = _Verdict(report, same)


def _kind_of(
    key: Hashable, files: tuple[str, ...], texts: tuple[bytes, ...], place: Hashable, checkpoint: Checkpoint
) -> _Kind:
    """Return the kind that a directory is of, a new one where it is the first."""
    known = _files.find(key)
    if known != files:
        _files.put(key, known := files)
    kind = _kinds.find((id(known), place))
    if kind is None or kind.files is not known or kind.texts != texts:
        kind = _Kind(known, texts, checkpoint, {}, {})
        _kinds.put((id(known), place), kind)
    return kind


def once_for_twins(reporting: Reporting) -> Reporting:
    """Return what judges remote models of the same config and header once: no byte of a tensor is read of them."""

    def report_of(target: Target, facts: Facts, config: Config) -> TargetReport:
        shared = facts.shared
        if shared is None:
            return reporting(target, facts, config)
        key = f"verdict by {_options(config)}"
        before: _Verdict | None = shared.get(key)
        if before is not None and before.proven:
            return _for_target(before.report, target.text)._replace(remote=facts.known("remote"))
        report = reporting(target, facts, config)
        again = None if before is None else _for_target(before.report, target.text)._replace(remote=report.remote)
        if not report.errors:
            shared[key] = _Verdict(report, again == report)
        return report

    return report_of


def _options(config: Config) -> tuple[Hashable, ...]:
    return config.select, config.ignore, config.fail_on, config.strict, config.values, config.judge_for


def _key(folder: str, config: Config, names: frozenset[str] | None = None) -> tuple[Hashable, ...] | None:
    """Return what a verdict follows from beside the headers; None where more is read, or where a link may lead."""
    if config.wants_live or config.wants_rehearsal or config.ties or config.revision:
        return None
    names = _names(folder) if names is None else names
    if names is None or CONFIG_NAME not in names:
        return None
    path = f"{folder}{os.sep}{CONFIG_NAME}"
    text = read_bytes(path, path, CONFIG_BYTES)
    picked = pick_weights_file(names, folder)
    index = b""
    if picked is not None and picked.endswith(INDEX_ENDING):
        path = f"{folder}{os.sep}{picked}"
        index = read_bytes(path, path, JSON_BYTES)
    if picked is None or len(text) > SMALL or len(index) > SMALL:
        return None
    return (_options(config), names, text, index)


def _names(folder: str) -> frozenset[str] | None:
    """Return the names in a directory, folders with a slash behind; None where more is read than files."""
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if entry.is_file(follow_symlinks=False):
                names.append(name)
                continue
            if entry.is_symlink() or name == WORK:
                return None
            if "." not in name and os.path.lexists(os.path.join(entry.path, ".metadata")):
                return None
            names.append(f"{name}/")
    return frozenset(names)


def _headers(folder: str, names: tuple[str, ...]) -> tuple[tuple[bytes, ...], Hashable]:
    """Return the headers of some weights, and what tells most of them apart: sizes, lengths and ends."""
    found = [read_header(f"{folder}{os.sep}{name}") for name in names]
    return tuple([raw for raw, _ in found]), tuple([(size, len(raw), raw[-64:]) for raw, size in found])


def _report(folder: str, files: tuple[str, ...]) -> TargetReport | None:
    """Return the verdict of a directory by its headers and the answers of its bytes, where it is known and proven."""
    texts, place = _headers(folder, files)
    kind = _kinds.find((id(files), place))
    if kind is None or kind.files is not files or kind.texts != texts:
        return None
    target_account().parts = kind.parts
    checkpoint = kind.checkpoint._replace(root=folder)
    answers: tuple[Hashable, ...] = ()
    while (step := kind.known.get(answers)) is not None:
        if isinstance(step, _Verdict):
            return _for_target(step.report, folder) if step.proven else None
        answers = (*answers, _answer(step, checkpoint, answers, kind))
    return None


def _answer(question: ByteQuestion, checkpoint: Checkpoint, answers: tuple[Hashable, ...], kind: _Kind) -> Hashable:
    """Ask a question of another directory; rows of members that are surely apart are counted only where it matters."""
    if question.ask is _COMPARE and (*answers, APART) in kind.known and surely_apart(checkpoint, *question.args):
        return APART
    found: Hashable = question.ask(checkpoint, *question.args, **dict(question.named))
    target_account().answered.append((checkpoint.root, question, found))
    if _is_apart(found) and (*answers, APART) in kind.known:
        return APART
    return found


def _noted(question: ByteQuestion, report: TargetReport) -> Hashable:
    """Return the answer as it counts: the figures of a difference are told by findings alone."""
    return APART if not report.findings and _is_apart(question.answer) else question.answer


def _is_apart(answer: object) -> bool:
    return isinstance(answer, Comparison) and not answer.alike


def _for_target(report: TargetReport, target: str) -> TargetReport:
    """Return a report as that of another target."""
    found = tuple([finding_of_target(f, target) for f in report.findings]) if report.findings else ()
    return report._replace(target=target, findings=found)
