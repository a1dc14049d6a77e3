"""Hold `tiecheck.check` of live models against the truth, over drawn states and operations.

The truth is told by the identity of the declared members, by the weights in use, and by a save and a load.

`live_cases.py --cases 600 --seed 1 --classes 24 --write docs/evidence/live-cases.md`; `--only N` tells one case.
"""

from __future__ import annotations

import argparse
import copy
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

import torch  # noqa: E402
from breaks import BREAKS, Group, NotHereError, owner_of  # noqa: E402
from subjects import every, quiet  # noqa: E402
from torch import nn  # noqa: E402
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper  # noqa: E402
from zoo import Animal, animal, own  # noqa: E402

import tiecheck  # noqa: E402
from tiecheck.live.derived_weights import name_before  # noqa: E402
from tiecheck.tables.architectures import load_architecture  # noqa: E402

Operation = Callable[[Any, Group], Any]


def same_on_both(model: Any, group: Group) -> None:
    """A parametrization that gives back what it is given, on every member."""
    for name in group.names:
        owner, attribute = owner_of(model, name)
        nn.utils.parametrize.register_parametrization(owner, attribute, nn.Identity(), unsafe=True)


def int8_head(model: Any, group: Group) -> None:
    """The module of a member replaced by one that has the weight as a buffer of bytes."""
    path = group.victim.rpartition(".")[0]
    packed = nn.Module()
    packed.register_buffer("qweight", model.get_parameter(group.victim).detach().to(torch.int8))
    model.set_submodule(path, packed)


def plain_tensor(model: Any, group: Group) -> None:
    """A member that is a plain tensor of the module, with other values."""
    owner, attribute = owner_of(model, group.victim)
    value = model.get_parameter(group.victim).detach() + 1
    del owner._parameters[attribute]
    setattr(owner, attribute, value)


def lent_buffer(model: Any, group: Group) -> None:
    """A member that is a registered buffer over another one's memory."""
    owner, attribute = owner_of(model, group.victim)
    delattr(owner, attribute)
    owner.register_buffer(attribute, model.get_parameter(group.other()).detach())


def checkpointed(model: Any, group: Group) -> None:
    """The modules of all members under torch's activation checkpointing, whose label no state dict shows."""
    for path in {name.rpartition(".")[0] for name in group.names}:
        model.set_submodule(path, checkpoint_wrapper(model.get_submodule(path)))


def grown(model: Any, _group: Group) -> None:
    """`resize_token_embeddings` by three rows."""
    table = model.get_input_embeddings()
    if type(table) is not nn.Embedding:
        raise NotHereError("no plain embedding")
    try:
        model.resize_token_embeddings(table.num_embeddings + 3, mean_resizing=False)
        model.config.validate()  # Canary's names the vocabulary twice, and refuses the save of any that was resized
    except Exception as error:
        raise NotHereError(str(error)) from error


STATES: dict[str, Callable[[Any], None]] = {
    "as built": lambda _model: None,
    "flag false": lambda model: setattr(model.config, "tie_word_embeddings", False),
    "flag true": lambda model: setattr(model.config, "tie_word_embeddings", True),
}
"""What the config says when the operation begins; the parameters are as the class built them."""

OWN: dict[str, Operation] = {
    "nothing": lambda _model, _group: None,
    "deepcopy": lambda model, _group: (copy.deepcopy(model), ""),
    "half": lambda model, _group: model.half() and None,
    "double": lambda model, _group: model.double() and None,
    "frozen": lambda model, _group: model.requires_grad_(False) and None,
    "tie_weights": lambda model, _group: model.tie_weights(),
    "load_state_dict": lambda model, _group: model.load_state_dict(copy.deepcopy(model.state_dict())) and None,
    "same-on-both": same_on_both,
    "int8-head": int8_head,
    "plain-tensor": plain_tensor,
    "checkpointed": checkpointed,
    "lent-buffer": lent_buffer,
    "grown": grown,
}
OPERATIONS = OWN | {name: one.do for name, one in BREAKS.items()}


class Drawn(NamedTuple):
    """One case."""

    animal: Animal
    state: str
    operations: tuple[str, ...]

    @property
    def words(self) -> str:
        """The case in words."""
        return f"{self.animal.model_class.__name__}: {self.state}, {' + '.join(self.operations)}"


