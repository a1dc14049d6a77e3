"""A fleet that repeats itself: what came before is not parsed again, and every model is judged as if it were alone."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from tiecheck.config.options import Config
from tiecheck.engine import run
from tiecheck.engine.run import check_target
from tiecheck.files.remote import reading, repeated_headers
from tiecheck.files.remote.repeated_headers import RecentItems
from tiecheck.records.report import TargetReport

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_headers", RecentItems())
    monkeypatch.setattr(reading, "_configs", RecentItems())
    monkeypatch.setattr(repeated_headers, "_models", RecentItems())


def both(embed: bytes = b"\1" * 32, head: bytes = b"\2" * 32, rows: int = 4) -> dict[str, Any]:
    return {EMBED: ("F32", [rows, 32 // 4 // rows], embed), HEAD: ("F32", [rows, 32 // 4 // rows], head)}


def judged(url: str, **options: Any) -> TargetReport:
    """A report without what is the address's own."""
    found = check_target(url, Config(**options))
    assert found.target == url
    text = json.dumps(found, default=str)
    assert url in text
    findings = tuple(f._replace(fingerprint="") for f in found.findings)
    return found._replace(target="", findings=findings, remote=None)


def test_the_second_of_two_twins_is_judged_like_the_first(serve, model, monkeypatch) -> None:
    files = model(both(), tie_word_embeddings=True)
    first, second = serve(files), serve(files)
    report = judged(f"{first.url}/m")
    assert report.ties
    assert report.findings or report.skips
    monkeypatch.setattr(reading, "shard_of_header", lambda *_, **__: pytest.fail("the header was parsed again"))
    monkeypatch.setattr(reading, "parse_config", lambda *_, **__: pytest.fail("the config was parsed again"))
    assert judged(f"{second.url}/m") == report
    assert sorted(second.paths()) == ["/m/config.json", "/m/model.safetensors"]


@pytest.mark.parametrize(
    ("tensors", "config"),
    [
        (both(), {"tie_word_embeddings": False}),
        (both(rows=2), {"tie_word_embeddings": True}),
        ({EMBED: both()[EMBED]}, {"tie_word_embeddings": True}),
        ({EMBED: both()[EMBED]}, {"tie_word_embeddings": False}),
        (both(), {"tie_word_embeddings": True, "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}),
    ],
)
def test_a_model_that_differs_is_judged_by_itself(serve, model, monkeypatch, tensors, config) -> None:
    url = f"{serve(model(tensors, **config)).url}/m"
    alone = judged(url)
    forget(monkeypatch)
    twin = judged(f"{serve(model(both(), tie_word_embeddings=True)).url}/m")
    assert judged(url) == alone != twin


def test_options_are_part_of_the_question(serve, model, monkeypatch) -> None:
    url = f"{serve(model(both(), tie_word_embeddings=True)).url}/m"
    alone = {}
    for values in ("auto", "never", "always"):
        forget(monkeypatch)
        alone[values] = judged(url, values=values)
    forget(monkeypatch)
    for values in ("always", "never", "auto", "always", "auto", "never"):
        assert judged(url, values=values) == alone[values]
    assert alone["always"].ties[0].stored == "separate"
    assert alone["auto"].ties[0].reason != alone["never"].ties[0].reason


def test_the_bytes_of_twins_are_their_own(serve, model) -> None:
    alike = f"{serve(model(both(head=bytes([1]) * 32), tie_word_embeddings=True)).url}/m"
    apart = f"{serve(model(both(), tie_word_embeddings=True)).url}/m"
    for url, kind in ((alike, "copy"), (apart, "separate"), (alike, "copy")):
        assert judged(url, values="always").ties[0].stored == kind


def test_a_broken_header_is_told_with_its_own_address_each_time(serve, model) -> None:
    files = model(both())
    files["model.safetensors"] = files["model.safetensors"][:-1]
    for server in (serve(files), serve(files)):
        report = check_target(f"{server.url}/m", Config())
        assert [f"{server.url}/m/model.safetensors" in error.message for error in report.errors] == [True]


def test_only_the_last_ones_are_kept() -> None:
    recent: RecentItems[int] = RecentItems(2)
    made: list[str] = []

    def get(key: str) -> int:
        return recent.get(key, lambda: made.append(key) or len(made))  # type: ignore[func-returns-value]

    for key in "abacab":
        get(key)
    assert made == ["a", "b", "c", "b"]
    with pytest.raises(ZeroDivisionError):
        recent.get("z", lambda: 1 // 0)
    assert recent.get("z", lambda: 7) == 7


def test_what_is_asked_for_stays_while_others_pass() -> None:
    recent: RecentItems[int] = RecentItems(8)
    draw = random.Random(8)
    for hot in "abc":
        recent.put(hot, ord(hot))
    for passing in range(300):
        for hot in draw.sample("abc", 3):
            assert recent.find(hot) == ord(hot)
        recent.put(passing, passing)
    assert sum(recent.find(key) is not None for key in [*"abc", *range(300)]) == 8


def test_a_verdict_is_used_once_two_addresses_had_it(serve, model, monkeypatch) -> None:
    files = model(both(), tie_word_embeddings=True)
    sites = [serve(files) for _ in range(4)]
    judged_in_full = []
    whole = run.judge_facts
    monkeypatch.setattr(run, "judge_facts", lambda target, *rest: judged_in_full.append(target) or whole(target, *rest))
    reports = [check_target(f"{site.url}/m", Config(), one_of_many=True) for site in sites]
    assert [target.text for target in judged_in_full] == [f"{site.url}/m" for site in sites[:2]]
    for report, site in zip(reports, sites, strict=True):
        assert report.findings or report.skips
        assert report == check_target(f"{site.url}/m", Config())
    other = check_target(f"{sites[0].url}/m", Config(ignore=("TIE1",)), one_of_many=True)
    assert other == check_target(f"{sites[0].url}/m", Config(ignore=("TIE1",)))
