"""TIE306, 307 and 308: declared groups of a live module that hold together in part, or hold the wrong tensor."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.edits import Edit, python_edit
from tiecheck.records.live import DeclaredTie, Head, LiveClass, Misfit
from tiecheck.records.mending import Mending
from tiecheck.records.words import TIED, Unknown
from tiecheck.rules.base import Case, Draft, Rule, class_place
from tiecheck.rules.cases import EMBEDDING, HEAD, PAIR, declared_tie, live_facts, live_head, live_llama
from tiecheck.rules.live.mends import model_path, parts_text, speaking_rule, tie_again, why_stale
from tiecheck.wording import listed


class StaleTie(Rule):
    """The head is tied to a tensor that is not the embedding any more.

    ## What it does
    Finds a head that is tied, or was, to another tensor than the one `get_input_embeddings()` returns now: the two have
    different shapes, or the head shares a parameter with something else. What the class's getter usually returns is
    known from the tie table, so that a class with two embeddings is left alone.

    ## Why it is bad
    Somebody put a new embedding in the model (more tokens, another language, a wrapper) after the tie was made. The
    head still scores against the old rows: new tokens cannot be predicted, training moves two tensors, and the save
    drops whichever the class's keys name.

    ## How to fix it
    Tie again after the swap: `model.tie_weights()`. It keeps the embedding's values. To add tokens use
    `resize_token_embeddings`, which swaps and ties.
    """

    code = "TIE306"
    summary = "the head is tied to a tensor that get_input_embeddings() no longer returns"
    severity = "error"
    messages = ("The size of tensor a (...) must match the size of tensor b (...) at non-singleton dimension",)
    threads = "NVIDIA-NeMo/Automodel#2601 lightseekorg/tokenspeed#837 huggingface/transformers#8224 fastai/fastai#2090"

    def check(
        self, live_class: LiveClass, mending: Mending, declared_ties: tuple[DeclaredTie, ...], heads: tuple[Head, ...]
    ) -> Iterator[Draft | Unknown]:
        for claim in declared_ties:
            why = why_stale(claim, heads)
            if speaking_rule(claim, declared_ties, heads) == self.code and why:
                what = f"{listed(claim.names)} are declared as one tensor, and {why}"
                yield self._draft(live_class, claim.names, what, tie_again(claim, mending))
        for head in heads:
            if _left(head, declared_ties):
                where = head.embedding[0] if head.embedding else "a tensor that is registered nowhere in the model"
                what = f"{listed(head.head)} are one tensor, and get_input_embeddings() returns {where}"
                yield self._draft(live_class, head.head, what)

    @staticmethod
    def _draft(live_class: LiveClass, names: tuple[str, ...], what: str, edits: tuple[Edit, ...] = ()) -> Draft:
        return Draft(
            f"{what}: one of them was replaced after the tie was made, and the other was left behind.",
            names,
            (class_place(live_class.class_name, "tied before one of them was replaced"),),
            edits=edits,
            no_mend="the class ties its head to another embedding than get_input_embeddings() returns, and its code "
            "has to say which is right.",
        )

    @staticmethod
    def cases() -> Iterator[Case]:
        grown = declared_tie("separate", shapes=((128, 16), (160, 16)), devices=("cpu", "cpu"))
        yield Case("a longer embedding was put in", live_facts(ties=(), declared=(grown,)), finds=("error",))
        beside = live_head(head=(HEAD, EMBEDDING), embedding=("model.new_tokens.weight",), usual=EMBEDDING)
        yield Case("the getter returns another one", live_facts(heads=(beside,)), finds=("error",))
        nowhere = live_head(head=PAIR, embedding=(), usual=EMBEDDING)
        yield Case("the getter returns one of no name", live_facts(heads=(nowhere,)), finds=("error",))
        old = live_head(head=(HEAD, "model.old.weight"), embedding=(EMBEDDING,))
        broken = live_llama(ties=(), declared=(declared_tie("separate"),), heads=(old,))
        yield Case("the head is tied to the old one", live_facts(broken), finds=("error",))
        two = live_head(head=(HEAD, "decoder.embed_tokens.weight"), embedding=("encoder.embed_tokens.weight",))
        apart = declared_tie("parameter", parts=((HEAD, "decoder.embed_tokens.weight"),))
        usual = two._replace(usual="encoder.embed_tokens.weight")
        yield Case("T5Gemma: words go in by the encoder", live_facts(declared=(apart,), heads=(usual,)))
        unknown = two._replace(encoder_decoder=True)
        yield Case("an encoder-decoder that no table knows", live_facts(declared=(apart,), heads=(unknown,)))
        yield Case("alike and apart is another rule's", live_facts(ties=(), declared=(declared_tie("separate"),)))
        yield Case("tied", live_facts(heads=(live_head(),)))


def _left(head: Head, declared: tuple[DeclaredTie, ...]) -> bool:
    """Tell whether a head is tied as declared, and the embedding has left the group."""
    if head.same or len(head.head) < 2 or (head.encoder_decoder and head.usual is None):
        return False
    claim = next((c for c in declared if not set(head.head).isdisjoint(c.names)), None)
    if claim is None or claim.kind not in TIED:
        return False
    return head.usual in claim.names if head.usual is not None else head.alike or not head.embedding


class HalfTiedGroup(Rule):
    """A group of three or more of which only some members are tied.

    ## What it does
    Finds declared groups of three names or more of which some are one parameter and others are not: an encoder-decoder
    whose head left the shared embedding, a decoder that kept its own.

    ## Why it is bad
    It looks tied wherever somebody checks one pair. The member that was left behind is trained on its own, dropped by
    the next save as an alias, and random after the next load.

    ## How to fix it
    Call `model.tie_weights()` after whatever replaced the member, or assign the shared parameter to it.
    """

    code = "TIE307"
    summary = "a group of three or more of which only some are tied"
    severity = "error"
    messages = ("newly initialized: ['model.decoder.embed_tokens.weight','model.encoder.embed_tokens.weight']",)
    threads = (
        "huggingface/transformers#26266 huggingface/transformers#8719 huggingface/transformers#42362 "
        "vllm-project/vllm#23426 huggingface/accelerate#1241"
    )

    def check(
        self, mending: Mending, declared_ties: tuple[DeclaredTie, ...], heads: tuple[Head, ...]
    ) -> Iterator[Draft | Unknown]:
        for claim in declared_ties:
            if speaking_rule(claim, declared_ties, heads) != self.code:
                continue
            held, *left = claim.parts
            alone = tuple(sorted(name for part in left for name in part))
            yield Draft(
                f"{claim.by[0]} declares {listed(claim.names)} as one tensor. {listed(held)} are, and {listed(alone)} "
                f"{'is' if len(alone) == 1 else 'are'} not.",
                claim.names,
                (class_place(mending.class_name, parts_text(claim)),),
                f"Do it after whatever replaced {listed(alone)}, and before the optimizer is made.",
                edits=tie_again(claim, mending),
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        whole = ("lm_head.weight", "model.decoder.embed_tokens.weight", "model.shared.weight")
        half = declared_tie("separate", parts=(whole[1:], whole[:1]))
        yield Case("the head left", live_facts(declared=(half,)), finds=("error",))
        copied = declared_tie("copy", parts=(whole[1:], whole[:1]))
        yield Case("the head left as a copy", live_facts(declared=(copied,)), finds=("error",))
        yield Case("all tied", live_facts(declared=(declared_tie("parameter", parts=(whole,)),)))
        none = declared_tie("separate", parts=tuple((name,) for name in whole))
        yield Case("none tied is another rule's matter", live_facts(ties=(), declared=(none,)))
        yield Case("a pair", live_facts(ties=(), declared=(declared_tie("separate"),)))


class TiedBiasOutOfStep(Rule):
    """A bias that must follow the tie does not.

    ## What it does
    Finds a bias that the class declares tied beside a tied weight (BERT's `decoder.bias` and `predictions.bias`) and
    that is a second object, a bias whose length is not the number of rows of the tied weight beside it, and under a
    false flag two such biases of different lengths.

    ## Why it is bad
    After a resize the weight has more rows than the bias, and the forward pass fails on the sizes; or the two biases
    are trained apart, one of them is never used, and the save keeps the wrong one.

    ## How to fix it
    Tie again after the resize: `model.tie_weights()` pads and ties the bias with the weight. A bias of another length
    has to be created again: `head.bias = nn.Parameter(torch.zeros(len(head.weight)))`.
    """

    code = "TIE308"
    summary = "a bias that must follow the tie does not: another object, or another length"
    severity = "error"
    messages = ("The size of tensor a (21215) must match the size of tensor b (21128) at non-singleton dimension 2",)
    threads = (
        "huggingface/transformers#851 huggingface/transformers#2480 huggingface/transformers#2521 "
        "huggingface/transformers#2928 huggingface/transformers#9058 huggingface/transformers#12426 "
        "stephantul/skeletoken#108"
    )

    def check(
        self,
        mending: Mending,
        declared_ties: tuple[DeclaredTie, ...],
        heads: tuple[Head, ...],
        bias_misfits: tuple[Misfit, ...],
    ) -> Iterator[Draft | Unknown]:
        for claim in declared_ties:
            if speaking_rule(claim, declared_ties, heads) == self.code:
                yield Draft(
                    f"{listed(claim.names)} are declared as one bias, and the module holds {len(claim.parts)}, though "
                    "the weight beside is tied.",
                    claim.names,
                    (class_place(mending.class_name, parts_text(claim)),),
                    edits=tie_again(claim, mending),
                )
        for misfit in bias_misfits:
            yield Draft(
                f"{misfit.bias} has {misfit.size:,} elements, and {_other_side(misfit)}",
                (misfit.bias, misfit.weight),
                (class_place(mending.class_name, f"{misfit.size:,} against {misfit.rows:,}"),),
                "New rows get a bias of zero.",
                edits=(_fitted(mending, misfit),),
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        weight = declared_tie("parameter", parts=(("cls.decoder.weight", "bert.embeddings.weight"),))
        biases = (("cls.bias",), ("cls.decoder.bias",))
        second = declared_tie("separate", parts=biases, shapes=((128,), (128,)), devices=("cpu", "cpu"))
        yield Case("a second bias", live_facts(declared=(weight, second)), finds=("error",))
        short = Misfit("lm_head.bias", "lm_head.weight", 160, 128)
        yield Case("a bias that was not resized", live_facts(misfits=(short,)), finds=("error",))
        other = Misfit("lm_head.bias", "lm_head.decoder.bias", 160, 128)
        yield Case("one of two biases was not resized", live_facts(ties=(), misfits=(other,)), finds=("error",))
        whole = declared_tie("parameter", parts=(("cls.bias", "cls.decoder.bias"),), shapes=((128,),), devices=("cpu",))
        yield Case("tied with the weight", live_facts(declared=(weight, whole)))
        yield Case("a bias apart without a tied weight", live_facts(ties=(), declared=(second,)))
        yield Case("a head without a bias", live_facts())


def _other_side(misfit: Misfit) -> str:
    """Return what stands against a bias, and what comes of it."""
    if misfit.weight.rpartition(".")[2] == "bias":
        return f"{misfit.weight} has {misfit.rows:,}: the class builds one length, so that no load takes both."
    return f"{misfit.weight}, which is tied, has {misfit.rows:,} rows: adding the one to the other's output fails."


def _fitted(mending: Mending, misfit: Misfit) -> Edit:
    """Return the way to as many elements as there are rows; in place, so that a tied bias stays tied."""
    bias = f"{model_path(mending, misfit.bias)}.data"
    more = misfit.rows - misfit.size
    lines = ("import torch", f"{bias} = torch.nn.functional.pad({bias}, (0, {more}))")
    size = (
        ()
        if mending.flag is None
        else (f"{model_path(mending, 'config')}.get_text_config().vocab_size = {misfit.rows}",)
    )
    return python_edit("fitted", None, *lines, *size, safe=more > 0)