class Answer(NamedTuple):
    """The truth and the word of one case."""

    case: Drawn
    wrong: tuple[str, ...]
    """What is wrong with the model: `apart`, `effect`, `memory`, `lost`, `raises`."""
    status: str
    loud: tuple[str, ...]
    reason: str

    @property
    def verdict(self) -> str:
        """The word on the word."""
        if self.status == "error":
            return "an error of ours"
        if self.status == "pass":
            return "a pass with something lost" if self.wrong else "right: pass"
        if self.status == "fail":
            return "right: found" if self.wrong else "a finding on what is right"
        return "unknown, something is lost" if self.wrong else "unknown, nothing is lost"


BAD = ("an error of ours", "a pass with something lost", "a finding on what is right")


def pool(seed: int, count: int) -> list[Animal]:
    """Return tiny classes that tie, drawn from the whole library."""
    names = [c for c in every() if load_architecture(c.class_name, c.model_type).ties and own(c)]
    random.Random(seed).shuffle(names)
    found: list[Animal] = []
    for candidate in names:
        try:
            one = animal(candidate)
            if groups_of(one.model()):
                found.append(one)
        except Exception:  # noqa: BLE001  # a class may refuse to be small in any way
            continue
        if len(found) == count:
            break
    return found


def drawn(animals: list[Animal], count: int, seed: int) -> Iterator[Drawn]:
    """Yield cases: each class in a state, with one or two operations."""
    dice = random.Random(seed)
    for number in range(count):
        operations = dice.sample(sorted(OPERATIONS), dice.choice((1, 1, 2)))
        yield Drawn(animals[number % len(animals)], dice.choice(sorted(STATES)), tuple(operations))


def groups_of(model: nn.Module) -> list[tuple[str, ...]]:
    """Return the names that are one parameter, by object."""
    held: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        held.setdefault(id(parameter), []).append(name)
    return [tuple(sorted(names)) for names in held.values() if len(names) > 1]


def made(case: Drawn, seed: int) -> Any:
    """Build the model of a case, or raise `NotHereError`."""
    model = case.animal.model().eval()
    with torch.no_grad():
        for parameter in filter(torch.is_floating_point, model.parameters()):  # else what is made anew may be what was
            parameter.add_(torch.randn(parameter.shape) / 8)
    groups = sorted(groups_of(model))
    declared = model.get_expanded_tied_weights_keys(all_submodels=True)
    targets = [(group, name) for group in groups for name in group if name in declared]
    if not targets:
        raise NotHereError("nothing that the class declares is tied")
    STATES[case.state](model)
    group = Group(*random.Random(seed).choice(targets))
    for name in case.operations:
        try:
            found = OPERATIONS[name](model, group)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise NotHereError(str(error)) from error
        model = found[0] if isinstance(found, tuple) else model
    return model


def wrong_with(model: Any) -> tuple[str, ...]:
    """Return what is wrong with a model, by identity, effect, memory and a save with a load."""
    found = []
    try:
        declared = model.get_expanded_tied_weights_keys(all_submodels=True).items()
    except Exception:  # noqa: BLE001  # keys that an operation left without names
        return ("raises",)
    pairs = [(_used(model, one), _used(model, other)) for one, other in declared]
    held = [(_object(model, one), _object(model, other)) for one, other in declared]
    if any(one is None or one is not other for one, other in held):
        found.append("apart")
    for group in groups_of(model):  # tied without a declaration too: one tensor is to be used as one weight
        first, *others = (_used(model, name_before(name)) for name in group)
        pairs += [(first, other) for other in others]
    if any(one is None or other is None or not _same(one, other) for one, other in pairs):
        found.append("effect")
    if _shares(model):
        found.append("memory")
    return (*found, *_round_trip(model))


def _object(model: Any, name: str) -> Any:
    """Return the parameter that a name stands for, also where a parametrization stands between."""
    owner, _, attribute = name.rpartition(".")
    for path in (name, f"{owner}.parametrizations.{attribute}.original"):
        try:
            return model.get_parameter_or_buffer(path)
        except (AttributeError, TypeError):  # gone, or a parametrization on one that it does not fit
            continue
    return None


