"""The zoo: real classes of transformers, built tiny, saved, changed and loaded again.

What `from_pretrained` really does with the files is the ground truth; tiecheck's word on the same files must agree
with it or be "unknown, because". `tests/benchmarks/bench_zoo.py` prints the table of a whole run.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import tiecheck
from tiecheck.records.report import Finding, TargetReport, TieEntry
from tiecheck.tables.architectures import load_architecture
from tiecheck.tables.generate.build import build, config_of, groups_of
from tiecheck.tables.generate.classes import Candidate, candidates, load_config_class, resolve
from tiecheck.tables.generate.configs import FLAG, Level, at, filled, flagged, levels, owners, shrink, silent_dict
from tiecheck.tables.generate.head_scale import tiny

pytestmark = pytest.mark.filterwarnings("ignore")

LARGEST = 10_000_000
"""Parameters of the largest model that is worth building."""

VOCABULARY = re.compile(r"vocab_size$|_token_id$|_token_index$")

Names = tuple[str, ...]
Spellings = Mapping[str, tuple[str, ...]]
Tensors = dict[str, torch.Tensor]

LOST = ("TIE102", "TIE103", "TIE104", "TIE105", "TIE110")
"""The rules that say that a member comes out random."""

TRUE_701 = {"FunnelForMaskedLM", "MT5ForConditionalGeneration"}
"""Classes whose own draw makes a tied head far too large: the measured logits of an untrained one deviate by 8."""


class Animal(NamedTuple):
    """A class with a config dict that builds it small."""

    model_class: Any
    config_class: Any
    data: dict[str, Any]
    levels: tuple[Level, ...]

    def model(self, value: bool | None = None) -> Any:
        """A model with its own draw; the flag as the class has it, or one value at every level."""
        torch.manual_seed(0)
        flags = {} if value is None else dict.fromkeys(self.levels, value)
        return self.model_class(config_of(self.model_class, self.config_class, flagged(self.data, flags)))


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


def animal(candidate: Candidate) -> Animal:
    """A class as small as its config lets it be; raises what the last try raised."""
    model_class, config_class = resolve(candidate)
    config = config_class()
    full = silent_dict(config)
    why: Exception = RuntimeError("too large")
    tries: tuple[Callable[[dict[str, Any]], dict[str, Any]], ...] = (
        lambda data: tiny(data, config, 64, 4),
        lambda data: tiny(data, config, 256, 4),
        lambda data: few_words(data, config),
    )
    for data in (full, filled(full, config)):
        for smaller in tries:
            small = smaller(data)
            try:
                size = sum(p.numel() for p in build(model_class, config_class, small).parameters())
            except Exception as error:  # noqa: BLE001 - a tiny config is a guess, and a class may refuse it in any way
                why = error
                continue
            if size <= LARGEST:
                return Animal(model_class, config_class, small, ((), *levels(config)))
            why = RuntimeError(f"{size:,} parameters")
    raise why


def few_words(data: dict[str, Any], config: Any) -> dict[str, Any]:
    """A config dict with few layers and few words, its widths kept."""
    small = shrink(data, config, 2)
    for level, owner in owners(config):
        for name, value in owner.to_dict().items():
            if VOCABULARY.search(name) and type(value) is int and value > 160:
                at(small, level)[name] = 160 if name.endswith("size") else 1
    return small


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


def tied_model(one: Animal) -> Any:
    """A model of the class with as many ties as its flags allow."""
    found = None
    for value in (None, True):
        model = one.model(value)
        if found is None or len(groups_of(model)) > len(groups_of(found)):
            found = model
    return found


def flag_edits(where: tuple[Level, ...]) -> Iterator[tuple[str, dict[Level, bool | None]]]:
    """Ways to write the flags anew; None takes one away."""
    gone: dict[Level, bool | None] = dict.fromkeys(where)
    yield "as saved", {}
    yield "true", {(): True}
    yield "false", {(): False}
    yield "gone", gone
    for level in where[1:]:
        name = ".".join(level)
        for value in (True, False):
            yield f"{name} {value}", gone | {level: value}
            yield f"{name} {value}, top {not value}", gone | {level: value, (): not value}


def tensor_edits(base: Tensors, groups: list[Names]) -> Iterator[tuple[str, Tensors]]:
    """Ways to write the members of tied groups anew; the names that are in the file show which member is stored."""
    yield "as saved", base
    stored = {group: next((name for name in group if name in base), None) for group in groups}
    there = {group: name for group, name in stored.items() if name is not None}
    others = {group: [n for n in group if n != name] for group, name in there.items()}
    yield (
        "source dropped",
        {k: v for k, v in base.items() if k not in there.values()}
        | {others[group][0]: base[name] for group, name in there.items()},
    )
    yield "equal copy", base | {n: base[name].clone() for group, name in there.items() for n in others[group]}
    yield "other copy", base | {n: base[name] + 0.1 for group, name in there.items() for n in others[group]}


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


def written(config: dict[str, Any], flags: dict[Level, bool | None]) -> dict[str, Any]:
    """A config with some flags written or taken away, where it has the level."""
    data = copy.deepcopy(config)
    for level, value in flags.items():
        inner: Any = data
        for key in level:
            inner = inner.get(key) if isinstance(inner, dict) else None
        if isinstance(inner, dict):
            inner.pop(FLAG, None)
            if value is not None:
                inner[FLAG] = value
    return data


SAMPLE = [
    "AlbertForMaskedLM",
    "BartForConditionalGeneration",
    "BertForMaskedLM",
    "BertModel",
    "BloomForCausalLM",
    "EncoderDecoderModel",
    "FSMTForConditionalGeneration",
    "GPT2LMHeadModel",
    "Gemma3ForConditionalGeneration",
    "LlamaForCausalLM",
    "LlamaForSequenceClassification",
    "LlavaForConditionalGeneration",
    "MambaForCausalLM",
    "MarianMTModel",
    "OPTForCausalLM",
    "PegasusForConditionalGeneration",
    "Qwen2VLForConditionalGeneration",
    "RobertaForMaskedLM",
    "T5ForConditionalGeneration",
    "ViTForImageClassification",
    "VisionEncoderDecoderModel",
    "WhisperForConditionalGeneration",
    "XLNetLMHeadModel",
    "Zamba2ForCausalLM",
]
"""One class or two of each family, and some that tie nothing."""

CHANGED = [
    "BartForConditionalGeneration",
    "BertForMaskedLM",
    "GPT2LMHeadModel",
    "Gemma3ForConditionalGeneration",
    "LlamaForCausalLM",
    "LlavaForConditionalGeneration",
    "T5ForConditionalGeneration",
    "WhisperForConditionalGeneration",
]
"""Classes whose files are changed in the normal lane."""


def own(candidate: Candidate) -> bool:
    """Whether a class is built from its own config; another's is what an auto class makes of it."""
    try:
        model_class, config_class = resolve(candidate)
    except (AttributeError, ImportError):
        return False
    return bool(getattr(model_class.config_class, "model_type", None) == getattr(config_class, "model_type", ""))


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """One thread, and none of transformers' reports."""
    threads, before = torch.get_num_threads(), transformers.logging.get_verbosity()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    yield
    transformers.logging.set_verbosity(before)
    transformers.logging.enable_progress_bar()
    torch.set_num_threads(threads)


