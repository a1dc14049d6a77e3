"""The registry of facts: names that fit, facts made on demand and once, and what becomes of one that is missing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tiecheck.errors import MissingExtraError, TargetError
from tiecheck.facts import registry
from tiecheck.facts.registry import Asked, Brought, Fact, Facts, Found, Read, Said, Watched, all_facts, fact
from tiecheck.records.words import Unknown
from tiecheck.rules.registry import all_rules

GIVEN = {name for names in (Asked, Brought, Read, Said, Watched, Found) for name in names}
MADE = {one.name: one for one in all_facts()}


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    """What a test registers is gone after it."""
    kept = dict(registry._facts)
    yield
    registry._facts.clear()
    registry._facts.update(kept)


def test_every_name_is_given_or_made() -> None:
    assert GIVEN | MADE.keys() == registry.NAMES
    assert not GIVEN & MADE.keys()


def test_every_rule_can_have_what_it_wants() -> None:
    for rule in all_rules():
        assert set(rule.needs) <= registry.NAMES, rule.code


@pytest.mark.parametrize("one", MADE.values(), ids=lambda one: one.name)
def test_a_fact_has_a_line_and_is_not_made_of_itself(one: Fact) -> None:
    assert one.doc.endswith(".")
    assert one.room in registry.MODULES

    def below(name: str) -> Iterator[str]:
        for want in MADE[name].wants if name in MADE else ():
            assert want.name != one.name, f"{one.name} is made of itself, by way of {name}"
            yield want.name
            yield from below(want.name)

    assert not set(below(one.name)) - registry.NAMES


def test_a_name_that_is_no_facts_is_refused() -> None:
    def groups(grups: tuple) -> None: ...

    def grups(groups: tuple) -> None: ...

    with pytest.raises(TypeError, match="fact groups wants 'grups'"):
        fact(groups)
    with pytest.raises(TypeError, match="'grups' is not among the names"):
        fact(grups)


def test_a_fact_is_made_once_and_of_others() -> None:
    calls = []

    @fact
    def groups(checkpoint: str) -> str:
        calls.append(checkpoint)
        return f"groups of {checkpoint}"

    @fact
    def loaders(groups: str) -> str:
        return f"loaders of {groups}"

    facts = Facts({"checkpoint": "c"})
    assert facts.get("loaders") == "loaders of groups of c"
    assert facts.get("groups") == "groups of c"
    assert calls == ["c"]


def test_a_fact_is_on_offer_where_all_that_it_must_have_is() -> None:
    @fact
    def loaders(groups: str, live: str | None) -> str:
        return f"{groups} {live}"

    assert "loaders" in Facts({"groups": "g"})
    assert Facts({"groups": "g"}).get("loaders") == "g None"
    assert "loaders" not in Facts({"checkpoint": "c"}), "groups want the config's values too"
    assert Facts({}).known("loaders") is None


def test_an_unknown_goes_on_to_what_is_made_of_it_unless_that_takes_it() -> None:
    lost = Unknown("the shard is elsewhere")

    @fact
    def loaders(groups: str, live: str | None) -> str:
        return f"{groups} {live}"

    @fact
    def optimizer(groups: tuple[str, ...] | Unknown) -> str:
        return "made all the same" if isinstance(groups, Unknown) else ""

    assert Facts({"groups": lost}).get("loaders") is lost
    assert Facts({"groups": "g", "live": lost}).get("loaders") == "g None"
    assert Facts({"groups": lost}).get("optimizer") == "made all the same"


def test_an_error_of_one_layer_is_unknown_and_one_of_the_user_is_raised() -> None:
    errors = {
        "groups": TargetError("it went away"),
        "loaders": SystemExit(1),
        "scale": MissingExtraError("x", "y"),
    }

    def register(name: str) -> None:
        def broken() -> None:
            raise errors[name]

        broken.__name__ = name
        fact(broken)

    for name in errors:
        register(name)
    facts = Facts({})
    assert facts.get("groups") == Unknown("it went away")
    assert "sys.exit" in facts.get("loaders").reason
    with pytest.raises(MissingExtraError):
        facts.get("scale")


def test_facts_of_the_same_bytes_are_shared_and_reasons_are_not() -> None:
    values = iter((Unknown("models/a is cut"), "groups"))

    @fact
    def groups() -> object:
        return next(values)

    shared: dict[str, object] = {}
    assert isinstance(Facts({}, shared).get("groups"), Unknown)
    assert Facts({}, shared).get("groups") == "groups"
    assert Facts({}, shared).get("groups") == "groups"
