"""The fixes of stored groups, carried out on drawn ones by name alone: each ends where its word says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiecheck
from tiecheck.records.edits import Edit
from tiecheck.records.stored import Checkpoint, Group, Shard
from tiecheck.rules.cases import EMBEDDING, HEAD, PAIR, llama_group
from tiecheck.rules.stored.fixes import (
    apart_or_one,
    drop_edits,
    either_flag,
    entries_put_right,
    every_member,
    one_tensor,
    rename_edits,
)
from tiecheck.tables.architectures import load_architecture

FLAG = ("tie_word_embeddings",)
STORED = st.sampled_from([(HEAD,), (EMBEDDING,), PAIR])


@st.composite
def drawn_groups(draw) -> Group:
    """A Llama's group, one member or both stored, equal or not, that the class may force."""
    stored = draw(STORED)
    how = "absent" if len(stored) == 1 else draw(st.sampled_from(["copy", "separate"]))
    return llama_group(stored=stored, forced=draw(st.booleans()))._replace(stored=how)


def outcome(edit: Edit, group: Group) -> tuple[set[str], bool | None]:
    """Return the names that are stored after an edit, and what it wrote to the flag."""
    names, flag = set(group.stored_names), None
    for step in edit.steps:
        if step.kind == "set-config":
            assert step.key == FLAG
            flag = bool(step.value)
        elif step.kind == "drop-tensor":
            names.remove(step.names[0])
        else:
            assert step.names[0] in names
            assert step.names[1] not in names
            names.add(step.names[1])
            names -= {step.names[0]} if step.kind == "rename-tensor" else set()
    return names, flag


@given(drawn_groups(), st.booleans())
def test_apart_stores_every_member_and_one_keeps_the_one_that_loaders_look_for(group: Group, disagree: bool) -> None:
    for edit in apart_or_one(group, (group,), FLAG, disagree=disagree):
        names, flag = outcome(edit, group)
        if edit.choice == "untied":
            assert not group.forced
            assert (names, flag, edit.safe) == (set(PAIR), False, True)
        else:
            assert len(names) == 1
            assert flag is (True if disagree else None)
            assert not edit.safe, "a stored value is thrown away"


@given(drawn_groups())
def test_one_tensor_goes_under_the_name_that_the_others_are_tied_to(group: Group) -> None:
    edits = one_tensor(group, (group,), FLAG)
    assert bool(edits) == (len(group.stored_names) == 1)
    for edit in edits:
        assert outcome(edit, group) == ({EMBEDDING}, True)
        assert edit.safe


@given(drawn_groups(), drawn_groups())
def test_a_flag_is_never_set_to_true_over_another_group_that_differs(group: Group, other: Group) -> None:
    other = other._replace(names=("a.weight", "b.weight"), stored="separate", stored_names=("a.weight", "b.weight"))
    other = other._replace(forced=False, missing=())
    edits = (*one_tensor(group, (group, other), FLAG), *either_flag(group, (group, other), FLAG))
    assert not any(outcome(edit, group)[1] for edit in edits)


@given(drawn_groups())
def test_flags_are_made_to_agree_by_what_is_stored_or_the_user_is_asked(group: Group) -> None:
    edits = either_flag(group, (group,), FLAG)
    values = {outcome(edit, group)[1] for edit in edits}
    if len(group.stored_names) == 1:
        assert values == {True}
    elif group.stored == "copy":
        assert values == {True, False}
        assert all(edit.when for edit in edits)
    else:
        assert values == ({True} if group.forced else {True, False})


@given(drawn_groups())
def test_what_is_missing_is_stored_as_a_copy_and_a_lone_name_can_be_changed(group: Group) -> None:
    edits = every_member(group)
    assert bool(edits) == bool(group.missing)
    assert all(outcome(edit, group) == (set(PAIR), None) for edit in edits)
    named = rename_edits(group)
    assert bool(named) == (len(group.stored_names) == 1)
    for edit in named if group.stored_names == (HEAD,) else ():
        assert outcome(edit, group)[0] == {EMBEDDING}


def test_names_that_the_class_does_not_have_are_neither_copied_nor_renamed() -> None:
    group = llama_group(stored=("embed.weight",))._replace(missing=PAIR)
    assert every_member(group) == rename_edits(group) == ()


def test_a_copy_is_dropped_and_an_entry_goes_to_the_one_shard_that_holds_it() -> None:
    both = llama_group(stored=PAIR)
    (edit,) = drop_edits(both, EMBEDDING)
    assert outcome(edit, both) == ({EMBEDDING}, None)
    packed = both._replace(tensors=tuple(t._replace(dtype="uint32") for t in both.tensors))
    assert drop_edits(packed, EMBEDDING) == (), "scales and biases would be left"
    shards = tuple(Shard(f"{n}.safetensors", 8, dict.fromkeys(names)) for n, names in enumerate([[HEAD], PAIR]))
    checkpoint = Checkpoint("safetensors", "m", shards, "index.json", {}, (), {})
    (moved,) = entries_put_right(checkpoint, "index.json", [EMBEDDING])
    assert (moved.steps[0].key, moved.steps[0].value) == (("weight_map", EMBEDDING), "1.safetensors")
    assert entries_put_right(checkpoint, "index.json", [EMBEDDING, HEAD]) == ()


CLASSES = ("LlamaForCausalLM llama", "GPTNeoXForCausalLM gpt_neox", "UltraVBertForMaskedLM ultravbert text_config")
CLASSES = (*CLASSES, "MistralLarge4ForConditionalGeneration mistral_large4 text_config")


@pytest.mark.parametrize("lost_head", [True, False])
@pytest.mark.parametrize("known", CLASSES)
def test_a_stray_is_made_the_head_and_never_the_embedding(make_model, known: str, lost_head: bool) -> None:
    name, kind, *level = known.split()
    architecture = load_architecture(name, kind)
    tie = next(tie for tie in architecture.ties if {architecture.head, architecture.embedding} <= set(tie.names))
    lost, kept = (architecture.head, architecture.embedding)[:: 1 if lost_head else -1]
    flags = {"tie_word_embeddings": False, **{one: {"tie_word_embeddings": False} for one in level}}
    own = tie.spellings.get(architecture.head, ())
    for stray in {*(s for s in own if not s.endswith("lm_head.weight")), "output.weight", "embed_out.weight"}:
        tensors = {kept: ("F32", [4, 2], bytes(range(32))), stray: ("F32", [4, 2], bytes(32))}
        (target,) = tiecheck.check(make_model(tensors, architectures=[name], model_type=kind, **flags)).targets
        edits = [edit for finding in target.findings for edit in finding.edits if edit.choice == "untied"]
        moved = [step.names for edit in edits for step in edit.steps if step.kind == "rename-tensor"]
        assert target.findings or (lost_head and stray in own), "a head under a name that a loader knows is not lost"
        assert moved == ([(stray, lost)] if lost_head and stray not in own else [])
