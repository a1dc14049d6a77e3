"""`assert_ties_match`: the groups that are expected against all there are, and what the message says of each."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

import tiecheck
from tiecheck.testing.asserts import assert_ties_match


class Small(nn.Module):
    """An embedding, a head, a decoder and two layers, tied as wished."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(8, 4)
        self.head = nn.Linear(4, 8, bias=False)
        self.dec = nn.Linear(4, 8, bias=False)
        self.layers = nn.ModuleList([nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)])


HEAD = ["emb.weight", "head.weight"]
LAYERS = ["layers.0.weight", "layers.1.weight"]


def tied(*names: str) -> Small:
    """A model with some weights set to the embedding's."""
    model = Small()
    for name in names:
        getattr(model, name).weight = model.emb.weight
    return model


def message(model: nn.Module, expected, **options) -> str:
    """What a failed match says."""
    with pytest.raises(AssertionError) as raised:
        assert_ties_match(model, expected, **options)
    return str(raised.value)


def test_exactly_the_groups_given_pass_in_any_order() -> None:
    model = tied("head", "dec")
    model.layers[1] = model.layers[0]
    assert_ties_match(model, [LAYERS, ["head.weight", "dec.weight", "emb.weight"]])
    assert_ties_match(model, ({*group} for group in (LAYERS, [*HEAD, "dec.weight"])))
    assert_ties_match(Small(), [])
    assert tiecheck.assert_ties_match is assert_ties_match


def test_target_to_source_passes_as_transformers_declares_it() -> None:
    assert_ties_match(tied("head"), {"head.weight": "emb.weight"})
    assert_ties_match(tied("head", "dec"), {"head.weight": "emb.weight", "dec.weight": "emb.weight"})
    chain = {"dec.weight": "head.weight", "layers.0.weight": "layers.1.weight", "head.weight": "emb.weight"}
    model = tied("head", "dec")
    model.layers[0].weight = model.layers[1].weight
    assert_ties_match(model, chain)
    assert "1 missing" in message(Small(), {"head.weight": "emb.weight"})


def test_a_missing_group_says_how_it_hangs_together_and_what_to_change() -> None:
    model = Small()
    model.head.weight = nn.Parameter(model.emb.weight.detach().clone())
    assert message(model, [HEAD]).splitlines() == [
        "the ties of Small are not the ones expected: 1 missing",
        "  missing: `emb.weight`, `head.weight`",
        "    found copy: separate memory with equal bytes: equal only until one of them is written",
        "      emb.weight: float32 [8, 4] on cpu",
        "      head.weight: float32 [8, 4] on cpu",
        "    to tie them, assign after loading, moving and wrapping: model.head.weight = model.emb.weight",
    ]


def test_shared_memory_is_no_tie() -> None:
    model = Small()
    model.head.weight = nn.Parameter(model.emb.weight)
    assert "found storage: different parameters over the same memory" in message(model, [HEAD])
    assert_ties_match(model, [])


def test_two_that_are_tied_are_found_where_a_third_shares_their_memory() -> None:
    model = tied("head")
    model.dec.weight = nn.Parameter(model.emb.weight)
    assert_ties_match(model, [HEAD])
    assert "not expected: `emb.weight`, `head.weight`" in message(model, [])
    told = message(model, [[*HEAD, "dec.weight"]])
    assert "1 different" in told
    assert "found storage" in told


def test_a_group_of_which_one_member_fell_off_is_different() -> None:
    told = message(tied("head"), [["dec.weight", *HEAD]])
    assert told.splitlines()[:4] == [
        "the ties of Small are not the ones expected: 1 different",
        "  different: `dec.weight`, `emb.weight`, `head.weight`",
        "    found separate: separate memory with different bytes",
        "      one tensor: `emb.weight`, `head.weight`",
    ]
    assert told.endswith("model.emb.weight = model.dec.weight"), "the first name given is the one to tie to"


