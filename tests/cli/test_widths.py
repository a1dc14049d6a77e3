"""What a command prints fits the page, whatever the command, the target and the width."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from tiecheck.cli.main import cli
from tiecheck.rules.registry import INDEX

ROOT = Path(__file__).parents[2]
MODELS = sorted(f"fixtures/models/{path.parent.name}" for path in ROOT.glob("fixtures/models/*/config.json"))

one = st.sampled_from(MODELS)
commands = st.one_of(
    st.tuples(st.sampled_from(["check", "inspect", "fix"]), one),
    st.tuples(st.just("check"), st.sampled_from(["-v", "-q", "--strict"]), st.lists(one, min_size=1, max_size=6)),
    st.tuples(st.just("check"), st.just("-v"), st.sampled_from(["tests/source", "docs", "tests/cli/test_widths.py"])),
    st.tuples(st.just("compare"), one, one),
    st.tuples(st.just("rule"), st.sampled_from(["", *INDEX, "random head", "KeyError: 'lm_head.weight'"])),
    st.tuples(st.just("fleet"), st.just("fixtures/models")),
)

devices = st.sampled_from(["auto", "balanced", "sequential", '{"": "cpu"}', '{"": 0}'])
sizes = st.sampled_from(["1KiB", "7KiB", "20KiB", "1GiB"])
kinds = st.sampled_from(
    ["freeze", "deepcopy-children", "to-meta", "load-clones-assign", "save-pretrained", "resize-token-embeddings"]
)
lives = st.one_of(
    st.tuples(
        st.just("survive"),
        st.sampled_from(["", "-v"]),
        st.just("--operations"),
        st.lists(kinds, min_size=1, max_size=3).map(",".join),
        one,
    ),
    st.just(("survive", "--list")),
)
gates = st.builds(
    lambda model, device, first, word: (
        "check",
        word,
        "--device-map",
        device,
        "--max-memory",
        f"0={first}",
        "--max-memory",
        "cpu=1GiB",
        model,
    ),
    one,
    devices,
    sizes,
    st.sampled_from(["", "-v", "-q"]),
)
"""What builds the model: the gate, and what an operation does to it."""


def too_wide(line: str, width: int) -> bool:
    """Tell whether a line is wider than the page though a blank in it could have ended it."""
    label = r"(pass|fail|unknown|error|at|fix|hurts|same|made|lost|changed|-) +"
    return len(line) > width and " " in re.sub(f"^{label}", "", line.strip())


@pytest.fixture(scope="module", autouse=True)
def _at_the_root() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        yield


@settings(max_examples=12, deadline=None, derandomize=True)
@given(commands, st.integers(40, 120))
def test_no_line_is_wider_than_the_page(words: tuple, width: int) -> None:
    fits(words, width)


@settings(max_examples=2, deadline=None, derandomize=True)
@given(st.one_of(gates, lives), st.integers(40, 120))
def test_no_line_about_a_built_model_is_wider_than_the_page(words: tuple, width: int) -> None:
    fits(words, width)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.one_of(commands, gates, lives), st.integers(40, 120))
def test_no_line_is_wider_than_the_page_often(words: tuple, width: int) -> None:
    fits(words, width)


def fits(words: tuple, width: int) -> None:
    typed = [word for part in words for word in (part if isinstance(part, list) else [part]) if word]
    alone = [] if words[0] == "rule" else ["--isolated"]
    done = CliRunner().invoke(cli, [*typed, *alone], env={"COLUMNS": str(width)})
    assert done.exit_code in {0, 1, 2}, done.output
    code = re.findall(r"^ {10}(?:\S.* = .*|import .*|_tied_weights_keys.*)$", done.stdout, re.MULTILINE)
    for line in done.stdout.splitlines():
        edited = words[0] == "fix" and line[:1] in {"+", "-", "@", " "} and not line.startswith("  -")
        assert edited or line in code or not too_wide(line, width), (typed, width, line)
