"""One forward pass of a language model that leaves it as it was: what its logits show, and which modules it calls."""

from __future__ import annotations

import inspect
import math
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from tiecheck.trace.reads import ReadTrace, watch_reads

BATCH = 4
LENGTH = 64
NO_LOGITS = "the model's output holds no logits"
SAMPLED = 50
"""Tokens that sampling chooses among (top-k)."""
LOGITS = 1 << 24
"""Most logits that are made at a time; a larger vocabulary gets fewer rows."""

_LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "block_size", "n_ctx")
_TOKENS = ("input_ids", "decoder_input_ids")
_PUT_BACK = frozenset({dict, OrderedDict, defaultdict})


class Pass(NamedTuple):
    """A forward pass that came through."""

    ids: torch.Tensor
    """The tokens, shape (batch, length)."""
    logits: torch.Tensor
    """The logits, their last dimension the vocabulary."""
    trace: ReadTrace
    """Uses of the head that were seen."""


class Shown(NamedTuple):
    """Figures that the logits of random tokens show."""

    deviation: float
    """Standard deviation over the vocabulary, each position's own input token left out."""
    loss: float
    """Cross-entropy of random next tokens, in nats."""
    repeats: float
    """Share of positions whose most likely next token is the input token."""
    margin: float
    """Logit of the input token less the largest of the others, averaged over positions."""
    sampled: float
    """Probability that sampling among the 50 likeliest takes the input token, averaged over positions."""


def run_on_random_tokens(module: nn.Module, tied: torch.Tensor) -> Pass | str:
    """Run a model on random tokens, shorter ones if it refuses; a string says why nothing came of it.

    Evaluation mode, no gradient; modes, random state, buffers and hooks are as before afterwards. The tied tensor has
    shape (vocabulary, width).
    """
    vocabulary, device = tied.shape[0], tied.device
    length = min([LENGTH, *_bounds(module, tied)])
    batch = max(1, min(BATCH, LOGITS // max(1, length * vocabulary)))
    failure = ""
    for rows, columns, masked in ((batch, length, True), (1, min(16, length), True), (1, min(4, length), False)):
        ids = random_tokens(vocabulary, (rows, columns), device, seed=0)
        try:
            call = forward_arguments(module, ids, masked=masked)
            if isinstance(call, str):
                return call
            trace = ReadTrace((tied,), keep=tied)
            with left_untouched(module, device), watch_reads(module, trace):
                output = getattr(module, "_orig_mod", module)(*call[0], **call[1])
        except (Exception, SystemExit, GeneratorExit) as error:  # noqa: BLE001 (whatever a forward raises is a reason, not a crash)
            failure = failure or f"the model's forward raised {type(error).__name__}: {_first_line(error)}"
            continue
        logits = _find_logits(output, vocabulary, trace)
        if logits is None:
            return f"{NO_LOGITS} over {vocabulary} tokens"
        return Pass(ids, logits, trace)
    return failure


def random_tokens(vocabulary: int, shape: tuple[int, ...], device: torch.device, *, seed: int) -> torch.Tensor:
    """Return random token ids from a generator of their own; zeros on meta."""
    if device.type == "meta":
        return torch.zeros(shape, dtype=torch.long, device=device)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocabulary, shape, generator=generator).to(device)


@torch.no_grad()
def logits_figures(logits: torch.Tensor, ids: torch.Tensor) -> Shown | str:
    """Return deviation, loss and repetition of the logits of random tokens (batch, length).

    Logits are (batch, positions, vocabulary), the last positions of the tokens, or (batch * length, vocabulary).
    """
    batch, length = ids.shape
    if logits.dim() == 2 and logits.shape[0] in (batch, batch * length):  # positions, vocabulary
        logits = logits.reshape(batch, -1, logits.shape[-1])
    if logits.dim() != 3 or logits.shape[0] != batch or logits.shape[1] > length:  # batch first
        return f"logits of shape {list(logits.shape)} cannot be matched with tokens of shape {list(ids.shape)}"
    own = ids[:, length - logits.shape[1] :].reshape(-1, 1)
    vocabulary = logits.shape[-1]
    flat = logits.reshape(-1, vocabulary).float()
    flat = flat - flat.mean(dim=-1, keepdim=True)
    mine = flat.gather(1, own)
    mean = (flat.sum(dim=-1, keepdim=True) - mine) / (vocabulary - 1)
    square = (flat.square().sum(dim=-1, keepdim=True) - mine.square()) / (vocabulary - 1)
    top = flat.topk(min(SAMPLED, vocabulary), dim=-1)
    probabilities = (top.values.softmax(dim=-1) * (top.indices == own)).sum(dim=-1)
    others = flat.scatter(1, own, -math.inf).amax(dim=-1, keepdim=True)
    targets = random_tokens(vocabulary, (flat.shape[0],), flat.device, seed=1)
    figures = Shown(
        deviation=math.sqrt(max(0.0, float((square - mean.square()).mean()))),
        loss=float(nn.functional.cross_entropy(flat, targets)),
        repeats=float((flat.argmax(dim=-1, keepdim=True) == own).float().mean()),
        margin=float((mine - others).mean()),
        sampled=float(probabilities.mean()),
    )
    return figures if all(map(math.isfinite, figures)) else "the logits are not finite"


def _bounds(module: nn.Module, tied: torch.Tensor) -> Iterator[int]:
    """Yield sequence lengths that a model cannot exceed: by its config, and by its smaller tables (positions).

    An index beyond a table is an error that can be caught on a CPU, and takes the process down on a GPU.
    """
    config = getattr(module, "config", None)
    for key in _LENGTHS:
        value = getattr(config, key, None)
        if isinstance(value, int) and value > 0:
            yield value
    for table in module.modules():
        if isinstance(table, nn.Embedding) and table.weight is not tied and table.num_embeddings >= 8:
            yield table.num_embeddings


def forward_arguments(
    module: nn.Module, ids: torch.Tensor, *, masked: bool
) -> tuple[tuple[Any, ...], dict[str, Any]] | str:
    """Return positional and named arguments of a forward pass on some tokens, or why they cannot be made."""
    parameters = inspect.signature(module.forward).parameters
    named = {name: ids for name in _TOKENS if name in parameters}
    if masked and "attention_mask" in parameters:
        named["attention_mask"] = torch.ones_like(
            ids, device="cpu" if ids.is_meta else None
        )  # its values are looked at
    plain = [p for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    first: tuple[Any, ...] = ()
    if "input_ids" not in named:
        first, plain = (ids,), plain[1:]
    missing = [p.name for p in plain if p.default is p.empty and p.name not in named]
    return f"the model's forward needs {missing[0]}, which cannot be made up" if missing else (first, named)


def _find_logits(output: Any, vocabulary: int, trace: ReadTrace) -> torch.Tensor | None:
    """Return the logits in a model's output: what the head's product is seen to reach, else the first that fits."""
    found = [tensor for tensor in floating(output) if tensor.shape[-1] == vocabulary]
    return next((t for t in found if trace.reached(t) is not None), found[0] if found else None)


def floating(value: Any, depth: int = 0) -> Iterator[torch.Tensor]:
    """Yield the floating tensors of two dimensions and more that a module gave out, its logits first."""
    if isinstance(value, torch.Tensor):
        if value.is_floating_point() and value.dim() > 1:
            yield value
    elif depth < 3:  # a tuple in an output, a dict in a tuple
        logits = getattr(value, "logits", None)
        items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
        for item in (logits, *items):
            yield from floating(item, depth + 1)


@contextmanager
def left_untouched(module: nn.Module, device: torch.device, *, grad: bool = False) -> Iterator[None]:
    """Set evaluation mode, without gradient unless asked for; afterwards random state and modules are as before.

    Modules: their modes, buffers, and what a forward keeps in them (a cache on meta would spoil the next pass) or puts
    in the place of a layer; not what it changes in an object of its own (a list). The flag is set and not `eval()`
    called: loralib's `train` merges weights.
    """
    modules = list(module.modules())
    modes = [m.training for m in modules]
    held = [[(d, dict(d)) for d in (m.__dict__, *vars(m).values()) if type(d) in _PUT_BACK] for m in modules]
    values = [(b, b._version, b.clone()) for m in modules for b in m._buffers.values() if b is not None]
    accelerator = device.type not in ("cpu", "meta")
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad() if grad else torch.no_grad())
        stack.enter_context(torch.random.fork_rng(devices=[]))
        if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):  # torch 2.6
            stack.enter_context(torch.compiler.set_stance("force_eager"))  # a compiler trips over watched modules
        if accelerator:
            stack.enter_context(torch.random.fork_rng(devices=[device], device_type=device.type))
        try:
            for m in modules:
                m.training = False
            yield
        finally:
            for m, mode, dictionaries in zip(modules, modes, held, strict=True):
                m.training = mode
                for dictionary, before in dictionaries:
                    dictionary.clear()
                    dictionary.update(before)
            for buffer, version, value in values:
                if buffer._version != version:
                    buffer.detach().copy_(value)