def by_name(name: str) -> Candidate:
    """The class of this name under its own config."""
    config_class = getattr(transformers, name).config_class
    return Candidate(name, config_class.model_type, "")


@pytest.mark.parametrize("name", SAMPLE)
def test_untouched_saves_are_judged_as_transformers_loads_them(tmp_path: Path, name: str) -> None:
    one = animal(by_name(name))
    for value in (None, False):
        assert list(untouched(one, one.model(value), tmp_path / str(value))) == []


@pytest.mark.parametrize("name", CHANGED)
def test_changed_files_are_judged_as_transformers_loads_them(tmp_path: Path, name: str) -> None:
    few = {("as saved", "false"), ("as saved", "gone"), ("source dropped", "as saved"), ("source dropped", "false")}
    few |= {("equal copy", "true"), ("equal copy", "false"), ("other copy", "true"), ("other copy", "gone")}
    few |= {("as saved", "text_config False"), ("as saved", "text_config True")}
    found = {words: wrong for words, wrong, _ in changed(animal(by_name(name)), tmp_path, lambda *e: e in few) if wrong}
    assert found == {}


COMPOSED = [
    ("LlavaForConditionalGeneration", "text_config", "gemma"),
    ("Blip2ForConditionalGeneration", "text_config", "llama"),
    ("VisionEncoderDecoderModel", "decoder", "opt"),
    ("EncoderDecoderModel", "decoder", "gpt2"),
]
"""Composite classes with another text model inside than by default: what fits, and what the table has no names for."""


