"""The rehearsal in this process: a reason for each refusal, and no connection; test_rehearsal.py has another one."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tiny_models import SMALL, built, groups_of

from tiecheck.live.transformers import rehearse_child
from tiecheck.live.transformers.rehearse_child import rehearse_on_meta

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", SMALL)
def test_the_parameters_of_a_rehearsed_model_are_those_of_the_loaded_one(name: str, tmp_path: Path) -> None:
    built(name).save_pretrained(tmp_path)
    told = rehearse_on_meta(str(tmp_path))
    assert told.get("unsure") is None
    assert told["class_name"] == name
    real = type(built(name)).from_pretrained(tmp_path)
    assert sorted(tuple(names) for names, *_ in told["parameters"] if len(names) > 1) == sorted(groups_of(real))
    assert {state for _, _, state, *_ in told["parameters"]} == {"loaded"}


def _without_class(where: Path) -> None:
    (where / "config.json").write_text("{}")


def _not_json(where: Path) -> None:
    (where / "config.json").write_text("{")


def _fewer_rows(where: Path) -> None:
    tensors = {name: value[:9].contiguous() for name, value in load_file(where / "model.safetensors").items()}
    save_file(tensors, where / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "unsure", "raised"),
    [
        (_without_class, "config.json names no class", None),
        (_not_json, None, "JSONDecodeError"),
        (_fewer_rows, None, "RuntimeError"),
    ],
)
def test_what_the_library_refuses_is_told_and_what_is_not_its_doing_is_unsure(
    spoil, unsure: str | None, raised: str | None, tmp_path: Path
) -> None:
    built().save_pretrained(tmp_path)
    spoil(tmp_path)
    told = rehearse_on_meta(str(tmp_path))
    assert told.get("unsure") == unsure
    assert told.get("raised", [None])[0] == raised


def test_a_connection_of_this_thread_is_refused_and_let_go_after(monkeypatch, tmp_path: Path) -> None:
    built().save_pretrained(tmp_path)
    before = socket.socket.connect

    def dial(*_: object) -> None:
        with socket.socket() as one:
            one.connect(("192.0.2.1", 9))

    monkeypatch.setattr(rehearse_child, "_class_of", dial)
    told = rehearse_on_meta(str(tmp_path))
    assert told["unsure"] == "it asks for 192.0.2.1, which is not in the directory; nothing outside is fetched or read"
    assert socket.socket.connect is before
