"""`tiecheck.guard`: each break is found with the user's line, by object and memory; what keeps the tie is silent."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import pickle
import random
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
import torch.distributed as dist
from rule_failures import gpt2, llama
from tie_kinds import KINDS, Alias, Data, Listed, NewParameter, Pair, Param, marked_line, truth
from torch import nn
from torch._C._distributed_c10d import HashStore
from torch.distributed.fsdp import fully_shard
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrizations, prune

import tiecheck
from tiecheck.guard.errors import TieWarning
from tiecheck.guard.remembered_ties import TieVerdict, remember_ties, sample_of
from tiecheck.guard.tie_guard import ON_BREAK, TieGuard
from tiecheck.guard.tying_again import retie
from tiecheck.guard.unseen_writes import unseen_write
from tiecheck.guard.watched_calls import start_watching, stop_watching, user_line
from tiecheck.guard.watched_ties import WatchedTie
from tiecheck.records.life import Break, UserLine

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*weight_norm:FutureWarning")

Do = Callable[[Any], Any]
HERE = __file__


def deepcopy_whole(model: Pair) -> Any:
    return copy.deepcopy(model)


def deepcopy_children(model: Pair) -> None:
    for name, child in list(model.named_children()):
        setattr(model, name, copy.deepcopy(child))  # <-


def half(model: Pair) -> None:
    model.half()  # <-


def to_same(model: Pair) -> None:
    model.to("cpu")
    model.requires_grad_(False)
    model.share_memory()  # <-


def to_meta(model: Pair) -> None:
    model.to("meta")  # <-


def to_empty(model: Pair) -> None:
    model.to_empty(device="cpu")  # <-


@contextmanager
def future(name: str) -> Iterator[None]:
    getattr(torch.__future__, f"set_{name}_module_params_on_conversion")(True)
    try:
        yield
    finally:
        getattr(torch.__future__, f"set_{name}_module_params_on_conversion")(False)


def half_overwriting(model: Pair) -> None:
    with future("overwrite"):
        model.half()  # <-


def to_meta_swapping(model: Pair) -> None:
    with future("swap"):
        model.to("meta")  # <-


def load_in_place(model: Pair) -> None:
    model.load_state_dict(model.state_dict())  # <-


def assign_own(model: Pair) -> None:
    model.load_state_dict(model.state_dict(), assign=True)  # <-


def assign_clones(model: Pair) -> None:
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(state, assign=True)  # <-


def assign_once(model: Pair) -> None:
    state: dict[str, Any] = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in {held.data_ptr() for held in state.values()}:
            state[name] = tensor
    state = {name: tensor.clone() for name, tensor in state.items()}
    model.load_state_dict(state, assign=True, strict=False)  # <-


def saved_whole(model: Pair) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def pickled(model: Pair) -> Any:
    return pickle.loads(pickle.dumps(model))


def step(model: Pair) -> None:
    model(torch.arange(6)).square().sum().backward()
    torch.optim.AdamW(model.parameters(), lr=0.1).step()
    model.eval()
    model.train()  # <-


def new_head(model: Pair) -> None:
    model.other_thing = nn.Linear(2, 2)
    model.lin = nn.Linear(6, 6)  # <-


def data_again(model: Pair) -> None:
    model.emb.weight.data = model.emb.weight.data.clone()  # <-


OPERATIONS: tuple[Do, ...] = (
    deepcopy_whole,
    deepcopy_children,
    half,
    to_same,
    to_meta,
    to_empty,
    half_overwriting,
    to_meta_swapping,
    load_in_place,
    assign_own,
    assign_clones,
    assign_once,
    saved_whole,
    pickled,
    step,
    new_head,
    data_again,
)
RANK = "ISx"


def guarded(model: Pair, do: Do) -> tuple[Pair, tiecheck.TieBroken | None]:
    """Do something under a guard; what comes back is watched."""
    held: list[Pair] = [model]
    try:
        with tiecheck.guard(model) as g:
            found = do(model)
            if found is not None:
                held[0] = g.watch(found)  # <-
    except tiecheck.TieBroken as broken:
        return held[0], broken
    return held[0], None


def line_of(do: Do) -> int:
    try:
        return marked_line(do)
    except ValueError:
        return marked_line(guarded)


@pytest.mark.parametrize("do", OPERATIONS, ids=lambda do: do.__name__)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_a_guard_says_is_true_by_object_and_memory(kind: type[Pair], do: Do) -> None:
    model = kind()
    before = truth(model)
    after, broken = guarded(model, do)
    weaker = RANK.index(truth(after)) > RANK.index(before)
    assert (broken is not None) == weaker, f"{before} -> {truth(after)}: {broken}"
    if broken is not None:
        (one,) = broken.broken
        assert one.seen
        assert (one.since.path, one.since.line) == (HERE, line_of(do))
        assert "site-packages" not in str(broken)


def drawn_life(seed: int) -> tuple[type[Pair], list[Do]]:
    draw = random.Random(seed)
    fit = [do for do in OPERATIONS if do not in (step, deepcopy_whole, saved_whole, pickled)]
    return draw.choice(KINDS), [draw.choice(fit) for _ in range(draw.randint(2, 5))]


@pytest.mark.parametrize("seed", range(40))
def test_in_a_drawn_row_of_operations_the_first_that_broke_it_is_blamed(seed: int) -> None:
    """Breaks on meta and after it keep what they are: nothing in the row ties again."""
    kind, row = drawn_life(seed)
    model = kind()
    before = truth(model)
    culprit: list[Do] = []
    try:
        with tiecheck.guard(model):
            for do in row:
                on_meta = any(parameter.is_meta for parameter in model.parameters())
                try:
                    do(model)
                except RuntimeError as error:
                    if not on_meta or "meta" not in str(error):  # torch copies nothing from meta
                        raise
                if not culprit and RANK.index(truth(model)) > RANK.index(before):
                    culprit.append(do)
    except tiecheck.TieBroken as broken:
        (one,) = broken.broken
        assert culprit
        assert one.since.line == line_of(culprit[0]), (kind.__name__, [do.__name__ for do in row])
    else:
        assert not culprit


def test_what_writes_past_nn_module_is_blamed_on_the_last_line_after_which_it_was_whole() -> None:
    def body(model: Pair) -> None:
        model.more = nn.Linear(2, 2)  # <-
        model.lin._parameters["weight"] = nn.Parameter(torch.zeros(6, 6))
        model.rest = nn.Linear(2, 2)  # until

    _, broken = guarded(Param(), body)
    assert broken is not None
    (one,) = broken.broken
    assert not one.seen
    assert one.operation == ""
    assert one.since.line == marked_line(body)
    assert one.until is not None
    assert one.until.line == marked_line(body, "# until")
    assert one.writes is not None
    assert one.writes.line == marked_line(body) + 1
    assert f":{one.writes.line} writes so: model.lin._parameters" in str(broken)


def test_a_write_past_nn_module_at_the_end_is_told_to_lie_before_the_end_of_the_block() -> None:
    def past(model: Pair) -> None:
        model.lin._parameters["weight"] = nn.Parameter(torch.zeros(6, 6))

    def after_a_line(model: Pair) -> None:
        model.more = nn.Linear(2, 2)
        past(model)

    _, broken = guarded(Param(), after_a_line)
    assert "before the end of the block and after" in str(broken)
    _, broken = guarded(Param(), past)
    assert "in the block that begins at" in str(broken)


def test_a_write_past_nn_module_in_a_loop_lies_between_two_steps() -> None:
    def past(model: Pair) -> None:
        model._modules["lin"] = nn.Linear(6, 6)  # here

    def by_another(model: Pair) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            past(model)
            optimizer.step()  # <-

    def training(model: Pair) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for number in range(3):
            if number == 1:
                model._modules["lin"] = nn.Linear(6, 6)  # here
            optimizer.step()  # <-

    for do, written in ((training, True), (by_another, False)):
        _, broken = guarded(Param(), do)
        assert broken is not None
        (one,) = broken.broken
        assert one.until.line == marked_line(do)
        assert (one.since.line == one.until.line) == written  # the other breaks it before the first step
        assert ("between two passes over" in str(broken)) == written
        assert (one.writes.line if one.writes else None) == (marked_line(do, "# here") if written else None)


def test_no_line_is_told_of_code_that_is_no_file_nor_of_two_files() -> None:
    here, cell = UserLine(HERE, 1, "", ""), UserLine("<stdin>", 1, "", "")
    assert unseen_write(here, cell, ends=False) is None
    assert unseen_write(cell, cell, ends=True) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda m: prune.random_unstructured(m.lm_head, "weight", 0.5),
        lambda m: parametrizations.spectral_norm(m.lm_head),
        lambda m: parametrizations.weight_norm(m.lm_head),
        lambda m: m.set_input_embeddings(nn.Embedding(64, 16)),
        lambda m: setattr(m.lm_head, "weight", None),
    ],
    ids=("pruned", "spectral", "weight-norm", "input-embeddings", "none"),
)
def test_what_libraries_do_to_one_side_of_a_transformers_model(change: Do) -> None:
    model = llama()
    with pytest.raises(tiecheck.TieBroken, match="embed_tokens") as caught, tiecheck.guard(model):
        change(model)
    assert caught.value.broken[0].since.path == HERE


@pytest.mark.parametrize("build", [llama, gpt2])
def test_what_keeps_the_tie_is_silent(build: Callable[[], Any], tmp_path: Path) -> None:
    model = build()
    with tiecheck.guard(model) as g:
        model.resize_token_embeddings(80)
        model.save_pretrained(tmp_path)
        model = g.watch(type(model).from_pretrained(tmp_path))
        model.to(torch.bfloat16).float()
        model.activation_checkpointing_enable()
        ids = torch.arange(8)[None]
        model(ids, labels=ids).loss.backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
        g.watch(copy.deepcopy(model))
        model.tie_weights()


def test_a_tie_that_is_made_again_in_the_block_is_no_break() -> None:
    model = Param()
    with tiecheck.guard(model):
        model.lin = nn.Linear(6, 6)
        model.lin.weight = model.emb.weight
        model.lin.weight = nn.Parameter(torch.ones(6, 6))
        model.emb.weight = model.lin.weight


def test_retie_ties_where_no_value_is_lost_and_raises_where_one_would_be() -> None:
    for do in (assign_clones, assign_own, to_empty, half_overwriting, to_meta):
        model = Param()
        with tiecheck.guard(model, on_break="retie") as g:
            do(model)
        assert model.lin.weight is model.emb.weight
        assert bool(g.broken) == (do is not to_empty)
    model = Param()
    with pytest.raises(tiecheck.TieBroken, match="nobody knows which"), tiecheck.guard(model, on_break="retie"):
        new_head(model)
    with torch.device("meta"):
        model = Param()
    with tiecheck.guard(model, on_break="retie"):
        model.to_empty(device="cpu")
    assert model.lin.weight is model.emb.weight


def test_warn_warns_at_the_line_and_the_report_has_the_finding() -> None:
    model = Param()
    with pytest.warns(TieWarning, match=r"lin.weight") as caught, tiecheck.guard(model, on_break="warn") as g:
        new_head(model)
    assert caught[0].filename == HERE
    (finding,) = g.report.findings
    assert (finding.code, finding.severity) == ("TIE401", "error")
    assert finding.locations[0].line == line_of(new_head)
    assert [edit.choice for edit in finding.edits] == ["emb.weight", "lin.weight"]
    for edit in finding.edits:
        for step in edit.steps:
            exec(step.code, {"model": model})
        assert model.lin.weight is model.emb.weight
        model.lin = nn.Linear(6, 6)
    assert g.report.targets[0].status == "fail"


def test_an_initialiser_over_a_tied_matrix_is_told() -> None:
    model = Param()
    with pytest.warns(TieWarning, match="drawn its values anew"), tiecheck.guard(model) as g:
        model.lin.reset_parameters()
    assert g.overwritten[0].names == ("emb.weight", "lin.weight")
    with pytest.warns(TieWarning, match="anew"), tiecheck.guard(model):
        model.apply(lambda m: m.weight.data.normal_() if hasattr(m, "weight") else None)
    with tiecheck.guard(model) as g:
        nn.Linear(6, 6)
        model.apply(lambda m: m.train())
        model.apply(lambda m: m.requires_grad_(False).requires_grad_(True))
        step(model)
        for dtype in (torch.float64, torch.bfloat16, torch.float32):
            model.apply(lambda m, dtype=dtype: m.to(dtype) if isinstance(m, nn.Linear) else None)
    assert not g.overwritten


def test_an_error_of_the_block_goes_on_and_carries_the_word() -> None:
    model = Param()

    def fails() -> None:
        new_head(model)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught, tiecheck.guard(model):
        fails()
    assert any("lin.weight" in note for note in caught.value.__notes__)


def test_nested_and_as_a_decorator_and_in_threads() -> None:
    model, second = Param(), Param()

    @tiecheck.guard(model)
    def prepare() -> None:
        new_head(model)

    with tiecheck.guard(second), pytest.raises(tiecheck.TieBroken):
        prepare()
    model = Param()

    def work() -> None:
        with tiecheck.guard(Param()):
            half_overwriting(model)

    def threaded() -> None:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    with pytest.raises(tiecheck.TieBroken) as caught, tiecheck.guard(model):
        threaded()
    assert caught.value.broken[0].since.line == line_of(half_overwriting)


def test_outside_of_a_block_nothing_is_in_place() -> None:
    names = ("_apply", "load_state_dict", "__delattr__", "apply")
    before = [getattr(nn.Module, name) for name in names]
    with tiecheck.guard(NewParameter()):
        assert nn.Module._apply is not before[0]
        assert "data" in vars(nn.Parameter)
    assert [getattr(nn.Module, name) for name in names] == before
    assert "data" not in vars(nn.Parameter)
    assert not torch_module._global_parameter_registration_hooks
    assert nn.init.normal_.__module__ == "torch.nn.init"


def test_a_member_that_is_deleted_is_blamed_on_that_line() -> None:
    def body(model: Pair) -> None:
        del model.lin.weight  # <-
        model.lin.weight = nn.Parameter(torch.zeros(6, 6))

    plain = nn.Linear.__delattr__
    _, broken = guarded(Param(), body)
    assert broken is not None
    assert broken.broken[0].seen
    assert broken.broken[0].since.line == marked_line(body)
    assert "broken by deletion of weight at" in str(broken)
    assert nn.Linear.__delattr__ is nn.Module.__delattr__ is plain
    assert "__delattr__" not in vars(nn.Linear)


def test_a_guard_that_holds_nothing_puts_nothing_in_place_nor_does_one_that_is_closed() -> None:
    plain = nn.Module._apply
    with tiecheck.guard(nn.Linear(2, 2)) as g:
        assert nn.Module._apply is plain
        g.watch(Data())
        assert nn.Module._apply is not plain
    model = g.watch(Data())
    model.half()
    assert nn.Module._apply is plain
    assert "data" not in vars(nn.Parameter)


def test_a_wrapper_of_another_library_over_ours_is_left_alone() -> None:
    plain = nn.Module._apply
    try:
        with tiecheck.guard(Param()):
            ours = nn.Module._apply
            theirs = functools.partialmethod(ours).__get__(None, nn.Module)
            nn.Module._apply = theirs
        assert nn.Module._apply is theirs
        Param().half()
    finally:
        nn.Module._apply = plain


def test_under_compile_and_on_meta() -> None:
    model = Param()
    compiled = torch.compile(model, backend="eager")
    with tiecheck.guard(compiled) as g:
        compiled(torch.arange(6)).sum().backward()
        g.watch(torch.compile(model, backend="eager"))
    with pytest.raises(tiecheck.TieBroken), tiecheck.guard(compiled):
        model.lin = nn.Linear(6, 6)
    with torch.device("meta"):
        shared, aliased = Data(), Alias()
    with tiecheck.guard(shared, aliased):
        aliased.half()
    with pytest.raises(tiecheck.TieBroken), tiecheck.guard(shared):
        shared.half()


def test_a_model_that_is_given_up_keeps_nothing_alive() -> None:
    import gc

    model = Listed()
    gone = weakref.ref(model)
    with tiecheck.guard() as g:
        g.watch(model)
        del model
        gc.collect()
        assert gone() is None


def test_a_wrong_word_is_refused() -> None:
    with pytest.raises(tiecheck.TiecheckError, match="on_break="):
        tiecheck.guard(Param(), on_break="fix")
    assert all(isinstance(tiecheck.guard(Param(), on_break=word), TieGuard) for word in ON_BREAK)
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        tiecheck.guard([])


def test_a_wrapper_that_flattens_parameters_is_not_judged() -> None:
    """FSDP1 wants an accelerator: what it leaves behind is made instead, a wrapper of its name without parameters."""
    name = "FullyShardedDataParallel"
    cls = type(name, (nn.Module,), {"__module__": "torch.distributed.fsdp.fully_sharded_data_parallel"})
    model = nn.Sequential(Param())
    with tiecheck.guard(model):
        inner = model[0]
        wrapper = cls()
        wrapper._fsdp_wrapped_module = inner
        for layer in (inner.emb, inner.lin):
            del layer._parameters["weight"]
        model[0] = wrapper


def test_a_remembered_tie_is_judged_where_it_is_not_what_it_was_and_tied_again() -> None:
    model = Param()
    (tie,) = remember_ties(model)
    assert tie.names == ("emb.weight", "lin.weight")
    assert tie.holds(model)
    assert tie.judge(model) is None
    watched = WatchedTie(weakref.ref(model), tie, user_line())
    assert watched.holds()
    assert watched.broken() is None
    before = sample_of(model.emb.weight)
    new_head(model)
    assert not tie.holds(model)
    assert not watched.holds()
    assert watched.broken() is not None
    verdict = tie.judge(model)
    assert isinstance(verdict, TieVerdict)
    assert verdict.kind == "separate"
    broken = Break(tie.names, tie.kind, verdict.kind, None, verdict.parts, None)
    assert "nobody knows which" in (retie(model, tie, broken) or "")
    with torch.no_grad():
        model.lin.weight.copy_(model.emb.weight)
    assert retie(model, tie, broken) is None
    assert tie.holds(model)
    assert sample_of(model.emb.weight) == before
    assert sample_of(torch.empty(2, device="meta")) is None


def test_a_line_is_the_users_and_an_assignment_has_the_word_it_was_given() -> None:
    line = user_line(did="assigned")
    assert isinstance(line, UserLine)
    assert (line.path, line.operation) == (HERE, "assigned")
    assert line.code == 'line = user_line(did="assigned")'


def test_a_watcher_that_stopped_does_not_see_the_call_that_broke_it() -> None:
    model = Param()

    def unseen() -> Any:
        with tiecheck.guard(model, on_break="warn") as g:
            stop_watching(g)
            new_head(model)
            assert not g.broken
            start_watching(g)
        return g

    with pytest.warns(TieWarning, match=r"wrote past nn\.Module"):
        assert len(unseen().broken) == 1


UNTIE = """
from torch import nn
def untie_weights(model, cloned):  # what a quantiser does before it rotates the head; offloaded, not cloned
    weight = model.emb.weight.detach()
    model.lin.weight = nn.Parameter(weight.clone() if cloned else weight)
