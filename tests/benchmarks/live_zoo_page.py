"""Writes docs/live-zoo.md from the rows of a run of `bench_live_zoo.py`."""

from __future__ import annotations

import platform
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from breaks import BREAKS
from broken import BY_HAND

Row = dict[str, Any]

WORDS = ("found", "unknown", "missed", "wrong kind", "right", "false alarm", "not here")

LIFE = """\
- `lm_head.weight = embed_tokens.weight` under a false flag: `save_pretrained` drops the head by the class's keys, and
  the load makes it at random (TIE305; `test_u1`, and the last line of the breaks below).
- `resize_token_embeddings` under a false flag ties encoder, decoder and shared embedding (BART, Pegasus, SeamlessM4T),
  and the next save drops two of them (TIE305; `test_u2`).
- `tie_weights()` after `torch.nn.utils.prune` on BERT's head puts the embedding in the place of the pruning mask: the
  key `decoder.weight` is used as a pattern, and matches `decoder.weight_mask` (TIE313; `test_u10`).
- `Qwen3OmniMoeTalkerCodePredictorModelForConditionalGeneration` declares names that it does not have: with the flag
  true it cannot be built (TIE309; `test_u9`).
- A class with list-form `_tied_weights_keys` builds under a false flag, and cannot be saved (TIE311; `test_u7`); with
  `tie_weights(self)` it cannot be built (the report is unknown, with the reason); a module alias cannot be saved
  (TIE303, TIE304; `test_u7`).
"""
"""What cannot be seen in a class as it is."""

HEAD = """# The live layer over every class

Written by `python tests/benchmarks/bench_live_zoo.py --untouched --breaks --write docs/live-zoo.md`; do not edit it by
hand. {versions}

Every class of an auto mapping, under each of its model types, and every public `PreTrainedModel` that none of them has,
is built on the meta device at its full size, and what `find_ties` and `check` say is compared with the identity of its
parameters. The config is the default one; of a class that can tie anything also with the flag forced true and false at
every level. Small and with weights, the ties of each class are then broken in every way, and what is true afterwards is
told by object, memory and values, without tiecheck.
"""


def page(rows: list[Row], broken: list[Row], versions: dict[str, str]) -> str:
    """The whole page."""
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    sections = (_counts(rows), _verdicts(rows), _upstream(rows), _breaks(broken), _unknown(rows), _absent(rows, broken))
    parts = [HEAD.format(versions=f"Run with {named}, Python {platform.python_version()}.")]
    return "\n".join([*parts, *("\n".join(section) + "\n" for section in sections), *_time(rows, broken)]) + "\n"


def _table(head: Iterable[str], lines: Iterable[Iterable[Any]]) -> Iterator[str]:
    head = list(head)
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for line in lines:
        yield f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |"


def _built(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if not row["not_built"]]


def _of(rows: list[Row], variant: str, *, mapped: bool | None = None) -> list[Row]:
    return [r for r in rows if r["variant"] == variant and mapped in (None, r["mapped"])]


def _counts(rows: list[Row]) -> Iterator[str]:
    yield "## What was built\n"
    groups = {
        "auto-mapped, default": _of(rows, "default", mapped=True),
        "public and unmapped, default": _of(rows, "default", mapped=False),
        "flag true at every level": _of(rows, "true"),
        "flag false at every level": _of(rows, "false"),
    }
    head = (
        "",
        "models",
        "built",
        "classes",
        "declare ties",
        "hold ties",
        "by a module alias",
        "groups",
        "members",
        "wrong",
    )
    yield from _table(head, ([words, *_count(part)] for words, part in groups.items()))
    built = _built(rows)
    most = max(built, key=lambda row: row["groups"])
    longest = max(built, key=lambda row: row["names"])
    default = _built(_of(rows, "default"))
    split = [r for r in default if len({v for v in r["flags"].values() if v is not None}) > 1]
    yield (
        f"\n{sum(r['parameters'] for r in default) / 1e12:.1f} T parameters described by the default builds, under "
        f"{sum(r['names'] for r in default):,} names (most in one model: {longest['names']:,}, {longest['class']}). "
        f"Most groups in one model: {most['groups']}, {most['class']}. {sum(r['free_aliases'] > 0 for r in default)} "
        "models register modules without parameters under several paths (shared activations): none is reported. "
        f"{len(split)} default configs have flags that do not agree with one another.\n"
    )


