"""Numbers that have to point at a row of a table: RoBERTa's padding into words and positions, T5's nowhere."""

from __future__ import annotations

import pytest
from transformers import BertModel, RobertaModel, T5Model

from tiecheck.tables.generate.bounds import table_bounds
from tiecheck.tables.generate.perturb import Perturber
from tiecheck.tables.generate.probe import Probe


@pytest.mark.parametrize(
    ("model_class", "rows"),
    [(BertModel, ["vocab_size"]), (RobertaModel, ["max_position_embeddings", "vocab_size"]), (T5Model, [])],
)
def test_what_an_index_has_to_be_a_row_of(model_class: type, rows: list[str]) -> None:
    asked = Perturber(Probe(model_class, model_class.config_class, {}))  # type: ignore[attr-defined]  # each has one
    assert table_bounds(asked, [()]) == [["pad_token_id", "<", [[name, None]]] for name in rows]
