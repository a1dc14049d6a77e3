"""`tiecheck inspect`: facts alone, the same in text, JSON and Python, from run to run, and status 2 where they lack."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from safetensors.torch import save_file
from seeded import OLMO

import tiecheck
from tiecheck.render.lines import WIDTH

SCHEMA = json.loads((Path(tiecheck.__file__).parent / "render" / "report.schema.json").read_text())
CASES_DIR = Path(__file__).parents[2] / "fixtures" / "models"
CASES = sorted(path.parent.name for path in (Path(__file__).parents[2] / "fixtures" / "models").glob("*/config.json"))

TIED = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, way):
        super().__init__()
        self.emb, self.head = nn.Embedding(8, 4), nn.Linear(4, 8, bias=False)
        if way == "parameter":
            self.head.weight = self.emb.weight
        elif way == "storage":
            self.head.weight = nn.Parameter(self.emb.weight)
        elif way == "cycle":
            self.head.up = self

print("this line is not of the report")
parameter, storage, cycle = (lambda: Net("parameter")), (lambda: Net("storage")), (lambda: Net("cycle"))
wrapped = lambda: nn.DataParallel(Net("parameter"))
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file with some little models."""
    path = tmp_path / "net.py"
    path.write_text(TIED)
    return path


@pytest.fixture(autouse=True)
def _remote_code_cache(tmp_path: Path, monkeypatch) -> None:
    cache = str(tmp_path / "modules")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", cache)
    monkeypatch.syspath_prepend(cache)


def target_of(tiecheck_cli, *arguments: str) -> dict[str, Any]:
    result = tiecheck_cli("inspect", *arguments, "-f", "json")
    report = json.loads(result.stdout)
    jsonschema.validate(report, SCHEMA)
    assert result.exit_code == (2 if report["targets"][0]["errors"] else 0)
    (target,) = report["targets"]
    assert target["findings"] == target["skips"] == []
    return target


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_fits_schema_and_page(tiecheck_cli, models: Path, case: str) -> None:
    target = target_of(tiecheck_cli, str(models / case))
    assert target["counts"] is None
    assert target["views"] == []
    for options in ((), ("-v",)):
        result = tiecheck_cli("inspect", str(models / case), *options)
        assert result.exit_code == 0
        assert result.stderr == ""
        for line in result.stdout.splitlines():
            assert len(line) <= WIDTH or " " not in line.strip(), line


def test_facts_are_those_of_check(tiecheck_cli, models: Path) -> None:
    path = str(models / "llama-diverged-head")
    facts = target_of(tiecheck_cli, path)
    judged = json.loads(tiecheck_cli("check", path, "-f", "json").stdout)["targets"][0]
    for key in ("ties", "aliases", "loaders", "layers", "architecture", "model_type", "type"):
        assert facts[key] == judged[key]
    assert facts["status"] == "unknown", "nothing was judged"
    assert judged["counts"] is None, "a plain check does not count"


def test_text_of_a_checkpoint(tiecheck_cli, models: Path) -> None:
    text = tiecheck_cli("inspect", str(models / "llama-diverged-head")).stdout
    for line in (
        "  lm_head.weight = model.embed_tokens.weight",
        "    class     parameter, as the class builds it when it ties",
        "    declared  tied, by config.json:tie_word_embeddings",
        "    tensor    float32 [96, 16], 6,144 bytes",
        "  head-discarded  transformers 4.57, reads tie_word_embeddings: true",
    ):
        assert line in text.splitlines()


def test_text_of_the_olmo_thread(tiecheck_cli, models: Path) -> None:
    lines = tiecheck_cli("inspect", str(models / OLMO[0]), *OLMO[1:]).stdout.splitlines()
    assert "    live      module" in lines
    assert "  model.transformer.ff_out = model.transformer.wte  Embedding" in lines
    assert "  misses    accelerate 0.18-0.33 find_tied_parameters" in lines
    assert any(re.match(r"  same      accelerate [\d.]+ find_tied_parameters$", line) for line in lines)
    assert "  unique       6,736      6,736  26,944  each memory once" in lines
    views = lines.index("views: what other tools take for tied, beside the ties above")
    assert lines.index("ties") < views, "the truth comes first"


def test_views_of_a_tie_that_only_looks_like_one(tiecheck_cli, source: Path) -> None:
    text = tiecheck_cli("inspect", f"{source}:storage").stdout
    assert "    live      storage, not tied" in text
    assert "_find_shared_tensors: emb.weight = head.weight, storage, not tied" in " ".join(text.split())
    assert "  unique          32         32    128  each memory once" in text
    assert "  objects         64         64    256  each Parameter once" in text


