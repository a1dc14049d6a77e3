"""What vLLM's and SGLang's model classes make of a group, by the fields that the table has of them."""

from __future__ import annotations

from tiecheck.peers.loaders.engines import Ending, config_of, ending, flag_at, nested
from tiecheck.peers.loaders.situation import Decision, Policy, Situation, settle, stored_pair

LATER = "both stored members are loaded into the one tensor, and whichever comes later stays"
SILENT = "nothing is loaded into it and nothing is said"
SHAPES = "what it does with stored members of two shapes was not read"


def policy_of(head: str, refusal: str, alone: Ending) -> Policy:
    """What a tied class does with stored members, by what its loader does with the head's name.

    Args:
        head: The field of the table.
        refusal: What it raises for a head that it does not take.
        alone: What comes out where the head alone is stored and skipped.
    """
    lost = Policy(
        shapes=("unknown", SHAPES), lost_target=("head-random", SILENT), lost_source=("embedding-random", SILENT)
    )
    if head == "load":
        return lost._replace(differ=ending("unknown", LATER))
    if head in {"skip", "alias"}:
        discarded = ending("head-discarded")
        return lost._replace(differ=discarded, shapes=discarded, no_source=alone)
    if head in {"keyerror", "refuse"}:
        crash = ending("crash", refusal)
        return lost._replace(differ=crash, equal=crash, shapes=crash, no_source=crash)
    reason = ending("unknown", head.partition(":")[2] or "what it does with a stored head was not read")
    return lost._replace(differ=reason, equal=reason, shapes=reason, no_source=reason)


def inner_name(situation: Situation, level: str) -> str | None:
    """The class that a composite's config names for its language model."""
    here = nested(config_of(situation), level.lstrip(">").removesuffix("text()").removesuffix(".") or "text_config")
    names = here.get("architectures") if here is not None else None
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else None


def decide(situation: Situation, fields: str, policy: Policy) -> Decision:
    """The decision for a class whose fields are known and whose policy was chosen."""
    tie, level, default, head, _ = fields.split("|")
    stored = stored_pair(situation)
    if tie == "never":
        if head.startswith("unknown"):
            return Decision("unknown", head.partition(":")[2], ties=False)
        outcome, message = settle(False, stored, policy)
        return Decision(outcome, message, ties=False)
    if tie == "always":
        outcome, message = settle(True, stored, policy)
        return Decision(outcome, message, ties=True)
    read = flag_at(situation, level, default)
    if read.ties is None:
        return Decision("unknown", f"{read.dotted} is not written, and its default is not known", read.dotted)
    outcome, message = settle(read.ties, stored, policy)
    return Decision(outcome, message, read.dotted, read.value, read.ties)
