"""TIE303, 304 and 318: real ties of a live module that tools do not see, that no save keeps, or that nobody meant."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.peers.loaders.accelerate import FINDERS
from tiecheck.records.edits import Edit, python_edit, source_step
from tiecheck.records.live import Alias, Effect, SaveProblem
from tiecheck.records.loaders import LoaderView
from tiecheck.records.mending import Mending
from tiecheck.records.words import Unknown
from tiecheck.rules.base import Case, Draft, Rule, class_place
from tiecheck.rules.cases import PAIR, live_facts, live_tie
from tiecheck.rules.live.applied import NOT_TIED, SHARED_MEMORY
from tiecheck.rules.live.members import use_one_weight
from tiecheck.rules.live.mends import FIXED, FLAG, joined_declarations, model_path, untying_edits
from tiecheck.wording import cause_of, counted, listed


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

    ## How to fix it
    Nothing has to be done for the model to be right. To be seen by every tool, share the weight and not the
    module: give the second slot a layer of its own and assign `self.ff_out.weight = self.wte.weight`, or drop the
    slot and use `F.linear(x, self.wte.weight)`.
    """

    code = "TIE303"
    summary = "one module under several paths: which tools cannot see the tie"
    severity = "info"
    messages = (NOT_TIED,)
    threads = "allenai/OLMo#485 allenai/OLMo#503 huggingface/accelerate#1761 huggingface/accelerate#2984"

    def check(self, mending: Mending, aliases: tuple[Alias, ...]) -> Iterator[Draft | Unknown]:
        for alias in aliases:
            if _list_of(alias) is not None:
                continue  # repeated-module speaks
            paths = tuple(path or "(the model)" for path in alias.paths)
            times = f"{alias.paths_total} paths" if alias.paths_total is not None else "endlessly many paths (a cycle)"
            told = f"{listed(paths)} are one {alias.class_name}, registered under {times}: tied, by the module."
            yield _draft(mending, alias, told, "Nothing has to be done where one module is meant.")

    @staticmethod
    def cases() -> Iterator[Case]:
        names = ("model.transformer.ff_out.weight", "model.transformer.wte.weight")
        paths = ("model.transformer.ff_out", "model.transformer.wte")
        siblings = Alias(paths, 2, "Embedding", siblings=True, names=names)
        module = live_tie(*names, kind="module")
        yield Case("OLMo: siblings in one ModuleDict", live_facts(ties=(module,), aliases=(siblings,)), finds=("info",))
        apart = siblings._replace(paths=("head", "model.wte"), siblings=False)
        yield Case("across parents", live_facts(ties=(module,), aliases=(apart,)), finds=("info",))
        endless = siblings._replace(paths_total=None)
        listed_ = siblings._replace(paths=("heads.0", "heads.1"), class_name="Block")
        yield Case("a list that holds it twice is another rule's matter", live_facts(aliases=(listed_,)))
        yield Case("a module that contains itself", live_facts(aliases=(endless,)), finds=("info",))
        yield Case("a parameter tie", live_facts())
        yield Case("shared activations hold no parameter", live_facts(ties=(), aliases=()))


