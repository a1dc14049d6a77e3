"""TIE611, TIE612 and TIE631: ties under quantisation, and in an exported graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tiecheck.records.artefacts import OnnxCopies, OnnxCopy, QuantisedMember, QuantisedTie
from tiecheck.records.loaders import LoaderView
from tiecheck.records.report import Severity
from tiecheck.records.words import Unknown
from tiecheck.rules.base import Case, Draft, Rule, file_place
from tiecheck.wording import listed

MLX = "MLX"
MLX_RAISES = (
    "mlx-lm 0.32.2 drops the weight of a tied head, and raises over what is left of it: Received {n} parameters not in "
    "model."
)


KEPT = " transformers 5 keeps the quantised head that is stored beside the embedding; 4.57 ties it, and raises."


def _kept_apart(head: QuantisedMember) -> bool:
    """Tell whether transformers 5 keeps a quantised head apart under a true flag, as was run for bitsandbytes 0.50."""
    return (head.form or "").startswith("bitsandbytes")


def _older(loaders: tuple[LoaderView, ...] | None) -> tuple[LoaderView, ...]:
    """Return what transformers 4 makes of the ties."""
    return tuple(view for view in loaders or () if view.loader == "transformers" and view.versions.startswith("4"))


class OneSidedQuantisation(Rule):
    """A tie is declared, and its members are stored in different forms, or quantised twice.

    ## What it does
    Recognises the tensors that GPTQ, AWQ, compressed-tensors, bitsandbytes, fp8 checkpoints and MLX write for one
    matrix, takes them as one thing, and compares the members of a declared tie: one of them quantised and another
    plain, in two formats, or in one with other bytes.

    ## Why it is bad
    The flag says one tensor, the file holds two. A loader that goes by the flag leaves the quantised head out, or puts
    the plain embedding into a layer that waits for packed words; engines raise for want of a method to tie them.

    ## How to fix it
    Quantise the one matrix and store it once, or untie first: give the head a weight of its own, set the flag false,
    and quantise then.
    """

    code = "TIE611"
    summary = "a tie is declared, and its members are stored in different forms, or quantised apart"
    severity = "warning"
    messages = ("KeyError: 'embed_tokens.weight_packed'", "Received 2 parameters not in model:")
    threads = (
        "intel/auto-round#100 vllm-project/vllm#45535 ml-explore/mlx-lm#1247 vllm-project/llm-compressor#2798 "
        "vllm-project/llm-compressor#2835 vllm-project/vllm#45543 ml-explore/mlx-swift-lm#490"
    )

    def check(self, quantised: tuple[QuantisedTie, ...], loaders: tuple[LoaderView, ...] | None) -> Iterator[Draft]:
        for tie in quantised:
            forms = {member.form for member in tie.members}
            if len(tie.members) < 2 or forms == {None}:
                continue
            left = [m for m in tie.members if m.form == MLX and m.name != tie.group.source]
            if len(forms) > 1:
                parts = (f"{m.name} {'as ' + m.form if m.form else 'plain'}" for m in tie.members)
                what = f"the members are stored in different forms: {listed(tuple(parts))}."
            elif tie.alike is False or left:
                same = {True: "equal", False: "different", None: "not compared"}[tie.alike]
                what = (
                    f"{listed(tuple(m.name for m in tie.members))} are quantised twice ({tie.members[0].form}, {same})."
                )
            else:
                continue
            head = next((m for m in tie.members if m.name != tie.group.source), tie.members[0])
            tail = " " + MLX_RAISES.format(n=len(left[0].parts) - 1) if left else KEPT if _kept_apart(head) else ""
            yield Draft(
                f"The tie is declared, and {what}{tail}",
                tuple(member.name for member in tie.members),
                (file_place(head.parts[0].file, f"{head.name}: {listed(tuple(t.name for t in head.parts))}"),),
                "Which of them is right the files do not tell.",
                hurts=_older(loaders) if _kept_apart(head) else None,
                no_mend="a quantised matrix is written by its quantiser.",
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        yield _case("a quantised head, a plain embedding", "GPTQ or AWQ", None, finds=("warning",))
        yield _case("two formats", "fp8", "compressed-tensors", finds=("warning",))
        yield _case("apart", "compressed-tensors", "compressed-tensors", alike=False, finds=("warning",))
        yield _case("left over for mlx-lm", MLX, MLX, alike=True, finds=("warning",))
        yield _case("equal", "compressed-tensors", "compressed-tensors", alike=True)
        yield _case("the embedding alone", None, MLX, stored=1)
        yield _case("both plain", None, None)


class SkipListMissesAlias(Rule):
    """A skip list of bitsandbytes does not name the tied head.

    ## What it does
    Reads `llm_int8_skip_modules` of a config whose embedding and head are tied, and finds a list without the head.

    ## Why it is bad
    A list that is given replaces the default, which has the head. The head becomes a layer for quantised words, gets
    the plain tensor of the embedding by the tie, and the first forward pass raises (transformers 5.23, bitsandbytes
    0.50). A head that is stored quantised beside the embedding is kept by 5, and 4.57 raises all the same.

    ## How to fix it
    Name the head in the list as well, e.g. `["embed_tokens", "lm_head"]`, or leave the list out.
    """

    code = "TIE612"
    summary = "a skip list of bitsandbytes does not name the tied head, and the first forward pass raises"
    severity = "error"
    messages = (
        "AttributeError: 'Parameter' object has no attribute 'CB'",
        "FP4 quantization state not initialized. Please call .cuda() or .to(device) on the LinearFP4 layer first.",
    )
    threads = "huggingface/accelerate#4043 huggingface/transformers#24095 huggingface/transformers#18579"

    def check(self, quantised: tuple[QuantisedTie, ...], loaders: tuple[LoaderView, ...] | None) -> Iterator[Draft]:
        for tie in quantised:
            if tie.unskipped is not None:
                names = listed(tie.skipped) if tie.skipped else "no member of the tie"
                apart = any(m.name == tie.unskipped and _kept_apart(m) for m in tie.members)
                yield Draft(
                    f"llm_int8_skip_modules names {names}, and not {tie.unskipped}, which is tied: "
                    f"transformers{' 4.57' * apart} makes it a quantised layer, ties the plain embedding into it, and "
                    f"the first forward pass raises{'; 5 keeps the quantised head that is stored' * apart}.",
                    tie.group.names,
                    (file_place("config.json", "quantization_config.llm_int8_skip_modules"),),
                    "A list with the head in it, or no list at all, loads.",
                    severity="warning" if apart else None,
                    hurts=_older(loaders) if apart else None,
                    no_mend="which modules are to be left alone is for whoever quantises to say.",
                )

    @staticmethod
    def cases() -> Iterator[Case]:
        yield _case("the embedding alone", None, None, skipped=(EMBEDDING,), unskipped=HEAD, finds=("error",))
        yield _case("another module", None, None, unskipped=HEAD, finds=("error",))
        yield _case("a quantised head apart", "bitsandbytes 8-bit", None, unskipped=HEAD, finds=("warning",))
        yield _case("the head is there", None, None, skipped=(HEAD,))
        yield _case("no list", "MLX", "MLX", alike=True)


HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def _case(title: str, *forms: str | None, stored: int = 2, finds: tuple[Severity, ...] = (), **fields: Any) -> Case:
    """Return a case of a Llama's tie whose head and embedding, or the latter alone, are stored in some forms."""
    from tiecheck.rules.cases import group_facts, llama_group, stored_tensor

    pairs = list(zip((HEAD, EMBEDDING), forms, strict=True))[2 - stored :]
    members = tuple(QuantisedMember(name, form, (stored_tensor(name),)) for name, form in pairs)
    tie = QuantisedTie(llama_group(), members, alike=None)._replace(**fields)
    return Case(title, {"quantised": (tie,), "loaders": group_facts(llama_group())["loaders"]}, finds)


