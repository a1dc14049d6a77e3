"""TIE1xx: under which name a tied group is stored, and who cannot do with it."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.loaders import LoaderView
from tiecheck.records.stored import Group
from tiecheck.records.words import DISCARDED, Unknown
from tiecheck.rules.base import Case, Draft, Rule
from tiecheck.rules.stored.groups import (
    declaration_place,
    endings_text,
    loses_silently,
    losing_views,
    one_tensor_text,
    spoken_for,
    stored_places,
    tied_by_intent,
    views_of,
)
from tiecheck.wording import listed


class HeadNotMaterialised(Rule):
    """The group is tied and stored once, as it should be, and some tool reads the other name without asking.

    ## What it does
    Finds healthy tied checkpoints that a loader of the matrix cannot take, because it reads `lm_head.weight` (or
    another target) unconditionally, or does not know the name that the tensor is stored under. It is a note: the
    checkpoint is right. It is a warning where a loader goes on without the tensor: vLLM and SGLang leave the head of
    some classes random and say nothing.

    ## Why it is bad
    The tool ends in `KeyError: 'lm_head.weight'` or "weight lm_head.weight does not exist", which looks like a broken
    checkpoint and is not.

    ## How to fix it
    Give the tensor the class's name where it has another. Else use a version of the tool that falls back to the
    embedding; where that cannot be had, make a copy of the checkpoint
    for that tool alone, with the head written out; do not change the flag.
    """

    code = "TIE107"
    summary = "correctly tied and stored once: which tools read the other name unconditionally and fail"
    severity = "info"
    confidence = "medium"
    messages = (
        "KeyError: 'lm_head.weight'",
        "weight lm_head.weight does not exist",
        "Missing 1 parameters: lm_head.weight",
    )
    threads = (
        "arcee-ai/mergekit#350 arcee-ai/mergekit#615 NVIDIA/TensorRT-LLM#1733 tdrussell/qlora-pipe#30 "
        "huggingface/transformers#30202 IBM/text-generation-inference#76 pytorch/torchtitan#919"
    )

    def check(self, groups: tuple[Group, ...], loaders: tuple[LoaderView, ...]) -> Iterator[Draft | Unknown]:
        for group in groups:
            views = views_of(group, loaders)
            told = _has_prefix_twice(group)  # by strict-load-will-fail, for 4.57
            failing = tuple(view for view in losing_views(views) if not (told and view.line == "4.57"))
            normal = (
                tied_by_intent(group) and group.source not in group.missing and group.stored in ("absent", "storage")
            )
            if not normal or not group.stored_names or not failing or spoken_for(views):
                continue
            from tiecheck.rules.stored.fixes import own_name

            renamed = own_name(group) if any(view.checked != "source" for view in failing) else ()
            right = "which is right; some loaders look for the other name all the same."
            yield Draft(
                f"{listed(group.names)} {'are' if len(group.names) > 1 else 'is'} stored once, as "
                f"{listed(group.stored_names)}, "
                f"{'a name that some loaders do not know.' if renamed else right} {endings_text(failing)}",
                group.names,
                (*stored_places(group, primary=True), declaration_place(group, "related")),
                severity="warning" if loses_silently(failing) or any(v.checked != "source" for v in failing) else None,
                hurts=failing,
                edits=renamed,
                no_mend="nothing is wrong with the checkpoint; use a version of the tool that falls back to the "
                "embedding, and name with --for the loaders that matter to you.",
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.rules.cases import HEAD, group_facts, llama_group, loader_facts, loader_view

        fails = loader_view(
            "mergekit", "crash", reads=None, value=None, ties=None, message="KeyError: 'lm_head.weight'"
        )
        yield Case("a tool reads the head unconditionally", loader_facts(llama_group(), fails), finds=("info",))
        random = loader_view("transformers", "embedding-random", versions="4.57", checked="run")
        title = "4.57 does not know the name it is stored under, and goes on with a random one"
        yield Case(title, loader_facts(llama_group(), random), finds=("warning",))
        engine = loader_view("vllm", "head-random", versions="0.29", reads=None, value=None)
        yield Case("an engine leaves the head random", loader_facts(llama_group(), engine), finds=("warning",))
        yield Case("every loader ties", group_facts(llama_group()))
        yield Case("stored under the head's name", {"groups": (llama_group(stored=(HEAD,)),), "loaders": (fails,)})
        yield Case("not tied", {"groups": (llama_group(value=False),), "loaders": (fails,)})


class OrphanedTieGroup(Rule):
    """The group is declared as tied, and no member of it is stored.

    ## What it does
    Finds checkpoints that hold other tensors of the module that owns a member, under the class's own names, and none
    of the members themselves, in no other form either; for a tied bias the class's other tied weights count too. A
    checkpoint with names nobody knows is a skip of TIE102, not this.

    ## Why it is bad
    Embedding and head are then both made at random: transformers 5 says that the checkpoint seems corrupted and goes
    on, others say nothing. Everything the model reads and writes passes through that matrix.

    ## How to fix it
    Find the tensor: it was dropped by a script that deletes shared tensors by both names, or lies in a shard that was
    not copied. Save the model again from where it is whole.
    """

    code = "TIE110"
    summary = "no member of a declared group is stored"
    severity = "error"
    confidence = "medium"
    messages = (
        "This checkpoint seem corrupted. The tied weights mapping for this model specifies to tie",
        "newly initialized: ['model.decoder.embed_tokens.weight','model.encoder.embed_tokens.weight']",
    )
    threads = (
        "huggingface/transformers#26266 huggingface/transformers#42362 vllm-project/vllm#23426 "
        "NVIDIA/Model-Optimizer#2071"
    )

    def check(self, groups: tuple[Group, ...]) -> Iterator[Draft | Unknown]:
        for group in groups:
            if group.declared and not group.inferred and group.anchored and not group.stored_names:
                yield Draft(
                    f"{listed(group.names)} {one_tensor_text(group)}, and stored under no name at all: it comes out "
                    "random. Other tensors of the class are there.",
                    group.names,
                    (declaration_place(group),),
                    no_mend=f"the values of {group.source or group.names[0]} are not in these files; save the model "
                    "again from where it is whole.",
                )

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.rules.cases import llama_group

        lost = llama_group(stored=())._replace(anchored=True)
        yield Case("neither is stored, its neighbours are", {"groups": (lost,)}, finds=("error",))
        yield Case("names that nobody knows", {"groups": (llama_group(stored=()),)})
        yield Case("one is stored", {"groups": (llama_group(),)})
        yield Case("not declared", {"groups": (lost._replace(declared=False),)})
        packed = lost._replace(anchored=False, stored="unknown", reason="stored as embed_tokens.qweight")
        yield Case("stored in another form", {"groups": (packed,)})


class KeptTheAliasName(Rule):
    """The group is tied and stored under a target's name only.

    ## What it does
    Finds tied groups whose source is not stored while a target is, and names the loaders that cannot take it. Where
    every loader that is known takes it, nothing is said.

    ## Why it is bad
    Savers that drop shared tensors without asking which name is the canonical one keep the alphabetically first:
    `lm_head.weight` stays, `model.embed_tokens.weight` goes. transformers 5 swaps the two roles and loads it. 4.57
    leaves both on the meta device without a word, and serving engines and converters that look for the embedding fail.

    ## How to fix it
    Rename the tensor in the file to the source's name. Savers take a hint: `_tied_weights_keys` on the class, or
    `state_dict_keys_to_discard` of huggingface_hub's `save_torch_state_dict`.
    """

    code = "TIE111"
    summary = "the group is stored under the target's name only: which loaders fail"
    severity = "warning"
    messages = ("tensor 'token_embd.weight' not found", "Tensor on device meta is not on the expected device")
    threads = (
        "huggingface/transformers#35080 huggingface/huggingface_hub#2696 casper-hansen/AutoAWQ#644 "
        "casper-hansen/AutoAWQ#665 axolotl-ai-cloud/axolotl#2150 microsoft/onnxruntime-genai#1089 QwenLM/Qwen3#1101 "
        "huggingface/lerobot#2151"
    )

    def check(self, groups: tuple[Group, ...], loaders: tuple[LoaderView, ...]) -> Iterator[Draft | Unknown]:
        for group in groups:
            views = views_of(group, loaders)
            failing = tuple(v for v in losing_views(views) if v.outcome not in DISCARDED)  # which is TIE101's to say
            alias = group.declared is True and group.source in group.missing and bool(group.stored_names)
            if not alias or group.inferred or not failing or spoken_for(views):
                continue
            from tiecheck.rules.stored.fixes import rename_edits

            yield Draft(
                f"{listed(group.names)} are one tensor, stored as {listed(group.stored_names)} alone. Loaders look "
                f"for {group.source}, which the others are tied to. {endings_text(failing)}",
                group.names,
                (*stored_places(group, primary=True), declaration_place(group, "related")),
                hurts=failing,
                edits=rename_edits(group),
                no_mend=f"the files do not tell that what is stored is {group.source} as it was; save the model again "
                "from where it is whole.",
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.rules.cases import EMBEDDING, HEAD, group_facts, llama_group, loader_view

        alias = llama_group(stored=(HEAD,))
        yield Case("only the head's name is stored", group_facts(alias), finds=("warning",))
        fine = loader_view("transformers", "tied", versions="5")
        yield Case("no loader minds", {"groups": (alias,), "loaders": (fine,)})
        yield Case("stored under the source's name", group_facts(llama_group(stored=(EMBEDDING,))))
        yield Case("untied, and the embedding lost", group_facts(llama_group(value=False, stored=(HEAD,))))


def _has_prefix_twice(group: Group) -> bool:
    """Tell whether what is stored has the first part of its own name once more before it."""
    pairs = ((stored, name) for stored in group.stored_names for name in group.names if stored.endswith(f".{name}"))
    return any(name.startswith(stored.removesuffix(name)) for stored, name in pairs)