"""


def test_an_untie_that_leaves_the_memory_shared_is_told_as_that() -> None:
    library: dict[str, Any] = {}
    exec(compile(UNTIE, "/usr/lib/site-packages/quantiser/modifier.py", "exec"), library)
    untie_weights = library["untie_weights"]
    model = Param()
    with pytest.raises(tiecheck.TieBroken), tiecheck.guard(model) as g:
        untie_weights(model, cloned=False)
    (finding,) = g.report.findings
    assert (finding.code, finding.names) == ("TIE402", ("emb.weight", "lin.weight"))
    with torch.no_grad():
        model.lin.weight.add_(1)
    assert torch.equal(model.emb.weight, model.lin.weight), "a write into the head reaches the embedding"
    for step in finding.edits[0].steps:
        exec(step.code, {"model": model})
    with torch.no_grad():
        model.emb.weight.add_(1)
    assert not torch.equal(model.emb.weight, model.lin.weight)
    tiecheck.assert_not_tied(model, "emb.weight", "lin.weight")
    model = Param()
    with pytest.raises(tiecheck.TieBroken), tiecheck.guard(model) as g:
        untie_weights(model, cloned=True)
    assert [finding.code for finding in g.report.findings] == ["TIE401"]


def test_an_untie_under_offload_is_told_by_what_the_hooks_hold() -> None:
    """What an untie did that replaced the empty parameter, and not the values in accelerate's map: nothing."""

    def empty_replaced(model: Any) -> None:
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())

    def map_replaced(model: Any) -> None:
        held = model.lm_head._hf_hook.weights_map
        held.dataset["lm_head.weight"] = held["weight"].clone()

    for untie, lost in ((empty_replaced, False), (map_replaced, True)):
        model = llama()
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
        (tie,) = tiecheck.find_ties(model)
        assert (tie.kind, "offloaded" in str(tie.reason)) == ("parameter", True)
        with contextlib.suppress(tiecheck.TieBroken), tiecheck.guard(model) as g:
            untie(model)
        assert bool(g.broken) == lost
        model.config.tie_word_embeddings = False
        codes = [one.code for one in tiecheck.check(model).findings]
        assert codes == ([] if lost else ["TIE305"]), untie.__name__
        same = model.lm_head._hf_hook.weights_map["weight"], model.model.embed_tokens._hf_hook.weights_map["weight"]
        assert (same[0].data_ptr() != same[1].data_ptr()) == lost, "the truth"


