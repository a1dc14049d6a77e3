"""What the page on CI promises: its files are what they claim, its scripts run, and red becomes green."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tiecheck.cli.check import command
from tiecheck.cli.hook import model_folders
from tiecheck.cli.main import COMMANDS
from tiecheck.cli.streams import complete_codes
from tiecheck.render.reports import FORMATS, parse_outputs
from tiecheck.rules.registry import INDEX

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
ACTION = yaml.safe_load((ROOT / ".github" / "actions" / "check" / "action.yml").read_text(encoding="utf-8"))
HOOKS = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture
def project(tmp_path: Path, models: Path, monkeypatch) -> Path:
    for name, case in (("mine", "llama-diverged-head"), ("fine", "llama-healthy-tied")):
        shutil.copytree(models / case, tmp_path / "models" / name)
    (tmp_path / "bin").mkdir()
    for name in ("tiecheck", "hf-tiecheck"):
        module, _, function = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"][
            name
        ].partition(":")
        script = tmp_path / "bin" / name
        script.write_text(
            f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
            f"from {module} import {function}\n{function}()\n"
        )
        script.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shell(words: str | list[str], project: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{project / 'bin'}{os.pathsep}{os.environ['PATH']}"
    where = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **environment}
    command_line = words if isinstance(words, list) else ["bash", "-c", words]
    return subprocess.run(command_line, capture_output=True, text=True, check=False, cwd=project, env=where)


def test_every_command_of_the_page_and_the_readme_is_one() -> None:
    texts = [text for page in (PAGE, README) for word, text in BLOCK.findall(page) if word in {"bash", "yaml"}]
    lines = re.sub(r" >\n\s+|\n\s+(?=-f )", " ", "\n".join(texts)).splitlines()
    seen = 0
    for line in lines:
        found = re.search(r"(?:^|- (?:run: )?| )tiecheck (.*)", line.partition("    #")[0].partition("  #")[0])
        if not found or "install" in line:
            continue
        words = [word for word in shlex.split(found[1]) if word != "&&"]
        if words[0] in COMMANDS or words[0].startswith(("_", "${")):
            continue
        options = command.make_context("tiecheck", words).params
        assert options["targets"]
        assert all(output.format in FORMATS for output in parse_outputs(options["formats"], None))
        seen += 1
    assert seen >= 8


def test_the_readme_is_short_and_reads_the_same_on_a_package_index() -> None:
    """There a path of the repository leads nowhere: links are addresses or headings, and pages are named."""
    assert len(README.splitlines()) < 120
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.DOTALL | re.MULTILINE)
    headings = {re.sub(r"[^a-z0-9]+", "-", text.lower()) for text in re.findall(r"^#+ (.+)$", prose, re.MULTILINE)}
    links = re.findall(r"\]\(\s*<?([^)\s>]*)|^\[[^]]+\]:\s*(\S+)|(?:src|href)=[\"']?([^\"'\s>]+)", prose, re.MULTILINE)
    for link in map("".join, links):
        assert link.startswith("https://") or link.removeprefix("#") in headings, link
    named = re.findall(r"`((?:[\w-]+/)*[\w-]+\.md|evidence/)`", prose)
    assert all((ROOT / name).exists() or (ROOT / "docs" / name).exists() for name in named)
    unnamed = {page.name for page in (ROOT / "docs").glob("*.md")} - {name.removeprefix("docs/") for name in named}
    assert not unnamed - {"index.md"}


def test_the_links_of_pages_lead_somewhere() -> None:
    for page, text in (
        ("docs/ci.md", PAGE),
        ("docs/tour.md", (ROOT / "docs/tour.md").read_text()),
    ):
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (ROOT / page).parent.joinpath(link).exists(), f"{page}: {link}"
    assert all(f"`{name}`" in PAGE for name in FORMATS)


def test_from_red_to_green_as_the_page_walks(project: Path) -> None:
    (walk,) = (text for word, text in BLOCK.findall(PAGE) if word == "bash" and "--apply" in text)
    checked, shown, applied, again = (shell(line.partition("#")[0], project) for line in walk.strip().splitlines())
    assert checked.returncode == 1, checked.stderr
    assert "TIE101 error" in checked.stdout
    assert shown.returncode == 1, "a choice is left to the user"
    assert "untied" in shown.stdout + shown.stderr
    assert applied.returncode == 0, applied.stdout + applied.stderr
    assert (again.returncode, again.stdout.split()[0]) == (0, "pass")
    assert json.loads((project / "models/mine/config.json").read_text())["tie_word_embeddings"] is False


def test_the_script_of_the_action_by_itself(project: Path) -> None:
    (step,) = ACTION["runs"]["steps"]
    assert "${{" not in step["run"], "an input is never pasted into the script"
    assert {f"${{{{ inputs.{name.lower()} }}}}" for name in step["env"]} == set(step["env"].values())
    assert {name.lower() for name in step["env"]} == set(ACTION["inputs"])
    given = {"TARGETS": "models/*", "OPTIONS": "", "VERSION": "", "SARIF": "out.sarif"}
    done = shell(step["run"], project, GITHUB_STEP_SUMMARY=str(project / "summary.md"), **given)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("::error title=tiecheck (TIE101),file=models/mine/config.json,line=28,col=3::")
    assert json.loads((project / "out.sarif").read_text())["runs"][0]["results"][0]["ruleId"] == "TIE101"
    assert "**TIE101 error**" in (project / "summary.md").read_text()
    given["TARGETS"] = "models/fine; touch hacked"
    assert shell(step["run"], project, **given).returncode == 2
    assert not (project / "hacked").exists()


def test_the_hooks_of_pre_commit(project: Path) -> None:
    source, model = HOOKS
    assert [hook["id"] for hook in HOOKS] == ["tiecheck-source", "tiecheck-model"]
    (project / "net.py").write_text(
        "from torch import nn\nclass M(nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n        self.a, self.b = nn.Embedding(2, 2), nn.Linear(2, 2)\n"
        "        self.b.weight = nn.Parameter(self.a.weight.data)\n"
    )
    done = shell([*source["entry"].split(), "net.py"], project)
    assert (done.returncode, "TIE802" in done.stdout) == (1, True)
    changed = [str(path.relative_to(project)) for path in sorted(project.glob("models/*/*"))]
    fitting = [path for path in changed if re.search(model["files"], path)]
    assert len(fitting) == 4
    done = shell([sys.executable, *model["entry"].split()[1:], "--strict", *fitting], project)
    assert done.returncode == 1
    assert "2 targets: 1 pass, 1 fail." in done.stdout
    (project / "web").mkdir()
    (project / "web" / "config.json").write_text('{"port": 80}')
    assert model_folders(["web/config.json", "gone/config.json", "models/fine/config.json"]) == ["models/fine"]
    assert shell([sys.executable, *model["entry"].split()[1:], "web/config.json"], project).returncode == 0


def test_hf_takes_the_console_script_for_an_extension(project: Path) -> None:
    """With the real `hf`: the manifest is what it writes itself after an install."""
    write = (
        "from datetime import datetime, timezone; from pathlib import Path\n"
        "from huggingface_hub.cli.extensions import ExtensionManifest, _get_extension_dir\n"
        "ExtensionManifest(owner='o', repo='hf-tiecheck', repo_id='o/hf-tiecheck', short_name='tiecheck',"
        " type='python',"
        f" executable_path={str(project / 'bin' / 'hf-tiecheck')!r}, installed_at=datetime.now(timezone.utc))"
        ".save(_get_extension_dir('tiecheck'))"
    )
    home = {"HOME": str(project), "HF_HUB_DISABLE_UPDATE_CHECK": "1", "HF_HUB_OFFLINE": "1"}
    made = shell([sys.executable, "-c", write], project, **home)
    assert made.returncode == 0, made.stderr
    run = "from huggingface_hub.cli.hf import main; main()"
    for target, status in (("models/mine", 1), ("models/fine", 0)):
        done = shell([sys.executable, "-c", run, "tiecheck", target], project, **home)
        assert done.returncode == status, done.stderr
        assert done.stdout.startswith("fail " if status else "pass ")


def test_the_shell_completes_rule_codes(project: Path) -> None:
    asked = {"_TIECHECK_COMPLETE": "bash_complete", "COMP_WORDS": "tiecheck rule TIE9", "COMP_CWORD": "2"}
    assert shell(["tiecheck"], project, **asked).stdout.split() == ["plain,TIE901"]
    completed = [item.value for item in complete_codes(None, None, "TIE101,tie2")]
    assert completed == [f"TIE101,{code}" for code in INDEX if code.startswith("TIE2")]
