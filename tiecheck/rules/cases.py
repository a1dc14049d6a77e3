"""Facts for the rules' own cases: a healthy little model, of which a case changes what it is about."""

from __future__ import annotations

from typing import Any

from tiecheck.records.declared import Architecture, Flag
from tiecheck.records.live import (
    Candidate,
    DeclaredTie,
    Head,
    KeyForm,
    KeyProblem,
    LiveClass,
    LiveModel,
    Registration,
    Tie,
)
from tiecheck.records.loaders import LoaderView
from tiecheck.records.mending import mending_of
from tiecheck.records.scale import InitScale
from tiecheck.records.stored import Checkpoint, Comparison, Group, Shard, StoredTensor
from tiecheck.records.uses import Role, Use, Uses
from tiecheck.records.words import Outcome

HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"
PAIR = (HEAD, EMBEDDING)


def stored_tensor(name: str, shape: tuple[int, ...] = (128, 16), file: str = "model.safetensors") -> StoredTensor:
    """A float32 tensor's header facts."""
    count = 1
    for size in shape:
        count *= size
    return StoredTensor(name, "float32", shape, 4 * count, file, 1024)


def tie_flag(value: bool, *level: str) -> Flag:
    """A tie flag on line 12 of the config."""
    return Flag("tie_word_embeddings", level, value, 12, 3)


def llama_group(*, value: bool | None = True, stored: tuple[str, ...] = (EMBEDDING,), **changes: Any) -> Group:
    """A Llama's group: what the flag says (None: nothing), which members are stored, and fields to change."""
    by = ("config.json:tie_word_embeddings",) if value is not None else ("default of LlamaForCausalLM",)
    plain = Group(
        names=PAIR,
        source=EMBEDDING,
        kind="parameter" if value else None,
        declared=bool(value),
        declared_by=by,
        flag=None if value is None else tie_flag(value),
        default=False,
        stored="absent",
        stored_names=tuple(sorted(stored)),
        missing=tuple(n for n in PAIR if n not in stored),
        tensors=tuple(stored_tensor(n) for n in sorted(stored)),
    )
    return plain._replace(**changes)


def group_facts(*groups: Group, older: tuple[Group, ...] | None = None) -> dict[str, Any]:
    """The facts `groups` and `loaders`: what transformers 4.57 and 5 make of some groups.

    Args:
        groups: The groups as transformers 5 reads them.
        older: The same groups as 4.57 reads them; alike where it is not given.
    """
    from tiecheck.peers.loaders.loader_rules import Situation
    from tiecheck.peers.loaders.registry import ask_loaders, loaders_of

    llama = Architecture("LlamaForCausalLM", True, (), "transformers 5.23.0", 1.0, EMBEDDING, HEAD, "model")
    before = older or groups
    situations = [Situation(None, llama, group, (other,)) for group, other in zip(groups, before, strict=True)]
    return {"groups": groups, "loaders": ask_loaders(situations, loaders_of(("transformers",)))}


def loader_facts(group: Group, *views: LoaderView, flags: tuple[Flag, ...] = ()) -> dict[str, Any]:
    """The facts `groups`, `loaders` and `flags`: what loaders make of one group, and the config's flags."""
    return {"groups": (group,), "loaders": views, "flags": flags}


def loader_view(loader: str, outcome: Outcome, **changes: Any) -> LoaderView:
    """Return what a loader makes of the Llama's group."""
    plain = LoaderView(loader, "", outcome, None, "source", PAIR, "tie_word_embeddings", True, True)
    return plain._replace(**changes)


def row_comparison(*, rows_differ: int = 0, first: int | None = None, constant: bool = False) -> Comparison:
    """A comparison of 128 rows."""
    last = None if first is None else first + rows_differ - 1
    return Comparison(rows_differ == 0, 128, rows_differ, 128, first, last, constant)


def sharded_checkpoint(
    entries: dict[str, tuple[str, ...]], weight_map: dict[str, str] | None = None, missing: tuple[str, ...] = ()
) -> Checkpoint:
    """A checkpoint of shards (file -> names of small tensors), with its index and the files that are missing."""
    entry = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
    shards = tuple(Shard(file, 1024, dict.fromkeys(names, entry)) for file, names in entries.items())
    index = "model.safetensors.index.json" if weight_map else None
    return Checkpoint("safetensors", ".", shards, index, weight_map or {}, missing, {})