RESIZE = """
from torch import nn
def resize_token_embeddings(model, rows):  # what a class does whose declaration of its tie was lost
    model.emb = nn.Embedding(rows, 6)
"""


@pytest.mark.parametrize("kept", ["emb.weight", "lin.weight"])
def test_a_resize_that_parts_a_tie_has_two_ways_back(kept: str) -> None:
    library: dict[str, Any] = {}
    exec(compile(RESIZE, "/usr/lib/site-packages/models/resizing.py", "exec"), library)
    model = Param()
    with pytest.warns(TieWarning), tiecheck.guard(model, on_break="warn") as g:
        library["resize_token_embeddings"](model, 9)
    (finding,) = g.report.findings
    assert finding.code == "TIE403"
    (edit,) = [edit for edit in finding.edits if edit.choice == kept]
    rows = {"emb.weight": 9, "lin.weight": 6}[kept]
    for step in edit.steps:
        exec(step.code, {"model": model})
    assert model.lin.weight is model.emb.weight
    assert model.lin.weight.shape == (rows, 6)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("norm", [parametrizations.weight_norm, nn.utils.weight_norm], ids=["new", "old"])
def test_the_way_back_from_a_weight_norm_is_executed(norm: Callable[..., Any], seed: int) -> None:
    draw = random.Random(seed)
    model = nn.ModuleDict({"wte": nn.Embedding(8, 4), "lm_head": nn.Linear(4, 8), "more": nn.Linear(4, 8)})
    model.lm_head.weight = model.more.weight = model.wte.weight
    chosen = draw.sample(["lm_head", "more", "wte"], draw.randint(1, 2))
    with pytest.raises(tiecheck.TieBroken) as caught, tiecheck.guard(model) as watching:
        list(map(norm, (model[name] for name in chosen)))
    (finding,) = watching.report.targets[0].findings
    (edit,) = finding.edits
    assert "remove_" in str(caught.value)
    for step in edit.steps:
        exec(step.code, {"model": model})
    assert model.wte.weight is model.lm_head.weight is model.more.weight
    assert model["lm_head"](model["wte"](torch.tensor([1]))).shape == (1, 8)


