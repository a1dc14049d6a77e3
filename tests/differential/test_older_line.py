"""What 4.57 makes of configs and members that nobody asked it about: crash or unknown is told, and no outcome of 5's.

Classes, sections and values are drawn. The truth of 4.57 is its own rehearsed load, in the slow lane.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.cases import Case
from harness.collect import Bench
from harness.configs import ROPES, SIZES, Flatten, OlderKeys, SetKey, walk
from harness.files import Layout, write
from harness.members import Stored, Unprefixed, Wrapped, Written
from harness.oracle import Oracle
from harness.saves import OLDER, all_classes, saved
from harness.verdicts import say
from lanes import sampled
from older import older_python

import tiecheck
from tiecheck.tables.architectures import older_has
from tiecheck.tables.generate.ropes import rope_keys, rope_types
from tiecheck.tables.structure import config_structure

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("quiet")]

COMPOSED = [
    ("BlipForConditionalGeneration", "blip"),
    ("FlavaForPreTraining", "flava"),
    ("GitForCausalLM", "git"),
    ("Idefics2ForConditionalGeneration", "idefics2"),
    ("Kosmos2ForConditionalGeneration", "kosmos-2"),
    ("Qwen2_5_VLForConditionalGeneration", "qwen2_5_vl"),
    ("ShieldGemma2ForImageClassification", "shieldgemma2"),
    ("T5GemmaForConditionalGeneration", "t5gemma"),
]
"""Classes with sections, which 4.57 and 5 make by classes of other names."""

WRITTEN_BY_5 = [("Qwen3VLForConditionalGeneration", "qwen3_vl"), ("ZambaForCausalLM", "zamba")]
"""Classes whose configs 4.57 does not take as 5 writes them."""

BIASED = [("BertForMaskedLM", "bert"), ("LukeForMaskedLM", "luke"), ("RobertaForMaskedLM", "roberta")]
"""Classes with a tied bias, of which one of two is taken where it alone is stored."""


def sections(name: str, kind: str, rng: random.Random, count: int) -> Iterator[Case]:
    """Draw sections that are gone, null, empty or flat, and sizes within them that are off by one."""
    config = saved(name, kind, (), "").config
    parts = [key for key, held in config.items() if isinstance(held, dict) and "model_type" in held]
    sizes = [(p, v) for p, v in walk(config) if "." in p and p.split(".")[-1] in SIZES and type(v) is int]
    changes = [Flatten(part) for part in parts] + [SetKey(part, state) for part in parts for state in (..., None, {})]
    changes += [SetKey(path, value + step) for path, value in sizes for step in (1, -1)]
    for change in rng.sample(changes, min(count, len(changes))):
        yield Case(name, kind, (), (change,))


def members(name: str, kind: str) -> Iterator[Case]:
    """Yield each bias of a tied pair stored alone."""
    for number, group in enumerate(saved(name, kind, (), "").groups):
        if all(member.endswith(".bias") for member in group):
            yield from (Case(name, kind, (), (Stored(number, (member,)),)) for member in group)


def refused_unread(rng: random.Random) -> list[Case]:
    """Draw a width that its heads do not divide, in a file of which no tensor is read: 4.57 may make the model."""
    classes = [("BartForConditionalGeneration", "bart", "d_model"), ("BertForMaskedLM", "bert", "hidden_size")]
    classes += [("LlamaForCausalLM", "llama", "hidden_size"), ("M2M100ForConditionalGeneration", "m2m_100", "d_model")]
    files = (Wrapped("module."), Layout("nested pickle"), Layout("nested model"))
    return [Case(n, kind, (), (SetKey(key, rng.choice((63, 65))), rng.choice(files))) for n, kind, key in classes]


def written_over(rng: random.Random) -> list[Case]:
    """Draw a number that 4.57 makes of one of two others, whatever its own key says."""
    name, kind, off = "MobileBertForMaskedLM", "mobilebert", SetKey("use_bottleneck", False)
    sizes = [SetKey(key, rng.choice((63, 65))) for key in ("true_hidden_size", "intra_bottleneck_size", "hidden_size")]
    cases = [Case(name, kind, (), (change,)) for change in (off, *sizes)]
    return cases + [Case(name, kind, (("use_bottleneck", False),), change) for change in ((), (sizes[0],))]


def shaped_by_a_tie(rng: random.Random) -> list[Case]:
    """Draw vocabularies that a config around has, and heads that have the shape of what they are tied to."""
    keys = ("vocab_size", "encoder.vocab_size", "decoder.vocab_size")
    t5 = [SetKey(key, rng.choice((65, 159, 161))) for key in keys]
    changes = [(), *((Written(0, None, how),) for how in ("other", "padded", "cut"))]
    cases = [Case("T5GemmaForConditionalGeneration", "t5gemma", (), (change,)) for change in t5]
    for flag in (True, False):
        variant = (("tie_word_embeddings", flag),)
        cases += [Case("ImageGPTForCausalImageModeling", "imagegpt", variant, change) for change in changes]
        cases.append(Case("MoshiForCausalLM", "moshi", variant))
    return cases


def shared_buffers() -> Iterator[Case]:
    """Yield SAM's two position matrices, one memory in 4.57: each or none stored, and one that differs."""
    (names,) = saved("SamModel", "sam", (), "").groups
    changes = [Stored(0, kept) for kept in ((), *((name,) for name in names))]
    changes += [Written(0, name, "other") for name in names]
    yield from (Case("SamModel", "sam", (), change) for change in ((), *((one,) for one in changes)))