class UndeclaredTie(Rule):
    """The module ties what its class does not declare, and cannot save it.

    ## What it does
    Finds parameters of a `PreTrainedModel` that are one and that no `_tied_weights_keys` covers, so that
    `save_pretrained` refuses; and ties of an inner model that stands in a list or a plain module, where the outer model
    does not hear of them. A tie of a plain `nn.Module` is nobody's to declare and is left alone. A module alias is a
    note: it loads and runs as it was meant, and only a save minds; one that a parametrization hides was saved before.

    ## Why it is bad
    transformers 5 raises "shared tensors ... which are not properly defined" at the first save, often after days of
    training. The inner model's tie is worse: the save drops the member, and the load leaves it random, because
    `post_init` asks direct children alone.

    ## How to fix it
    Declare it: `_tied_weights_keys = {"target.weight": "source.weight"}` on the class, and set
    `config.tie_word_embeddings` to true. For an inner model, register it as a direct attribute, or repeat its keys with
    their prefix on the outer class.
    """

    code = "TIE304"
    summary = "a real tie that the class does not declare: save_pretrained raises, or drops it"
    severity = "warning"
    messages = ("The weights trying to be saved contained shared tensors", SHARED_MEMORY)
    threads = "safetensors/safetensors#98 safetensors/safetensors#202 huggingface/trl#5150"

    def check(
        self, mending: Mending, save_problems: tuple[SaveProblem, ...], derived_weights: tuple[Effect, ...]
    ) -> Iterator[Draft | Unknown]:
        by_name = {effect.name: effect for effect in derived_weights}
        alike: dict[tuple[object, ...], list[SaveProblem]] = {}
        for problem in save_problems:
            changed = [by_name[name] for name in problem.names if name in by_name]
            plain = tuple(name for name in problem.names if name not in by_name)
            if not changed or use_one_weight(changed, plain):  # else tied-but-not-effective speaks
                key = problem.class_name, problem.form, problem.kind, problem.written, *cause_of(problem.names)
                alike.setdefault(key, []).append(problem)
        for held in alike.values():
            yield _unsaved(mending, held[0]) if len(held) == 1 else _all_unsaved(mending, held)

    @staticmethod
    def cases() -> Iterator[Case]:
        raises = SaveProblem(("k.weight", "q.weight"), "parameter", "LlamaForCausalLM", "raises", ())
        yield Case("two layers share a weight", live_facts(unsaved=(raises,)), finds=("warning",))
        inner = SaveProblem(PAIR, "parameter", "Outer", "unpropagated", PAIR[:1])
        more = tuple(raises._replace(names=(f"layers.0.{n}", f"layers.1.{n}")) for n in "kqv")
        yield Case("a layer shares another's", live_facts(unsaved=more), finds=("warning",))
        yield Case("an inner model in a list", live_facts(unsaved=(inner,)), finds=("warning",))
        alias = raises._replace(kind="module")
        yield Case("a module alias, which loads and runs (OLMo)", live_facts(unsaved=(alias,)), finds=("info",))
        hidden = alias._replace(names=("k.parametrizations.weight.original", "q.parametrizations.weight.original"))
        yield Case("one that was saved before it was parametrized", live_facts(unsaved=(hidden,)), finds=("warning",))
        pruned = (Effect("k.weight", "torch.nn.utils.prune", form="changes"),)
        yield Case("a member that is not used as it is", live_facts(unsaved=(raises,), effects=pruned))
        alike = (Effect("k.weight", "Identity", form="changes", value=0),)
        yield Case("one that is used as it is", live_facts(unsaved=(raises,), effects=alike), finds=("warning",))
        yield Case("declared and tied", live_facts())


class RepeatedModule(Rule):
    """One module stands several times in a list: it is shared on purpose, or as many were meant.

    ## What it does
    Notes a `ModuleList` or `Sequential` in which one module object stands under several numbers, as
    `[Block()] * n` makes it.

    ## Why it is bad
    Often it is meant: looped transformers run one layer many times. But `[Block()] * n` looks like n blocks and is one:
    the model has a fraction of the parameters that its depth suggests, nothing fails, and it trains. A checkpoint of
    the model as it was meant does not fit.

    ## How to fix it
    Make each in its turn: `nn.ModuleList(Block() for _ in range(n))`, or `copy.deepcopy` one. To separate them later,
    replace the module in the list itself; a copy of a layer inside of it is the same layer in all of them.
    """

    code = "TIE318"
    summary = "one module object stands several times in a list or a Sequential: shared on purpose, or n were meant"
    severity = "info"
    threads = (
        "linkedin/Liger-Kernel#269 acids-ircam/ddsp_pytorch#37 zalandoresearch/pytorch-vq-vae#2 yaoppeng/U-Net_v2#10 "
        "yassouali/pytorch-segmentation#159"
    )

    def check(self, mending: Mending, aliases: tuple[Alias, ...]) -> Iterator[Draft | Unknown]:
        for alias in aliases:
            where = _list_of(alias)
            if where is None:
                continue
            told = (
                f"{listed(alias.paths)} are one {alias.class_name}: it stands {alias.paths_total} times in "
                f"{where or 'the model'}, and has the parameters of one."
            )
            advice = "Where one is meant to be used several times, nothing has to be done."
            yield _draft(mending, alias, told, advice)

    @staticmethod
    def cases() -> Iterator[Case]:
        names = ("heads.0.lin.weight", "heads.1.lin.weight", "heads.2.lin.weight")
        thrice = Alias(("heads.0", "heads.1", "heads.2"), 3, "Block", siblings=True, names=names)
        yield Case("[Block()] * 3", live_facts(ties=(), aliases=(thrice,)), finds=("info",))
        bare = thrice._replace(paths=("0", "1"), paths_total=2)
        yield Case("a Sequential is the model itself", live_facts(ties=(), aliases=(bare,)), finds=("info",))
        named = thrice._replace(paths=("model.ff_out", "model.wte"), paths_total=2)
        yield Case("two names in one module", live_facts(ties=(), aliases=(named,)))
        apart = thrice._replace(paths=("decoder.0", "encoder.0"), paths_total=2, siblings=False)
        yield Case("two lists that share a layer", live_facts(ties=(), aliases=(apart,)))
        yield Case("layers of their own", live_facts(aliases=()))


