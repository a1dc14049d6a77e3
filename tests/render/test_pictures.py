"""Pictures: each shows what the records say, is XML that stands by itself, and fetches nothing."""

from __future__ import annotations

import io
import random
import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

import tiecheck
from tiecheck.records.placement import Placed, Placement, Plan, Proposal
from tiecheck.records.report import Report, TargetReport
from tiecheck.render import svg
from tiecheck.render.device_lanes import device_lanes
from tiecheck.render.drawing import CHARACTER, Picture
from tiecheck.render.pictures import target_pictures
from tiecheck.render.reports import Style
from tiecheck.render.row_barcode import row_barcode
from tiecheck.render.tie_tree import tie_tree
from tiecheck.render.use_grid import use_grid

MODELS = Path(__file__).parents[2] / "fixtures" / "models"
SVG = "{http://www.w3.org/2000/svg}"


def report_of(case: str, **options) -> TargetReport:
    (target,) = tiecheck.check(MODELS / case, **options).targets
    return target


def parsed(picture: Picture) -> ET.Element:
    return ET.fromstring(picture.element())


def boxes(picture: Picture) -> list[tuple[str, float]]:
    """The title and the height of each box."""
    groups = [group for group in parsed(picture).iter("g") if group.find("rect") is not None]
    return [(str(group.findtext("title")), float(group.find("rect").get("height"))) for group in groups]  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize("case", ["llama-added-token-rows", "llama-diverged-head", "llama-redundant-copy"])
def test_the_barcode_tells_added_tokens_from_a_trained_head(case: str) -> None:
    (tie,) = report_of(case).ties
    picture = row_barcode(tie)
    if case == "llama-redundant-copy":
        assert picture is None
        return
    assert picture is not None
    found = boxes(picture)
    differ = [title for title, _ in found if "differ, by" in title]
    if case == "llama-diverged-head":
        assert len(differ) == len(found) == 64
    else:
        assert differ == [title for title, _ in found][-2:]
        assert [title.partition(":")[0] for title in differ] == ["rows 96 to 97", "row 98"]
    assert max(high for _, high in found) == 54
    assert all(len(text) * CHARACTER < picture.width for text in re.findall(r">([^<]+)</text>", picture.parts))


def test_bands_of_the_barcode_hold_every_row_once() -> None:
    (tie,) = report_of("llama-diverged-head").ties
    for rows in (1, 2, 63, 64, 65, 99, 32_003):
        marks = "9" * min(64, rows)
        picture = row_barcode(tie._replace(rows_apart=marks, shape=(rows, 4)))
        assert picture is not None
        held = []
        for title, _ in boxes(picture):
            numbers = [int(number) for number in re.findall(r"\d+", title.partition(":")[0])]
            held += range(numbers[0], numbers[-1] + 1)
        assert held == list(range(rows))


def test_the_tree_has_an_arc_for_each_further_member() -> None:
    target = report_of("bart-healthy-tied", live=True)
    picture = tie_tree(target)
    assert picture is not None
    assert picture.parts.count("<path") == len(target.ties[0].names) - 1
    assert "parameter" in picture.parts
    for part in {part for name in target.ties[0].names for part in name.split(".")}:
        assert f">{part}</text>" in picture.parts
    assert tie_tree(report_of("bart-healthy-tied")) is None


def drawn_placement(draw: random.Random) -> Placement:
    keys = [f"model.layers.{i}" for i in range(draw.randrange(1, 12))] + ["model.embed_tokens", "lm_head"]
    places = {key: draw.choice([0, 1, "cpu", "disk"]) for key in keys}
    names = ("lm_head.weight", "model.embed_tokens.weight")
    placed = Placed(
        names, "parameter", True, tuple(str(places[name.removesuffix(".weight")]) for name in names), 8, True
    )
    blocks = {key: draw.randrange(1, 1000) for key in keys}
    if draw.random() < 0.5:  # a map that forgets the head
        del blocks[keys.pop()], places["lm_head"]
    plan = Plan("accelerate", "1.15.0", "auto", places, placed=(placed,), blocks=blocks)
    proposal = Proposal(dict.fromkeys(keys, 0), {}, 0, None, blocks)
    return Placement("auto", "--device-map", None, (plan,), draw.choice([None, proposal]))


@pytest.mark.parametrize("seed", range(10))
def test_lanes_are_to_scale_and_say_what_is_split(seed: int) -> None:
    placement = drawn_placement(random.Random(seed))
    picture = device_lanes(placement)
    assert picture is not None
    (plan,) = placement.plans
    tree = parsed(picture)
    drawn = [group for group in tree.iter("g") if group.find("rect") is not None][: len(plan.device_map)]
    whole = sum(plan.blocks.values()) + (0 if "lm_head" in plan.device_map else 8)
    for (key, device), group in zip(plan.device_map.items(), drawn, strict=True):
        assert str(group.findtext("title")).startswith(f"{key} on {device}, ")
        wide = float(group.find("rect").get("width"))  # type: ignore[union-attr, arg-type]
        assert wide == pytest.approx(max(720 * plan.blocks[key] / whole - 1, 1), rel=1e-3)
    arcs = [str(group.findtext("title")) for group in tree.iter("g") if group.find("path") is not None]
    split = len(set(plan.placed[0].devices)) > 1
    assert arcs[0].endswith("split across devices" if split else "together")
    assert len(arcs) == 1 + (placement.proposal is not None)
    assert all(title.endswith("together") for title in arcs[1:])


def test_the_file_stands_by_itself_and_holds_every_picture() -> None:
    names = ["llama-added-token-rows", "bert-untied-bias", "llama-flag-lost", "gpt2-embedding-draw"]
    targets = [report_of(name)._replace(target=f"<{name}> & \x1b[31m") for name in names]
    targets[0] = targets[0]._replace(placement=drawn_placement(random.Random(1)))
    stream = io.StringIO()
    svg.render(Report("0", tuple(targets), 0.0), Style(), stream)
    text = stream.getvalue()
    root = ET.fromstring(text)
    assert len(root.findall(f"{SVG}svg")) == sum(len(list(target_pictures(target))) for target in targets) >= 5
    assert not [e for e in root.iter() if e.tag.rpartition("}")[2] in {"script", "image", "use", "a", "foreignObject"}]
    assert not re.search(r"url\(|href|src=", text)
    assert "prefers-color-scheme:dark" in text
    assert "\x1b" not in text
    tops = [(float(e.get("y", 0)), float(e.get("height", 0))) for e in root.findall(f"{SVG}svg")]
    assert all(y + high <= below for (y, high), (below, _) in pairwise(tops))
    assert tops[-1][0] + tops[-1][1] <= float(str(root.get("height")))


def test_the_grid_of_uses_has_a_cell_for_each_part_and_names_the_slot_that_no_pass_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    target = report_of("olmo-module-alias", uses=True, trust_remote_code=True)
    picture = use_grid(target)
    assert picture is not None
    tied = "model.transformer.ff_out.weight = model.transformer.wte.weight"
    assert [title for title, _ in boxes(picture)] == [f"{tied}: embedding by embedding", f"{tied}: linear by linear"]
    assert "not as model.transformer.ff_out.weight" in picture.parts
    assert picture in list(target_pictures(target))
    assert use_grid(report_of("llama-healthy-tied")) is None
