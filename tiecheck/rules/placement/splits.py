"""TIE501 and 503: what a device map does to the ties, and to the memory that they were counted to take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tiecheck.records.live import Alias, LiveModel
from tiecheck.records.placement import Double, Placed, Placement, Plan
from tiecheck.records.report import Location
from tiecheck.records.words import Unknown
from tiecheck.rules.base import Case, Draft, Rule
from tiecheck.rules.placement.count_words import allow, counts, more, moved, worse
from tiecheck.rules.placement.plans import aside, hurt, separated, severity, title, unfollowed, where
from tiecheck.rules.placement.split_words import APART, MIXED, follows, once, one, places, put, splits, together, told
from tiecheck.wording import listed, size


class TiedGroupSplit(Rule):
    """A device map puts the members of one tie on different devices.

    ## What it does
    Finds ties of which a plan, accelerate's, transformers' or a given map, places the members on different devices,
    `cpu`, `disk` and `meta` among them. A group that is declared and not tied counts where `from_pretrained` will tie
    it. Devices are compared as torch knows them: `0` and `"cuda:0"` are one, and two names on `disk` are together.

    ## Why it is bad
    One tensor cannot lie on two devices. With two GPUs, accelerate's `dispatch_model` (1.15), which `from_pretrained`
    calls too, leaves it on one of them, and the first forward pass through another of the modules ends with "Expected
    all tensors to be on the same device". With a GPU and `cpu` or `disk` a copy stays behind: the memory is taken
    twice, and after an update of one copy the other still holds the old values. Only accelerate's
    `load_checkpoint_in_model`, and transformers about a plan of its own, say so, in one warning. With `cpu` and `disk`
    transformers may raise (another rule speaks then). One module under two paths of one parent is placed once, and a
    note.

    ## How to mend it
    Put every member on one device in the map. Where a planner cannot see the tie, give it the map instead of a
    strategy, or declare the tie so that it sees it.
    """

    code = "TIE501"
    name = "tied-group-split-across-devices"
    summary = "a device map puts members of a tie on different devices"
    severity = "error"
    confidence = "high"
    messages = (APART, MIXED)
    threads = (
        "huggingface/accelerate#1529",
        "huggingface/accelerate#2330",
        "huggingface/accelerate#4083",
        "huggingface/accelerate#993",
        "unslothai/unsloth#7215",
    )

    def check(self, placement: Placement, live: LiveModel) -> Iterator[Draft | Unknown]:
        """Every tie that a plan splits, once, with all plans that do."""
        found: dict[tuple[str, ...], list[tuple[Plan, Placed]]] = {}
        for plan in placement.plans:
            for group in separated(plan, placement, live):
                found.setdefault(group.names, []).append((plan, group))
        for names, at in found.items():
            (plan, group), *others = at
            if once(group, live):
                yield _placed_once(plan, group, places(at, placement))
                continue
            plans = [one_plan for one_plan, _ in at]
            also = f" {' and '.join(title(plan) for plan, _ in others)} {splits(others)} it as well." if others else ""
            why = f"{follows(plan, group, placement, live)}. {told(plan, group, placement, live)}{also}"
            yield Draft(
                f"{put(plan)} {where(names, group.devices)}, and they are {one(group)}: {why}"
                f"{unfollowed(plan, placement)}",
                names,
                places(at, placement),
                together(plan, group, placement, live),
                severity=severity(plans, placement),
                hurts=hurt(plans, names),
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        """Maps and plans that split, and all that only looks like it."""
        from tiecheck.rules.cases import declared, live
        from tiecheck.rules.placement.cases_plans import placed, placement, plan, proposal, raising

        def facts(*plans: Plan, of: LiveModel | None = None, **changes: Any) -> dict[str, Any]:
            return {"placement": placement(*plans, **changes), "live": of or live()}

        apart = placed("cuda:1", "cuda:0")
        plain = live(library=None, declared=(), flag=None)
        yield Case("a given map", facts(plan("given", apart)), finds=("error",))
        yield Case("and one that mends it", facts(plan("given", apart), proposal=proposal()), finds=("error",))
        disk = placed("disk", "cpu")
        yield Case("cpu and disk, which loads", facts(plan("given", disk)), finds=("error",))
        yield Case("cpu and disk, which raises: TIE511", facts(plan("given", disk), loads=(raising(),)))
        from_files = live(origin="built on meta")
        between = facts(plan("given", disk), of=from_files, followed=(disk.names,))
        yield Case("cpu and disk, followed through the load: TIE511", between)
        computing = facts(plan("given", apart), of=from_files, followed=(apart.names,))
        yield Case("and two GPUs, whatever may be", computing, finds=("error",))
        own_load = facts(plan("given", disk), of=plain, followed=(disk.names,))
        yield Case("cpu and disk by accelerate, which keeps both", own_load, finds=("error",))
        both = (plan("transformers", apart), plan("accelerate", apart))
        yield Case("both planners", facts(*both), finds=("error",))
        late = live(ties=(), declared=(declared("separate"),), origin="built on meta")
        untied = apart._replace(kind="separate", seen=False)
        yield Case("tied by from_pretrained only", facts(plan("transformers", untied), of=late), finds=("error",))
        other = (plan(), plan("accelerate", apart))
        yield Case("a plan that from_pretrained does not follow", facts(*other), finds=("warning",))
        own = apart._replace(declared=False, seen=False)
        yield Case("nobody declares it", facts(plan("transformers", own)), finds=("error",))
        yield Case("a plain module", facts(plan("accelerate", apart), of=plain), finds=("error",))
        alias = live(
            aliases=(Alias(("lm_head", "model.embed_tokens"), 2, "Embedding", siblings=True, names=apart.names),)
        )
        module = plan("given", apart._replace(kind="module"))
        yield Case("one module among siblings, placed once", facts(module, of=alias), finds=("info",))
        yield Case("one module under two parents", facts(module), finds=("error",))
        yield Case("together", facts())
        yield Case("0 and cuda:0 are one device", facts(plan("given", placed("cuda:0", "cuda:0"))))
        yield Case("two names on disk", facts(plan("given", placed("disk", "disk"))))
        yield Case("untied, and nobody says otherwise", facts(plan("given", untied._replace(declared=False))))
        yield Case("accelerate ties nothing", facts(plan("accelerate", untied), of=late))
        own_word = late._replace(declared=(declared("separate", by=("tiecheck.toml",)),))
        yield Case("declared by the user's contract alone", facts(plan("transformers", untied), of=own_word))
        stored = late._replace(declared=(declared("separate", stored="separate"),))
        yield Case("stored apart, loaded apart", facts(plan("transformers", untied), of=stored))
        yield Case("unknown is no tie", facts(plan("given", apart._replace(kind="unknown"))))
        yield Case("a name that the map does not place", facts(plan("given", placed(None, "cuda:0"))))


def _placed_once(plan: Plan, group: Placed, evidence: tuple[Location, ...]) -> Draft:
    """The note on an alias among siblings: the map says two devices, and the module has one."""
    return Draft(
        f"{put(plan)} {where(group.names, group.devices)}, and they are one module under several paths of one parent: "
        "it is placed once, as the path that was registered first says, and the key of the other does nothing.",
        group.names,
        evidence,
        "Nothing has to be done; give all its paths one device, so that the map says what happens.",
        severity="info",
    )


class TiedMemoryCountedTwice(Rule):
    """A planner counts tied memory more than once, and leaves room that nothing will take.

    ## What it does
    Notes where a planner counted more bytes for a module and what is tied to it than they take: accelerate adds a
    tied module once for every parameter that it shares. Where the plan would be another without that, and modules
    stand on the CPU, on disk or on another GPU because of it, it is a warning.

    ## Why it is bad
    A device is taken for full that is not. What could have stayed on the GPU is offloaded, and every forward pass pays
    for moving it back; or a model that fits is refused.

    ## How to mend it
    Give the map yourself, or allow the planner as much more on that device as it counts too much.
    """

    code = "TIE503"
    name = "tied-memory-counted-twice"
    summary = "a planner counts tied memory more than once, and may place modules elsewhere because of it"
    severity = "warning"
    confidence = "high"
    messages = ()
    threads = ("huggingface/accelerate#2330", "pytorch/torchtitan#3225")

    def check(self, placement: Placement) -> Iterator[Draft | Unknown]:
        """Each plan that counted tied memory twice, once."""
        for plan in placement.plans:
            worst = max(plan.doubles, key=lambda double: double.counted - double.real, default=None)
            if worst is None or worst.counted <= worst.real:
                continue
            names = tuple(sorted({name for double in plan.doubles for name in double.names}))
            lost = worse(plan)
            quiet = not lost or aside(plan, placement)
            yield Draft(
                f"{title(plan)} counts {size(worst.counted)} on {worst.device} for {worst.module} and what is tied to "
                f"it by {listed(worst.names)}, which take {size(worst.real)}{more(plan, worst)}. {moved(plan)}"
                f"{unfollowed(plan, placement) if lost else ''}",
                names,
                counts(plan, worst),
                allow(plan, worst),
                severity="info" if quiet else None,
                hurts=hurt((plan,), names) if lost else None,
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        """Counted twice with and without consequences, and counted right."""
        from tiecheck.rules.placement.cases_plans import placement, plan

        names = ("model.layers.0.k.weight", "model.layers.1.k.weight")
        double = Double("model.layers.0", "cuda:0", names, 21888, 12544)
        away = {"model.norm": ("cpu", "cuda:0")}
        counted = plan("accelerate", doubles=(double,))
        yield Case("nothing comes of it", {"placement": placement(counted)}, finds=("info",))
        pushed = counted._replace(moved=away)
        yield Case("a module goes to the CPU", {"placement": placement(pushed)}, finds=("warning",))
        yield Case("in the plan that is not followed", {"placement": placement(plan(), pushed)}, finds=("info",))
        next_one = counted._replace(moved={"model.norm": ("cuda:1", "cuda:0")})
        yield Case("a module goes to another GPU", {"placement": placement(next_one)}, finds=("warning",))
        better = counted._replace(moved={"model.norm": ("cuda:0", "cpu")})
        yield Case("a module stays on the GPU", {"placement": placement(better)}, finds=("info",))
        yield Case("counted once", {"placement": placement()})
        right = counted._replace(doubles=(double._replace(counted=12544),))
        yield Case("counted as much as it takes", {"placement": placement(right)})