def _count(part: list[Row]) -> list[Any]:
    built = _built(part)
    sizes = sorted({size for row in built for size in row["sizes"]})
    return [
        len(part),
        len(built),
        len({row["class"] for row in built}),
        sum(row["declares"] for row in built),
        sum(bool(row["groups"]) for row in built),
        sum("module" in row["kinds"] for row in built),
        sum(row["groups"] for row in built),
        f"{sizes[0]} to {sizes[-1]}" if sizes else "",
        sum(bool(row["wrong"]) for row in built),
    ]


def _verdicts(rows: list[Row]) -> Iterator[str]:
    built = _built(rows)
    wrong = [row for row in built if row["wrong"]]
    total = sum(row["groups"] for row in built)
    yield "## What was said of untouched models\n"
    yield (
        f"{total:,} groups in {len(built):,} models; names, kinds, aliases and entries are right in "
        f"{len(built) - len(wrong):,} of them.\n"
    )
    yield from (f"- {_title(row)}: {' '.join(row['wrong'][0].split())}" for row in wrong)
    found = Counter((f["code"], f["severity"], row["variant"]) for row in built for f in row["findings"])
    models = Counter(
        key for row in built for key in {(f["code"], f["severity"], row["variant"]) for f in row["findings"]}
    )
    lines = [
        [code, severity, variant, n, models[code, severity, variant]]
        for (code, severity, variant), n in sorted(found.items())
    ]
    yield from _table(("rule", "severity", "config", "findings", "models"), lines)
    loud = [(row, f) for row in built for f in row["findings"] if f["severity"] != "info"]
    yield f"\n{len(loud)} errors and warnings.\n"
    yield from (f"- {_title(row)}: {f['code']} {f['severity']}: {f['message']}" for row, f in loud)


def _title(row: Row) -> str:
    return f"{row['class']} ({row['model_type']}, {row['variant']})"


def _upstream(rows: list[Row]) -> Iterator[str]:
    yield "## What transformers itself does wrong\n"
    yield (
        "Each is produced with the library, its damage shown, and found, in `tests/differential/test_upstream.py`, "
        "with a control by 4.57.6. To see one of the tables: "
        "`tiecheck.check(CLASS(CONFIG))` with the config that stands above it.\n"
    )
    yield LIFE
    inert = [(row, f) for row in _built(rows) for f in row["findings"] if f["code"] == "TIE315"]
    yield _held(_built(rows), {_title(row) for row, f in inert if "whatever" not in f["message"]})
    default = {row["class"]: f for row, f in inert if row["variant"] == "default" and "whatever" not in f["message"]}
    asked = {row["class"]: f for row, f in inert if row["variant"] == "true" and row["class"] not in default}
    gated: dict[str, set[str]] = {}
    for row, f in inert:
        if "whatever" in f["message"]:
            gated.setdefault(row["class"], set()).add(f["message"].partition(" are ")[0])
    yield f"### The flag of the default config is true and ties nothing: {len(default)} classes\n"
    yield from _table(("class", "what"), ([name, f["message"]] for name, f in sorted(default.items())))
    yield f"\n### The flag is set true and ties nothing: {len(asked)} more classes\n"
    yield from _table(("class", "what"), ([name, f["message"]] for name, f in sorted(asked.items())))
    yield f"\n### A false flag unties what 4.57 ties whatever the flag says: {len(gated)} classes\n"
    yield from _table(("classes", "group"), _gathered(gated))


def _held(built: list[Row], told: set[str]) -> str:
    """The flags that tie nothing, told by the getters alone, beside what was found of them."""
    true = [row for row in built if row["variant"] != "false" and any(row["flags"].values())]
    apart = [row for row in true if row["heads"] == "two of one shape"]
    silent = sorted({row["class"] for row in apart if _title(row) not in told})
    return (
        "A flag is true at some level, and `get_input_embeddings` and `get_output_embeddings` return two parameters of "
        f"one shape, in {len(apart)} of the models above; TIE315 speaks of {sum(_title(r) in told for r in apart)} of "
        f"them. It is silent on {', '.join(silent) or 'none'}: the head there is tied to another embedding.\n"
    )


def _gathered(gated: dict[str, set[str]]) -> Iterator[list[str]]:
    """Classes by the groups they have, a line each; a group among many of one class is counted."""
    by: dict[str, list[str]] = {}
    for name, groups in gated.items():
        first = min(groups)
        more = f" and {len(groups) - 1} more" if len(groups) > 1 else ""
        by.setdefault(f"{first}{more}", []).append(name)
    yield from (
        [", ".join(sorted(names)), group] for group, names in sorted(by.items(), key=lambda item: sorted(item[1]))
    )


def _distinct(rows: list[Row]) -> int:
    """How many classes some rows are about; one may stand under several model types."""
    return len({row["class"] for row in rows})


