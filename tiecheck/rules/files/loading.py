"""TIE205 to TIE207: what transformers does not load as it stands, whatever its ties, and what a strict load refuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tiecheck.records.edits import Edit, Step
from tiecheck.records.files import LoadProblem, StrictLoad
from tiecheck.records.words import RANDOM, Unknown
from tiecheck.rules.base import Case, Draft, Rule, file_place, tensor_place
from tiecheck.rules.stored.shapes import load_problem, problem_draft
from tiecheck.wording import listed, pronoun_for

if TYPE_CHECKING:
    from tiecheck.records.loaders import LoaderView


class LoaderReadsOtherWeights(Rule):
    """The weights of the directory are not what transformers loads from it.

    ## What it does
    Looks at a model directory as `from_pretrained` does: whether the file has one of the names that it looks for, or
    the one in `transformers_weights` of the config (which has to name a safetensors file, or an index of some); whether
    a pickle's tensors stand at the top and not below a key like `state_dict`; whether an index has an object `metadata`
    beside its `weight_map`; and whether the metadata of each safetensors file names its `format`, without which
    transformers 4.57 refuses it (a warning). 4.57 reads a file of TensorFlow's or JAX's by those libraries alone. A
    vendor's own file beside it (`consolidated.safetensors`) with another embedding is a warning too. What mlx-lm wrote
    is left to mlx-lm.

    And it looks for names that transformers 5 alone has: it took a module out of the vision towers of CLIP and SigLIP,
    so that 4.57 makes those of a LLaVA that 5 saved at random (a note).

    ## Why it is bad
    Everything else in the report is about tensors that this loader never sees. A file under another name is an
    `OSError`, and an index without metadata a `KeyError`. Of a nested state dict not one name is known: every weight is
    made at random, without an error.

    ## How to fix it
    Rename the file to `model.safetensors`, save the inner state dict alone, write the file again with
    `metadata={"format": "pt"}`, or put `"metadata": {}` into the index. A file that is named on the command line itself
    needs no standard name.
    """

    code = "TIE206"
    summary = "file names, a nested state dict or a missing format send a loader to other weights, or to none"
    severity = "error"
    messages = (
        "no file named model.safetensors",
        "Incompatible safetensors file. File metadata is not",
        "KeyError: 'metadata'",
    )
    threads = "vllm-project/vllm#40765"

    def check(self, load_problems: tuple[LoadProblem, ...]) -> Iterator[Draft]:
        told = ("name", "nested", "format", "moved")
        yield from (problem_draft(found) for found in load_problems if found.kind in told)
        for found in load_problems:
            if found.kind == "vendor":
                place = file_place(found.file, found.message)
                yield Draft(f"{found.why}.", found.names, (place,), severity="warning", no_mend=found.no_mend)

    @staticmethod
    def cases() -> Iterator[Case]:
        yield Case("a vendor's own file name", {"load_problems": (load_problem("name"),)}, finds=("error",))
        yield Case("a nested state dict", {"load_problems": (load_problem("nested"),)}, finds=("error",))
        older = load_problem("format", versions=("4.57",))
        yield Case("no format in the metadata", {"load_problems": (older,)}, finds=("warning",))
        moved = load_problem("moved", versions=("4.57",), outcome="member-random")
        yield Case("a tower under the names of 5 alone", {"load_problems": (moved,)}, finds=("info",))
        beside = load_problem("vendor", versions=())
        yield Case("a vendor's file with other values", {"load_problems": (beside,)}, finds=("warning",))
        yield Case("nothing in the way", {"load_problems": ()})
        yield Case("another rule's matter", {"load_problems": (load_problem("flag"),)})


class LoadWillRaise(Rule):
    """The config and the tensors do not fit each other, or the library refuses the config.

    ## What it does
    Compares stored tensors with the numbers in `config.json` that give them their size: rows of the embedding with
    `vocab_size`, and widths, heads and intermediate sizes of every model inside, with the library's own defaults where
    a section is missing; and the number of their axes. Quantised files and classes that the table lacks are left out.
    Of a live model it compares the tied matrices with the config that it has.

    It also finds what the library refuses in the config, whatever is stored:

    - a value of another type than its field has (null for a number, a text for a truth value; transformers 5);
    - a word that the library does not know: an activation (`hidden_act`), a `rope_type`, or
      a rope type without what it wants beside it (`factor`);
    - numbers that do not go together: heads that do not divide the width, widths that have to be equal, a padding token
      that points at no row of its table;
    - a field that has no value, where its default is none and no class is built so;
    - a `dtype` that is no float type of torch;
    - a `quantization_config` that is null, no object, names no method (`quant_method`), or is of gptq without `bits`;
    - a section that is not there, is null or names no model type where it needs one, or one that the class does not
      have and that is taken for its text's.

    For transformers 4.57 it finds a head beside names of which none begins with the base model's prefix (a warning),
    and what transformers 5 writes and 4.57 does not read (a note).

    ## Why it is bad
    `from_pretrained` ends in `size mismatch`, or before that in a validation error. The usual causes are tokens that
    were added without the config being saved again, a config taken from another size of the model, a section such as
    `vision_config` that was lost, and padding that a training framework left in. 4.57 takes a file without prefixes for
    the base model's own, and calls it corrupted where a head is in it; 5 asks name by name.

    ## How to fix it
    Write the number that the tensors have into `config.json`; or load where the model is whole, resize with
    `resize_token_embeddings`, and save both. Take out a key or a section that the class does not have. Names get their
    prefix from `save_pretrained`.
    """

    code = "TIE207"
    summary = "stored tensors do not have the sizes that the config builds, or the library refuses the config"
    severity = "error"
    messages = (
        "size mismatch for model.embed_tokens.weight",
        "You set `ignore_mismatched_sizes` to `False`",
        "Padding_idx must be within num_embeddings",
        "StrictDataclassFieldValidationError: Validation error for field",
    )
    threads = ""

    def check(self, load_problems: tuple[LoadProblem, ...]) -> Iterator[Draft]:
        yield from (
            problem_draft(found) for found in load_problems if found.kind in ("shape", "prefix", "field", "newer")
        )

    @staticmethod
    def cases() -> Iterator[Case]:
        yield Case("99 rows under a vocab_size of 102", {"load_problems": (load_problem("shape"),)}, finds=("error",))
        older = load_problem("prefix", versions=("4.57",))
        yield Case("null for a number", {"load_problems": (load_problem("field", versions=("5",)),)}, finds=("error",))
        yield Case("the head beside names without a prefix", {"load_problems": (older,)}, finds=("warning",))
        newer = load_problem("newer", versions=("4.57",))
        yield Case("as 5 writes it, and 4.57 does not read it", {"load_problems": (newer,)}, finds=("info",))
        yield Case("nothing in the way", {"load_problems": ()})
        yield Case("another rule's matter", {"load_problems": (load_problem("name"),)})


WRAPPERS = {
    "_orig_mod": "torch.compile",
    "module": "DataParallel, DistributedDataParallel or DeepSpeed",
    "_fsdp_wrapped_module": "FSDP",
    "pretrained_model": "a wrapper that keeps the model as `pretrained_model` (TRL's value heads)",
    "base_model": "peft",
}
"""Part of a name -> who puts it there. Only the wording hangs on it."""


class StrictLoadWillFail(Rule):
    """The stored names are not those of the class: all of them have a wrapper's prefix, or an alias is not stored.

    ## What it does
    Two things. An error where every stored name begins with a prefix that the class's names do not have
    (`module.`, `_orig_mod.`, `_fsdp_wrapped_module.`, `pretrained_model.`, `base_model.model.`), so that nothing of
    the file would be loaded; a warning where it is the base model's prefix once more (`model.model.`, as a module that
    calls the model `model` saves it), which 4.57 alone does not read. And a note where a training is to be resumed from
    the directory (`trainer_state.json` or an optimizer state is there) and the only members of a declared tie that are
    missing are aliases of one that is stored: then the message about missing keys is harmless. The same file without a
    training beside it is the normal form of a tied model, and gets no note. The class's names come from the tie table,
    or with `--live` from the class itself; of a class that is not known nothing is said.

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
        "huggingface/accelerate#2807 huggingface/transformers#27972 huggingface/transformers#29128 "
        "huggingface/transformers#11682 huggingface/trl#3071 hpcaitech/ColossalAI#6447 verl-project/verl#4290"
    )

    def check(self, strict_load: StrictLoad, loaders: tuple[LoaderView, ...] | None) -> Iterator[Draft | Unknown]:
        lost = tuple(view for view in loaders or () if view.line == "4.57" and view.outcome in RANDOM)
        whole = strict_load.doubled and not lost
        if strict_load.prefix is not None and strict_load.renamed is not None and not whole:
            yield self._wrapped(strict_load, strict_load.prefix, strict_load.renamed, lost)
        elif strict_load.resumed:
            for missing, stored in strict_load.aliases:
                yield self._harmless(missing, stored, strict_load.resumed)

    @staticmethod
    def _wrapped(fact: StrictLoad, prefix: str, renamed: tuple[str, str], older: tuple[LoaderView, ...]) -> Draft:
        makers = [WRAPPERS[part] for part in prefix.split(".") if part in WRAPPERS]
        by = f", as {listed(tuple(makers))} leave{'s' if len(makers) == 1 else ''} it" if makers else ""
        stored, own = renamed
        unlike = " once more than those of the class" if fact.doubled else ", and those of the class do not"
        loads = "transformers 5 reads them all the same; 4.57 loads" if fact.doubled else "from_pretrained loads"
        return Draft(
            f"All {fact.stored:,} stored names begin with {prefix!r}{by}{unlike}: {stored} is "
            f"stored where the class has {own}. {loads} none of them and makes every weight at random; a strict "
            "load_state_dict stops.",
            (stored,),
            (tensor_place(stored, f"the class's name is {own}"),),
            severity="warning" if fact.doubled else "error",
            hurts=older if fact.doubled else None,
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
        from tiecheck.rules.cases import EMBEDDING, HEAD, loader_view

        alias = (((HEAD,), (EMBEDDING,)),)
        normal = StrictLoad(None, None, 11, alias, ())
        wrapped = StrictLoad("module.", (f"module.{EMBEDDING}", EMBEDDING), 11, (), ())
        compiled = StrictLoad("module._orig_mod.", (f"module._orig_mod.{EMBEDDING}", EMBEDDING), 11, (), ())
        twice = StrictLoad("model.", (f"model.{EMBEDDING}", EMBEDDING), 11, (), (), True)
        older = loader_view("transformers", "embedding-random", versions="4.57", checked="run")

        def facts(found: StrictLoad, *views: LoaderView) -> dict[str, Any]:
            return {"strict_load": found, "loaders": views}

        yield Case("saved inside DistributedDataParallel", facts(wrapped), finds=("error",))
        yield Case("compiled and distributed", facts(compiled), finds=("error",))
        yield Case("saved inside a module that calls it `model`", facts(twice, older), finds=("warning",))
        yield Case("the same of a class that 4.57 has not", facts(twice))
        yield Case("a Trainer checkpoint", facts(normal._replace(resumed=("a",))), finds=("info",))
        yield Case("a tied model as the hub has thousands", facts(normal))
        yield Case("a Trainer checkpoint, untied", facts(normal._replace(aliases=(), resumed=("a",))))