def test_a_module_target_and_its_own_words(tiecheck_cli, source: Path) -> None:
    target = target_of(tiecheck_cli, f"{source}:parameter")
    assert target["type"] == "module"
    assert [tie["kind"] for tie in target["ties"]] == ["parameter"]
    assert target["counts"]["unique"]["elements"] == 32
    assert {view["tool"] for view in target["views"]} >= {"accelerate", "safetensors", "torch"}
    result = tiecheck_cli("inspect", f"{source}:parameter")
    assert "not of the report" not in result.stdout


def test_views_of_a_wrapped_model_have_the_names_of_its_ties(tiecheck_cli, source: Path) -> None:
    target = target_of(tiecheck_cli, f"{source}:wrapped")
    assert [tie["names"] for tie in target["ties"]] == [["emb.weight", "head.weight"]]
    found = [view["groups"] for view in target["views"] if view["function"] == "find_tied_parameters"]
    assert found
    assert all(groups == [["emb.weight", "head.weight"]] for groups in found)


def test_a_cycle_is_told_and_ends(tiecheck_cli, source: Path) -> None:
    target_of(tiecheck_cli, f"{source}:cycle")
    text = tiecheck_cli("inspect", f"{source}:cycle").stdout
    assert "endlessly many more (a cycle)" in text
    assert "raises" in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{models}/nothing"], "there is no "),
        (["{models}/olmo-module-alias", "--live"], "--trust-remote-code runs it"),
        (["{source}:nothing"], "has no 'nothing'"),
    ],
)
def test_what_could_not_be_read_is_told_and_is_status_2(
    tiecheck_cli, models: Path, source: Path, arguments: list[str], says: str
) -> None:
    words = [word.format(models=models, source=source) for word in arguments]
    target = target_of(tiecheck_cli, *words)
    assert target["status"] == "error"
    assert says in target["errors"][0]["message"]
    result = tiecheck_cli("inspect", *words)
    assert result.exit_code == 2
    assert says in " ".join(result.stdout.split())
    assert "Traceback" not in result.output


def test_a_layer_that_lacks_takes_nothing_from_the_others(tiecheck_cli, models: Path) -> None:
    target = target_of(tiecheck_cli, str(models / "olmo-module-alias"), "--live")
    assert target["ties"]
    assert target["counts"] is None


def test_one_bad_target_does_not_hide_the_others(tiecheck_cli, models: Path) -> None:
    result = tiecheck_cli("inspect", str(models / "nothing"), str(models / "llama-untied"))
    assert result.exit_code == 2
    assert "LlamaForCausalLM" in result.stdout


