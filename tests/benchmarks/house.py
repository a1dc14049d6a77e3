"""The structural figures of a checkout: `python tests/benchmarks/house.py [ROOT] [--beside BEFORE] [--list FIGURE]`.

Reads the Python files of the package and of the tests, imports none of them, and prints a Markdown table. A room is a
direct child of the package. The generators of the tables are left out of the package's lines, files and rooms.
"""

from __future__ import annotations

import argparse
import ast
import re
import statistics
from collections import Counter, defaultdict, namedtuple
from collections.abc import Iterator
from pathlib import Path

# High to low: a room may import the rooms after it. The ground's modules may import one another and nothing else.
ORDER = """__init__ __main__ cli testing fleet api guard render fix engine rules facts placement peers scale trace live
stored source files targets config tables records"""
RANK = {room: rank for rank, room in enumerate(ORDER.split())}
RANK |= dict.fromkeys(("wording", "union_find", "errors", "patterns", "_version"), 100)  # the ground
SHARE, SHARES = 16, {"rules": 20}  # percent of the package's lines that a room may have
GOALS = {"lines": 28_000, "files": 215, "long": 50, "longfiles": 300, "words": 80, "suite": 360}
GOALS |= dict.fromkeys(("rooms", "circles", "back", "twice", "openers", "unnamed", "unmentioned"), 0)  # at most
OPENER = re.compile(r"(what|whether|how|why|which)\b", re.IGNORECASE)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
OWNERS = (*FUNCTIONS, ast.ClassDef)
Found = namedtuple("Found", "shown number members")  # as shown, as held against the goal, and what is behind it


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """A statement and every one under it: those in functions and under `if TYPE_CHECKING` too."""
    yield node
    for block in ("body", "orelse", "finalbody", "handlers", "cases"):
        for child in getattr(node, block, ()):
            yield from statements(child)


