"""The table of the engines as a loader reads it, the flag at the level they read, and how vLLM and SGLang decide.

`python -m tiecheck.tables.generate.engines` makes the table from the engines' own source. Fields are joined by `|`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from tiecheck.peers.loaders.loader_rules import Decision, Loader, Policy, Situation, outcome_of, stored_pair
from tiecheck.records.record import Record
from tiecheck.records.words import Outcome

FLAG = "tie_word_embeddings"
_TABLE = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(__file__))), "tables", "engines.txt")
_read: dict[tuple[str, str], str] = {}

SKIPPED = "the stored head is skipped, so the one tensor stays uninitialised and nothing is said"
LATER = "both stored members are loaded into the one tensor, and whichever comes later stays"
SILENT = "nothing is loaded into it and nothing is said"
SHAPES = "what it does with stored members of two shapes was not read"


Ending = tuple[Outcome, str | None]
"""An outcome with what is printed or raised."""


class FlagRead(Record):
    """Flag as an engine reads it."""

    dotted: str
    """The flag, with its level."""
    value: bool | None
    """Value that the config has there; None where it is silent."""
    ties: bool | None
    """Value that the engine takes it for; None where the class's default at that level is not known."""


def _sections() -> Mapping[tuple[str, str], str]:
    """Map engine and version to the lines of its section, as they stand in the file."""
    if not _read:
        with open(_TABLE, "rb") as file:
            parts = file.read().decode().split("@\t")[1:]
        for part in parts:
            head, _, lines = part.partition("\n")
            name, number = head.split("\t")
            _read[name, number] = lines
    return _read


@lru_cache(4096)  # a fleet has many models of few classes
def fields_of(engine: str, version: str, name: str | None) -> str | None:
    """Search the fields of one architecture, since a start parses nothing else; None where it is not there.

    An engine or a version that the table lacks is a `KeyError`.
    """
    lines = _sections()[engine, version]
    at = lines.find(name) if name else -1
    while name and at >= 0:
        start = lines.rfind("\n", 0, at) + 1
        end = lines.index("\t", start)
        if end < at and lines[at - 1] in "\t " and lines[at + len(name)] in " \n":  # fields hold words of their own
            return lines[start:end]
        at = lines.find(name, at + 1)
    return None


def fields_in_both(engine: str, first: str, last: str, name: str | None) -> str | None:
    """Return the fields of an architecture that two versions agree on.

    None where neither version has it, and an `unknown:REASON` where they differ.
    """
    found = {fields_of(engine, version, name) for version in (first, last)}
    if len(found) == 1:
        return found.pop()
    return f"unknown:{engine} {first} and {last} treat this class differently"


def parsed_config(situation: Situation) -> Mapping[str, Any]:
    """Return the parsed config; empty where there is none."""
    return situation.config.data if situation.config is not None else {}


def named_class(situation: Situation) -> str | None:
    """Return the class that `architectures` names, which is what engines choose their own class by."""
    name = situation.config.written_class if situation.config else situation.architecture.class_name
    return name if name is not None and name.isidentifier() else None  # what else the table has is no class


def embedding_and_head(situation: Situation) -> tuple[str, str]:
    """Return the names of embedding and head; of an unknown class, the group's source and another member."""
    embedding = situation.architecture.embedding or situation.group.source or ""
    other = next((name for name in situation.group.names if name != embedding), "")
    return embedding, situation.architecture.head or other


def split_by_run(loader: Loader, ran: frozenset[str], key: Callable[[Situation], str | None]) -> tuple[Loader, Loader]:
    """Split a loader of which only some classes were run, as two: those that were, and the rest, which were read."""

    def run(situation: Situation) -> Decision | None:
        return loader.decide(situation) if key(situation) in ran else None

    def read(situation: Situation) -> Decision | None:
        return loader.decide(situation) if key(situation) not in ran else None

    return loader._replace(checked="run", decide=run), loader._replace(checked="source", decide=read)