@pytest.mark.parametrize(("name", "key", "model_type"), COMPOSED)
def test_composites_are_judged_by_what_they_hold_or_not_at_all(
    tmp_path: Path, name: str, key: str, model_type: str
) -> None:
    one = animal(by_name(name))
    config = load_config_class(model_type)()
    one.data[key] = tiny(silent_dict(config), config, 64, 4) | {"model_type": model_type}
    if key == "decoder":
        one.data[key] |= {"is_decoder": True, "add_cross_attention": True}
    assert list(untouched(one, one.model(), tmp_path / "untouched")) == []
    few = {("as saved", "gone"), ("as saved", f"{key} False"), ("other copy", "as saved"), ("other copy", "true")}
    found = {words: wrong for words, wrong, _ in changed(one, tmp_path / "changed", lambda *e: e in few) if wrong}
    assert found == {}


def zoo() -> Iterator[tuple[Candidate, Animal]]:
    """Every class the table has a group of, as far as it can be had small, and without a further library."""
    for candidate in candidates():
        if load_architecture(candidate.class_name, candidate.model_type).ties and own(candidate):
            with contextlib.suppress(Exception):
                yield candidate, animal(candidate)


@pytest.mark.slow
def test_untouched_saves_of_every_class_that_ties(tmp_path: Path) -> None:
    wrong: dict[str, list[str]] = {}
    built = 0
    for candidate, one in zoo():
        for value in (None, True, False):
            try:
                model = one.model(value)
            except (AttributeError, ValueError):
                continue  # the class itself refuses the flag, or cannot draw its weights
            built += 1
            key = f"{candidate.class_name}-{candidate.model_type}-{value}"
            with tempfile.TemporaryDirectory(dir=tmp_path) as where:
                found = list(untouched(one, model, Path(where)))
            if found:
                wrong[key] = found
    assert wrong == {}
    assert built > 1000


@pytest.mark.slow
def test_changed_files_of_one_class_a_shape_of_ties(tmp_path: Path) -> None:
    wrong: dict[str, list[str]] = {}
    seen: set[str] = set()
    for candidate, one in zoo():
        shape = repr(load_architecture(candidate.class_name, candidate.model_type).ties)
        if shape in seen:
            continue
        seen.add(shape)
        with tempfile.TemporaryDirectory(dir=tmp_path) as where, contextlib.suppress(AttributeError):
            for words, found, _ in changed(one, Path(where), lambda *_: True):
                if found:
                    wrong[f"{candidate.class_name}: {words}"] = found
    assert wrong == {}
    assert len(seen) > 100


@pytest.mark.slow
def test_every_cell_of_one_class_a_shape_of_ties(tmp_path: Path) -> None:
    """What 5 and 4.57 make of every change of the files; `tests/benchmarks/bench_truth.py` has the whole table."""
    from truth.run import Older, classes, row_of

    wrong: dict[str, list[str]] = {}
    built = 0
    with Older() as older:
        for candidate, first in classes():
            if first:
                row = row_of(candidate, older, every_flag=True)
                built += row["not_built"] is None
                if row["wrong"]:
                    wrong[candidate.class_name] = row["wrong"]
    assert wrong == {}
    assert built > 150
