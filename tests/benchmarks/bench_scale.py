"""Holds TIE701's prediction against measured models: `python tests/benchmarks/bench_scale.py --help`.

Models of the GPT-2 thread over widths, vocabularies, depths, norms, draws, embedding and logit scales are built,
predicted and run. A false alarm is an error where the measured deviation is below 4, a miss the reverse. `--write`
writes the page and its picture.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

import tiecheck
from tiecheck.records.scale import InitScale
from tiecheck.rules.training.scale import ERROR_FROM


class Setting(NamedTuple):
    """One model of the sweep."""

    width: int = 256
    vocabulary: int = 4000
    layers: int = 2
    norm: str = "layer"
    draw: str = "embedding"
    embedding_scale: float = 1.0
    logit_scale: float = 1.0


class Block(nn.Module):
    """A block of the thread's GPT-2, with default draws."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        x = x + self.out(F.scaled_dot_product_attention(query, key, value, is_causal=True))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Model(nn.Module):
    """The thread's GPT-2 under one setting."""

    def __init__(self, of: Setting) -> None:
        super().__init__()
        self.of = of
        self.wte, self.wpe = nn.Embedding(of.vocabulary, of.width), nn.Embedding(128, of.width)
        self.blocks = nn.ModuleList([Block(of.width) for _ in range(of.layers)])
        kinds: dict[str, Any] = {"layer": nn.LayerNorm, "rms": nn.RMSNorm, "none": lambda _: nn.Identity()}
        self.final_norm = kinds[of.norm](of.width)
        self.head = nn.Linear(of.width, of.vocabulary, bias=False)
        if of.draw == "linear":
            self.wte.weight = self.head.weight
        else:
            self.head.weight = self.wte.weight
        if of.draw not in {"embedding", "linear"}:
            nn.init.normal_(self.wte.weight, std=float(of.draw) if of.draw != "1/sqrt(d)" else of.width**-0.5)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.wte(ids) * self.of.embedding_scale + self.wpe(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.final_norm(x)) * self.of.logit_scale


def settings() -> Iterator[Setting]:
    """Yield the settings of the sweep: each width and draw with each of the rest in turn."""
    draws = ("embedding", "linear", "0.02", "1/sqrt(d)", "0.1")
    for width, draw in itertools.product((64, 256, 768), draws):
        plain = Setting(width=width, draw=draw)
        yield plain
        yield from (plain._replace(layers=n) for n in (1, 6, 12) if width < 768 or n < 12)
        yield from (plain._replace(norm=norm) for norm in ("rms", "none"))
        yield from (plain._replace(vocabulary=n) for n in (512, 50257) if width < 768 or n < 50257)
        yield from (plain._replace(embedding_scale=s) for s in (width**0.5, 0.1))
        yield from (plain._replace(logit_scale=s) for s in (width**-0.5, 0.25, 8.0))


def drawn_settings(count: int, seed: int) -> Iterator[Setting]:
    """Yield settings off that grid."""
    draw = random.Random(seed)
    for _ in range(count):
        width, std = 8 * draw.randint(4, 96), f"{10 ** draw.uniform(-2.5, 0.2):.4f}"
        sizes = {"width": width, "vocabulary": round(2 ** draw.uniform(8, 15)), "layers": draw.randint(1, 8)}
        kinds = {"norm": draw.choice(("layer", "rms", "none")), "draw": draw.choice(("embedding", "linear", std, std))}
        embedding, logit = draw.choice((1.0, 1.0, width**0.5)), draw.choice((1.0, 1.0, 10 ** draw.uniform(-1.5, 1)))
        yield Setting(**sizes, **kinds, embedding_scale=embedding, logit_scale=logit)


def measure(of: Setting, seed: int) -> tuple[InitScale, str | None]:
    """Return what is predicted and measured of one setting, and the severity that TIE701 gives it."""
    torch.manual_seed(seed)
    model = Model(of)
    report = tiecheck.check(model, select=["TIE701"], measure=True, timeout=0)
    (scale,) = report.targets[0].scale
    return scale, next((finding.severity for finding in report.findings), None)