def unread_ropes(rng: random.Random) -> Iterator[Case]:
    """Draw ropes in configs of classes without any: 5 checks them all the same, and 4.57 never looks."""
    classes = [("T5ForConditionalGeneration", "t5"), ("BertForMaskedLM", "bert"), ("GPT2LMHeadModel", "gpt2")]
    classes += [("OPTForCausalLM", "opt"), ("BloomForCausalLM", "bloom"), ("DebertaV2ForMaskedLM", "deberta-v2")]
    whole = {key: [2.0] if key.endswith(("short_factor", "long_factor")) else 2.0 for key in rope_keys()}
    for name, kind in classes:
        for word in rope_types():
            held = whole if rng.random() < 0.7 else dict(rng.sample(sorted(whole.items()), 3))
            named = rng.choice(("rope_type", "type"))
            yield Case(name, kind, (), (SetKey(rng.choice(ROPES), {named: word} | held),))


def drawn_cases(count: int) -> list[Case]:
    """Return the directories of the slow test."""
    rng = random.Random(7)
    cases = [case for name, kind in COMPOSED for case in sections(name, kind, rng, count)]
    for name, kind in WRITTEN_BY_5:
        changes = (Layout("nested pickle"), OlderKeys(), Wrapped("module."))
        cases += [Case(name, kind, (), (change,)) for change in changes]
    cases += [case for name, kind in BIASED for case in members(name, kind)]
    cases += [*shared_buffers(), Case("Lfm2VlForConditionalGeneration", "lfm2_vl", ((OLDER, "4.57"),))]
    cases += unread_ropes(rng)
    cases += refused_unread(rng) + shaped_by_a_tie(rng) + written_over(rng)
    cases += [
        Case("DebertaForMaskedLM", "deberta", (("legacy", False),), (Wrapped("model."),)),
        Case("DebertaV2ForMaskedLM", "deberta-v2", (), (Wrapped("deberta."), SetKey("hidden_size", 65))),
        Case("Ernie4_5_MoeForCausalLM", "ernie4_5_moe", (("num_hidden_layers", 1),)),
        Case("FSMTForConditionalGeneration", "fsmt", (), (Stored(0, ("model.encoder.embed_tokens.weight",)),)),
        Case("MllamaForCausalLM", "mllama"),
        Case("SeamlessM4Tv2ForTextToText", "seamless_m4t_v2", (), (SetKey("tie_word_embeddings", value=False),)),
    ]
    return cases


@pytest.mark.slow
def test_what_is_told_of_4_57_is_what_it_does(tmp_path: Path) -> None:
    oracle, wrong = Oracle(older_python()), []
    bench = Bench(oracle, tmp_path / "model", random.Random(0), share=0.0)
    right = 0
    for case in drawn_cases(6):
        words = [word for word in bench.judge(case).words if word.line == "4.57"]
        wrong += [(case, word) for word in words if word.wrong]
        right += sum(word.kind == "right" for word in words)
    oracle.close()
    assert not wrong
    assert right > 20


@pytest.mark.parametrize(("name", "kind"), COMPOSED[:4], ids=lambda word: word)
def test_where_a_section_stops_5_nothing_is_told_tied_in_4_57(name: str, kind: str, tmp_path: Path) -> None:
    stopped = 0
    for number, case in enumerate(sections(name, kind, random.Random(number_of(name)), 5)):
        case.write(tmp_path / str(number))
        views = [view for view in say(tmp_path / str(number)).views if view.loader == "transformers"]
        if any(view.line == "5" and view.stopped and view.outcome == "crash" for view in views):
            stopped += 1
            assert {view.outcome for view in views if view.line == "4.57"} <= {"crash", "unknown"}, case
    assert stopped


def test_a_rope_in_a_class_without_any_is_told_in_both_lines(tmp_path: Path) -> None:
    bench, ends = Bench(Oracle(), tmp_path / "model", random.Random(0), share=0.0), set()
    for case in random.Random(3).sample(list(unread_ropes(random.Random(4))), 12):
        assert {word.kind for word in bench.judge(case).words if word.line == "5"} == {"right"}, case
        views = [view for view in say(bench.where).views if view.loader == "transformers"]
        assert {view.outcome for view in views if view.line == "4.57"} == {"tied"}, case
        ends |= {view.outcome for view in views if view.line == "5"}
    assert ends == {"crash", "tied"}


