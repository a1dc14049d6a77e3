"""What a TARGET argument means, and what is said of one that means nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tiecheck.errors import TargetError
from tiecheck.targets.parse import parse_target


def says(text: str | Path) -> str:
    with pytest.raises(TargetError) as caught:
        parse_target(str(text))
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestPaths:
    def test_directory_with_a_config_or_weights_is_a_checkpoint(self, tmp_path: Path) -> None:
        for name in ("config.json", "x.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "last.ckpt"):
            root = tmp_path / name
            root.mkdir()
            (root / name).touch()
            target = parse_target(str(root))
            assert (target.type, target.path, target.directory) == ("checkpoint", str(root), str(root))

    def test_plain_path_wins_over_every_other_reading(self, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.chdir(tmp_path)
        for name in ("os.path:join", "org/name"):
            (tmp_path / name).mkdir(parents=True)
            (tmp_path / name / "config.json").touch()
            assert parse_target(name).type == "checkpoint"

    def test_file_is_a_checkpoint_without_a_directory(self, tmp_path: Path) -> None:
        (tmp_path / "x.safetensors").touch()
        target = parse_target(str(tmp_path / "x.safetensors"))
        assert (target.type, target.directory) == ("checkpoint", None)

    def test_empty_directory(self, tmp_path: Path) -> None:
        assert says(tmp_path) == f"{tmp_path} is an empty directory"

    def test_directory_of_model_directories(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "config.json").touch()
        told = f"{tmp_path}/ holds models in folders of its own; name them, e.g. {tmp_path}/*, or use --recursive"
        assert says(f"{tmp_path}/") == told

    def test_directory_of_something_else(self, tmp_path: Path) -> None:
        (tmp_path / "README.md").touch()
        assert "holds no config.json and no weights" in says(tmp_path)

    def test_source_is_read_and_not_run(self, tmp_path: Path) -> None:
        (tmp_path / "m.py").write_text("raise SystemExit")
        assert parse_target(str(tmp_path / "m.py")).type == "source"
        assert parse_target(str(tmp_path)).type == "source"

    def test_config_alone(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").touch()
        assert "is a config alone; name its directory" in says(tmp_path / "config.json")


class TestMissing:
    def test_near_neighbour_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "llama-3.2-1b").mkdir()
        expected = f"there is no {tmp_path}/lama-3.2-1b; did you mean {tmp_path}/llama-3.2-1b?"
        assert says(tmp_path / "lama-3.2-1b") == expected
        assert says(f"{tmp_path}/lama-3.2-1b/").endswith(f"did you mean {tmp_path}/llama-3.2-1b?")

    def test_nothing_near(self, tmp_path: Path) -> None:
        assert says(tmp_path / "x" / "y") == f"there is no {tmp_path}/x/y"

    def test_folder_of_very_many_names_is_searched_in_part(self, tmp_path: Path) -> None:
        for i in range(3000):
            (tmp_path / f"model-{i:05}").touch()
        assert says(tmp_path / "mode").startswith("there is no")

    def test_empty_word(self) -> None:
        assert "a TARGET is empty" in says("")

    def test_nul(self) -> None:
        assert "cannot be looked at" in says("a\0b")

    def test_name_too_long(self) -> None:
        assert "cannot be looked at: File name too long" in says("x" * 10_000)

    def test_link_that_leads_nowhere(self, tmp_path: Path) -> None:
        (tmp_path / "model").symlink_to("gone")
        assert says(tmp_path / "model") == f"{tmp_path}/model is a link that leads nowhere, to gone"

    def test_loop_of_links(self, tmp_path: Path) -> None:
        (tmp_path / "a").symlink_to("b")
        (tmp_path / "b").symlink_to("a")
        assert says(tmp_path / "a") == f"{tmp_path}/a cannot be looked at: Too many levels of symbolic links"

    def test_path_below_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").touch()
        assert says(tmp_path / "config.json" / "x").startswith("there is no")


class TestHub:
    """`org/name` is a hub model only where nothing here can have been meant."""

    @pytest.mark.parametrize("text", ["org/name", "org/name-1.5_x", "0x/3B", "a.b/c.d"])
    def test_id(self, tmp_path: Path, monkeypatch, text: str) -> None:
        monkeypatch.chdir(tmp_path)
        assert parse_target(text) == (text, "checkpoint", f"hf://{text}", None, True)

    def test_folder_of_that_name_makes_it_a_missing_path(self, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "org").mkdir()
        assert says("org/name") == "there is no org/name; if it is a hub model, write hf://org/name"
        (tmp_path / "org" / "names").mkdir()
        assert says("org/name") == "there is no org/name; did you mean org/names?"

    def test_link_that_leads_nowhere_in_the_place_of_the_folder(self, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "org").symlink_to("gone")
        assert says("org/name").startswith("there is no org/name")

    @pytest.mark.parametrize(
        "text",
        [
            "name",
            "models/llama/7b",
            "./org/name",
            "../org/name",
            "~/name",
            "/org/name",
            "org/",
            "org//name",
            "org/name@main",
            "out/model.safetensors",
            "out/config.json",
            "out/pytorch_model.bin",
            "out/model.gguf",
            "src/model.py",
            "org\\name",
            "org/näme",
            "org/na me",
            "org/.hidden",
        ],
    )
    def test_what_never_goes_to_the_network(self, tmp_path: Path, monkeypatch, text: str) -> None:
        monkeypatch.chdir(tmp_path)
        assert says(text).startswith(f"there is no {text}")


class TestAddresses:
    @pytest.mark.parametrize(
        "text",
        ["hf://org/name@main/sub", "https://huggingface.co/org/name", "s3://bucket/model", "memory://m", "foo://x"],
    )
    def test_address_is_taken_as_it_is(self, text: str) -> None:
        target = parse_target(text)
        assert (target.text, target.path, target.remote, target.directory) == (text, text, True, None)

    def test_scheme_in_capitals(self) -> None:
        assert parse_target("HTTPS://Host/m").path == "https://Host/m"

    def test_secrets_are_not_shown(self) -> None:
        target = parse_target("https://me:pass@host/m?token=abc#x")
        assert target.text == "https://host/m"
        assert target.path == "https://me:pass@host/m?token=abc#x"

    def test_revision_of_the_hub_is_no_secret(self) -> None:
        assert parse_target("hf://gpt2@main").text == "hf://gpt2@main"

    def test_local_address_is_a_path(self, make_model) -> None:
        root = make_model()
        target = parse_target(f"file://{root}")
        assert (target.text, target.path, target.remote, target.directory) == (
            f"file://{root}",
            str(root),
            False,
            str(root),
        )
        assert parse_target(f"file://localhost{root}/").directory == f"{root}/"
        assert says(f"file://{root}/none") == f"there is no {root}/none"

    @pytest.mark.parametrize("text", ["simplecache::https://me:pass@host/m", "zip://a::s3://b/c.zip"])
    def test_chain(self, text: str) -> None:
        assert "pass" not in says(text)

    @pytest.mark.parametrize("text", ["https://", "s3:///"])
    def test_no_place(self, text: str) -> None:
        assert "names no model" in says(text)

    @pytest.mark.parametrize("text", ["https://host/a b", "https://host/a\nb", "https://host/a\x1bb"])
    def test_control_characters(self, text: str) -> None:
        assert "holds a blank or a control character" in says(text)

    def test_a_key_of_a_bucket_may_have_a_blank(self) -> None:
        assert parse_target("s3://bucket/My Model v2").path == "s3://bucket/My Model v2"


class TestAttributes:
    @pytest.mark.parametrize(
        ("text", "path", "attribute"), [("pkg.mod:make", "pkg.mod", "make"), ("pkg:Box.make", "pkg", "Box.make")]
    )
    def test_module(self, text: str, path: str, attribute: str) -> None:
        target = parse_target(text)
        assert (target.type, target.path, target.attribute) == ("module", path, attribute)

    def test_file(self, tmp_path: Path) -> None:
        (tmp_path / "m.py").touch()
        target = parse_target(f"{tmp_path}/m.py:make")
        assert (target.type, target.path, target.attribute) == ("module", f"{tmp_path}/m.py", "make")

    def test_file_in_a_folder_with_a_colon(self, tmp_path: Path) -> None:
        (tmp_path / "a:b").mkdir()
        (tmp_path / "a:b" / "m.py").touch()
        assert parse_target(f"{tmp_path}/a:b/m.py:make").path == f"{tmp_path}/a:b/m.py"

    def test_missing_file_and_its_neighbour(self, tmp_path: Path) -> None:
        (tmp_path / "model.py").touch()
        assert says(tmp_path / "modle.py:make") == f"there is no {tmp_path}/modle.py; did you mean {tmp_path}/model.py?"

    @pytest.mark.parametrize("text", ["pkg:1a", "pkg:", ":make", "a/b:make", "pkg:make()", "pkg:a..b"])
    def test_what_is_no_attribute_is_missing(self, text: str) -> None:
        assert says(text).startswith(f"there is no {text}")


def test_folder_without_permission() -> None:
    root = Path(tempfile.mkdtemp(prefix="tiecheck-"))  # pytest's own folders may be entered by their owner alone
    root.chmod(0o755)
    (root / "closed").mkdir(mode=0)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)
        assert says(root / "closed" / "model").endswith("model cannot be looked at: Permission denied")
        assert says(root / "closed").endswith("closed cannot be listed: Permission denied")
    finally:
        os.seteuid(user)
        shutil.rmtree(root)