def called_modules(module: nn.Module) -> tuple[str, ...] | None:
    """Return the modules that a forward pass calls, by first path, in the order of first calls; None if not told.

    That is where the model is not on meta, or no pass on tokens comes through; it is left as it was. A pass with other
    inputs (images, entities) may call more, with fewer less. A weight that is read without a call of its module
    (`F.linear(x, embedding.weight)`) is not seen.
    """
    if not all(parameter.is_meta for parameter in module.parameters()):
        return None
    seen: dict[str, None] = {}

    def note(path: str, *_: object) -> None:
        seen.setdefault(path)

    hooks = [one.register_forward_pre_hook(partial(note, path)) for path, one in module.named_modules()]
    try:
        for masked in (False, True):  # transformers 5.23 looks at the values of a mask, which are none on meta
            seen.clear()
            if _passes(module, masked=masked):
                return tuple(seen)
    finally:
        for hook in hooks:
            hook.remove()
    return None


def _passes(module: nn.Module, *, masked: bool) -> bool:
    call = forward_arguments(module, torch.zeros((1, 4), dtype=torch.long, device="meta"), masked=masked)
    if isinstance(call, str):
        return False
    from tiecheck.live.transformers.loading import silenced_transformers

    try:
        with silenced_transformers(), left_untouched(module, torch.device("meta")):
            module(*call[0], **call[1])
    except (Exception, SystemExit, GeneratorExit):  # noqa: BLE001  # a forward pass may fail in any way, on meta above all
        return False
    return True


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200]
