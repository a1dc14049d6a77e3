"""A placement in the text and in the JSON report: what it says, that it fits the page, and that it can be pasted."""

from __future__ import annotations

import io
import json
from pathlib import Path

import jsonschema
import pytest
from placements import CRASH, LLAMA, NONE, OLMO, SAMPLES, THREE, placed

import tiecheck
from tiecheck.config.options import Config
from tiecheck.engine.run import check_target, judge_facts
from tiecheck.errors import UsageError
from tiecheck.facts import registry
from tiecheck.facts.registry import Fact, Facts
from tiecheck.records.placement import Placement
from tiecheck.records.report import Report
from tiecheck.render.json import as_plain_data, json_document
from tiecheck.render.lines import WIDTH, write_lines
from tiecheck.render.placement import group_verdict, placement_lines, python_map
from tiecheck.render.reports import Style
from tiecheck.render.text import render
from tiecheck.targets.parse import Target

SCHEMA = json.loads((Path(tiecheck.__file__).parent / "render" / "report.schema.json").read_text())


def text_of(placement: Placement, **style: object) -> str:
    """What is printed of a placement."""
    stream = io.StringIO()
    made = Style(**style)
    write_lines(list(placement_lines(placement, made)), made, stream)
    return stream.getvalue()


def report_of(placement: Placement | None) -> Report:
    """A report that was judged of no other fact."""
    facts = Facts({"placement": placement})
    target = judge_facts(Target("model", "module", "model", None), facts, Config(select=("TIE1",)))
    return Report("0", (target,), 0.0)


def test_a_pair_that_is_split() -> None:
    assert (
        text_of(LLAMA)
        == """\
    placement: auto, by --device-map; memory: cuda:0 10 GiB, cpu 30 GiB
        transformers 5.23.0, auto: splits 1 of 1 group
          memory: cuda:0 8 GiB of 9 GiB, cpu 250 MiB of 30 GiB (it counts 260
            MiB)
          group  verdict, members                           bytes, devices
          1      split: cuda:0 | cpu (parameter, declared)  250 MiB
                   lm_head.weight                           cpu
                   model.embed_tokens.weight                cuda:0
        accelerate 1.15.0, auto: splits 1 of 1 group
          memory: cuda:0 8 GiB of 9 GiB, cpu 250 MiB of 30 GiB
          logs: The model weights are not tied. Please use the `tie_weights`
            method before using it.
          counts 8.05 KiB for 4.10 KiB where model.embed_tokens goes to cuda:0,
            because of lm_head.weight
          for that alone it puts model.norm on cpu, not cuda:0
          under 8 hash seeds: 3 different maps, 2 splitting a group, 1 raising;
            what moves: model.norm, lm_head
          the same map as that of transformers
        a map that keeps every group together: cuda:0 8 GiB, cpu 8 KiB
device_map = {
    "model.embed_tokens": 0,
    "lm_head": 0,
    "model.layers": 0,
    "model.norm": "cpu",
}
"""
    )


def test_an_alias_that_the_planner_does_not_see() -> None:
    assert (
        text_of(OLMO)
        == """\
    placement: auto, by --device-map; memory: cuda:0 10 GiB, cpu 30 GiB
        accelerate 1.15.0, auto: keeps 1 group together
          memory: cuda:0 2 GiB of 10 GiB, cpu 0 bytes of 30 GiB
          group  verdict, members                   bytes, devices
          1      together, not seen by the planner  250 MiB
                 (module, declared)
                   model.transformer.ff_out.weight  cuda:0
                   model.transformer.wte.weight     cuda:0
        would log "The model weights are not tied": accelerate 0.20-0.33
          (installed: 1.15.0)
"""
    )


def test_a_given_map_splits_three_members() -> None:
    assert (
        text_of(THREE)
        == """\
    placement: a given map, by maps/t5.json
        the given map: splits 1 of 6 groups
          memory: cuda:0 3 GiB, cuda:1 3 GiB, disk 96 bytes
          group  verdict, members                      bytes, devices
          1      split: cuda:0 | cuda:1 | disk         96 bytes
                 (parameter, declared)
                   decoder.embed_tokens.weight         cuda:1
                   encoder.embed_tokens.weight         cuda:0
                   head.weight                         disk
          2      not in the map (parameter, declared)  ?
                   x.bias                              not in the map
                   y.bias                              not in the map
          3      together, 1 not in the map            250 MiB
                 (parameter, declared)
                   x.weight                            cpu
                   y.weight                            not in the map
          4      together, not seen by the planner     250 MiB
                 (parameter, declared)
                   layers.0.weight                     cpu
                   layers.1.weight                     cpu
                   layers.2.weight                     cpu
                   layers.3.weight                     cpu
                   and 2 more names (-v shows them)
          and 2 more groups (-v shows them)
        no map keeps every group together: every group has to lie on cuda:0 (3
          MiB missing)
"""
    )


