"""What a class's `load_weights` does with a stored head, for an automatic loader and for a loop."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiecheck.tables.generate.engines_ast import Tree, Unrecognised
from tiecheck.tables.generate.engines_load import load_of

AUTOMATIC = """
class Mine:
    def load_weights(self, weights):
        loader = AutoWeightsLoader(self{skips})
        return loader.load_weights(weights)
"""
SKIPS = ', skip_prefixes=(["lm_head."] if self.config.tie_word_embeddings else None)'


def loaded(folder: Path, text: str, *, alias: bool) -> str:
    (folder / "mine.py").write_text(text)
    found = Tree(folder, folder).parse(folder / "mine.py").find("Mine")
    assert found is not None
    return load_of(found, alias, "flag", headless=False)


@pytest.mark.parametrize(
    ("skips", "alias", "word"),
    [(SKIPS, False, "skip"), ("", False, "load"), ("", True, "alias"), (SKIPS, True, "skip")],
)
def test_an_automatic_loader(tmp_path: Path, skips: str, alias: bool, word: str) -> None:
    assert loaded(tmp_path, AUTOMATIC.format(skips=skips), alias=alias) == word


def test_a_loop_that_names_the_head_in_an_unknown_way_is_no_guess(tmp_path: Path) -> None:
    text = "class Mine:\n    def load_weights(self, weights):\n        for name, w in weights:\n"
    text += "            name = name.replace('lm_head', 'head')\n            p[name] = w\n"
    with pytest.raises(Unrecognised):
        loaded(tmp_path, text, alias=False)
