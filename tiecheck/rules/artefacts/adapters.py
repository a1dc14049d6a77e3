"""TIE604 and TIE605: an adapter that names what its base does not store, and one in a model's own directory."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.artefacts import AdapterTies
from tiecheck.records.edits import move_edits
from tiecheck.records.files import BesideAdapter
from tiecheck.records.stored import Group
from tiecheck.rules.base import Case, Draft, Rule, file_place
from tiecheck.targets.parse import ADAPTER_CONFIG
from tiecheck.wording import listed


class AdapterTargetsMissingName(Rule):
    """An adapter names a member that the base does not store, or a head that its class does not have.

    ## What it does
    Compares the modules that the adapter has weights of with the members of the base's ties: those that no file of
    the base holds, and heads of a class without a head.

    ## Why it is bad
    PEFT adapts modules of the built model, where a tied head exists though it is not stored. Tools that merge files
    find no such tensor and stop. In a class without the head PEFT leaves the adapter's weights of it out.

    ## How to fix it
    Merge with PEFT, which builds the model; for a tool that reads files, store the head (a copy of the embedding, flag
    false) first. Load the class that the adapter was trained on.
    """

    code = "TIE604"
    summary = "an adapter names a member that the base does not store, or a head that its class does not have"
    severity = "error"
    messages = (
        "RuntimeError: Unsloth: Extracted keys = {'lm_head.weight'} do not match!",
        "ValueError: Module lm_head is not found, please choose from norm, embed_tokens",
    )
    threads = "thinking-machines-lab/tinker-cookbook#593 unslothai/unsloth#4098 hiyouga/LlamaFactory#5032"

    def check(self, adapted_ties: AdapterTies) -> Iterator[Draft]:
        base = adapted_ties.base
        for module in adapted_ties.homeless:
            yield Draft(
                f"The adapter has weights of {module}, and {base.class_name}, the class of its base, has no such head: "
                "PEFT leaves them out, and tells at most that other keys are missing.",
                (module,),
                (file_place(ADAPTER_CONFIG, f"it adapts {module}"),),
                "The class that it was trained on has a head.",
                no_mend="the base is the one of another class.",
            )
        for tie in adapted_ties.ties:
            lost = tuple(n for n in tie.members("added") if n in tie.group.missing)
            if lost:
                yield Draft(
                    f"The adapter adds to {listed(lost)}, which the base does not store since it is tied: PEFT has it "
                    "in the built model, and a tool that merges files finds no such tensor and stops.",
                    lost,
                    (file_place(ADAPTER_CONFIG, f"it adapts {listed(lost)}"),),
                    severity="info",
                    no_mend="the base is sound; a merge by PEFT needs no stored head.",
                )

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.rules.artefacts.merges import EMBEDDING, HEAD, adapter_case

        yield adapter_case("a head that is tied and not stored", (HEAD, "added"), finds=("info",))
        yield adapter_case("a head that the class does not have", finds=("error",), homeless=("lm_head",))
        yield adapter_case("the embedding, which is stored", (EMBEDDING, "added"))
        yield adapter_case("nothing that is tied")


class AdapterOfOtherRows(Rule):
    """An adapter was made for an embedding or head with another number of rows than its base stores.

    ## What it does
    Compares the rows of what the adapter holds of embedding and head (trained copies, kept copies, updates) with
    those that the base stores.

    ## Why it is bad
    The vocabulary was grown before the training, and the base on disk is the one of before. PEFT raises a size
    mismatch when it loads the adapter, and a tool that merges files writes a head and an embedding of two sizes.

    ## How to fix it
    Resize the base first, as the training did (`resize_token_embeddings` with the length of the adapter's tokenizer),
    and load the adapter onto that.
    """

    code = "TIE607"
    name = "adapter-of-other-rows"
    summary = "an adapter's embedding or head has other rows than its base: the vocabulary was resized"
    severity = "error"
    messages = ("size mismatch for base_model.model.model.embed_tokens",)
    threads = "huggingface/peft#2399 huggingface/peft#1750"

    def check(self, adapted_ties: AdapterTies) -> Iterator[Draft]:
        by_rows: dict[tuple[int, int], list[str]] = {}
        for name, ours, theirs in adapted_ties.misfits:
            by_rows.setdefault((ours, theirs), []).append(name)
        for (ours, theirs), names in by_rows.items():
            yield Draft(
                f"The adapter has {ours:,} rows of {listed(tuple(names))}, and the base stores {theirs:,}: PEFT raises "
                "a size mismatch when it loads it.",
                tuple(names),
                (
                    file_place(
                        adapted_ties.adapter.checkpoint.shards[0].path, f"{ours:,} rows of {listed(tuple(names))}"
                    ),
                ),
                f"With the token embeddings of the base resized to {ours:,} rows first, it loads.",
                no_mend="the base of the training had another vocabulary.",
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.rules.artefacts.merges import EMBEDDING, HEAD, adapter_case

        for title, misfits, found in (
            ("grown", ((EMBEDDING, 70, 64), (HEAD, 70, 64)), ("error",)),
            ("the head alone", ((HEAD, 70, 64),), ("error",)),
            ("as the base", (), ()),
        ):
            case = adapter_case(title, (EMBEDDING, "copied"), finds=found)  # type: ignore[arg-type]
            yield case._replace(facts={"adapted_ties": case.facts["adapted_ties"]._replace(misfits=misfits)})
        yield adapter_case("nothing that is tied")


class AdapterAppliedOnLoad(Rule):
    """An adapter lies in the model's own directory, and `from_pretrained` applies it.

    ## What it does
    Finds `adapter_config.json` and adapter weights beside the weights of a whole model, and says what it makes of
    the tied group: a module in `modules_to_save` gets a weight of its own, and an adapter on embedding or head is
    merged into both. Where the config lies there alone, it says that the load will fail.

    ## Why it is bad
    Where peft is installed, `from_pretrained` of the directory loads the base that the adapter names, and the adapter
    with it, without a word. The model that answers is not the one that the checkpoint holds: a head from
    `modules_to_save` is no longer the embedding. Without peft the same directory loads as the model alone.

    ## How to fix it
    Keep the adapter in a directory of its own. If it is meant to be part of the model, merge it (`merge_and_unload()`),
    check whether `lm_head.weight is embed_tokens.weight`, set the flag to that, and save the result alone.
    """

    code = "TIE605"
    summary = "an adapter in the model's own directory that from_pretrained applies: what it makes of the tie"
    severity = "warning"
    threads = ""

    def check(self, groups: tuple[Group, ...], beside_adapter: BesideAdapter) -> Iterator[Draft]:
        members = [name for group in groups if group.declared for name in group.names]
        apart = move_edits("apart", "the checkpoint by itself is the model that is meant", beside_adapter.apart)
        if beside_adapter.files == (ADAPTER_CONFIG,):
            yield Draft(
                "The config of an adapter lies in the model's own directory, without weights of it: where peft is "
                "installed, from_pretrained looks for them and raises FileNotFoundError.",
                tuple(members) or (ADAPTER_CONFIG,),
                (file_place(ADAPTER_CONFIG, "the adapter"),),
                "If the adapter is meant to be part of the model, its weights belong beside its config.",
                edits=apart,
            )
            return
        saved = _hit(members, beside_adapter.saved)
        targets = _hit(members, beside_adapter.targets)
        if not saved and not targets:
            return
        parts = []
        if saved:
            parts.append(f"it holds a trained copy of {listed(saved)}, which is then no longer tied")
        if targets:
            parts.append(f"it adds to {listed(targets)}, so that a merge changes the other members as well")
        base = f", onto {beside_adapter.base}, the base that it names" if beside_adapter.base else ""
        yield Draft(
            "An adapter lies in the model's own directory (adapter_config.json): where peft is installed, "
            f"from_pretrained loads it too{base}; {'; '.join(parts)}.",
            (*saved, *targets),
            (file_place(ADAPTER_CONFIG, "the adapter"),),
            "If the adapter is meant to be part of the model, merge it and save the result alone.",
            edits=apart,
        )

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.rules.cases import llama_group

        for title, saved, targets in (
            ("a head of its own", ("lm_head",), ()),
            ("an adapter on the head", (), ("q_proj", "lm_head")),
        ):
            facts = {
                "groups": (llama_group(),),
                "beside_adapter": BesideAdapter(saved, targets, None, (ADAPTER_CONFIG, "adapter_model.safetensors")),
            }
            yield Case(title, facts, finds=("warning",))
            yield Case(f"{title}, and no tie", {**facts, "groups": (llama_group(value=False),)})
        alone = {"groups": (), "beside_adapter": BesideAdapter((), (), None, (ADAPTER_CONFIG,))}
        yield Case("a config without weights", alone, finds=("warning",))


def _hit(members: list[str], modules: tuple[str, ...]) -> tuple[str, ...]:
    """Return the members whose module an adapter names, by the end of its path as peft does."""
    owners = ((name, name.rpartition(".")[0]) for name in members)
    return tuple(name for name, owner in owners if any(owner == m or owner.endswith(f".{m}") for m in modules))