def test_a_group_with_a_member_too_many_is_different() -> None:
    assert message(tied("head", "dec"), [HEAD]).splitlines() == [
        "the ties of Small are not the ones expected: 1 different",
        "  different: `emb.weight`, `head.weight`",
        "    also the same tensor, by the parameter: `dec.weight`",
        (
            "    to part them, give one its own memory: "
            "model.dec.weight = torch.nn.Parameter(model.dec.weight.detach().clone()); or expect it too"
        ),
    ]


def test_a_group_that_was_not_expected() -> None:
    model = tied("head")
    model.layers[1] = model.layers[0]
    assert message(model, [HEAD]).splitlines() == [
        "the ties of Small are not the ones expected: 1 not expected",
        "  not expected: `layers.0.weight`, `layers.1.weight`",
        "    found module: one module under several names",
        "      layers.0.weight: float32 [4, 4] on cpu",
        "      layers.1.weight: float32 [4, 4] on cpu",
        (
            "    to part them, make it a module of its own: "
            "model.layers[0] = copy.deepcopy(model.layers[0]); or expect it too"
        ),
    ]


def test_every_difference_is_told_at_once() -> None:
    model = tied("head")
    model.dec.weight = model.layers[0].weight
    told = message(model, [["emb.weight", "dec.weight"], LAYERS])
    assert told.startswith("the ties of Small are not the ones expected: 2 different")
    told = message(model, [["emb.weight", "layers.1.weight"]])
    assert told.startswith("the ties of Small are not the ones expected: 1 different, 1 not expected")


def test_two_groups_that_are_one_tensor() -> None:
    model = tied("head", "dec")
    model.layers[0].weight = model.emb.weight
    told = message(model, [HEAD, ["dec.weight", "layers.0.weight"]])
    assert told.startswith("the ties of Small are not the ones expected: 2 different")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("head.wieght", "`head.wieght` does not exist; did you mean `head.weight`"),
        (r"^head\.weight", "does not exist; names are taken as they are, not as patterns"),
    ],
)
def test_a_name_that_does_not_exist(name: str, says: str) -> None:
    told = message(tied("head"), [["emb.weight", name]])
    assert says in told
    assert "also the same tensor, by the parameter: `head.weight`" in told


def test_a_name_that_is_passed_on_is_not_registered() -> None:
    class Wrapper(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        @property
        def weight(self) -> nn.Parameter:
            return self.inner.weight

    model = tied("head")
    model.head = Wrapper(model.head)
    assert_ties_match(model, [["emb.weight", "head.inner.weight"]])
    told = message(model, [HEAD])
    assert "`head.weight` is not registered: it passes on another module's parameter" in told
    assert "also the same tensor, by the parameter: `head.inner.weight`" in told


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [(nn.DataParallel, "module."), (torch.compile, "_orig_mod."), (torch.optim.swa_utils.AveragedModel, "module.")],
    ids=["DataParallel", "compile", "AveragedModel"],
)
def test_a_wrapper_changes_no_name(wrap, prefix: str) -> None:
    model = wrap(tied("head"))
    assert_ties_match(model, [HEAD])
    assert_ties_match(model, [[prefix + name for name in HEAD]])
    assert "not expected: `emb.weight`, `head.weight`" in message(model, [])
    assert "it is one name, with and without its wrapper" in message(
        model, [HEAD, [prefix + "dec.weight", "dec.weight"]]
    )
    assert "found separate" in message(wrap(Small()), [HEAD])
    report = tiecheck.check(model, ties=[["emb.weight", "dec.weight"]])
    assert any({"emb.weight", "dec.weight"} <= set(f.names) for f in report.findings), (
        "the contract is the inner model's"
    )


def test_a_tie_that_is_offloaded_is_one() -> None:
    from accelerate import cpu_offload

    for model, holds in ((tied("head"), True), (Small(), False)):
        cpu_offload(model, execution_device="cpu")
        if holds:
            assert_ties_match(model, [HEAD])
        else:
            assert "found separate" in message(model, [HEAD])