class ExportDuplicatesTie(Rule):
    """An exported graph stores a tied tensor twice, as it is or transposed.

    ## What it does
    Finds in an ONNX file a table that rows are gathered from, and a matrix of a product with the same values, in the
    same shape or transposed.

    ## Why it is bad
    The exporter has folded the transpose of the head into a constant, so that the file holds the matrix a second time:
    the largest one of a small model, and up to a third of the file. Changing one of them changes half of the model.

    ## How to mend it
    Export again with `do_constant_folding=False`, or with a tool that keeps the tie as a `Transpose` of the one
    initialiser (optimum's `remove_duplicate_weights_from_tied_info`).
    """

    code = "TIE631"
    summary = "an exported graph stores a tied tensor twice, as it is or transposed"
    severity = "warning"
    messages = ("Found different candidate ONNX initializers (likely duplicate) for the tied weights",)
    threads = "huggingface/optimum#1326 huggingface/optimum#2241 pytorch/pytorch#108342 Samsung/TICO#624"

    def check(self, onnx_copies: OnnxCopies) -> Iterator[Draft | Unknown]:
        if onnx_copies.unread:
            yield Unknown(f"the data of {listed(onnx_copies.unread[:4])} is stored in a form that is not read")
        for copy in onnx_copies.found:
            how = "transposed" if copy.comparison.form == "transposed" else "as it is"
            beside = f" and {copy.parts - 1} more parts" if copy.parts > 1 else ""
            yield Draft(
                f"{copy.table.name}, from which rows are gathered, stands in the file once more, {how}, as "
                f"{copy.matrix.name}{beside}, which activations are multiplied by: {copy.table.nbytes:,} bytes twice.",
                (copy.table.name, copy.matrix.name),
                (file_place(copy.matrix.file, f"{copy.matrix.name}, {copy.matrix.dtype} {list(copy.matrix.shape)}"),),
                no_mend="an exported graph is written by its exporter.",
            )

    @staticmethod
    def cases() -> Iterator[Case]:
        from tiecheck.rules.cases import row_comparison, stored_tensor

        table, matrix = stored_tensor("embedding", file="a.onnx"), stored_tensor("onnx::MatMul_9", file="a.onnx")
        turned = row_comparison()._replace(form="transposed")
        yield Case("transposed", {"onnx_copies": OnnxCopies((OnnxCopy(table, matrix, turned),), ())}, ("warning",))
        yield Case(
            "as it is", {"onnx_copies": OnnxCopies((OnnxCopy(table, matrix, row_comparison()),), ())}, ("warning",)
        )
        yield Case("stored once", {"onnx_copies": OnnxCopies((), ())})
        yield Case("an untied head", {"onnx_copies": OnnxCopies((), ())})
        yield Case("not read", {"onnx_copies": OnnxCopies((), ("embedding",))}, unknown=True)
