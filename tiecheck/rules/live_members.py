"""TIE303, 304, 312 and 313: real ties of a live module, and what does not see, save or use them as such."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.facts import TIED, LoaderView, Unknown
from tiecheck.facts_live import Alias, Effect, Freeze, LiveModel, SaveProblem, Tie
from tiecheck.report import Location, Severity
from tiecheck.rules.base import Case, Draft, Rule
from tiecheck.rules.live import NOT_TIED, SHARED_MEMORY
from tiecheck.rules.wording import listed


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
            paths = tuple(path or "(the model)" for path in alias.paths)
            times = f"{alias.paths_total} paths" if alias.paths_total is not None else "endlessly many paths (a cycle)"
            yield Draft(
                f"{listed(paths)} are one {alias.class_name}, registered under {times}: tied, by the module. "
                f"{_accelerate(alias)}",
                alias.names,
                (Location(live.class_name, None, None, "primary", f"{alias.paths[0]} is {alias.paths[-1]}"),),
                "Nothing has to be done. To be seen by every tool, share the weight and not the module.",
                hurts=_blind(alias),
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


class UndeclaredTie(Rule):
    """The module ties what its class does not declare, and cannot save it.

    ## What it does
    Finds parameters of a `PreTrainedModel` that are one and that no `_tied_weights_keys` covers, so that
    `save_pretrained` refuses; and ties of an inner model that stands in a list or a plain module, where the outer model
    does not hear of them. A tie of a plain `nn.Module` is nobody's to declare and is left alone. A module alias is a
    note: it loads and runs as it was meant, and only a save minds.

    ## Why it is bad
    transformers 5 raises "shared tensors ... which are not properly defined" at the first save, often after days of
    training. The inner model's tie is worse: the save drops the member, and the load leaves it random, because
    `post_init` asks direct children alone.

    ## How to mend it
    Declare it: `_tied_weights_keys = {"target.weight": "source.weight"}` on the class, and set
    `config.tie_word_embeddings` to true. For an inner model, register it as a direct attribute, or repeat its keys with
    their prefix on the outer class.
    """

    code = "TIE304"
    name = "undeclared-tie"
    summary = "a real tie that the class does not declare: save_pretrained raises, or drops it"
    severity = "warning"
    confidence = "high"
    messages = (
        "The weights trying to be saved contained shared tensors",
        SHARED_MEMORY,
    )
    threads = ("safetensors/safetensors#98", "safetensors/safetensors#202", "huggingface/trl#5150")

    def check(self, live: LiveModel) -> Iterator[Draft | Unknown]:
        """Ties that a save refuses or loses."""
        changed = {effect.name for effect in live.effects}
        for problem in live.unsaved:
            if changed.isdisjoint(problem.names):  # else tied-but-not-effective speaks
                yield _unsaved(live, problem)

    @staticmethod
    def cases() -> Iterator[Case]:
        """A tie of attention weights, an inner model in a list, and what is declared."""
        from tiecheck.rules.cases import PAIR, live

        raises = SaveProblem(("k.weight", "q.weight"), "parameter", "", "LlamaForCausalLM", "raises", ())
        yield Case("two layers share a weight", {"live": live(unsaved=(raises,))}, finds=("warning",))
        inner = SaveProblem(PAIR, "parameter", "", "Outer", "unpropagated", PAIR[:1])
        yield Case("an inner model in a list", {"live": live(unsaved=(inner,))}, finds=("warning",))
        alias = raises._replace(kind="module")
        yield Case("a module alias, which loads and runs (OLMo)", {"live": live(unsaved=(alias,))}, finds=("info",))
        pruned = (Effect("k.weight", "torch.nn.utils.prune", adapter=False),)
        yield Case("a member that is not used as it is", {"live": live(unsaved=(raises,), effects=pruned)})
        yield Case("declared and tied", {"live": live()})


class RequiresGradSurprise(Rule):
    """Members of one tensor that were meant to differ in `requires_grad` or dtype cannot.

    ## What it does
    Notes signs that somebody wanted the members of a tie to differ: `requires_grad` set on a module, where it does
    nothing at all; a tied tensor that alone is frozen, or that alone trains below a module which is otherwise frozen;
    and one that alone has another dtype. Only the first is surely not what was meant: the others are notes.

    ## Why it is bad
    One tensor has one `requires_grad` and one dtype. Freezing the embedding freezes the head; training the head trains
    the embedding; casting the head to float32 casts the embedding as well.

    ## How to mend it
    If the members are to differ, they have to be two: set `config.tie_word_embeddings` to false and give the head
    `nn.Parameter(weight.detach().clone())`. To freeze a module call `module.requires_grad_(False)`, with the
    underscore.
    """

    code = "TIE312"
    name = "requires-grad-surprise"
    summary = "tied members that were meant to differ in requires_grad or dtype"
    severity = "warning"
    confidence = "medium"
    messages = ()
    threads = (
        "huggingface/transformers#31467",
        "huggingface/transformers#11903",
        "kohjingyu/fromage#18",
        "huggingface/trl#4446",
        "allenai/open-instruct#1387",
    )

    def check(self, live: LiveModel) -> Iterator[Draft | Unknown]:
        """Every sign that tied members were to differ."""
        for freeze in live.freezes:
            message, severity = _surprise(freeze)
            yield Draft(
                message,
                freeze.names,
                (Location(live.class_name, None, None, "primary", f"{freeze.names[0]}: {freeze.found}"),),
                f"If they are to differ, untie them: {_own(live)}. Otherwise nothing has to be done.",
                severity=severity,
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        """The four signs."""
        from tiecheck.rules.cases import PAIR, live

        nothing = Freeze("attribute", PAIR, "lm_head", "trains", "false")
        yield Case("requires_grad set on a module", {"live": live(freezes=(nothing,))}, finds=("warning",))
        frozen = Freeze("frozen", PAIR, "", "frozen", "trains")
        yield Case("the embedding frozen, and the head with it", {"live": live(freezes=(frozen,))}, finds=("info",))
        alone = Freeze("trainable", PAIR, "model", "trains", "frozen")
        yield Case("the head trains, and the embedding with it", {"live": live(freezes=(alone,))}, finds=("info",))
        cast = Freeze("dtype", PAIR, "", "float32", "bfloat16")
        yield Case("the head in float32", {"live": live(freezes=(cast,))}, finds=("info",))
        yield Case("nothing of the kind", {"live": live()})
        untied = live(flag=False, ties=(), declared=(), candidates=())
        yield Case("two parameters may differ as they like", {"live": untied})


class TiedButNotEffective(Rule):
    """The members are one `Parameter`, and `forward` uses another weight on one side.

    ## What it does
    Finds tied members of which one passes through something before it is used: pruning, `spectral_norm`, the old
    `weight_norm`, a parametrization. An adapter on one side is a note: it is meant to differ while it trains.

    ## Why it is bad
    Whoever looks for the same object finds the tie intact. But the head scores with a pruned or normalised matrix and
    the embedding looks up the raw one. `prune.remove` and `remove_parametrizations` then write the changed weight into
    the embedding in place, as merging an adapter does.

    ## How to mend it
    Prune or normalise before tying, or both sides alike. To bake it in on one side only, untie first.
    """

    code = "TIE313"
    name = "tied-but-not-effective"
    summary = "one Parameter, and another weight in forward on one side: pruning, a norm, a parametrization, an adapter"
    severity = "error"
    confidence = "high"
    messages = ("Model has `tie_word_embeddings=True` and a tied layer is part of the adapter",)
    threads = ("huggingface/peft#2018", "huggingface/peft#1750")

    def check(self, live: LiveModel) -> Iterator[Draft | Unknown]:
        """Ties of which some members are changed on their way."""
        by_name = {effect.name: effect for effect in live.effects}
        for tie in live.ties:
            changed = [by_name[name] for name in tie.names if name in by_name]
            plain = tuple(name for name in tie.names if name not in by_name)
            adapters = all(effect.adapter for effect in changed)
            if tie.kind not in TIED or tie.buffer or not changed or not (plain or adapters):
                continue
            if not plain:
                yield _both_adapted(live, tie, changed)
                continue
            after = (
                f"Merging the adapter would change {plain[0]} as well."
                if adapters
                else f"Removing it would write the changed weight into {plain[0]}."
            )
            yield Draft(
                f"{listed(tie.names)} are one parameter, but {changed[0].name} is not used as it is: "
                f"{changed[0].by} stands between. {plain[0]} is used raw. {after}",
                tie.names,
                (Location(live.class_name, None, None, "primary", f"{changed[0].name}: {changed[0].by}"),),
                "Leave it if the two are meant to differ, and do not merge into a tied model."
                if adapters
                else f"Change both sides alike, or untie them first: {_own(live)}.",
                severity="info" if adapters else None,
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        """One side, both sides, an adapter."""
        from tiecheck.rules.cases import live, tie

        names = ("lm_head.weight_orig", "model.embed_tokens.weight")
        tied = live(ties=(tie(*names),))
        one = (Effect(names[0], "torch.nn.utils.prune", adapter=False),)
        yield Case("the head is pruned", {"live": tied._replace(effects=one)}, finds=("error",))
        both = (*one, Effect(names[1], "torch.nn.utils.prune", adapter=False))
        yield Case("both are", {"live": tied._replace(effects=both)})
        lora = (Effect(names[0], "the adapter default (Linear)", adapter=True),)
        yield Case("an adapter on the head", {"live": tied._replace(effects=lora)}, finds=("info",))
        apart = live(ties=(tie(*names, kind="storage"),), effects=one)
        yield Case("weight_norm makes two parameters: another rule's matter", {"live": apart})
        yield Case("nothing stands between", {"live": live()})


def _own(live: LiveModel) -> str:
    """How two members become two."""
    flag = "config.tie_word_embeddings = False, and " if live.library is not None else ""
    return f"{flag}nn.Parameter(weight.detach().clone()) for one of them"


def _both_adapted(live: LiveModel, tie: Tie, changed: list[Effect]) -> Draft:
    """A tie with an adapter on each side: a merge adds both to the one tensor."""
    return Draft(
        f"{listed(tie.names)} are one parameter, and each has an adapter: {changed[0].by} and {changed[-1].by}. "
        "Merging would add both to the one tensor.",
        tie.names,
        (Location(live.class_name, None, None, "primary", f"{changed[0].name}: {changed[0].by}"),),
        "Leave it if the two are meant to differ, and do not merge into a tied model.",
        severity="info",
    )


def _unsaved(live: LiveModel, problem: SaveProblem) -> Draft:
    """What becomes of a tie at the next save, and how to have it back."""
    source, target = problem.names[-1], problem.names[0]
    if problem.form == "raises":
        what = (
            f"{listed(problem.names)} are one parameter, which {problem.class_name} does not declare: save_pretrained "
            "raises RuntimeError."
        )
        mend = (
            f'To save it, add "{target}": "{source}" to the _tied_weights_keys that the class has. They count while '
            "config.tie_word_embeddings is true, all of them: where another pair is to stay apart, give one of these "
            "names a tensor of its own before the save instead."
        )
    else:
        what = (
            f"{listed(problem.names)} are one parameter by an inner model's declaration, of which {problem.class_name} "
            f"does not hear: save_pretrained drops {listed(problem.dropped)}, and a load makes "
            f"{'it' if len(problem.dropped) == 1 else 'them'} at random."
        )
        mend = f"Register the inner model as a direct attribute, or declare the pair on {problem.class_name} as well."
    return Draft(
        what,
        problem.names,
        (Location(live.class_name, None, None, "primary", "one parameter, not declared"),),
        mend,
        severity="info" if problem.kind == "module" and problem.form == "raises" else None,
    )


def _surprise(freeze: Freeze) -> tuple[str, Severity]:
    """The words for a sign, and how much it matters."""
    names = listed(freeze.names)
    if freeze.form == "attribute":
        really = "is frozen" if freeze.found == "frozen" else "trains"
        told = f"{freeze.where}.requires_grad is {freeze.others}, an attribute of the module that changes nothing"
        return f"{told}: {names}, one tensor, {really}.", "warning"
    if freeze.form == "frozen":
        told = f"{names} are one tensor, and it alone is frozen while everything else trains"
        return f"{told}: its members cannot be frozen apart.", "info"
    if freeze.form == "trainable":
        told = f"{names} are one tensor, and it alone trains below {freeze.where}, where everything else is frozen"
        return f"{told}: training the one trains the other.", "info"
    told = f"{names} are one tensor in {freeze.found}, and everything else is {freeze.others}"
    return f"{told}: casting the one cast the other.", "info"


def _blind(alias: Alias) -> tuple[LoaderView, ...] | None:
    """The versions of accelerate that do not see an alias; with `--for` one of them, the note is a warning."""
    before = ("0.9-0.17", "0.18-0.33")
    if not alias.siblings:
        return None
    return tuple(
        LoaderView("accelerate", versions, "unknown", None, "run", alias.names, None, None, None) for versions in before
    )


def _accelerate(alias: Alias) -> str:
    if alias.siblings:
        return (
            "accelerate before 0.34 reports nothing for it, since its walk lists a module once for each parent, and "
            "warns that the weights are not tied; 0.34 and later find it."
        )
    if alias.paths_total == 2:
        return "accelerate finds it in every version, since the paths have different parents."
    return "accelerate before 0.34 may find some of the paths only; 0.34 and later find them all."
