"""`assert_tied` and `assert_not_tied`: what passes, and what the message says when it does not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tiecheck.testing.asserts import assert_not_tied, assert_tied


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(8, 4)
        self.head = nn.Linear(4, 8, bias=False)
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])


def untied() -> Small:
    return Small()


def tied() -> Small:
    model = Small()
    model.head.weight = model.emb.weight
    return model


def aliased() -> Small:
    model = Small()
    model.head = model.emb
    return model


def rewrapped() -> Small:
    model = Small()
    model.head.weight = nn.Parameter(model.emb.weight)
    return model


def overlapping() -> Small:
    model = Small()
    model.head.weight = nn.Parameter(model.emb.weight.detach()[:4])
    return model


def copied() -> Small:
    model = Small()
    model.head.weight = nn.Parameter(model.emb.weight.detach().clone())
    return model


def on_meta() -> Small:
    with torch.device("meta"):
        return Small()


BUILDERS = {
    "module": aliased,
    "parameter": tied,
    "storage": rewrapped,
    "overlap": overlapping,
    "copy": copied,
    "separate": untied,
}
NAMES = ("emb.weight", "head.weight")


@pytest.mark.parametrize("wanted", list(BUILDERS)[:5])
@pytest.mark.parametrize("found", BUILDERS)
def test_a_group_passes_for_its_kind_and_every_weaker_one(found, wanted):
    strength = list(BUILDERS)
    if strength.index(found) <= strength.index(wanted):
        assert_tied(BUILDERS[found](), *NAMES, kind=wanted)
    else:
        with pytest.raises(AssertionError, match=f"not tied as {wanted}") as raised:
            assert_tied(BUILDERS[found](), *NAMES, kind=wanted)
        assert f"found {found}: " in str(raised.value)


@pytest.mark.parametrize("found", BUILDERS)
def test_not_tied_means_nothing_shared(found):
    if found in {"copy", "separate"}:
        assert_not_tied(BUILDERS[found](), *NAMES)
    else:
        with pytest.raises(AssertionError, match=r"^tied: ") as raised:
            assert_not_tied(BUILDERS[found](), *NAMES)
        assert f"found {found}: " in str(raised.value)


def test_the_message_names_the_members_and_what_to_change():
    with pytest.raises(AssertionError) as raised:
        assert_tied(untied(), *NAMES)
    assert str(raised.value).splitlines() == [
        "not tied as parameter: `emb.weight`, `head.weight`",
        "  found separate: separate memory with different bytes",
        "    emb.weight: float32 [8, 4] on cpu",
        "    head.weight: float32 [8, 4] on cpu",
        "  to tie them, assign after loading, moving and wrapping: model.head.weight = model.emb.weight",
    ]


def test_the_cure_indexes_module_lists():
    with pytest.raises(AssertionError, match=r"model\.layers\[1\]\.weight = model\.layers\[0\]\.weight"):
        assert_tied(untied(), "layers.0.weight", "layers.1.weight")


def test_on_meta_the_reason_is_given():
    with pytest.raises(AssertionError, match="identity is decisive"):
        assert_tied(on_meta(), *NAMES)
    assert_not_tied(on_meta(), *NAMES)


def test_two_of_three_that_are_tied_fail_the_whole():
    with pytest.raises(AssertionError, match=r"`emb\.weight`, `head\.weight`"):
        assert_not_tied(tied(), "layers.0.weight", *NAMES)
    with pytest.raises(AssertionError, match="found separate"):
        assert_tied(tied(), "layers.0.weight", *NAMES)


@pytest.mark.parametrize("check", [assert_tied, assert_not_tied])
def test_a_name_that_does_not_exist_is_an_error_with_close_matches(check):
    with pytest.raises(AttributeError, match=r"Small: `head\.wieght` does not exist; did you mean `head\.weight`"):
        check(untied(), "emb.weight", "head.wieght")
    with pytest.raises(AttributeError, match=r"`zzz` does not exist$"):
        check(untied(), "emb.weight", "zzz")


@pytest.mark.parametrize("check", [assert_tied, assert_not_tied])
def test_one_name_is_no_group(check):
    with pytest.raises(ValueError, match="two or more different names"):
        check(untied(), "emb.weight", "emb.weight")


@pytest.mark.parametrize("kind", ["separate", "absent", "unknown", "tied"])
def test_a_kind_that_is_no_strength_is_an_error(kind):
    with pytest.raises(ValueError, match="kind must be one of module, parameter, storage, overlap, copy"):
        assert_tied(tied(), *NAMES, kind=kind)


def test_buffers_can_be_asked_about():
    model = nn.Module()
    shared = torch.zeros(3)
    model.register_buffer("a", shared)
    model.register_buffer("b", shared)
    model.register_buffer("c", shared[:2])
    assert_tied(model, "a", "b")
    with pytest.raises(AssertionError, match="found overlap"):
        assert_tied(model, "a", "c")
    with pytest.raises(AssertionError, match="found overlap"):
        assert_not_tied(model, "b", "c")