def test_a_config_alone_has_no_weights_and_may_be_built(tiecheck_cli, models: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((models / "llama-healthy-tied" / "config.json").read_bytes())
    assert "no weights" in target_of(tiecheck_cli, str(tmp_path))["errors"][0]["message"]
    built = target_of(tiecheck_cli, str(tmp_path), "--live")
    assert built["errors"] == []
    assert built["counts"]["unique"]["elements"]


def test_values_never_reads_no_byte(tiecheck_cli, models: Path) -> None:
    target = target_of(tiecheck_cli, str(models / "llama-diverged-head"), "--values", "never")
    assert target["ties"][0]["stored"] == "unknown"


def test_names_are_never_printed_raw(tiecheck_cli, tmp_path: Path) -> None:
    import torch

    names = ("a\x1b[31m.lm_head.weight", "b\nembed_tokens.weight")
    save_file({name: torch.zeros(4, 2) for name in names}, tmp_path / "m.safetensors")
    result = tiecheck_cli("inspect", str(tmp_path), "-v")
    assert "a\\x1b[31m.lm_head.weight" in result.stdout
    assert "\x1b" not in result.stdout
    assert "b\nembed" not in result.stdout


def test_formats_and_files(tiecheck_cli, models: Path, tmp_path: Path) -> None:
    written = tmp_path / "facts.json"
    result = tiecheck_cli("inspect", str(models / "llama-untied"), "-f", "text", "-f", f"json={written}")
    assert "kept-apart" in result.stdout
    jsonschema.validate(json.loads(written.read_text()), SCHEMA)
    only = tmp_path / "facts.txt"
    assert tiecheck_cli("inspect", str(models / "llama-untied"), "-o", str(only)).stdout == ""
    assert "kept-apart" in only.read_text()


@pytest.mark.parametrize("option", ["--select", "--fail-on", "--strict", "--exit-zero", "--for"])
def test_options_of_judgement_are_none_of_its(tiecheck_cli, models: Path, option: str) -> None:
    result = tiecheck_cli("inspect", str(models / "llama-untied"), option)
    assert result.exit_code == 2
    assert "No such option" in result.stderr


def test_colours_change_no_word(tiecheck_cli, models: Path) -> None:
    path = str(models / "llama-diverged-head")
    plain, colored = (tiecheck_cli("inspect", path, "--color", when).stdout for when in ("never", "always"))
    assert "\x1b[" in colored
    bare = re.sub(r"\x1b\[[0-9;]*m", "", colored)
    assert [line.rstrip() for line in bare.splitlines()] == plain.splitlines()


def test_python_and_command_line_say_the_same(tiecheck_cli, models: Path) -> None:
    from tiecheck.render.json import json_document

    path = str(models / "t5-healthy-tied")
    (facts,) = json_document(tiecheck.inspect(path, live=True))["targets"]
    assert facts == target_of(tiecheck_cli, path, "--live")
    with pytest.raises(TypeError):
        tiecheck.inspect(path, alive=True)


def test_python_takes_a_module() -> None:
    from torch import nn

    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    (target,) = tiecheck.inspect(model).targets
    assert [tie.names for tie in target.ties] == [("0.weight", "1.weight")]
    assert target.counts == tiecheck.count_parameters(model)
    assert target.views == tiecheck.views(model)


def test_every_byte_is_the_same_under_every_hash_seed(two_seeds) -> None:
    one, other = ([re.sub(r'"seconds": [\d.]+', "", text) for text in said["inspected"]] for said in two_seeds)
    assert one == other
    assert all(one)


def test_uses_are_shown_as_the_page_shows_them(tiecheck_cli) -> None:
    page = (Path(__file__).parents[2] / "docs" / "uses.md").read_text(encoding="utf-8")
    block = re.search(r"\$ tiecheck (inspect [^\n]*--uses[^\n]*)\n\.\.\.\n(.*?)\n\.\.\.\n", page, re.DOTALL)
    assert block is not None
    target = str(CASES_DIR / "olmo-module-alias")
    arguments = block[1].replace("fixtures/models/olmo-module-alias", target).split()
    assert block[2] in tiecheck_cli(*arguments).output
    uses = target_of(tiecheck_cli, target, "--uses", "--trust-remote-code")["uses"]["uses"]
    assert [use["role"] for use in uses if len(use["names"]) > 1] == ["embedding", "linear"]


def test_inputs_come_from_a_file(tiecheck_cli, source: Path, tmp_path: Path) -> None:
    source.write_text(source.read_text() + "\nNet.forward = lambda self, x, boxes: self.head(self.emb(x)) + boxes\n")
    target = f"{source}:parameter"
    assert "missing 1 required positional argument: 'boxes'" in tiecheck_cli("inspect", target, "--uses").output
    given = tmp_path / "inputs.py"
    given.write_text(
        "import torch\ndef make():\n    return torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 2, 8)\n"
    )
    result = tiecheck_cli("inspect", target, "--inputs", f"{given}:make")
    assert (result.exit_code, "linear by linear" in result.output) == (0, True)
    for text, told in ((f"{given}:other", "has no function 'other'"), ("none.py:make", "none.py is no Python file")):
        result = tiecheck_cli("inspect", target, "--inputs", text)
        assert (result.exit_code, told in " ".join(result.output.split())) == (2, True)


def test_a_measurement_stands_beside_the_prediction(tiecheck_cli) -> None:
    target = str(CASES_DIR / "gpt2-embedding-draw")
    output = tiecheck_cli("inspect", target, "--measure", "--trust-remote-code").output
    assert "carries the normal draw of nn.Embedding" in output
    predicted, measured = re.search(r"  logits +(\S+) +(\S+)  standard", output).groups()
    assert float(measured) == pytest.approx(float(predicted), rel=0.02)
    (scale,) = target_of(tiecheck_cli, target, "--measure", "--trust-remote-code")["scale"]
    assert (round(scale["predicted"], 1), scale["untrained"]) == (8.0, True)
    assert target_of(tiecheck_cli, target, "--live", "--trust-remote-code")["scale"] == []