def _list_of(alias: Alias) -> str | None:
    """Return the path of the one list that holds a module under several numbers; None for any other alias."""
    parts = [path.rpartition(".") for path in alias.paths]
    numbers = all(last.isdigit() for _, _, last in parts)
    return parts[0][0] if numbers and len({above for above, _, _ in parts}) == 1 and alias.paths_total else None


def _unsaved(mending: Mending, problem: SaveProblem) -> Draft:
    """Return what becomes of a tie at the next save, and how to have it back."""
    hidden = any(".parametrizations." in name for name in problem.names)  # what is declared has another name now
    if problem.form == "raises":
        what = (
            f"{listed(problem.names)} are one parameter, which {problem.class_name} does not declare: save_pretrained "
            "raises RuntimeError."
        )
    else:
        what = (
            f"{listed(problem.names)} are one parameter by an inner model's declaration, of which {problem.class_name} "
            f"does not hear: save_pretrained drops {listed(problem.dropped)}, and a load makes "
            f"{'it' if len(problem.dropped) == 1 else 'them'} at random."
        )
    return Draft(
        what,
        problem.names,
        (class_place(mending.class_name, "one parameter, not declared"),),
        severity="info" if problem.kind == "module" and problem.form == "raises" and not hidden else None,
        edits=(
            *_declaring(mending, problem),
            *untying_edits(mending, problem.names, "they are meant to be apart", choice="apart"),
        ),
        no_mend=FIXED,
    )


def _all_unsaved(mending: Mending, problems: list[SaveProblem]) -> Draft:
    """Return what becomes of ties of one cause, as one finding with all of their names."""
    first = problems[0]
    names = tuple(sorted(name for problem in problems for name in problem.names))
    parted = tuple(name for problem in problems for name in problem.names[1:])
    whole = (
        first
        if first.wanted is None
        else first._replace(wanted=joined_declarations([p.wanted or "" for p in problems]))
    )
    one = _unsaved(mending, whole)
    edits = (
        *(edit for edit in one.edits if edit.choice == "tied"),
        *untying_edits(mending, names, "they are meant to be apart", parted, choice="apart"),
    )
    more = f" The same cause has {counted(len(problems) - 1, 'more pair')}."
    return one._replace(message=one.message + more, names=names, edits=edits)


def _declaring(mending: Mending, problem: SaveProblem) -> tuple[Edit, ...]:
    """Return the change of the class that declares a tie; it counts while the flag is true."""
    if problem.wanted is None:
        return ()
    step = source_step(problem.class_name, problem.wanted, problem.written)
    flag = () if mending.flag else python_edit("tied", None, f"{model_path(mending, FLAG)} = True").steps
    return (Edit("tied", "they are meant to be one", True, (step, *flag)),)


def _draft(mending: Mending, alias: Alias, told: str, advice: str) -> Draft:
    return Draft(
        f"{told} {_accelerate(alias)}",
        alias.names,
        (class_place(mending.class_name, f"{alias.paths[0]} is {alias.paths[-1]}"),),
        advice,
        hurts=_blind(alias),
        edits=_parted(mending, alias),
        no_mend="its class declares it, or it has more paths than are listed.",
    )


def _parted(mending: Mending, alias: Alias) -> tuple[Edit, ...]:
    """Return the way to a module of its own under each path but the first, with the values that they share."""
    declared = {name for claim in mending.declared for name in claim.names}
    if alias.paths_total != len(alias.paths) or not declared.isdisjoint(alias.names):
        return ()
    paths = [model_path(mending, path) for path in alias.paths[1:]]
    lines = ("import copy", *(f"{path} = copy.deepcopy({path})" for path in paths))
    return (python_edit("apart", "they are meant to be several modules", *lines),)


def _blind(alias: Alias) -> tuple[LoaderView, ...] | None:
    """The versions of accelerate that do not see an alias; with `--for` one of them, the note is a warning."""
    if not alias.siblings:
        return None
    return tuple(
        LoaderView("accelerate", before.versions, "unknown", None, "run", alias.names, None, None, None)
        for before in FINDERS[:-1]
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