def _breaks(broken: list[Row]) -> Iterator[str]:
    built = _built(broken)
    meta = [row for row in built if row["on_meta"]]
    groups = {(row["class"], row["model_type"], tuple(o["names"])) for row in built for o in row["outcomes"]}
    yield "## Ties broken\n"
    yield (
        f"{_distinct(built)} classes that tie something, {len(groups)} groups of theirs: that of the input "
        "embeddings, the first of three or more members, and the first of vectors. What cannot be had small "
        f"({_distinct(meta)} classes) is broken on meta, in the ways that need no values. `found`: an error names the "
        "broken member, by the rule that is for it. `right`: the tie holds after all, and nothing is said. "
        "`not here`: the group has not the shape for it.\n"
    )
    counts: dict[str, Counter[str]] = {}
    codes: dict[str, Counter[str]] = {}
    for row in built:
        for o in row["outcomes"]:
            counts.setdefault(o["way"], Counter())[o["word"]] += 1
            codes.setdefault(o["way"], Counter()).update(o["codes"] if o["word"] == "found" else ())
    words = {name: way.words for name, way in BREAKS.items()} | {BY_HAND: "the head tied by hand under a false flag"}
    lines = [
        [text, *(counts[name][word] for word in WORDS), ", ".join(code for code, _ in codes[name].most_common())]
        for name, text in words.items()
        if name in counts
    ]
    total = ["all", *(sum(count[word] for count in counts.values()) for word in WORDS), ""]
    yield from _table(("what is done", *WORDS, "rules"), [*lines, total])
    yield ""
    for row in built:
        for o in row["outcomes"]:
            if o["word"] in ("missed", "wrong kind", "false alarm"):
                said = ", ".join(o["codes"]) or "nothing"
                yield f"- {row['class']}, {o['way']}, {o['names'][0]}: {o['state']}, {o['word']} ({said})"


def _unknown(rows: list[Row]) -> Iterator[str]:
    yield "## Unknown, and why\n"
    reasons = Counter(reason[:200] for row in _built(rows) for reason in row["unknown"])
    yield from (f"- {count} x {reason}" for reason, count in reasons.most_common())
    if not reasons:
        yield "Nothing."


def _absent(rows: list[Row], broken: list[Row]) -> Iterator[str]:
    yield "## Not built, and why\n"
    yield from _table(("classes", "why", "which"), _reasons(_of(rows, "default")))
    refused = [row for row in rows if row["not_built"] and row["variant"] != "default"]
    yield from (f"\n{_title(row)}: {row['not_built']}" for row in refused)
    yield "\n### Not to be had small\n"
    why = [{**row, "not_built": row.get("on_meta") or row["not_built"]} for row in broken]
    yield from _table(("classes", "why", "which"), _reasons(why))


def _reasons(rows: list[Row]) -> list[list[Any]]:
    found: dict[str, set[str]] = {}
    for row in rows:
        if row["not_built"]:
            why = re.sub(r"^ImportError: \w+ requires the (\w+) lib.*", r"needs the \1 library", row["not_built"])
            why = re.sub(
                r"[\d,]{9,} parameters", "more than 10 million parameters however small its config is made", why
            )
            found.setdefault(why[:160], set()).add(row["class"])
    lines = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    return [[len(names), why, ", ".join(sorted(names))] for why, names in lines]


def _time(rows: list[Row], broken: list[Row]) -> Iterator[str]:
    built = _built(rows)
    cpu = {key: sum(row["seconds"][key] for row in built) for key in ("build", "truth", "tiecheck")}
    slow = sorted(built, key=lambda row: -row["seconds"]["tiecheck"])[:5]
    whole = sorted(built, key=lambda row: -sum(row["seconds"].values()))[:5]
    small = {key: sum(row["seconds"][key] for row in _built(broken)) for key in ("all", "tiecheck")}
    yield "## Time\n"
    yield (
        f"CPU seconds of the untouched models: {cpu['build']:.0f} to build them, {cpu['truth']:.0f} for the truth, "
        f"{cpu['tiecheck']:.0f} for `find_ties` and `check`. The breaks took {small['all']:.0f}, "
        f"{small['tiecheck']:.0f} of them in `check`.\n"
    )
    yield f"Slowest for tiecheck: {_slowest(slow, ('tiecheck',))}.\n"
    yield f"Slowest as a whole: {_slowest(whole, ('build', 'truth', 'tiecheck'))}."


def _slowest(rows: list[Row], keys: tuple[str, ...]) -> str:
    return ", ".join(f"{row['class']} {sum(row['seconds'][key] for key in keys):.2f} s" for row in rows)
