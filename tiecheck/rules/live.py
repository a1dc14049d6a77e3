"""TIE3xx: what a live `nn.Module` really holds against what its class and config say."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.facts import TIED, Unknown
from tiecheck.facts_live import Alias, DeclaredTie, LiveModel, Tie
from tiecheck.report import Location
from tiecheck.rules.base import Case, Draft, Rule
from tiecheck.rules.wording import listed

NOT_TIED = (
    "The model weights are not tied. Please use the `tie_weights` method before using the `infer_auto_device` function."
)
"""accelerate's warning (1.15, `infer_auto_device_map`), true for one of these rules and false for the other."""


SHARED_MEMORY = (
    "Some tensors share memory, this will lead to duplicate memory on disk and potential differences when loading "
    "them again"
)
"""safetensors' refusal (0.8, `save_file`)."""


class DeclaredTieNotApplied(Rule):
    """The class declares a tie, and the module holds separate parameters.

    ## What it does
    Finds groups that class and config declare as tied and whose members are `copy` (separate memory, equal
    bytes) or `separate` in the live module. On the meta device the identity of the objects decides.

    ## Why it is bad
    Everything that trusts the declaration goes wrong: savers drop the member they believe to be an alias, the
    optimizer moves two tensors where one was meant, each with half of the gradient. A copy gives the right output
    until the first step, and so passes every test before it.

    ## How to mend it
    Find out first which values are right: `tie_weights()` keeps the source's and drops the others, which would
    destroy a head that was trained on its own. Then call it after whatever replaced the parameter
    (`load_state_dict(assign=True)`, `to_empty`, a hand-written loader, a wrapper), and before the optimizer or a
    sharding wrapper is made. If the model is meant to be untied, set `config.tie_word_embeddings` to false.
    """

    code = "TIE301"
    name = "declared-tie-not-applied"
    summary = "declared tied, the live members are copies or separate"
    severity = "error"
    confidence = "high"
    messages = (NOT_TIED,)
    threads = (
        "vec2text/vec2text#94",
        "rasbt/LLMs-from-scratch#822",
        "Modalities/modalities#357",
        "verl-project/verl#7835",
        "huggingface/accelerate#3668",
        "pytorch/xla#1245",
    )

    def check(self, live: LiveModel) -> Iterator[Draft | Unknown]:
        """Declared groups that are copies or separate."""
        for reason in live.reasons:
            yield Unknown(reason)
        for claim in live.declared:
            if claim.kind not in ("copy", "separate") or claim.stored == "separate":
                continue  # a loader that keeps apart what is stored apart is right; the checkpoint is TIE101's matter
            yield Draft(
                f"{claim.by[0]} declares {listed(claim.names)} as one tensor, but the module holds "
                f"{len(claim.parts)} separate parameters{_state(claim)}.",
                claim.names,
                (Location(live.class_name, None, None, "primary", _parts(claim)),),
                f"Make sure first which values are right: model.tie_weights() keeps those of {claim.source} and drops "
                "the others. Call it after whatever replaced the parameter, and before the optimizer is made. If the "
                "model is meant to be untied, set config.tie_word_embeddings to false.",
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        """A copy, separate members, and what holds together."""
        from tiecheck.rules.cases import PAIR, declared, live

        yield Case("separate values", {"live": live(ties=(), declared=(declared("separate"),))}, finds=("error",))
        yield Case("an equal copy", {"live": live(ties=(), declared=(declared("copy"),))}, finds=("error",))
        yield Case("tied as declared", {"live": live()})
        aliased = declared("module", parts=(PAIR,))
        yield Case("tied by a module alias", {"live": live(declared=(aliased,))})
        yield Case("one memory is another rule's matter", {"live": live(declared=(declared("storage"),))})
        yield Case("members that do not exist", {"live": live(ties=(), declared=(declared("absent"),))})
        yield Case(
            "placeholders whose identity cannot be told", {"live": live(ties=(), declared=(declared("unknown"),))}
        )
        unread = live(declared=(), reasons=("_tied_weights_keys is a list",))
        yield Case("a declaration that cannot be read", {"live": unread}, unknown=True)
        kept = declared("separate", stored="separate")
        yield Case("loaded as it is stored: two different tensors", {"live": live(ties=(), declared=(kept,))})
        random = declared("separate", stored="absent")
        yield Case(
            "loaded from one tensor, and not tied", {"live": live(ties=(), declared=(random,))}, finds=("error",)
        )
        yield Case("nothing declared", {"live": live(ties=(), declared=())})


class StorageOnlyTie(Rule):
    """Two `Parameter` objects lie over the same memory: it looks tied, and is not.

    ## What it does
    Finds different parameters with the same memory, offset and elements, a transposed view included. The usual
    makers are `head.weight.data = embedding.weight.data`, `nn.Parameter(embedding.weight)`,
    `nn.Parameter(embedding.weight.t())`, and `weight_norm` on a member that was tied.

    ## Why it is bad
    The values agree, so every comparison of values passes. But each object has a gradient of its own, the
    optimizer holds two states and steps the memory twice, and the two part for good at the first `.half()`,
    `deepcopy`, `to_empty` or `load_state_dict(assign=True)`. Tools that look for the same object (accelerate,
    lightning, torch) do not see it; tools that look at memory (safetensors) refuse to save it.

    ## How to mend it
    Share the object: `head.weight = embedding.weight`. For a transposed use, keep one parameter and write
    `x @ embedding.weight` in `forward`. Apply `weight_norm` or another parametrization before tying, or not at all.
    On the meta device, accelerate's `init_empty_weights` makes such ties by itself, and transformers' loader ties
    again afterwards: there it is only a note.
    """

    code = "TIE302"
    name = "storage-only-tie"
    summary = "different Parameter objects over one memory: looks tied, is not"
    severity = "error"
    confidence = "high"
    messages = (SHARED_MEMORY,)
    threads = (
        "pytorch/pytorch#79788",
        "TransformerLensOrg/TransformerLens#1725",
        "huggingface/transformers#33688",
        "mindspore-ai/hyper-parallel#606",
    )

    def check(self, live: LiveModel) -> Iterator[Draft | Unknown]:
        """Live groups held together by memory alone."""
        for tie in live.ties:
            if tie.kind != "storage" or tie.buffer:
                continue
            yield self._draft(live, tie)

    @staticmethod
    def _draft(live: LiveModel, tie: Tie) -> Draft:
        meta = tie.device == "meta"
        normed = [n for n in tie.names if n.endswith("parametrizations.weight.original1")]
        what = (
            f"{normed[0]} is what weight_norm made of a tied weight: it still shares the memory, and is a parameter of "
            "its own"
            if normed
            else f"{listed(tie.names)} share their memory, but are {len(tie.requires_grad)} different Parameter objects"
        )
        cost = (
            "accelerate's init_empty_weights makes these; the loader has to tie again."
            if meta
            else "Each has its own gradient and optimizer state, and the first conversion or copy parts them."
        )
        mend = (
            "Remove the weight_norm, or tie after it in forward."
            if normed
            else f"Share the object: model.{tie.names[0]} = model.{tie.names[-1]}, not its .data or a new Parameter of "
            "it. Where one is the other transposed, keep one and write x @ weight in forward."
        )
        return Draft(
            f"{what}. {cost}",
            tie.names,
            (Location(live.class_name, None, None, "primary", "same memory, different objects"),),
            mend,
            severity="info" if meta else None,
        )

    @staticmethod
    def cases() -> Iterator[Case]:
        """Shared memory with and without data, weight_norm, and real ties."""
        from tiecheck.rules.cases import live, tie

        shared = tie(kind="storage", requires_grad=(True, True))
        yield Case("`.data =` or `nn.Parameter(w)`", {"live": live(ties=(shared,))}, finds=("error",))
        normed = tie("lm_head.parametrizations.weight.original1", "model.embed_tokens.weight", kind="storage")
        yield Case("weight_norm after tying", {"live": live(ties=(normed,))}, finds=("error",))
        yield Case("on meta", {"live": live(ties=(shared._replace(device="meta"),))}, finds=("info",))
        yield Case("a shared buffer", {"live": live(ties=(shared._replace(buffer=True),))})
        yield Case("a parameter tie", {"live": live()})
        yield Case("a module alias", {"live": live(ties=(tie(kind="module"),))})
        yield Case("views that overlap in part are no tie", {"live": live(ties=(tie(kind="overlap"),))})


class ModuleAlias(Rule):
    """One module stands under several paths: a tie that some tools cannot see.

    ## What it does
    Notes each module with parameters that is registered more than once (`self.ff_out = self.wte`), and says which
    tools miss the tie.

    ## Why it is bad
    The tie is sound. But accelerate's `find_tied_parameters` before 0.34 walks `named_children()`, which
    lists a module once for each parent: an alias among siblings does not exist for it, and it warns that "the
    model weights are not tied". An alias across parents it does find. From 0.34 on both are found. transformers 5
    refuses to save an alias that the class does not declare, and calling the aliased slot runs the wrong
    `forward`: an embedding's where a linear layer's was meant.

    ## How to mend it
    Nothing has to be done for the model to be right. To be seen by every tool, share the weight and not the
    module: give the second slot a layer of its own and assign `self.ff_out.weight = self.wte.weight`, or drop the
    slot and use `F.linear(x, self.wte.weight)`.
    """

    code = "TIE303"
    name = "module-alias"
    summary = "one module under several paths: which tools cannot see the tie"
    severity = "info"
    confidence = "high"
    messages = (NOT_TIED,)
    threads = ("allenai/OLMo#485", "allenai/OLMo#503", "huggingface/accelerate#1761", "huggingface/accelerate#2984")

    def check(self, live: LiveModel) -> Iterator[Draft | Unknown]:
        """Every module with parameters under several paths."""
        for alias in live.aliases:
            times = f"{alias.paths_total} paths" if alias.paths_total is not None else "endlessly many paths (a cycle)"
            yield Draft(
                f"{listed(alias.paths)} are one {alias.class_name}, registered under {times}: tied, by the module. "
                f"{_accelerate(alias)}",
                alias.names,
                (Location(live.class_name, None, None, "primary", f"{alias.paths[0]} is {alias.paths[-1]}"),),
                "Nothing has to be done. To be seen by every tool, share the weight and not the module.",
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        """Siblings, parents apart, and ties without an alias."""
        from tiecheck.rules.cases import live, tie

        names = ("model.transformer.ff_out.weight", "model.transformer.wte.weight")
        paths = ("model.transformer.ff_out", "model.transformer.wte")
        siblings = Alias(paths, 2, "Embedding", siblings=True, names=names)
        module = tie(*names, kind="module")
        yield Case(
            "OLMo: siblings in one ModuleDict", {"live": live(ties=(module,), aliases=(siblings,))}, finds=("info",)
        )
        apart = siblings._replace(paths=("head", "model.wte"), siblings=False)
        yield Case("across parents", {"live": live(ties=(module,), aliases=(apart,))}, finds=("info",))
        endless = siblings._replace(paths_total=None)
        yield Case("a module that contains itself", {"live": live(aliases=(endless,))}, finds=("info",))
        yield Case("a parameter tie", {"live": live()})
        yield Case("shared activations hold no parameter", {"live": live(ties=(), aliases=())})


class TieAgainstConfig(Rule):
    """The members are tied although the config says that they are not.

    ## What it does
    Finds groups the class can tie that are one parameter in the live module while `config.tie_word_embeddings` is
    false.

    ## Why it is bad
    transformers 5 drops the target on `save_pretrained` by the class's keys, whatever the flag says, and on
    reload the false flag keeps it from tying: the head comes back random. The only sign is a MISSING line in the
    load report.

    ## How to mend it
    Set `config.tie_word_embeddings = True` if the tie is meant. If not, give the member a tensor of its own:
    `lm_head.weight = nn.Parameter(embedding.weight.detach().clone())`.
    """

    code = "TIE305"
    name = "tie-against-config"
    summary = "tied although the config says not: the next save drops the member, the next load makes it random"
    severity = "error"
    confidence = "high"
    messages = ("lm_head.weight | MISSING",)
    threads = ("NVIDIA-NeMo/Automodel#2941", "state-spaces/mamba#211", "mosaicml/llm-foundry#989")

    def check(self, live: LiveModel) -> Iterator[Draft | Unknown]:
        """Groups tied against a flag that is false."""
        if live.flag is not False:
            return
        claimed = {name for claim in live.declared for name in claim.names}
        for names in live.candidates:
            tie = _holding(live.ties, names)
            if tie is None or not claimed.isdisjoint(names):
                continue
            shared = tuple(n for n in names if n in tie.names)
            yield Draft(
                f"{listed(shared)} are one tensor ({tie.kind}), but config.tie_word_embeddings is false. "
                "save_pretrained drops all but one of them by the class's keys, and a reload makes the dropped ones "
                "at random.",
                shared,
                (Location(live.class_name, None, None, "primary", "tie_word_embeddings is false"),),
                "Set config.tie_word_embeddings = True before saving, or give the head a tensor of its own.",
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        """A hand tie under a false flag, and the states next to it."""
        from tiecheck.rules.cases import live, tie

        yield Case("tied by hand, flag false", {"live": live(flag=False, declared=())}, finds=("error",))
        yield Case("tied, flag true", {"live": live()})
        yield Case("untied, flag false", {"live": live(flag=False, declared=(), ties=())})
        other = tie("a.weight", "b.weight")
        yield Case("another tie under a false flag", {"live": live(flag=False, declared=(), ties=(other,))})
        yield Case("a model without a config", {"live": live(flag=None, declared=(), candidates=(), library=None)})


def _holding(ties: tuple[Tie, ...], names: tuple[str, ...]) -> Tie | None:
    """The real tie that holds two or more of some names."""
    return next((t for t in ties if t.kind in TIED and len(set(t.names) & set(names)) > 1), None)


def _accelerate(alias: Alias) -> str:
    if alias.siblings:
        return (
            "accelerate before 0.34 reports nothing for it, since its walk lists a module once for each parent, and "
            "warns that the weights are not tied; 0.34 and later find it."
        )
    if alias.paths_total == 2:
        return "accelerate finds it in every version, since the paths have different parents."
    return "accelerate before 0.34 may find some of the paths only; 0.34 and later find them all."


def _state(claim: DeclaredTie) -> str:
    if claim.reason:
        return f" ({claim.reason})"
    return " with equal values, which the first update will part" if claim.kind == "copy" else " with different values"


def _parts(claim: DeclaredTie) -> str:
    return "; ".join(" = ".join(part) for part in claim.parts[:4])