def is_text(node: ast.AST) -> bool:
    """True for a statement that is a docstring, of an attribute too."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


class Source:
    """A file: its place, its dotted name, its room and its statements."""

    def __init__(self, root: Path, path: Path) -> None:
        place = path.relative_to(root)
        self.path, self.parts = place.as_posix(), place.with_suffix("").parts
        self.text = path.read_text(encoding="utf-8")
        self.name = ".".join(self.parts).removesuffix(".__init__")
        self.room = self.parts[1]
        self.generates = self.room == "data" or self.parts[1:3] == ("tables", "generate")
        self.lines = len(self.text.splitlines())
        self.body = ast.parse(self.text, self.path).body
        self.nodes = [each for node in self.body for each in statements(node)]

    def imports(self) -> Iterator[tuple[int, str, str]]:
        """Line, dotted name and the name taken from it, which is empty for a plain import."""
        for node in self.nodes:
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name, "") for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = self.parts[: -node.level] if node.level else ()
                dotted = ".".join([*base, node.module or ""]).strip(".")
                yield from ((node.lineno, dotted, alias.name) for alias in node.names)


def listed(members: list[str], of: str = "") -> Found:
    """A figure that is the number of its members."""
    return Found(f"{len(members):,}{of}", len(members), members)


def sized(sources: list[Source]) -> Found:
    """A figure that no goal is set for: files and lines; its members are the files, the longest first."""
    members = [f"{s.lines:5} {s.path}" for s in sorted(sources, key=lambda s: -s.lines)]
    return Found(f"{len(sources):,} files, {sum(s.lines for s in sources):,} lines", None, members)


class House:
    """A checkout. Every public method is a figure, titled by its docstring."""

    def __init__(self, root: Path, suite: float | None) -> None:
        self._suite = suite
        package = [Source(root, path) for path in sorted(root.glob("tiecheck/**/*.py"))]
        self._tests = [Source(root, path) for path in sorted(root.glob("tests/**/*.py"))]
        self._modules = {source.name: source for source in package}
        self._nodes = [(source, node) for source in package for node in source.nodes]
        self._counted = [source for source in package if not source.generates]
        self._total = sum(source.lines for source in self._counted)
        found = ((s, self._target(*names), line) for s in package for line, *names in s.imports())
        self._arrows = {(s.name, target): f"{s.path}:{n}" for s, target, n in found if target not in ("", s.name)}
        rooms = Counter(source.room for source in self._counted for _ in range(source.lines))
        self.shares = {room: (lines, 100 * lines / self._total) for room, lines in rooms.most_common()}

    def _target(self, dotted: str, name: str) -> str:
        """The module an import is of: a submodule taken from its package is no import of the package."""
        return inner if (inner := f"{dotted}.{name}") in self._modules else dotted if dotted in self._modules else ""

    def _homes(self, kinds: tuple[type, ...]) -> dict[str, list[str]]:
        """Public name -> the modules that define it at their own level."""
        homes: dict[str, list[str]] = defaultdict(list)
        for source in self._modules.values():
            for name in {node.name for node in source.body if isinstance(node, kinds)}:
                homes[name].append(source.name)
        return {name: at for name, at in sorted(homes.items()) if not name.startswith("_")}

    def _registered(self) -> Iterator[tuple[str, str]]:
        """Names by which tests ask for what a module registers, with it: codes of rules, names of operations."""
        for source, node in self._nodes:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "code":
                code = str(getattr(node.value, "value", ""))
                yield from [(code, source.name)] if re.fullmatch(r"TIE\d+", code) else ()
        for name, source in self._modules.items():
            if name.startswith("tiecheck.guard.operations."):
                yield from ((word, name) for word in re.findall(r'"([a-z\d]+(?:-[a-z\d]+)+)"', source.text))

    def _without(self, named: set[str]) -> Found:
        """The modules without a name for them in the tests; one that is a docstring only has nothing to test."""
        return listed([n for n, s in self._modules.items() if n not in named and not all(map(is_text, s.body))])

    def lines(self) -> Found:
        """Lines in the package."""
        return Found(f"{self._total:,}", self._total, sized(self._counted).members)

    def files(self) -> Found:
        """Files in the package."""
        return listed(sized(self._counted).members)

    def generators(self) -> Found:
        """Generators of the tables, not counted above."""
        return sized([source for source in self._modules.values() if source.generates])

    def tests(self) -> Found:
        """Tests."""
        return sized(self._tests)

    def rooms(self) -> Found:
        """Rooms over 16 % of the lines (rules 20 %)."""
        over = sum(share > SHARES.get(room, SHARE) for room, (_, share) in self.shares.items())
        shown = [f"{room} {share:.1f} %, {lines:,} lines" for room, (lines, share) in self.shares.items()]
        return Found(f"{over}; the biggest {shown[0]}", over, shown)

    def circles(self) -> Found:
        """Circles of modules that import each other."""
        reached = {name: {target for source, target in self._arrows if source == name} for name in self._modules}
        for middle, onward in reached.items():
            for seen in reached.values():
                seen.update(onward if middle in seen else ())
        rings = {tuple(sorted(each for each in seen if name in reached[each])) for name, seen in reached.items()} - {()}
        members = []
        for ring in sorted(rings, key=lambda ring: (-len(ring), ring)):
            inside = [f"  {at}: {a} -> {b}" for (a, b), at in self._arrows.items() if a in ring and b in ring]
            members += [f"{len(ring)} modules: {' '.join(ring)}", *inside]
        return Found(f"{len(rings)} (of {sum(map(len, rings))} modules)", len(rings), members)

    def back(self) -> Found:
        """Imports against the order of the rooms."""
        # Not told where there are rooms that the order does not name.
        rooms = {name: source.room for name, source in self._modules.items()}
        known = [(rooms[a], rooms[b], f"{at}: {a} -> {b}") for (a, b), at in self._arrows.items()]
        members = [f"{a} -> {b}  {at}" for a, b, at in known if a in RANK and b in RANK and RANK[b] < RANK[a]]
        unknown = [f"unknown room: {room}" for room in sorted({*rooms.values()} - {*RANK})]
        return Found("-", None, sorted(members) + unknown) if unknown else listed(sorted(members))

    def long(self) -> Found:
        """Longest function."""
        found = [(n.end_lineno - n.lineno + 1, s, n) for s, n in self._nodes if isinstance(n, FUNCTIONS)]
        found.sort(key=lambda each: -each[0])  # without decorators
        lengths = [lines for lines, *_ in found]
        spread = f"median {statistics.median(lengths):g}, 90th percentile {statistics.quantiles(lengths, n=10)[-1]:g}"
        members = [f"{lines:5} {s.path}:{n.lineno} {n.name}" for lines, s, n in found if lines > GOALS["long"]]
        return Found(f"{lengths[0]} ({found[0][2].name}); {spread}", lengths[0], members)

    def longfiles(self) -> Found:
        """Longest file."""
        longest = max(self._modules.values(), key=lambda source: source.lines)
        over = sized([source for source in self._modules.values() if source.lines > GOALS["longfiles"]]).members
        return Found(f"{longest.lines} ({longest.path})", longest.lines, over)

    def words(self) -> Found:
        """Public functions named by one word."""
        # Each name once, of functions at module level only: of all ways to count this finds the 233 of 523.
        homes = self._homes(FUNCTIONS)
        return listed([f"{name}: {' '.join(at)}" for name, at in homes.items() if "_" not in name], f" of {len(homes)}")

    def twice(self) -> Found:
        """Public names in two modules."""
        # Every command and every format is called by the name that is left out.
        homes = {name: at for name, at in self._homes(OWNERS).items() if name not in ("command", "render")}
        return listed([f"{name}: {' '.join(at)}" for name, at in homes.items() if len(at) > 1])

    def openers(self) -> Found:
        """Docstrings that open with a question word."""
        # Of functions, methods and classes, private ones too: of all ways to count this finds the 416 of 1,772.
        owners = {node.body[0] for _, node in self._nodes if isinstance(node, OWNERS)}
        texts = [(n in owners, f"{s.path}:{n.lineno}", n.value.value.strip()) for s, n in self._nodes if is_text(n)]
        opened = sorted((each for each in texts if OPENER.match(each[2])), key=lambda each: not each[0])
        own, total = (sum(owned for owned, *_ in found) for found in (opened, texts))
        shown = f"{own:,} of {total:,}; of modules and attributes {len(opened) - own:,} of {len(texts) - total:,}"
        return Found(shown, own, [f"{'' if o else 'also '}{at}: {text.splitlines()[0]}" for o, at, text in opened])

    def unnamed(self) -> Found:
        """Modules no test imports, nor takes a public name from."""
        taken = ((self._target(dotted, name), name) for s in self._tests for _, dotted, name in s.imports())
        return self._without({at for at, name in taken if not re.match("_(?!_)", name) or at.endswith(f".{name}")})

    def unmentioned(self) -> Found:
        """Modules no test mentions."""
        # A longer dotted name belongs to the innermost module in it; `from tiecheck.cli import fix` names `fix`.
        said = {name for source in self._tests for name in re.findall(r"(?<![\w.])tiecheck(?:\.\w+)*", source.text)}
        said |= {self._target(dotted, name) for source in self._tests for _, dotted, name in source.imports()} - {""}
        # A rule is asked for by its code, an operation by its name with hyphens: `survive --operations to-meta`.
        words = {word for source in self._tests for word in re.findall(r"[\w-]+", source.text)}
        said |= {module for name, module in self._registered() if name in words and re.search(r"-|\d", name)}
        within = [[module for module in self._modules if f"{name}.".startswith(f"{module}.")] for name in said]
        return self._without({max(modules, key=len) for modules in within})

    def suite(self) -> Found:
        """Seconds of the suite."""
        return Found("-" if self._suite is None else f"{self._suite:g}", self._suite, [])


def table(houses: list[House]) -> Iterator[list[str]]:
    """The rows: the figures with the goals, which the last checkout is held against, and the rooms."""
    yield ["Figure", *(["before", "after"] if len(houses) == 2 else ["now"]), "goal"]
    yield ["---"] * (len(houses) + 2)
    for key, figure in FIGURES.items():
        found = [figure(house) for house in houses]
        number = found[-1].number
        met = "not told" if number is None else "met" if number <= GOALS[key] else "not met"
        goal = f"{GOALS[key]:,}: {met}" if key in GOALS else ""
        yield [figure.__doc__.rstrip("."), *(each.shown for each in found), goal]
    for room in dict.fromkeys(room for house in reversed(houses) for room in house.shares):
        found = [house.shares.get(room, (0, 0)) for house in houses]
        most = SHARES.get(room, SHARE)
        goal = f"{most} %: {'met' if found[-1][1] <= most else 'not met'}" if found[-1][0] else ""
        yield [f"Room {room}", *(f"{lines:,} ({share:.1f} %)" if lines else "" for lines, share in found), goal]


FIGURES = {name: figure for name, figure in vars(House).items() if not name.startswith("_")}


def main() -> None:
    """Read the command line and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).resolve().parents[2])
    parser.add_argument("--beside", type=Path, help="the checkout to compare with: the column `before`")
    parser.add_argument("--suite", type=float, help="seconds of the suite, for the table")
    parser.add_argument("--suite-before", type=float, help="the same of the checkout to compare with")
    parser.add_argument("--list", choices=FIGURES, help="print the members behind a figure of ROOT instead")
    asked = parser.parse_args()
    houses = [House(asked.root, asked.suite)]
    if asked.list:
        print("\n".join(FIGURES[asked.list](houses[0]).members))
        return
    if asked.beside:
        houses.insert(0, House(asked.beside, asked.suite_before))
    for cells in table(houses):
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