def test_no_way_back_is_told_where_every_member_was_moved() -> None:
    model = nn.ModuleDict({"wte": nn.Embedding(8, 4), "lm_head": nn.Linear(4, 8)})
    model.lm_head.weight = model.wte.weight
    with pytest.raises(tiecheck.TieBroken) as caught, tiecheck.guard(model):
        list(map(parametrizations.weight_norm, model.values()))
    assert "both sides alike" in str(caught.value)
    assert "model.wte.weight =" not in str(caught.value)


def test_the_package_is_the_function_of_its_name() -> None:
    """By an import of the package itself too, since one of any module in it binds `tiecheck.guard` to that."""
    import tiecheck.guard as package

    model = gpt2()
    with pytest.raises(tiecheck.TieBroken), package(model):
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())


@pytest.mark.parametrize("change", [parametrizations.weight_norm, nn.utils.weight_norm], ids=["new", "old"])
def test_what_is_done_to_one_module_under_two_names_keeps_its_tie(change: Callable[..., Any]) -> None:
    model = Alias()
    with tiecheck.guard(model):
        change(model.lin)
        nn.init.normal_(model.emb.weight)  # a computed weight has no values that stay
    assert model.lin is model.emb
    assert torch.equal(model.lin.weight, model.emb.weight)


def test_what_fsdp2_parts_is_told_with_the_way_that_keeps_it_and_that_way_is_silent() -> None:
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        model = gpt2()
        with pytest.raises(tiecheck.TieBroken, match="broken by fully_shard") as caught, tiecheck.guard(model) as g:
            fully_shard(model.lm_head)
        assert "Tie again" not in str(caught.value)
        (edit,) = g.report.findings[0].edits
        model = gpt2()
        with tiecheck.guard(model):
            for step in edit.steps:
                exec(step.code, {"model": model})
            fully_shard(model)
        assert [len(tie.names) for tie in tiecheck.find_ties(model)] == [2]
    finally:
        dist.destroy_process_group()