def test_buffers_count_when_asked() -> None:
    model = nn.Module()
    shared = torch.zeros(3)
    model.register_buffer("a", shared)
    model.register_buffer("b", shared)
    assert_ties_match(model, [])
    assert_ties_match(model, [["a", "b"]], buffers=True)
    assert "not expected: `a`, `b`" in message(model, [], buffers=True)
    assert "`a` is a buffer, and buffers=True was not given" in message(model, [["a", "b"]])


def test_on_meta_identity_tells() -> None:
    with torch.device("meta"):
        model = tied("head")
        other = Small()
    assert_ties_match(model, [HEAD])
    assert "identity is decisive" in message(other, [HEAD])


def test_a_cycle_has_no_group_that_could_be_written() -> None:
    model = tied("head")
    model.layers.append(model)
    assert "endlessly many names" in message(model, [HEAD])


def test_many_names_are_neither_listed_nor_counted_one_by_one() -> None:
    node: nn.Module = nn.Linear(2, 2, bias=False)
    for _ in range(40):
        parent = nn.Module()
        parent.left = parent.right = node
        node = parent
    begin = time.process_time()
    told = message(node, [])
    assert time.process_time() - begin < 5
    assert len(told) < 5000
    assert "more" in told


def test_many_groups_are_cut() -> None:
    model = nn.ModuleList()
    for _ in range(20):
        layer = nn.Linear(2, 2, bias=False)
        model.extend([layer, layer])
    told = message(model, [])
    assert "20 not expected" in told
    assert told.endswith("  and 12 more")


@pytest.mark.parametrize(
    ("expected", "says"),
    [
        ("emb.weight", "must be a list of groups"),
        (["emb.weight", "head.weight"], "a group is a list of names"),
        ([["emb.weight"]], "a group has two or more different names"),
        ([["emb.weight", 3]], "a group holds names"),
        ([HEAD, ["head.weight", "dec.weight"]], "'head.weight' is in two groups"),
        ({"head.weight": ["emb.weight"]}, "'head.weight' is to be tied to another name, not to"),
        ({"head.weight": "head.weight"}, "'head.weight' is to be tied to another name, not to"),
        (3, "must be a list of groups"),
    ],
)
def test_what_is_no_group_is_an_error(expected, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        assert_ties_match(Small(), expected)


def test_what_is_no_module_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"a torch\.nn\.Module is wanted, not a str"):
        assert_ties_match("path/to/model", [])


def test_models_of_transformers_have_the_ties_they_declare() -> None:
    from transformers import BartConfig, BartForConditionalGeneration

    sizes = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 1), ("ffn_dim", 8))}
    heads = {"encoder_attention_heads": 1, "decoder_attention_heads": 1}
    config = BartConfig(vocab_size=16, d_model=8, max_position_embeddings=8, **sizes, **heads)
    model = BartForConditionalGeneration(config)
    assert_ties_match(model, model.all_tied_weights_keys)
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    assert "call model.tie_weights()" in message(model, model.all_tied_weights_keys)


def test_what_a_strict_export_has_merged_holds() -> None:
    class Toy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(16, 8)
            self.lm_head = nn.Linear(8, 16, bias=False)
            self.lm_head.weight = self.embedding.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.lm_head(self.embedding(ids))

    groups = [["embedding.weight", "lm_head.weight"]]
    for strict in (False, True):
        exported = torch.export.export(Toy(), (torch.tensor([[1, 2, 3]]),), strict=strict).module()
        assert len(dict(exported.named_parameters(remove_duplicate=False))) == 2 - strict
        assert_ties_match(exported, groups)
    with pytest.raises(AssertionError, match="missing"):
        assert_ties_match(nn.ModuleDict({"embedding": nn.Embedding(16, 8)}), groups)
