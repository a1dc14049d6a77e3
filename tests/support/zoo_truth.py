"""What transformers does with the saved directories of the zoo, held against tiecheck's word on the same files.

What `from_pretrained` really does is the truth; tiecheck's word must agree with it or be "unknown, because".
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from zoo import Animal, Names, flag_edits, tensor_edits, tied_model, written

import tiecheck
from tiecheck.records.report import Finding, TargetReport, TieEntry
from tiecheck.tables.architectures import load_architecture
from tiecheck.tables.generate.build import groups_of

Spellings = Mapping[str, tuple[str, ...]]


LOST = ("TIE102", "TIE103", "TIE104", "TIE105", "TIE110")
"""The rules that say that a member comes out random."""


TRUE_701 = {"FunnelForMaskedLM", "MT5ForConditionalGeneration"}
"""Classes whose own draw makes a tied head far too large: the measured logits of an untrained one deviate by 8."""


class Truth(NamedTuple):
    """What transformers does with a directory."""

    class_name: str
    """The class."""
    declared: set[Names]
    """Groups that the class ties under the config, by building it on meta."""
    real: set[Names]
    """Groups of the loaded model."""
    missing: set[str]
    """Names that loading made at random."""


def truth(model_class: Any, where: Path) -> Truth:
    """Build and load a directory as transformers does."""
    loaded, information = model_class.from_pretrained(where, output_loading_info=True, local_files_only=True)
    with torch.device("meta"):
        built = model_class(model_class.config_class.from_pretrained(where))
    return Truth(model_class.__name__, set(groups_of(built)), set(groups_of(loaded)), set(information["missing_keys"]))


def within(names: Names, groups: set[Names]) -> bool:
    """Whether all of some names are one tensor."""
    return any(set(names) <= set(group) for group in groups)


def wrong_entries(report: TargetReport, real: Truth) -> Iterator[str]:
    """Entries that say what is not so, and real ties that no entry has."""
    for entry in report.ties:
        if entry.kind in ("module", "parameter") and not within(entry.names, real.declared):
            yield f"{entry.names} are said to be tied ({entry.kind}) and are not"
        if entry.declared is not None and entry.declared != within(entry.names, real.declared):
            yield f"{entry.names} are said to be declared {entry.declared}"
    said = {name for entry in report.ties for name in entry.names}
    if report.status != "unknown":
        yield from (f"{group} is tied and no entry says so" for group in real.real if not set(group) & said)


def wrong_findings(report: TargetReport, real: Truth, spellings: Spellings) -> Iterator[str]:
    """Findings that are not true, and lost members that nothing was said about."""
    for finding in report.findings:
        if finding.code == "TIE315":  # what stands apart is no group of the report
            if finding.severity != "info" or within(finding.names, real.real):
                yield f"{finding.code} is not true: {finding.message}"
            continue
        of_older = finding.hurts == ("transformers 4.57",)  # tests/differential/test_older_line.py
        if finding.code in {"TIE206", "TIE207"} and of_older:
            if finding.severity != "info":
                yield f"{finding.code} is not true: {finding.message}"
            continue
        entry = next((e for e in report.ties if set(finding.names) & {*e.names, *e.stored_names}), None)
        if entry is None or not is_true(finding, entry, real, spellings):
            yield f"{finding.code} is not true: {finding.message}"
    told = {name for finding in report.findings if finding.code in LOST for name in finding.names}
    for entry in report.ties:
        lost = real.missing & set(entry.names)
        if lost and entry.stored_names and not lost & told and not is_unknown(entry):
            yield f"{sorted(lost)} are random, and nothing was said"


def is_unknown(entry: TieEntry) -> bool:
    """Whether an entry says that something about it could not be told, and why."""
    return (entry.declared is None or entry.stored == "unknown") and entry.reason is not None


def is_true(finding: Finding, entry: TieEntry, real: Truth, spellings: Spellings) -> bool:
    """Whether transformers bears a finding out."""
    tied, held = within(entry.names, real.declared), within(entry.names, real.real)
    if finding.code == "TIE701":
        return finding.severity == "info" or real.class_name in TRUE_701
    if finding.code == "TIE102":
        lost = {n for n in entry.names if not {n, *spellings.get(n, ())} & set(entry.stored_names)}
        return not tied and lost <= real.missing
    if finding.code in ("TIE103", "TIE104", "TIE105"):  # what 4.57 does is looked at in tests/peers
        return ("transformers 5" in (finding.hurts or ())) == bool(real.missing & set(entry.names))
    if finding.code == "TIE111":
        return tied and held and not {*spellings.get(source_of(entry, real), ())} & set(entry.stored_names)
    truths = {"TIE101": tied and not held, "TIE106": tied and held, "TIE107": tied and held, "TIE109": not tied}
    truths["TIE110"] = tied and real.missing & set(entry.names) != set()
    return truths[finding.code]


def source_of(entry: TieEntry, real: Truth) -> str:
    """The name that the class ties the others of an entry to."""
    known = load_architecture(real.class_name, None)
    return next((tie.source for tie in known.ties if tie.names == entry.names), entry.names[-1])


def judged(where: Path, one: Animal, *, live: bool = False) -> tuple[TargetReport, list[str]]:
    """The report on a directory, and what is wrong with it by what transformers does."""
    real = truth(one.model_class, where)
    (report,) = tiecheck.check(where, live=live).targets
    found = [f"error: {error.message}" for error in report.errors]
    spellings = spelled(where)
    found += [*wrong_entries(report, real), *wrong_findings(report, real, spellings)]
    return report, found


def spelled(where: Path) -> Spellings:
    """Name -> the other names under which the class finds it in a file, as the table has it."""
    config = json.loads((where / "config.json").read_text())
    known = load_architecture(config["architectures"][0], config.get("model_type"), config=config)
    return {name: tie.spellings.get(name, ()) for tie in known.ties for name in tie.names}


def untouched(one: Animal, model: Any, where: Path) -> Iterator[str]:
    """What is wrong with the reports on a model as it is, and on what it saves."""
    ties = set(groups_of(model))
    said = {tie.names for tie in tiecheck.find_ties(model, cap=10_000)}
    if said != ties:
        yield f"find_ties differs: {said ^ ties}"
    with torch.device("meta"):
        meta = type(model)(copy.deepcopy(model.config))
    for name, module in (("module", model), ("meta", meta)):
        loud = [f for f in tiecheck.check(module).findings if f.severity != "info"]
        yield from (f"{name}: {f.message}" for f in loud if f.code != "TIE701" or type(model).__name__ not in TRUE_701)
    model.save_pretrained(where)
    for live in (False, True):
        yield from (f"{'live' if live else 'files'}: {words}" for words in judged(where, one, live=live)[1])


def changed(one: Animal, where: Path, edits: Callable[[str, str], bool]) -> Iterator[tuple[str, list[str], bool]]:
    """Every change of a saved model: its name, what is wrong with the report, and whether something was unknown."""
    model = tied_model(one)
    groups = sorted(groups_of(model))[:6]
    model.save_pretrained(where)
    config = json.loads((where / "config.json").read_text())
    for content, tensors in tensor_edits(load_file(where / "model.safetensors"), groups):
        save_file(tensors, where / "model.safetensors", metadata={"format": "pt"})
        for words, flags in flag_edits(one.levels):
            if edits(content, words):
                (where / "config.json").write_text(json.dumps(written(config, flags)))
                report, found = judged(where, one)
                yield f"{content}, {words}", found, any(is_unknown(entry) for entry in report.ties)