def live_tie(*names: str, kind: Any = "parameter", **changes: Any) -> Tie:
    """A live group of float32 matrices."""
    plain = Tie(
        names=tuple(sorted(names or PAIR)),
        names_total=len(names or PAIR),
        kind=kind,
        shape=(128, 16),
        dtype="float32",
        nbytes=8192,
        device="cpu",
        buffer=False,
        requires_grad=(True,),
        registrations=(Registration("Embedding", "weight"), Registration("Linear", "weight")),
        reason=None,
    )
    return plain._replace(**changes)


def declared_tie(
    kind: Any, *, parts: tuple[tuple[str, ...], ...] = ((HEAD,), (EMBEDDING,)), **changes: Any
) -> DeclaredTie:
    """A declared group of a live Llama."""
    plain = DeclaredTie(
        names=tuple(sorted(n for part in parts for n in part)),
        source=EMBEDDING,
        by=("LlamaForCausalLM._tied_weights_keys",),
        kind=kind,
        reason=None,
        parts=parts,
    )
    return plain._replace(**changes)


def tie_candidate(**changes: Any) -> Candidate:
    """The group that a Llama's class can tie."""
    by = ("LlamaForCausalLM._tied_weights_keys", "config.tie_word_embeddings")
    return Candidate(PAIR, EMBEDDING, by, flag=True)._replace(**changes)


def live_head(**changes: Any) -> Head:
    """Embedding and head of a live Llama, tied."""
    plain = Head(
        class_name="LlamaForCausalLM",
        embedding=PAIR,
        head=PAIR,
        same=True,
        alike=True,
        flags=(("config.tie_word_embeddings", True),),
        usual=None,
        older=(),
        encoder_decoder=False,
    )
    if {"head", "embedding"} & changes.keys():
        changes.setdefault("same", False)
    return plain._replace(**changes)


def key_problem(form: KeyForm, **changes: Any) -> KeyProblem:
    """Something wrong with what a class declares."""
    plain = KeyProblem(
        form=form,
        model="",
        class_name="OwnForCausalLM",
        key="lm_head.weight",
        source="model.embed_token.weight",
        names=("lm_head.weight",),
        flag=True,
        raised="AttributeError: ... has no attribute `embed_token`",
    )
    return plain._replace(**changes)


def live_llama(**changes: Any) -> LiveModel:
    """A live Llama with its tie in order."""
    plain = LiveModel(
        class_name="LlamaForCausalLM",
        origin="given",
        ties=(live_tie(),),
        aliases=(),
        declared=(declared_tie("parameter", parts=(PAIR,)),),
        candidates=(tie_candidate(),),
        flag=True,
        library="transformers 5.23.0",
        reasons=(),
    )
    return plain._replace(**changes)


def live_facts(of: LiveModel | None = None, **changes: Any) -> dict[str, Any]:
    """Return the facts of the live layer as rules ask for them: of a Llama in order or another, with some changes."""
    model = (of or live_llama())._replace(**changes)
    return {
        "mending": mending_of(model),
        "live_class": LiveClass(model.class_name, model.origin, model.library, model.reasons),
        "live_ties": model.ties,
        "aliases": model.aliases,
        "declared_ties": model.declared,
        "tie_candidates": model.candidates,
        "heads": model.heads,
        "derived_weights": model.effects,
        "bias_misfits": model.misfits,
        "intended_differences": model.freezes,
        "save_problems": model.unsaved,
        "equal_copies": model.equal,
    }


def use_of(*names: str, role: Role = "embedding", **changes: Any) -> Use:
    """Return a use of a tensor, by all its names unless `reached` says otherwise."""
    plain = Use(names, role, "embedding", transposed=False, scale=1.0, reached=names, shape=(128, 16))
    return plain._replace(**changes)


def traced_pass(*uses: Use, logits: tuple[str, ...] | None = None) -> Uses:
    """Return the uses of one pass on meta."""
    return Uses(uses, ("input_ids [1, 8]",), "meta", logits)


def uses_facts(uses: Uses, of: LiveModel, *wanted: str) -> dict[str, Any]:
    """Return the facts of a traced module: the uses, its class, and those that are named, or its ties."""
    wanted = ("live_class", *(wanted or ("live_ties", "declared_ties")))
    return {"traced_uses": uses} | {name: value for name, value in live_facts(of).items() if name in wanted}


def init_scale(**changes: Any) -> InitScale:
    """An untrained GPT-2 of the full size whose head took the embedding's draw."""
    plain = InitScale(
        names=("lm_head.weight", "model.tok_embedding.weight"),
        untrained=True,
        evidence="26 normalisation weights are exactly one",
        std=1.0,
        width=768,
        vocabulary=50257,
        head_scale=1.0,
        hidden_rms=1.0,
        predicted=27.7,
        measured=27.8,
        loss=475.0,
        repeats=1.0,
        reason=None,
    )
    return plain._replace(**changes)
