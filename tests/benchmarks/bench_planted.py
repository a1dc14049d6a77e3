"""Recall of the rules on sources: `python tests/benchmarks/bench_planted.py [--each N] [--seed N] [--missed] [--fix]`.

Takes classes of the installed transformers that tie rightly, writes a fault into the text of one, at a drawn place and
in a drawn spelling, and looks whether the rule speaks on that line. With `--fix` each is fixed in a temporary folder,
and its class is built. Prints a Markdown table; nothing is written.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import random
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import transformers

from tiecheck.records.source import SourceFile
from tiecheck.rules.registry import all_rules
from tiecheck.source.reading import parse_source

RULES = [rule() for rule in all_rules() if rule.code.startswith("TIE8")]


class Place(NamedTuple):
    """A class that builds a head, maps it to an embedding, and calls `post_init()`."""

    path: str
    lines: tuple[str, ...]
    cls: ast.ClassDef
    keys: ast.Assign
    begun: ast.FunctionDef
    head: ast.Assign
    """The statement that builds the head."""
    target: str
    source: str
    """Paths of head and embedding."""


Planted = tuple[str, int] | None
"""The text with the fault, and the line on which it is to be found; None where the idiom does not fit the class."""


def places(models: str = "*") -> Iterator[Place]:
    """Every class of the installed transformers, of some of its models, that a fault can be written into."""
    for path in sorted(Path(transformers.__path__[0], "models").glob(f"{models}/modeling_*.py")):
        text = path.read_text(encoding="utf-8")
        if "_tied_weights_keys" in text:
            lines = tuple(text.splitlines())
            for node in ast.parse(text).body:
                if isinstance(node, ast.ClassDef) and (place := _place(str(path), lines, node)):
                    yield place


def _place(path: str, lines: tuple[str, ...], cls: ast.ClassDef) -> Place | None:
    keys = next(
        (n for n in cls.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "_tied_weights_keys"), None
    )
    begun = next((n for n in cls.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    if (
        keys is None
        or begun is None
        or not isinstance(keys.value, ast.Dict)
        or "self.post_init()" not in ast.unparse(begun)
    ):
        return None
    pairs = [
        (k.value, v.value)
        for k, v in zip(keys.value.keys, keys.value.values, strict=True)
        if isinstance(k, ast.Constant) and isinstance(v, ast.Constant)
    ]
    for target, source in pairs:
        plain = all(re.fullmatch(r"[\w.]+\.weight", name) for name in (target, source))
        head, table = target.removesuffix(".weight"), source.removesuffix(".weight")
        made = [n for n in begun.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == f"self.{head}"]
        if (
            plain
            and made
            and ast.unparse(made[0].value).startswith("nn.Linear(")
            and "config.tie" not in ast.unparse(begun)
        ):
            return Place(path, lines, cls, keys, begun, made[0], head, table)
    return None


def after(place: Place, line: int, *new: str) -> Planted:
    """The text with lines after a line; the last of them is where the fault is."""
    lines = [*place.lines[:line], *new, *place.lines[line:]]
    return "\n".join(lines) + "\n", line + len(new)


def instead(place: Place, node: ast.stmt, *new: str, at: int = 0) -> Planted:
    """The text with lines in the place of a statement."""
    lines = [*place.lines[: node.lineno - 1], *new, *place.lines[node.end_lineno :]]
    return "\n".join(lines) + "\n", node.lineno + at


def statement(template: str) -> Callable[[Place, random.Random], Planted]:
    """An idiom that is one more statement, with `H` for the head and `E` for the embedding, however they are spelt."""

    def plant(place: Place, rng: random.Random) -> Planted:
        head, table = f"self.{place.target}", f"self.{place.source}"
        spelling = rng.randrange(4)
        before: list[str] = []
        if spelling == 1 and template.startswith("H."):
            before, head = [f"head = {head}"], "head"
        elif spelling == 2:
            before, table = [f"embeddings = {table}"], "embeddings"
        elif spelling == 3 and "." in place.source:
            first, _, rest = place.source.partition(".")
            before, table = [f"inner = self.{first}"], f"inner.{rest}"
        code = re.sub(r"\bH\b", head, re.sub(r"\bE\b", table, template)).split("\n")
        where = rng.randrange(3)
        if where == 0:  # in the constructor, behind the head
            return after(place, place.head.end_lineno or 0, *(f"        {line}" for line in (*before, *code)))
        if where == 1:  # where the config asks for it
            lines = ["if config.tie_word_embeddings:", *(f"    {line}" for line in (*before, *code))]
            return after(place, place.begun.end_lineno or 0, *(f"        {line}" for line in lines))
        lines = ["", "def tie_weights(self, **kwargs):", "    super().tie_weights(**kwargs)"]
        lines += [f"    {line}" for line in (*before, *code)]
        return after(place, place.begun.end_lineno or 0, *(f"    {line}" for line in lines))

    return plant


def in_constructor(*template: str) -> Callable[[Place, random.Random], Planted]:
    """An idiom that is one more statement at the end of the constructor."""

    def plant(place: Place, rng: random.Random) -> Planted:
        line = rng.choice([place.head.end_lineno or 0, place.begun.end_lineno or 0])
        code = [
            re.sub(r"\bH\b", f"self.{place.target}", re.sub(r"\bE\b", f"self.{place.source}", one)) for one in template
        ]
        return after(place, line, *(f"        {one}" for one in code))

    return plant


def listed(place: Place, rng: random.Random) -> Planted:
    assert isinstance(place.keys.value, ast.Dict)
    names = [ast.unparse(key) for key in place.keys.value.keys if key]
    form = rng.choice(
        [
            "    _tied_weights_keys = [{}]",
            "    _tied_weights_keys = ({},)",
            "    _tied_weights_keys = [\n        {}\n    ]",
        ]
    )
    return instead(place, place.keys, *form.format(", ".join(names)).split("\n"))


def misspelt(place: Place, rng: random.Random) -> Planted:
    name = rng.choice(
        ["tied_weights_keys", "_tied_weight_keys", "_tie_weights_keys", "__tied_weights_keys", "_tied_keys"]
    )
    old = place.lines[place.keys.lineno - 1 : place.keys.end_lineno]
    return instead(place, place.keys, *"\n".join(old).replace("_tied_weights_keys", name, 1).split("\n"))


def itself(place: Place, _: random.Random) -> Planted:
    pairs = ast.literal_eval(ast.unparse(place.keys.value)) | {f"{place.target}.weight": f"{place.target}.weight"}
    return instead(place, place.keys, "    _tied_weights_keys = " + str(pairs).replace("'", '"'))


def unbegun(place: Place, _: random.Random) -> Planted:
    for node in place.begun.body:
        if ast.unparse(node) == "self.post_init()":
            text, _line = instead(place, node, "        pass") or ("", 0)
            return text, place.begun.lineno
    return None


def overridden(place: Place, rng: random.Random) -> Planted:
    form = rng.choice(
        [
            "(self):\n        pass",
            "(self, *args, **kwargs):\n        return None",
            '(self, **kwargs):\n        """Nothing."""',
        ]
    )
    return after(place, place.cls.end_lineno or 0, "", *f"    def tie_weights{form}".split("\n")[:1]) and _method(
        place, form
    )


def _method(place: Place, form: str) -> Planted:
    lines = ["", *f"    def tie_weights{form}".split("\n")]
    text, _ = after(place, place.begun.end_lineno or 0, *lines) or ("", 0)
    return text, (place.begun.end_lineno or 0) + 2


def four(place: Place, rng: random.Random) -> Planted:
    body = rng.choice(
        ["super().tie_weights()", f"self._tie_or_clone_weights(self.{place.target}, self.{place.source})"]
    )
    return _method(place, f"(self):\n        {body}")


def rebound(place: Place, rng: random.Random) -> Planted:
    made = "\n".join(place.lines[place.head.lineno - 1 : place.head.end_lineno])
    tie = f"        self.{place.target}.weight = self.{place.source}.weight"
    lost = rng.choice([made, f"        self.{place.target}.weight = nn.Parameter(torch.zeros(1, 1))"])
    behind = place.begun.end_lineno or 0  # before `post_init()`, which ties again, it would be no fault
    text, line = after(place, behind, tie, *lost.split("\n")) or ("", 0)
    return text, behind + 1 if line else 0


def repeated(place: Place, rng: random.Random) -> Planted:
    text = "\n".join(place.lines) + "\n"
    found = list(re.finditer(r"\[(\w+(?:Layer|Block)\w*)\((config)[^()\n]*\) for \w+ in range\(([\w.]+)\)\]", text))
    if not found:
        return None
    one = rng.choice(found)
    new = rng.choice(["[{0}({1})] * {2}", "{2} * [{0}({1})]", "[{0}({1}, 0)] * {2}"]).format(*one.groups())
    return text[: one.start()] + new + text[one.end() :], text[: one.start()].count("\n") + 1


def bypassed(place: Place, rng: random.Random) -> Planted:
    lines = list(place.lines)
    inside = range(place.cls.lineno - 1, place.cls.end_lineno or 0)
    calls = [i for i in inside if re.search(rf"= self\.{re.escape(place.target)}\((.+)\)$", lines[i])]
    others = [i for i in inside if f"self.{place.target}" in lines[i] and i not in calls]
    allowed = {place.head.lineno - 1}
    if len(calls) != 1 or set(others) - allowed - {i for i in others if "return" in lines[i] or "new_emb" in lines[i]}:
        return None
    form = rng.choice(["F.linear({}, self.{}.weight)", "{} @ self.{}.weight.t()", "torch.matmul({}, self.{}.weight.T)"])
    given = re.search(rf"self\.{re.escape(place.target)}\((.+)\)$", lines[calls[0]])
    assert given is not None
    lines[calls[0]] = lines[calls[0]][: given.start()] + form.format(given[1], place.source)
    return "\n".join(lines) + "\n", calls[0] + 1


def kept(place: Place, rng: random.Random) -> Planted:
    forward = next((n for n in place.cls.body if isinstance(n, ast.FunctionDef) and n.name == "forward"), None)
    if forward is None:
        return None
    form = rng.choice(
        ["self.out_w = H.weight.t()", "self.out_w = H.weight.detach().clone()", "w = H.weight\nself.out_w = w.T"]
    )
    code = [f"        {line}" for line in form.replace("H", f"self.{place.target}").split("\n")]
    used = place._replace(
        lines=(*place.lines[: forward.end_lineno], "        out_w = self.out_w", *place.lines[forward.end_lineno :])
    )
    return after(used, place.begun.end_lineno or 0, *code)


def plain(place: Place, rng: random.Random, *after: str) -> list[str]:
    """A plain class with the names of the place that ties, with some lines after the tie."""
    head, table = place.target.rpartition(".")[2], place.source.rpartition(".")[2]
    built = [f"        self.{table} = nn.Embedding(v, d)", f"        self.{head} = nn.Linear(d, v, bias=False)"]
    rng.shuffle(built)
    tie = [f"        self.{head}.weight = self.{table}.weight"]
    if rng.random() < 0.5:
        tie = [f"        table = self.{table}", f"        self.{head}.weight = table.weight"]
    lines = ["class Plain(nn.Module):", "    def __init__(self, v, d):", "        super().__init__()", *built, *tie]
    forward = ["", "    def forward(self, ids):", f"        return self.{head}(self.{table}(ids))"]
    return ["import torch", "from torch import nn", "", "", *lines, *after, *forward, "", ""]


def drawn_wide(place: Place, rng: random.Random) -> Planted:
    lines = plain(place, rng)
    return "\n".join(lines), next(n for n, line in enumerate(lines, 1) if ".weight = " in line)


def left_apart(*body: str) -> Callable[[Place, random.Random], Planted]:
    """An idiom of a function that builds a class which ties, and takes the tie apart in its last line but one."""

    def plant(place: Place, rng: random.Random) -> Planted:
        table = place.source.rpartition(".")[2]
        lines = plain(place, rng, f"        nn.init.normal_(self.{table}.weight, std=0.02)")
        name = rng.choice(["model", "net", "lm"])
        lines += ["def load(state, v, d):", *(re.sub(r"\bmodel\b", name, f"    {one}") for one in body)]
        return "\n".join([*lines, f"    return {name}", ""]), len(lines)

    return plant


def parted(place: Place, rng: random.Random) -> Planted:
    flag = rng.choice(["config.tie_word_embeddings", "self.config.tie_word_embeddings", "config.bbox_embed_share"])
    copied = rng.choice(["_get_clones(self.box, 6)", "nn.ModuleList([copy.deepcopy(self.box) for _ in range(6)])"])
    code = ["self.box = nn.Linear(8, 4)", f"if {flag}:", f"    self.boxes = {copied}"]
    code += ["else:", "    self.boxes = nn.ModuleList([nn.Linear(8, 4) for _ in range(6)])"]
    text, line = after(place, place.begun.end_lineno or 0, *(f"        {one}" for one in code)) or ("", 0)
    return text, line - 2


def cloned(place: Place, rng: random.Random) -> Planted:
    layer = ["class PlantedLayer(nn.Module):", "    def __init__(self, table):", "        super().__init__()"]
    layer += ["        self.table = table", "        self.lin = nn.Linear(8, 8)"]
    copied = rng.choice(["_get_clones(layer, 4)", "nn.ModuleList([copy.deepcopy(layer) for _ in range(4)])"])
    code = ["self.rel_bias = nn.Embedding(32, 8)", "layer = PlantedLayer(self.rel_bias)", f"self.planted = {copied}"]
    text, line = after(place, place.begun.end_lineno or 0, *(f"        {one}" for one in code)) or ("", 0)
    return text + "\n\n" + "\n".join(layer) + "\n", line


IDIOMS: dict[str, tuple[str, Callable[[Place, random.Random], Planted]]] = {
    "a list of keys": ("TIE803", listed),
    "a misspelt declaration": ("TIE804", misspelt),
    "a misspelt flag": ("TIE804", in_constructor("config.tie_word_embedding = True")),
    "a key mapped to itself": ("TIE805", itself),
    "`post_init()` left out": ("TIE814", unbegun),
    "`tie_weights` with nothing": ("TIE815", overridden),
    "`tie_weights(self)` of 4.x": ("TIE815", four),
    "`.data = .data`": ("TIE802", statement("H.weight.data = E.weight.data")),
    "`.data =` the parameter": ("TIE802", statement("H.weight.data = E.weight")),
    "`nn.Parameter(w)`": ("TIE802", statement("H.weight = nn.Parameter(E.weight)")),
    "`nn.Parameter(w.data)`": ("TIE802", statement("H.weight = torch.nn.Parameter(E.weight.data)")),
    "`nn.Parameter(w.clone())`": ("TIE802", statement("H.weight = nn.Parameter(E.weight.clone())")),
    "`deepcopy(w)`": ("TIE802", statement("H.weight = copy.deepcopy(E.weight)")),
    "the module for the weight": ("TIE801", statement("H = E")),
    "tied whatever the config says": ("TIE808", in_constructor("H.weight = E.weight")),
    "tied, and rebound": ("TIE806", rebound),
    "`[Layer()] * n`": ("TIE813", repeated),
    "a head that forward goes around": ("TIE809", bypassed),
    "a plain tensor": ("TIE816", kept),
    "the embedding's draw": ("TIE807", drawn_wide),
    "`load_state_dict(assign=True)`": (
        "TIE810",
        left_apart("model = Plain(v, d)", "model.load_state_dict(state, assign=True)"),
    ),
    "`to_empty()`": (
        "TIE811",
        left_apart("with torch.device('meta'):", "    model = Plain(v, d)", "model.to_empty(device='cpu')"),
    ),
    "copies, where the flag shares": ("TIE812", parted),
    "layers cloned with a shared table": ("TIE818", cloned),
    "a comparison": ("TIE802", statement("H.weight == E.weight")),
    "a closure": ("TIE817", in_constructor("self.logits = lambda x: x @ H.weight.t()")),
}


def found(file: SourceFile | None) -> set[tuple[str, int | None]]:
    """Code and line of every finding on one file."""
    files = tuple(one for one in (file, beside()) if one is not None)
    drafts = ((rule, draft) for rule in RULES for draft in rule.check(files))
    return {(rule.code, draft.locations[0].line) for rule, draft in drafts if draft.locations[0].path == "model.py"}


@lru_cache
def beside() -> SourceFile | None:
    """Another file of the library, untouched: its mapping tells that the tree is of transformers 5."""
    path = Path(transformers.__path__[0], "models", "llama", "modeling_llama.py")
    return parse_source(path.read_bytes(), "llama.py")


def parses(text: str) -> bool:
    """Tell whether a planted text is Python: a call within a call may be taken apart by the pattern of an idiom."""
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


def drawn(name: str, every: list[Place], each: int, seed: int) -> Iterator[tuple[Place, str, int]]:
    """Some places with an idiom planted into them: the place, the text with the fault, and its line."""
    rng = random.Random(f"{seed} {name}")
    for place in rng.sample(every, len(every)):
        made = IDIOMS[name][1](place, rng) if each else None
        if made is not None and parses(made[0]):
            each -= 1
            yield place, *made


def print_fixes(every: list[Place], each: int, seed: int, *, diffs: bool) -> None:
    """Fix what is planted, and print the table."""
    from planted_fixes import fixed_file

    print("| idiom | rule | planted | fixed | built | another finding is told | wrong |\n|---|---|---|---|---|---|---|")
    for name, (code, _) in IDIOMS.items():
        ends = []
        for place, text, line in drawn(name, every, each, seed):
            owner = "Plain" if "class Plain" in text else place.cls.name
            ends.append(end := fixed_file(place.path, owner, text, code, line))
            if diffs or end.wrong:
                change = difflib.unified_diff(
                    text.splitlines(), end.text.splitlines(), place.path, owner, "", "", 2, ""
                )
                print("\n".join((*change, *end.wrong)))
        more = sum(bool(end.more) for end in ends)
        counts = (len(ends), *(sum(end[at] for end in ends) for at in (1, 3)), more, sum(bool(e.wrong) for e in ends))
        print(f"| {name} | {code} | {' | '.join(map(str, counts))} |", flush=True)


def main() -> None:
    """Plant, look, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=40, help="places an idiom")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--missed", action="store_true", help="print what is not found; with --fix, each change")
    parser.add_argument("--fix", action="store_true", help="fix what is planted")
    options = parser.parse_args()
    every = list(places())
    print(f"{len(every)} classes of transformers {transformers.__version__}, seed {options.seed}\n")
    if options.fix:
        transformers.logging.set_verbosity_error()
        print_fixes(every, options.each, options.seed, diffs=options.missed)
        return
    print("| idiom | rule | planted | found |\n|---|---|---|---|")
    total = seen = 0
    for name, (code, _) in IDIOMS.items():
        planted = hits = 0
        for place, text, line in drawn(name, every, options.each, options.seed):
            planted += 1
            hit = (code, line) in found(parse_source(text.encode(), "model.py"))
            hits += hit
            if not hit and options.missed:
                print(f"missed: {place.path} {place.cls.name} line {line}: {text.splitlines()[line - 1].strip()}")
        total, seen = total + planted, seen + hits
        print(f"| {name} | {code} | {planted} | {hits} |")
    print(f"| all | | {total} | {seen} ({seen / total:.1%}) |")


if __name__ == "__main__":
    main()
