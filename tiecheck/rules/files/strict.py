"""TIE205: the names of a checkpoint against those of its class, as a strict load would hold them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tiecheck.records.edits import Edit, Step
from tiecheck.records.words import Unknown
from tiecheck.rules.base import Case, Draft, Rule, file_place, tensor_place
from tiecheck.wording import listed, pronoun_for

if TYPE_CHECKING:
    from tiecheck.records.files import StrictLoad

WRAPPERS = {
    "_orig_mod": "torch.compile",
    "module": "DataParallel, DistributedDataParallel or DeepSpeed",
    "_fsdp_wrapped_module": "FSDP",
    "pretrained_model": "a wrapper that keeps the model as `pretrained_model` (TRL's value heads)",
    "base_model": "peft",
}
"""Part of a name -> who puts it there. Only the wording hangs on it."""


class StrictLoadWillFail(Rule):
    """The stored names are not those of the class: all of them wear a wrapper's prefix, or an alias is not stored.

    ## What it does
    Two things. An error where every stored name begins with a prefix that the class's names do not have
    (`module.`, `_orig_mod.`, `_fsdp_wrapped_module.`, `pretrained_model.`, `base_model.model.`), so that nothing of
    the file would be loaded. And a note where a training is to be resumed from the directory (`trainer_state.json` or
    an optimizer state is there) and the only members of a declared tie that are missing are aliases of one
    that is stored: then the message about missing keys is harmless. The same file without a training beside it is the
    normal form of a tied model, and gets no note. The class's names come from the tie table, or with `--live`
    from the class itself; of a class that is not known nothing is said.

    ## Why it is bad
    transformers 4.57 and 5.23 were both tried on a file with such a prefix: `from_pretrained` loads not one
    tensor of it, makes all of them at random and goes on with a report of missing and unexpected names. Exit code 0,
    a model of noise. A plain `load_state_dict` at least stops, at "Missing key(s)" and "Unexpected key(s)".
    The note is for those who have looked long for the error in `There were missing keys in the checkpoint model
    loaded: ['lm_head.weight']`: there is none. The parameter is one with the embedding, which is loaded.

    ## How to fix it
    Save the model inside the wrapper: `model.module`, `model._orig_mod`, `accelerator.unwrap_model(model)`, for peft
    `merge_and_unload()`. Of a file that is there already, strip the prefix from every name and save it again. Where an
    alias is missing and the load is a plain strict one, use `safetensors.torch.load_model`, which knows ties, or
    `load_state_dict(..., strict=False)` after checking that nothing but the alias is missing.
    """

    code = "TIE205"
    summary = "names a strict load would miss or reject, and whether that is harmless"
    severity = "warning"
    messages = (
        'Missing key(s) in state_dict: "lm_head.weight"',
        "Unexpected key(s) in state_dict",
        "There were missing keys in the checkpoint model loaded: ['lm_head.weight']",
        "Removed shared tensor {'lm_head.weight'} while saving. This should be OK",
    )
    threads = (
        "huggingface/accelerate#2807",
        "huggingface/transformers#27972",
        "huggingface/transformers#29128",
        "huggingface/transformers#11682",
        "huggingface/trl#3071",
        "hpcaitech/ColossalAI#6447",
        "verl-project/verl#4290",
    )

    def check(self, strict_load: StrictLoad) -> Iterator[Draft | Unknown]:
        if strict_load.prefix is not None and strict_load.renamed is not None:
            yield self._wrapped(strict_load, strict_load.prefix, strict_load.renamed)
        elif strict_load.resumed:
            for missing, stored in strict_load.aliases:
                yield self._harmless(missing, stored, strict_load.resumed)

    @staticmethod
    def _wrapped(fact: StrictLoad, prefix: str, renamed: tuple[str, str]) -> Draft:
        makers = [WRAPPERS[part] for part in prefix.split(".") if part in WRAPPERS]
        by = f", as {listed(tuple(makers))} leave{'s' if len(makers) == 1 else ''} it" if makers else ""
        stored, own = renamed
        return Draft(
            f"All {fact.stored:,} stored names begin with {prefix!r}{by}, and those of the class do not: {stored} is "
            f"stored where the class has {own}. from_pretrained loads none of them and makes every weight at random; "
            "a strict load_state_dict stops.",
            (stored,),
            (tensor_place(stored, f"the class's name is {own}"),),
            severity="error",
            edits=(Edit("stripped", None, True, (Step("strip-prefix", (prefix,)),)),),
        )

    @staticmethod
    def _harmless(missing: tuple[str, ...], stored: tuple[str, ...], resumed: tuple[str, ...]) -> Draft:
        it = "it is" if len(missing) == 1 else "they are"
        return Draft(
            f"{listed(missing)} {'is' if len(missing) == 1 else 'are'} not stored, and that is right: {it} one tensor "
            f"with {listed(stored)}. A training resumed from here may print that there were missing keys: harmless, as "
            f"long as the list names nothing else. Only a plain strict load_state_dict would refuse "
            f"{pronoun_for(missing)}.",
            missing,
            (file_place(resumed[0], "a training to be resumed"),),
            severity="info",
            no_mend="nothing has to be done; for a plain strict load use safetensors.torch.load_model, which knows "
            "ties.",
        )

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.records.files import StrictLoad
        from tiecheck.rules.cases import EMBEDDING, HEAD

        alias = (((HEAD,), (EMBEDDING,)),)
        normal = StrictLoad(None, None, 11, alias, ())
        wrapped = StrictLoad("module.", (f"module.{EMBEDDING}", EMBEDDING), 11, (), ())
        compiled = StrictLoad("module._orig_mod.", (f"module._orig_mod.{EMBEDDING}", EMBEDDING), 11, (), ())
        yield Case("saved inside DistributedDataParallel", {"strict_load": wrapped}, finds=("error",))
        yield Case("compiled and distributed", {"strict_load": compiled}, finds=("error",))
        yield Case("a Trainer checkpoint", {"strict_load": normal._replace(resumed=("a",))}, finds=("info",))
        yield Case("a tied model as the hub has thousands", {"strict_load": normal})
        yield Case("a Trainer checkpoint, untied", {"strict_load": normal._replace(aliases=(), resumed=("a",))})
