"""`tiecheck fix`: what it prints, and its exit status."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file

from tiecheck.cli import fix
from tiecheck.cli.main import cli
from tiecheck.config.options import Config
from tiecheck.errors import UsageError
from tiecheck.fix.run import FixOptions, choose_edits, refuse_word
from tiecheck.records.report import Finding

ROOT = Path(__file__).parents[2]


def run(*words: object, code: int, answer: str | None = None) -> str:
    result = CliRunner().invoke(cli, ["fix", *map(str, words), "--isolated"], input=answer)
    assert result.exit_code == code, result.output
    return re.sub(r"\n  (?=\S)", " ", result.output)  # as it was before it was wrapped


@pytest.fixture
def broken(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tiecheck.fix.verdicts.find_spec", lambda _: None)  # the rehearsal has a test of its own
    return Path(shutil.copytree(models / "llama-diverged-head", tmp_path / "model"))


def test_the_page_shows_what_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs/fix.md").read_text()
    command, shown = re.findall(r"^\$ tiecheck fix (.*?)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[0]
    assert run(*command.split(), code=1) == shown


def test_a_decision_is_asked_for_and_told(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = run(broken, code=1)
    assert "left, the decision is yours: --choose tied --unsafe: If the difference is" in told
    lines = CliRunner().invoke(cli, ["fix", str(broken), "--isolated"]).stdout.splitlines()
    assert "  --choose untied: If both were trained, set tie_word_embeddings to false." in lines, "a line of its own"
    assert "nothing is changed" in told
    assert "--unsafe allows that" in run(broken, "--choose", "tied", code=1)
    told = run(broken, "--choose", "tied", "--unsafe", "--apply", "--backup", code=0)
    assert "- lm_head.weight  float32 [96, 16]  model.safetensors" in told
    assert "judged again: pass; rehearsed: transformers is not installed" in told
    assert run(broken, code=0) == "nothing to fix\n"
    assert (broken / "model.safetensors.orig").exists()


def test_what_could_not_be_judged_is_not_told_as_whole(broken: Path) -> None:
    config = broken / "config.json"
    shutil.copytree(ROOT / "fixtures/models/llama-healthy-tied", broken, dirs_exist_ok=True)
    config.write_text(config.read_text().replace("LlamaForCausalLM", "NobodysForCausalLM").replace('"llama"', '"own"'))
    told = run(broken, "--apply", code=0)
    assert told == f"nothing to fix that is known; whether it is right is not: tiecheck {broken} says why\n"


def test_a_copy_is_fixed(broken: Path, tmp_path: Path) -> None:
    run(broken, "--to", tmp_path / "new", "--choose", "untied", code=0)
    assert json.loads((tmp_path / "new" / "config.json").read_text())["tie_word_embeddings"] is False
    assert json.loads((broken / "config.json").read_text())["tie_word_embeddings"] is True


def test_the_question(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tiecheck

    finding: Finding = tiecheck.check(broken).findings[0]
    monkeypatch.setattr("click.prompt", lambda *_, **__: "untied")
    assert fix.ask_user(finding) == finding.edits[1]
    monkeypatch.setattr("click.prompt", lambda *_, **__: "neither")
    assert fix.ask_user(finding) is None


def test_what_cannot_be_done_is_a_sentence(broken: Path, tmp_path: Path) -> None:
    assert "give one of them" in run(broken, "--apply", "--to", tmp_path / "x", code=2)
    assert "no rule's code begins with" in run(broken, "--select", "TIE999", code=2)
    assert run(tmp_path / "nowhere", code=2).count("\n") == 1
    assert run(broken / "config.json", code=2).startswith("error: ")


def test_a_word_that_is_not_on_offer_is_an_error(broken: Path) -> None:
    told = run(broken, "--choose", "unitied", code=2)
    assert "--choose unitied is not on offer here; what is: tied, untied" in told
    run(broken, "--choose", "untied", "--apply", code=0)
    assert run(broken, "--choose", "untied", "--apply", code=0) == "nothing to fix\n"
    assert run(broken, "--choose", "apart", code=0) == "--choose apart decides nothing here\nnothing to fix\n"
    assert "--choose unitied is no word of a fix; did you mean untied?" in run(broken, "--choose", "unitied", code=2)
    assert "is no word of a fix; a finding that offers some" in run(broken, "--choose", "foo", code=2)


@pytest.mark.parametrize("chosen", ["tied", "untied"])
def test_a_decision_that_a_finding_does_not_have_is_left_and_told(chosen: str) -> None:
    """Whichever of the two is on offer alone, the other is no error."""
    import tiecheck

    finding = tiecheck.check(ROOT / "fixtures/models/llama-diverged-head").findings[0]
    offered = next(edit for edit in finding.edits if edit.choice != chosen)
    alone = finding._replace(edits=(offered,))
    taken, left = choose_edits([alone], Config(), FixOptions(choice=chosen), None)
    assert not taken
    ((finding, why),) = left
    assert finding == alone
    first, way = why.splitlines()
    assert first == f"it has no fix called {chosen}; the decision is yours:"
    assert way.startswith(f"--choose {offered.choice}{'' if offered.safe else ' --unsafe'}: If {offered.when}, ")
    if chosen == "untied":  # as the files have it
        told = run(ROOT / "fixtures/models/llama-flag-lost", "--choose", chosen, code=1)
        assert "TIE102 tied-member-lost: left, it has no fix called untied; the decision is yours" in told
    with pytest.raises(UsageError, match="not on offer"):
        refuse_word("teid", left)


def test_a_decision_is_not_turned_round(broken: Path) -> None:
    """An invalid flag has one fix, which is to tie; whoever asks for untied does not get it."""
    config = broken / "config.json"
    shutil.copytree(ROOT / "fixtures/models/llama-healthy-tied", broken, dirs_exist_ok=True)
    config.write_text(config.read_text().replace('"tie_word_embeddings": true', '"tie_word_embeddings": 0'))
    before = content(broken)
    told = run(broken, "--choose", "untied", "--apply", code=1)
    assert "TIE112 invalid-tie-flag: left, its fix is tied, and --choose says untied" in told
    assert content(broken) == before
    run(broken, "--choose", "tied", "--apply", code=0)
    assert '"tie_word_embeddings": true' in config.read_text()


def test_a_note_does_not_stand_in_the_way_of_a_decision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An untied BERT stores its bias twice, equal: to delete one is right for a tied one alone."""
    from fix_subjects import edit_weights, save_small, small_model

    monkeypatch.setattr("tiecheck.fix.verdicts.find_spec", lambda _: None)
    save_small(small_model("BertForMaskedLM", tie_word_embeddings=False), tmp_path)
    bias = "cls.predictions.bias"
    edit_weights(tmp_path, lambda t: t.update({"cls.predictions.decoder.bias": t[bias].clone()}))
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"tie_word_embeddings": false', '"tie_word_embeddings": true'))
    told = run(tmp_path, "--select", "TIE1", "--choose", "untied", "--apply", code=0)
    assert "TIE101 trained-head-discarded: untied" in told
    assert "TIE106" not in told