def test_everything_is_listed_on_request() -> None:
    text = text_of(THREE, verbose=True)
    assert "layers.5.weight" in text
    assert "      5      together (parameter) " in text
    assert "      6      together (copy, not tied, declared) " in text
    assert "(-v shows" not in text


def test_a_planner_that_raises() -> None:
    lines = text_of(CRASH).splitlines()
    assert lines[1:3] == [
        "        accelerate 1.15.0, balanced: raises",
        "          IndexError: list index out of range at head (lm_head.weight)",
    ]


def test_a_model_without_a_group() -> None:
    assert (
        text_of(NONE)
        == """\
    placement: a given map, by --device-map
        the given map: there is no tie group that it could split
          memory: cpu 96 bytes
"""
    )


@pytest.mark.parametrize("verbose", [False, True])
@pytest.mark.parametrize("name", SAMPLES)
def test_it_fits_the_page_and_prints_nothing_raw(name: str, verbose: bool) -> None:
    for line in text_of(SAMPLES[name], verbose=verbose).splitlines():
        assert line.isprintable()
        assert len(line) <= WIDTH or " " not in line.strip()


@pytest.mark.parametrize("name", ["llama", "crash"])
def test_the_proposed_map_can_be_pasted(name: str) -> None:
    proposal = SAMPLES[name].proposal
    text = text_of(SAMPLES[name])
    scope: dict = {}
    exec(text[text.index("\ndevice_map = {") :], scope)
    assert scope["device_map"] == proposal.device_map
    assert list(scope["device_map"]) == list(proposal.device_map)


def test_a_name_with_spaces_is_not_wrapped() -> None:
    names = {"a b " * 40: 0, "\x7f\ud800\U000e0001\u2028": "cpu"}
    scope: dict = {}
    exec("\n".join(python_map(names)), scope)
    assert scope["device_map"] == names
    assert all(line.isprintable() for line in python_map(names))


@pytest.mark.parametrize(
    ("group", "word"),
    [
        (placed(("a", "cpu"), ("b", "cpu")), "together"),
        (
            placed(("a", "disk"), ("b", "cuda:10"), ("c", "cuda:2"), ("d", "cpu")),
            "split: cuda:2 | cuda:10 | cpu | disk",
        ),
        (placed(("a", None), ("b", None)), "not in the map"),
        (placed(("a", None), ("b", "cpu"), ("c", "mps")), "split: mps | cpu, 1 not in the map"),
        (placed(("a", "cpu"), ("b", "meta"), seen=False), "split: cpu | meta, not seen by the planner"),
    ],
)
def test_the_words_of_a_verdict(group, word: str) -> None:
    assert group_verdict(group) == word


@pytest.mark.parametrize("name", [*SAMPLES, None])
def test_the_json_report_fits_its_schema(name: str | None) -> None:
    placement = SAMPLES[name] if name else None
    data = json.loads(json.dumps(json_document(report_of(placement))))
    jsonschema.validate(data, SCHEMA)
    (target,) = data["targets"]
    if placement is None:
        assert target["placement"] is None
        return
    assert target["placement"]["strategy"] == placement.strategy
    assert list(target["placement"]["plans"][0]["device_map"].items()) == list(placement.plans[0].device_map.items())
    if placement.memory:
        assert target["placement"]["memory"] == {"0": 10737418240, "cpu": 32212254720}


def test_the_schema_knows_each_field_of_the_records() -> None:
    target = SCHEMA["properties"]["targets"]["items"]
    (placement,) = (kind for kind in target["properties"]["placement"]["anyOf"] if kind["type"] == "object")
    assert list(placement["properties"]) == list(Placement._fields)
    assert target["properties"]["placement"]["description"].startswith("Effects of a device map on the ties")
    broken = as_plain_data(LLAMA) | {"odd": 1}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, placement)


def test_the_text_report_has_it_before_the_findings() -> None:
    stream = io.StringIO()
    render(report_of(LLAMA), Style(), stream)
    assert "\n    placement: auto, by --device-map" in stream.getvalue()
    stream = io.StringIO()
    render(report_of(None), Style(), stream)
    assert "placement" not in stream.getvalue()


def test_colours_change_no_word() -> None:
    import re

    colored = re.sub(r"\x1b\[[0-9;]*m", "", text_of(LLAMA, color="always"))
    assert [line.rstrip() for line in colored.splitlines() if "group" in line][:3] == [
        line for line in text_of(LLAMA).splitlines() if "group" in line
    ][:3]


def test_a_map_that_does_not_fit_is_an_error_of_the_target(monkeypatch, models: Path) -> None:
    def refuse() -> None:
        raise UsageError("map.json is an impossible map")

    monkeypatch.setitem(registry._facts, "placement", Fact("placement", "live", "", (), refuse))
    with pytest.raises(UsageError):
        Facts({}).get("placement")
    monkeypatch.setattr("tiecheck.facts.opening.facts_of", lambda *_: Facts({}))
    report = check_target(str(models / "llama-healthy-tied"), Config())
    assert (report.status, report.errors[0].message) == ("error", "map.json is an impossible map")