def main() -> None:
    """Run the sweep, print the figures and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="write the page; the picture goes beside it")
    parser.add_argument("--every", type=int, default=1, help="only each n-th setting")
    parser.add_argument("--seed", type=int, default=0, help="of the models' draws, and of --drawn")
    parser.add_argument("--drawn", type=int, default=0, help="so many settings drawn, and not those of the grid")
    options = parser.parse_args()
    some = drawn_settings(options.drawn, options.seed) if options.drawn else settings()
    rows = [(of, *measure(of, options.seed)) for of in itertools.islice(some, 0, None, options.every)]
    text = summary(rows)
    print(text)
    if options.write:
        options.write.write_text(PAGE.format(summary=text), encoding="utf-8")
        options.write.with_suffix(".svg").write_text(picture(rows), encoding="utf-8")


def summary(rows: list[tuple[Setting, InitScale, str | None]]) -> str:
    """Return the figures of a sweep as a table."""
    blown = [(scale.measured or 0.0) >= ERROR_FROM for _, scale, _ in rows]
    alarms = [severity == "error" for _, _, severity in rows]
    false = sum(a and not b for a, b in zip(alarms, blown, strict=True))
    missed = sum(b and not a for a, b in zip(alarms, blown, strict=True))
    near = [of for of, s, _ in rows if abs((s.measured or 0) / ERROR_FROM - 1) < 0.02]
    pairs = {
        "deviation of the logits": [(s.predicted, s.measured) for _, s, _ in rows],
        "first loss": [(s.predicted_loss, s.loss) for _, s, _ in rows],
    }
    lines = [
        f"| {len(rows)} models, {sum(blown)} with a measured deviation of 4 and more | median error | largest |",
        "|---|---|---|",
    ]
    for name, both in pairs.items():
        errors = [abs(p / m - 1) for p, m in both if p and m]
        lines.append(f"| {name} | {statistics.median(errors):.2%} | {max(errors):.1%} |")
    chances = [abs((s.predicted_sampled or 0) - (s.sampled or 0)) for _, s, _ in rows]
    lines.append(f"| chance of repeating the token | {statistics.median(chances):.3f} | {max(chances):.2f} |")
    lines.append("")
    lines.append(f"False alarms: {false}. Misses: {missed}. Models within 2 % of the line: {len(near)}.")
    return "\n".join(lines)


def picture(rows: list[tuple[Setting, InitScale, str | None]]) -> str:
    """Return predicted against measured, deviation and first loss, on logarithmic axes, as SVG."""
    plots = (
        ("deviation of the logits", [(s.predicted, s.measured) for _, s, _ in rows], 0.01, 300.0),
        ("first loss (nats)", [(s.predicted_loss, s.loss) for _, s, _ in rows], 4.0, 6000.0),
    )
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" width="720" height="380" font-family="sans-serif" font-size="12">'
    ]
    parts.append('<rect width="720" height="380" fill="white"/>')
    for n, (title, pairs, low, high) in enumerate(plots):
        left, span = 50 + 350 * n, 290

        def at(value: float, low: float = low, high: float = high, span: int = span) -> float:
            return span * math.log(value / low) / math.log(high / low)

        parts.append(f'<text x="{left}" y="20">{title}: measured (up) against predicted</text>')
        parts.append(f'<rect x="{left}" y="40" width="{span}" height="{span}" fill="none" stroke="#888"/>')
        parts.append(f'<line x1="{left}" y1="{40 + span}" x2="{left + span}" y2="40" stroke="#bbb"/>')
        for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1):
            x = at(10.0**power)
            parts.append(f'<text x="{left + x:.0f}" y="{58 + span}" text-anchor="middle">{10.0**power:g}</text>')
            parts.append(f'<text x="{left - 4}" y="{44 + span - x:.0f}" text-anchor="end">{10.0**power:g}</text>')
        for p, m in pairs:
            if p and m:
                place = f'cx="{left + at(p):.1f}" cy="{40 + span - at(m):.1f}"'
                parts.append(f'<circle {place} r="2.5" fill="#06c" fill-opacity="0.5"/>')
    return "\n".join([*parts, "</svg>", ""])


PAGE = """\
# The scale of a tied matrix: predicted against measured

Made by `python tests/benchmarks/bench_scale.py --write docs/evidence/scale.md`: models of the GPT-2 thread over widths
(64, 256, 768), draws (`nn.Embedding`'s, `nn.Linear`'s, normal of 0.02, 0.1 and 1/sqrt(d)), vocabularies, depths, final
norms (LayerNorm, RMSNorm, none), embedding scales (sqrt(d), 0.1) and logit scales (1/sqrt(d), 0.25, 8). Each is
predicted from its statistics, and run on random tokens (`--measure`). A false alarm is an error of TIE701 where the
measured deviation is below 4.

{summary}

With another seed (`--seed 20261130`) there are again 0 false alarms and 0 misses, and so for 60 settings off that grid
(`--drawn 60`: 0.08 % and 0.9 % for the deviation, 0.31 % and 3.4 % for the loss).

## The thread's model, both ways

Predicted / measured on random tokens; the last size is the thread's own, 12 layers and 50,257 words
(`pytest -m slow tests/scale/test_prediction.py`).

| width | the tie | deviation of the logits | margin of the own token | first loss | sampling repeats it |
|---|---|---|---|---|---|
| 64 | head from embedding | 8.01 / 7.94 | 19.2 / 19.1 | 44.04 / 43.79 | 1 / 0.993 |
| 64 | embedding from head | 0.575 / 0.573 | -1.47 / -1.36 | 6.405 / 6.353 | 0.010 / 0.005 |
| 256 | head from embedding | 16.0 / 16.0 | 109 / 110 | 170.5 / 171.9 | 1 / 1 |
| 256 | embedding from head | 0.578 / 0.578 | -1.92 / -1.87 | 9.154 / 9.171 | 0.005 / 0.000 |
| 768 | head from embedding | 27.7 / 27.7 | 347 / 356 | 465.6 / 473.9 | 1 / 1 |
| 768 | embedding from head | 0.577 / 0.577 | -2.21 / -2.25 | 10.99 / 10.92 | 0.004 / 0.000 |

![predicted against measured](scale.svg)
"""


if __name__ == "__main__":
    main()
