"""The configuration file that counts: the nearest one that is ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiecheck.config.discovery import Settings, files_in, search_settings


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        ("[tool.tiecheck]\n", True),
        ("[ tool . 'tiecheck' ]\n", True),
        ("tool.tiecheck.strict = true\n", True),
        ("[project]\nname = 'tiecheck'\n", False),
        ("[tool.other]\n", False),
    ],
)
def test_a_pyproject_is_ours_by_its_section(tmp_path: Path, text: str, ours: bool) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    assert bool(list(files_in(str(tmp_path)))) == ours


def test_our_own_file_comes_before_the_projects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiecheck.toml").write_text("")
    (tmp_path / "pyproject.toml").write_text("[tool.tiecheck]\n")
    inner = tmp_path / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)
    seen: list[str] = []

    def read(path: str) -> Settings:
        seen.append(Path(path).name)
        return Settings(path, {})

    settings, passed = search_settings(read)
    assert seen == ["tiecheck.toml"]
    assert settings is not None
    assert passed is None


def test_a_file_in_the_models_own_folder_configures_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiecheck.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    settings, passed = search_settings(lambda path: Settings(path, {}), [str(tmp_path)])
    assert settings is None or settings.path != str(tmp_path / "tiecheck.toml")
    assert passed is not None
    assert passed.endswith("tiecheck.toml")
