"""`--changed-only`: the files that git says changed, and nothing of what a repository would have run."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from tiecheck.cli.main import cli
from tiecheck.errors import TargetError
from tiecheck.source.changed import changed_paths

TIED = """
from torch import nn

class Model(nn.Module):
    def __init__(self, v, d):
        super().__init__()
        self.wte = nn.Embedding(v, d)
        self.head = nn.Linear(d, v, bias=False)
        self.head.weight.data = self.wte.weight.data
"""


def git(folder: Path, *words: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with two committed files, a branch point called `base`, and an odd name."""
    git(tmp_path, "init", "-q", "-b", "main")
    (tmp_path / "src").mkdir()
    for name in ("old.py", "src/näme.py", "src/gone.py"):
        (tmp_path / name).write_text(TIED)
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "all")
    git(tmp_path, "tag", "base")
    return tmp_path


def judged(*words: object, code: int) -> set[str]:
    result = CliRunner().invoke(cli, [*map(str, words), "-f", "json", "--isolated"])
    assert result.exit_code == code, result.output
    return {f["locations"][0]["path"] for t in json.loads(result.stdout)["targets"] for f in t["findings"]}


def test_what_changed_is_judged_and_nothing_else(repository: Path) -> None:
    assert judged(repository, code=1) == {"old.py", "src/näme.py", "src/gone.py"}
    assert judged(repository, "--changed-only", code=0) == set()
    (repository / "new.py").write_text(TIED)
    (repository / "src" / "gone.py").unlink()
    (repository / "src" / "näme.py").write_text(f"{TIED}\n")
    (repository / ".gitignore").write_text("left.py\n")
    (repository / "left.py").write_text(TIED)
    assert judged(repository, "--changed-only", code=1) == {"new.py", "src/näme.py"}
    assert judged(repository / "src", "--changed-only", code=1) == {"näme.py"}
    assert judged(repository / "old.py", "--changed-only", code=0) == set()
    assert judged(repository / "new.py", "--changed-only", code=1) == {"new.py"}
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "more")
    assert judged(repository, "--changed-only", code=0) == set()
    assert judged(repository, "--changed-only=base", code=1) == {"new.py", "src/näme.py"}


def test_what_another_branch_did_is_not_ours(repository: Path) -> None:
    git(repository, "checkout", "-qb", "work")
    (repository / "new.py").write_text(TIED)
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "new")
    git(repository, "checkout", "-q", "main")
    (repository / "old.py").write_text(f"{TIED}\n")
    git(repository, "commit", "-qam", "theirs")
    git(repository, "checkout", "-q", "work")
    assert judged(repository, "--changed-only=main", code=1) == {"new.py"}


def test_what_git_cannot_tell_is_a_sentence(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for revision in ("nowhere", "--output=x", ""):
        with pytest.raises(TargetError, match=r"is no revision of"):
            changed_paths(str(repository), revision)
    assert judged(repository, "--changed-only=nowhere", code=2) == set()
    (repository / "config.json").write_text("{}")
    assert "--changed-only is for sources" in CliRunner().invoke(cli, [str(repository), "--changed-only"]).output
    monkeypatch.setenv("PATH", "")
    with pytest.raises(TargetError, match="cannot be run"):
        changed_paths(str(repository), "HEAD")


def test_without_a_repository_it_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    (tmp_path / "model.py").write_text(TIED)
    with pytest.raises(TargetError, match="not a git repository"):
        changed_paths(str(tmp_path), "HEAD")


def test_no_program_of_the_repository_is_run(repository: Path) -> None:
    hook = repository / "hook"
    hook.write_text(f"#!/bin/sh\ntouch {repository}/ran\n")
    hook.chmod(0o755)
    for key in ("core.fsmonitor", "diff.external"):
        git(repository, "config", key, str(hook))
    (repository / "old.py").write_text(f"{TIED}\n")
    assert judged(repository, "--changed-only", code=1) == {"old.py"}
    assert not (repository / "ran").exists()


@pytest.mark.parametrize("seed", range(6))
def test_no_filter_of_the_repository_is_run(repository: Path, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    ran = tmp_path / "ran"
    name = draw.choice(("evil", "a b", "a.b", "ünï", "x=y"))
    (repository / ".gitattributes").write_text(f"*.py filter={name if ' ' not in name else 'evil'} diff=evil\n")
    lines = [f'[filter "{name}"]', *(f"{key} = touch {ran}; cat" for key in ("clean", "smudge"))]
    lines += [f"process = touch {ran}"] if seed % 2 else []
    lines += ["[core]", f"fsmonitor = touch {ran}", "[diff]", f"external = touch {ran}", '[diff "evil"]']
    lines += [f"textconv = touch {ran}", f"command = touch {ran}"]
    with (repository / ".git" / "config").open("a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    (repository / "old.py").write_text(f"{TIED}# more\n")
    if name == "x=y":
        with pytest.raises(TargetError, match="program of its own"):
            changed_paths(str(repository), "HEAD")
    else:
        assert str(repository / "old.py") in changed_paths(str(repository), "HEAD")
    assert not ran.exists()