def _used(model: Any, name: str) -> Any:
    owner, _, attribute = name.rpartition(".")
    try:
        module = model.get_submodule(owner)
        for hook in module._forward_pre_hooks.values():  # pruning and the old norms compute theirs here
            hook(module, None)
        return getattr(module, attribute)
    except Exception:  # noqa: BLE001  # gone
        return None


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one is other:
        return True
    if one.is_meta or other.is_meta or one.shape != other.shape:
        return False
    return bool(torch.equal(one.float().nan_to_num(), other.float().nan_to_num()))


def _shares(model: nn.Module) -> bool:
    distinct = {id(p): p for p in model.parameters() if not p.is_meta and p.layout is torch.strided and p.numel()}
    starts = Counter(p.untyped_storage().data_ptr() for p in distinct.values())
    return max(starts.values(), default=1) > 1


def _round_trip(model: Any) -> tuple[str, ...]:
    """Return `raises` or `lost` by what a save and a load make of the model."""
    where = tempfile.mkdtemp()
    try:
        model.save_pretrained(where)
        again = type(model).from_pretrained(where, dtype="auto")
    except Exception:  # noqa: BLE001  # whatever it raises
        return ("raises",)
    finally:
        shutil.rmtree(where, ignore_errors=True)
    before, after = model.state_dict(), again.state_dict()
    both = before.keys() & after.keys()  # what was put in place of a parameter is another's form
    same = all(_same(before[name].to(after[name].dtype), after[name]) for name in both)
    return () if same else ("lost",)


def answered(case: Drawn, seed: int) -> Answer:
    """Judge one case, and tell the truth of it."""
    model = made(case, seed)
    report = tiecheck.check(model, ignore=("TIE7",))
    (target,) = report.targets
    loud = tuple(f.code for f in target.findings if f.severity != "info")
    reason = target.reason or "; ".join(error.message for error in target.errors)
    return Answer(case, wrong_with(model), target.status, loud, reason)


def run(cases: int, classes: int, seed: int) -> Iterator[Answer]:
    """Yield the answer of each case that can be made, until there are enough."""
    animals = pool(seed, classes)
    left = cases
    for number, case in enumerate(drawn(animals, 8 * cases, seed)):
        if not left:
            return
        try:
            yield answered(case, number)
        except NotHereError:
            continue
        left -= 1


def page(answers: list[Answer], asked: argparse.Namespace, seconds: float) -> str:
    """Return the evidence as Markdown."""
    counts = Counter(one.verdict for one in answers)
    classes = len({one.case.animal.model_class for one in answers})
    lines = ["# Drawn live models against the truth", ""]
    command = f"--cases {asked.cases} --classes {asked.classes} --seed {asked.seed}"
    lines += [f"`python tests/differential/live_cases.py {command}`", ""]
    lines += [f"{len(answers)} models of {classes} classes of transformers in {seconds:.0f} s: the config in one of"]
    lines += [
        f"{len(STATES)} states, and one or two of {len(OPERATIONS)} operations. What is true is told by the identity"
    ]
    lines += [
        "of the declared members, by the weights that both sides use, by shared memory, and by a save and a load.",
        "",
    ]
    lines += ["| word | count |", "|---|---|", *(f"| {word} | {count} |" for word, count in counts.most_common())]
    for word in BAD:
        those = [one for one in answers if one.verdict == word]
        if those:
            lines += ["", f"## {word[0].upper()}{word[1:]}", ""]
            lines += [
                f"- {one.case.words}: {' '.join(one.wrong) or 'right'}; {' '.join(one.loud) or one.reason}"
                for one in those
            ]
    lines += ["", "## Unknown, by reason", ""]
    reasons = Counter(_kind(one.reason) for one in answers if one.status == "unknown")
    lines += [f"- {count}: {reason}" for reason, count in reasons.most_common(12)]
    return "\n".join(lines) + "\n"


def _kind(reason: str) -> str:
    """Return a reason without the names in it."""
    return reason.partition(": ")[2] or reason


def main() -> None:
    """Run, print what is wrong, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--classes", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path)
    asked = parser.parse_args()
    begin = time.monotonic()
    with quiet():
        answers = list(run(asked.cases, asked.classes, asked.seed))
    text = page(answers, asked, time.monotonic() - begin)
    sys.stdout.write(text)
    if asked.write:
        asked.write.write_text(text)


if __name__ == "__main__":
    main()
