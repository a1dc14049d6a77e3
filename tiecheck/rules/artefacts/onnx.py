"""TIE631: a tied tensor that an exported graph stores twice."""

from __future__ import annotations

from collections.abc import Iterator

from tiecheck.records.artefacts import OnnxCopies, OnnxCopy
from tiecheck.records.words import Unknown
from tiecheck.rules.base import Case, Draft, Rule, file_place
from tiecheck.wording import listed


class ExportDuplicatesTie(Rule):
    """An exported graph stores a tied tensor twice, as it is or transposed.

    ## What it does
    Finds in an ONNX file a table that rows are gathered from, and a matrix of a product with the same values, in the
     same shape or transposed.

    ## Why it is bad
    The exporter has folded the transpose of the head into a constant, so that the file holds the matrix a second time:
    the largest one of a small model, and up to a third of the file. Who changes one of them changes half of the model.

    ## How to mend it
    Export again with `do_constant_folding=False`, or with a tool that keeps the tie as a `Transpose` of the one
    initialiser (optimum's `remove_duplicate_weights_from_tied_info`).
    """

    code = "TIE631"
    summary = "an exported graph stores a tied tensor twice, as it is or transposed"
    severity = "warning"
    messages = ("Found different candidate ONNX initializers (likely duplicate) for the tied weights",)
    threads = ("huggingface/optimum#1326", "huggingface/optimum#2241", "pytorch/pytorch#108342", "Samsung/TICO#624")

    def check(self, onnx_copies: OnnxCopies) -> Iterator[Draft | Unknown]:
        if onnx_copies.unread:
            yield Unknown(f"the data of {listed(onnx_copies.unread[:4])} is stored in a form that is not read")
        for copy in onnx_copies.found:
            how = "transposed" if copy.comparison.form == "transposed" else "as it is"
            yield Draft(
                f"{copy.table.name}, from which rows are gathered, stands in the file once more, {how}, as "
                f"{copy.matrix.name}, which activations are multiplied by: {copy.matrix.nbytes:,} bytes twice.",
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