@pytest.mark.parametrize("kind", ["encoder-decoder", "vision-encoder-decoder"])
def test_a_decoder_of_another_type_is_not_told_of_4_57_by_its_default(kind: str, tmp_path: Path) -> None:
    name = "".join(map(str.capitalize, kind.split("-"))) + "Model"
    Case(name, kind, (), (SetKey("decoder.model_type", "llama"),)).write(tmp_path)
    views = [view for view in say(tmp_path).views if view.loader == "transformers"]
    assert {view.outcome for view in views} == {"unknown"}


def test_a_base_model_for_a_task_whose_bias_4_57_ties_is_no_pass(tmp_path: Path) -> None:
    Case("ViltForMaskedLM", "vilt", (), (Unprefixed(rest=False),), "transformers.models.vilt.modeling_vilt").write(
        tmp_path
    )
    report = tiecheck.check(tmp_path)
    assert report.targets[0].status == "unknown"
    assert "mlm_score.bias" in (report.targets[0].reason or "")


def test_buffers_that_4_57_gives_one_memory_end_as_the_source_does(tmp_path: Path) -> None:
    found = []
    for number, case in enumerate(shared_buffers()):
        case.write(tmp_path / str(number))
        found += [view.outcome for view in say(tmp_path / str(number)).views if view.versions == "4.57"]
    assert found == ["tied", "member-random", "member-random", "tied", "member-discarded", "tied"]


TOWERS = [("LlavaForConditionalGeneration", "llava"), ("Gemma3Model", "gemma3"), ("CLIPTextModel", "clip_text_model")]
"""Classes with a tower, or one themselves, out of which 5 took a module that 4.57 has."""


@pytest.mark.parametrize(("name", "kind"), sampled(TOWERS))
def test_names_that_5_alone_has_are_a_note_unless_the_older_line_is_asked_for(
    name: str, kind: str, tmp_path: Path
) -> None:
    case = Case(name, kind)
    case.write(tmp_path / "new")
    (target,) = tiecheck.check(tmp_path / "new").targets
    (note,) = [finding for finding in target.findings if finding.code == "TIE206"]
    assert (target.status, note.severity) == ("pass", "info")
    assert tiecheck.check(tmp_path / "new", judge_for=["transformers==5"]).targets[0].status == "pass"
    (asked,) = tiecheck.check(tmp_path / "new", judge_for=["transformers==4.57"]).targets
    assert (asked.status, [finding.severity for finding in asked.findings]) == ("fail", ["warning"])
    draft = case.draft()
    tower = "text_model" if "Text" in name else "vision_model"
    for tensor in [tensor for tensor in draft.tensors if "language_model" not in tensor and "lm_head" not in tensor]:
        head, dot, rest = tensor.rpartition("vision_tower.")
        draft.tensors[f"{head}{dot}{tower}.{rest}"] = draft.tensors.pop(tensor)
    write(draft, tmp_path / "old")
    assert [finding.code for finding in tiecheck.check(tmp_path / "old").findings if finding.code == "TIE206"] == []


@pytest.mark.slow
def test_4_57_loads_into_nothing_what_is_told_to_be_moved(tmp_path: Path) -> None:
    oracle, rng, told = Oracle(older_python()), random.Random(616161), []
    classes = [one for one in all_classes() if older_has(one.class_name, one.model_type)]
    moved = [one for one in classes if one.class_name in (config_structure(one.model_type, "4.57") or {}).get("v", {})]
    for one in [*rng.sample(moved, 8), *rng.sample(classes, 8)]:
        with contextlib.suppress(ImportError, RuntimeError, ValueError):  # not every class can be had small
            case = Case(one.class_name, one.model_type, (), (), one.module)
            draft = case.write(tmp_path / one.class_name)
            rehearsal = oracle.ask(tmp_path / one.class_name, draft, real=False)[1].rehearsal
            notes = [f for f in tiecheck.check(tmp_path / one.class_name).findings if f.code == "TIE206"]
            told.append(bool(notes))
            assert bool(notes) == bool(rehearsal.unexpected and rehearsal.missing), case
    oracle.close()
    assert any(told)
    assert not all(told)


def number_of(name: str) -> int:
    return sum(map(ord, name))


@pytest.mark.parametrize(("name", "kind"), BIASED, ids=lambda word: word)
def test_a_bias_that_the_class_takes_is_loaded_and_the_other_is_none(name: str, kind: str, tmp_path: Path) -> None:
    found = {}
    for number, case in enumerate(members(name, kind)):
        case.write(tmp_path / str(number))
        (change,) = case.mutations
        views = say(tmp_path / str(number)).views
        (found[change.kept[0]],) = (
            view.outcome for view in views if view.versions == "4.57" and change.kept[0] in view.names
        )
    target = next(name for name in found if name.endswith("decoder.bias"))
    assert found.pop(target) == ("crash" if kind == "bert" else "tied")
    assert set(found.values()) == {"tied"}