def content(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def not_utf8(model: Path) -> None:
    config = model / "config.json"
    config.write_bytes(config.read_bytes().replace(b'"silu"', b'"\xff"'))


def shard_missing(model: Path) -> None:
    shutil.rmtree(model)
    shutil.copytree(ROOT / "fixtures/models/gpt2-healthy-sharded", model)
    min(model.glob("*.safetensors")).unlink()


def farm(model: Path) -> None:
    model.rename(model.with_name("real"))
    model.mkdir()
    for path in model.with_name("real").iterdir():
        (model / path.name).symlink_to(path)


SPOILED: dict[str, tuple[bytes, bytes]] = {
    "the flag twice": (b'"tie_word_embeddings": true', b'"tie_word_embeddings": false, "tie_word_embeddings": true'),
    "another key twice": (b'"use_cache": true', b'"use_cache": true, "use_cache": true'),
    "a comment": (b'"use_cache": true', b'"use_cache": true // yes\n'),
    "a comma at the end": (b"\n}", b",\n}"),
    "more behind the end": (b"\n}", b"\n}\n# end"),
    "a number of 5,000 digits": (b'"use_cache": true', b'"use_cache": ' + b"9" * 5_000),
    "half of a pair": (b'"silu"', b'"\\ud800"'),
    "a byte order mark": (b"{", b"\xef\xbb\xbf{"),
    "nested without end": (b'"use_cache": true', b'"use_cache": ' + b"[" * 100_000 + b"]" * 100_000),
}
"""What makes a config one that is not written anew, or not read: what stands there, and what comes in its place."""


def spoiled(name: str) -> Callable[[Path], None]:
    def spoil(model: Path) -> None:
        config = model / "config.json"
        new = config.read_bytes().replace(*SPOILED[name], 1)
        config.write_bytes(new)

    return spoil


def index_of(*files: str) -> Callable[[Path], None]:
    """An index of the one file under other spellings; `pipe` is one."""

    def spoil(model: Path) -> None:
        os.mkfifo(model / "pipe.safetensors")
        names = load_file(model / "model.safetensors")
        told = {name: files[number % len(files)] for number, name in enumerate(names)}
        (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": told}))
        (model / "model.safetensors").rename(model / "one.safetensors")

    return spoil


def a_folder(model: Path) -> None:
    (model / "config.json").unlink()
    (model / "config.json").mkdir()


SPOILS = {one.__name__: one for one in (not_utf8, shard_missing, farm, a_folder)} | {n: spoiled(n) for n in SPOILED}
SPOILS |= {
    "a pipe for a shard": index_of("pipe.safetensors"),
    "a shard outside": index_of("one.safetensors", "../one.safetensors"),
    "a name that no file has": index_of("one\0"),
}


@pytest.mark.parametrize("how", [(), ("--apply",), ("--to", "{}/new")], ids=["shown", "applied", "copied"])
@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS)
def test_bad_input_is_one_sentence_and_nothing_is_written(spoil, how: tuple[str, ...], broken: Path) -> None:
    spoil(broken)
    old = content(broken.parent)
    told = run(broken, "--choose", "untied", *(word.format(broken.parent) for word in how), code=2)
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    assert content(broken.parent) == old


def test_a_target_that_is_being_written_is_refused(broken: Path) -> None:
    with (broken / "model.safetensors").open("r+b"):
        assert "is being written by another process" in run(broken, code=2)


def test_a_check_tells_what_an_interrupted_fix_has_left(broken: Path) -> None:
    (broken / ".tiecheck-fix" / "new").mkdir(parents=True)
    result = CliRunner().invoke(cli, ["check", str(broken), "--isolated"])
    assert "is left by a fix that was interrupted; `tiecheck fix` clears it away" in result.stderr
    assert result.exit_code == 1
    (broken / ".tiecheck-fix" / "commit").write_text('{"order": [], "removed": [], "old": {}, "backup": false}')
    result = CliRunner().invoke(cli, ["check", str(broken), "--isolated"])
    assert "half-way through a fix that was interrupted; `tiecheck fix` ends it" in result.output
    assert result.exit_code == 2
    assert "an interrupted fix is finished" in run(broken, code=1)


def test_no_torch_is_needed(broken: Path) -> None:
    program = (
        "import sys; from tiecheck.config.options import Config; from tiecheck.fix.run import *;"
        "o = fix_target(sys.argv[1], Config(), FixOptions('tied', unsafe=True, apply=True, rehearse=False));"
        "assert o.written and not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(broken)], check=True, timeout=60)


def test_what_stays_is_told(broken: Path, tmp_path: Path) -> None:
    """A second fault that no change of the files mends: what was fixed and what stays are told apart."""
    config = broken / "config.json"
    config.write_text(config.read_text().replace('"hidden_size": 16', '"hidden_size": 17'))
    told = run(broken, "--choose", "untied", "--apply", code=1).splitlines()
    assert told[-1].startswith(f"fixed: TIE101 in {broken} (TIE207 stays; ")
    assert any(line.startswith("TIE207 load-will-raise: left, no fix: ") for line in told)


def test_a_place_that_cannot_be_written_is_named(broken: Path) -> None:
    for to, why in (("/dev/full/x", "File exists"), ("/dev/full/x/y", "Not a directory")):
        told = run(broken, "--to", to, "--choose", "untied", code=2)
        assert told == f"error: {to.rpartition('/')[0]} cannot be made: {why}; {broken} is as it was\n"


def test_a_key_that_stands_twice_is_named_with_its_file(broken: Path) -> None:
    config = broken / "config.json"
    config.write_text(config.read_text().replace("{", '{"tie_word_embeddings": true,', 1))
    told = run(broken, "--choose", "untied", "--apply", code=2)
    assert told == f"error: {config}: the key 'tie_word_embeddings' stands there twice, and is not changed\n"