def config_at_level(config: Mapping[str, Any], level: str) -> Mapping[str, Any] | None:
    """Return the config at a dotted level; None where there is none."""
    found: object = config
    for key in level.split(".") if level else ():
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else None


def level_of(config: Mapping[str, Any], level: str) -> str | None:
    """Return the level that the table's word stands for in this config; None where that cannot be told.

    `text()` is transformers' `get_text_config()`: the nested text config where there is one, else the config itself.
    A `>` says that the engine copies the top level's flag there before it is read.
    """
    if level.startswith(">"):
        return ""
    if not level.endswith("text()"):
        return level
    above = level.removesuffix("text()").removesuffix(".")
    here = config_at_level(config, above)
    if here is None:
        return None
    if isinstance(here.get("text_config"), Mapping):
        return f"{above}.text_config".lstrip(".")
    others = ("text_encoder", "decoder", "generator", "text_model")
    return None if any(isinstance(here.get(key), Mapping) for key in others) else above


def flag_at(situation: Situation, level: str, default: str) -> FlagRead:
    """Read the flag at a level as a transformers config object has it: what is written, else the class's default there.

    A missing attribute counts as the engine's own default: `0`, `1`, or `-` where it reads it outright.
    """
    config = parsed_config(situation)
    found = level_of(config, level)
    if found is None:
        return FlagRead(FLAG, None, None)
    dotted = f"{found}.{FLAG}".lstrip(".")
    here = config_at_level(config, found)
    value = here.get(FLAG) if here is not None else None
    if isinstance(value, bool):
        return FlagRead(dotted, value, value)
    group = situation.group
    known = group.default if tuple(found.split(".") if found else ()) == group.level else None
    if known is False and default == "1":
        known = None  # the attribute may be absent as well as false, and then the engine's own default counts
    return FlagRead(dotted, None, known)


def torch_policy(head: str, refusal: str, alone: Ending) -> Policy:
    """Return the policy of a tied class by what its loader does with the head's name, and what it raises for it."""
    lost = Policy(
        shapes=("unknown", SHAPES), lost_target=("head-random", SILENT), lost_source=("embedding-random", SILENT)
    )
    if head == "load":
        return lost._replace(differ=("unknown", LATER))
    if head in {"skip", "alias"}:
        discarded: Ending = ("head-discarded", None)
        return lost._replace(differ=discarded, shapes=discarded, no_source=alone)
    if head in {"keyerror", "refuse"}:
        crash: Ending = ("crash", refusal)
        return lost._replace(differ=crash, equal=crash, shapes=crash, no_source=crash)
    reason: Ending = ("unknown", head.partition(":")[2] or "what it does with a stored head was not read")
    return lost._replace(differ=reason, equal=reason, shapes=reason, no_source=reason)


def inner_name(situation: Situation, level: str) -> str | None:
    """Return the class that a composite's config names for its language model."""
    here = config_at_level(
        parsed_config(situation), level.lstrip(">").removesuffix("text()").removesuffix(".") or "text_config"
    )
    names = here.get("architectures") if here is not None else None
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else None


def decide_by_fields(situation: Situation, fields: str, policy: Policy) -> Decision:
    """Return the decision for a class whose fields are known and whose policy was chosen."""
    tie, level, default, head, _ = fields.split("|")
    stored = stored_pair(situation)
    if tie == "never":
        if head.startswith("unknown"):
            return Decision("unknown", head.partition(":")[2], ties=False)
        outcome, message = outcome_of(False, stored, policy)
        return Decision(outcome, message, ties=False)
    if tie == "always":
        outcome, message = outcome_of(True, stored, policy)
        return Decision(outcome, message, ties=True)
    read = flag_at(situation, level, default)
    if read.ties is None:
        return Decision("unknown", f"{read.dotted} is not written, and its default is not known", read.dotted)
    outcome, message = outcome_of(read.ties, stored, policy)
    return Decision(outcome, message, read.dotted, read.value, read.ties)
