"""Expressions as paths."""

from __future__ import annotations

import ast

import pytest

from tiecheck.source.paths import Reached, called_name, reached_by, weights_read

SELF = {"self": Reached("", ()), "emb": Reached("model.emb", ())}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("self.a.weight", ("a.weight", "")),
        ("self.a[0].weight", ("a.0.weight", "")),
        ("self.a['x'].weight", ("a.x.weight", "")),
        ("self.layers[i].weight", ("layers.[i].weight", "")),
        ("getattr(self, 'a').weight", ("a.weight", "")),
        ("self.get_input_embeddings().weight", ("get_input_embeddings().weight", "")),
        ("emb.weight", ("model.emb.weight", "")),
        ("self.a.weight.t()", ("a.weight", "t")),
        ("self.a.weight.data.clone()", ("a.weight", "data clone")),
        ("nn.Parameter(self.a.weight.T)", ("a.weight", "T Parameter")),
        ("torch.transpose(self.a.weight, 0, 1)", ("a.weight", "transpose")),
        ("self.a.weight[:10]", ("a.weight", "slice")),
        ("copy.deepcopy(self.a)", ("a", "deepcopy")),
        ("other.weight", None),
        ("self.a.weight * 2", None),
        ("f(self.a.weight)", None),
        ("self", ("", "")),
    ],
)
def test_an_expression_is_a_path_and_what_is_done_to_it(text: str, expected: tuple[str, str] | None) -> None:
    found = reached_by(ast.parse(text, mode="eval").body, SELF)
    assert (found and (found.path, " ".join(found.form))) == expected


def test_calls_and_reads_by_name() -> None:
    assert called_name(ast.parse("super().tie_weights()", mode="eval").body) == "super().tie_weights"
    assert called_name(ast.parse("self.a.b(1)", mode="eval").body) == "self.a.b"
    assert called_name(ast.parse("f()()", mode="eval").body) == ""
    read = ast.parse("lambda x: x @ self.a.weight.t() + self.b.bias", mode="eval").body
    assert sorted(weights_read(read, SELF)) == ["a.weight", "b.bias"]
