"""The lines that fix a finding on a source, as edits: each says what stands in the file and what has to."""

from __future__ import annotations

import ast
import re

from tiecheck.records.edits import Edit, Step, source_step
from tiecheck.records.source import Event, LooseCall, Method, ModuleClass, SourceFile
from tiecheck.rules.source.sightings import class_of_path, derives_from_theirs, module_of

KNOWN = frozenset({"F", "torch", "nn", "math", "float", "int", "len"})
"""Names that mean the same in a method as in a constructor."""

MORE = "its line does more than this one thing, or is written in a way that is not edited."
"""The reason why a line that is wrong has no edit."""


def _edit(choice: str, *steps: Step, when: str | None = None, safe: bool = True) -> tuple[Edit, ...]:
    return (Edit(choice, when, safe, steps),)


def shared_instead(file: SourceFile, owner: ModuleClass, event: Event, *, safe: bool) -> tuple[Edit, ...]:
    """Return the way to assign the parameter itself, or to leave that to the library where the class maps the two."""
    if not event.sides or not event.sides[0].endswith(".weight"):
        return ()
    if gone := _gone_for_the_library(file, owner, event):
        return _edit("declared", gone, safe=safe)
    code = " = ".join(event.sides)
    return _edit("shared", source_step(owner.name, code, event.statement, file=file.path, line=event.line), safe=safe)


def unaliased(file: SourceFile, owner: ModuleClass, event: Event) -> tuple[Edit, ...]:
    """Return the ways to share a weight where its module was: sure where a linear layer stands there before."""
    if not event.sides:
        return ()
    weights = event._replace(target=f"{event.target}.weight", source=f"{event.source}.weight")
    if (gone := _gone_for_the_library(file, owner, weights)) and "Linear" in class_of_path(owner, event.target):
        return _edit("declared", gone)
    code = " = ".join(f"{side}.weight" for side in event.sides)
    step = source_step(owner.name, code, event.statement, file=file.path, line=event.line)
    if "Linear" in class_of_path(owner, event.target):
        begun = owner.method("__init__")
        places = [e for e in begun.events if e.kind == "build" and e.target == event.target] if begun else []
        within = event.branch if begun and event in begun.events else ()
        before = any(e.branch == within[: len(e.branch)] and "Linear" in e.source for e in places)
        return _edit("weight", step) if before else ()
    gone = source_step(owner.name, None, event.statement, file=file.path, line=event.line)
    head, table = event.sides
    return (
        *_edit("weight", step, when=f"{head} is a linear layer of its own by then"),
        *_edit("removed", gone, when=f"forward multiplies by {table}.weight and does not call {head}"),
    )


def turned_round(file: SourceFile, owner: ModuleClass, tie: Event) -> tuple[Edit, ...]:
    """Return the way to keep the linear layer's draw; else to draw the tensor again."""
    if not tie.sides:
        return ()
    code = " = ".join(tie.sides[::-1])
    named = all(side.endswith(".weight") for side in tie.sides)  # a local name cannot take the other's place
    if not named or class_of_path(owner, module_of(tie.target)) != "Linear":
        code = f"{tie.statement}\n{tie.sides[1]}.data.normal_(mean=0.0, std=0.02)"
    return _edit("drawn", source_step(owner.name, code, tie.statement, file=file.path, line=tie.line))


def renamed(  # noqa: PLR0913, PLR0917  # two names, and the place of one
    file: SourceFile, owner: str, name: str, right: str, line: int, statement: str = ""
) -> tuple[Edit, ...]:
    """Return the way to spell a name right, in a class attribute's statement or where it stands alone."""
    code = re.sub(rf"^{name}\b", right, statement) if statement else right
    return _edit("renamed", source_step(owner, code, statement or name, file=file.path, line=line))


def one_each(file: SourceFile, line: int, expression: str, element: str, count: str) -> tuple[Edit, ...]:
    """Return the way to build one module each, which gives the model more parameters than it had."""
    code = f"[{element} for _ in range({count})]"
    return _edit("one-each", source_step("", code, expression, file=file.path, line=line), safe=False)


def begun_at_end(file: SourceFile, owner: ModuleClass, begun: Method) -> tuple[Edit, ...]:
    """Return the way to end a constructor with `post_init()`."""
    code = f"{begun.arguments[0]}.post_init()"
    return _edit("begun", source_step(owner.name, code, method=begun.name, file=file.path, line=begun.line))


def begun_behind(file: SourceFile, owner: ModuleClass, begun: Method, call: Event, made: Event) -> tuple[Edit, ...]:
    """Return the way to move `post_init()` behind the statement that makes what it ties."""
    if not made.statement:
        return ()
    code = f"{begun.arguments[0]}.post_init()"
    gone = source_step(owner.name, None, code, file=file.path, line=call.line)
    both = source_step(owner.name, f"{made.statement}\n{code}", made.statement, file=file.path, line=made.line)
    return _edit("moved", gone, both)


def moved_behind(file: SourceFile, owner: ModuleClass, tie: Event, made: list[Event]) -> tuple[Edit, ...]:
    """Return the way to move a tie behind the last statement that makes a member again, within one block.

    Where the class maps the two, and `post_init()` came too early, the library ties them there.
    """
    last = made[-1]
    homes = [_home(owner, event) for event in (tie, last)]
    if homes[0] is None or homes[0] != homes[1] or not last.statement or any(e.branch != tie.branch for e in made):
        return ()
    own = homes[0].arguments[0]
    mapped = _gone_for_the_library(file, owner, tie)
    if mapped is None and tie.sides != (f"{own}.{tie.target}", f"{own}.{tie.source}"):
        return ()  # a local name stands for the tensor that was there
    gone = mapped or source_step(owner.name, None, tie.statement, file=file.path, line=tie.line)
    code = f"{last.statement}\n{f'{own}.tie_weights()' if mapped else tie.statement}"
    both = source_step(owner.name, code, last.statement, file=file.path, line=last.line)
    return _edit("moved", gone, both)


def _home(owner: ModuleClass, event: Event) -> Method | None:
    """Return the method in whose text an event stands."""
    before = [method for method in owner.methods if method.line <= event.line and method.arguments]
    return max(before, key=lambda method: method.line, default=None)


def declared_instead(file: SourceFile, owner: ModuleClass, tie: Event) -> tuple[Edit, ...]:
    """Return the way to leave a tie to `post_init()`, which makes those that the class maps."""
    gone = _gone_for_the_library(file, owner, tie)
    return _edit("declared", gone, when="config.tie_word_embeddings is to decide") if gone else ()


def _gone_for_the_library(file: SourceFile, owner: ModuleClass, tie: Event) -> Step | None:
    """Return the step that takes out a statement, under no condition, for the tie that `post_init()` makes anyway."""
    begun = owner.method("__init__")
    keys = owner.keys.pairs if owner.keys is not None and owner.keys.form == "mapping" else ()
    ends = begun is not None and any(name.rpartition(".")[2] == "post_init" for name in begun.calls)
    within = begun is not None and not tie.branch and begun.line <= tie.line
    mapped = not {(tie.target, tie.source), (tie.source, tie.target)}.isdisjoint(keys)
    if not tie.statement or not ends or not within or not mapped or not derives_from_theirs(file, owner):
        return None
    return source_step(owner.name, None, tie.statement, file=file.path, line=tie.line)


def tied_again(file: SourceFile, call: LooseCall, ties: tuple[Event, ...]) -> tuple[Edit, ...]:
    """Return the way to tie again after a call that takes a model's ties apart."""
    if not call.statement:
        return ()
    code = "\n".join([call.statement, *(f"{call.root}.{tie.target} = {call.root}.{tie.source}" for tie in ties)])
    when = f"{call.root} is built with its ties" if any(tie.branch for tie in ties) else None
    return _edit("tied", source_step("", code, call.statement, file=file.path, line=call.line), when=when)


def uncopied(file: SourceFile, owner: ModuleClass, event: Event) -> tuple[Edit, ...]:
    """Return the way to put one module many times into a list, which gives the model fewer parameters."""
    if not event.statement:
        return ()
    for node in ast.walk(ast.parse(event.statement)):
        last = ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""
        if not isinstance(node, ast.Call) or not (
            last == "deepcopy" or (last.endswith("clones") and len(node.args) == 2)
        ):
            continue
        old, held, *count = (ast.get_source_segment(event.statement, part) or "" for part in (node, *node.args))
        code = f"nn.ModuleList([{held} for _ in range({count[0]})])" if count else held
        step = source_step(owner.name, code, old, file=file.path, line=event.line + node.lineno - 1)
        return _edit("shared", step, safe=False) if not count or "nn.Module" in owner.bases else ()
    return ()


def method_instead(file: SourceFile, owner: ModuleClass, event: Event) -> tuple[Edit, ...]:
    """Return the way to make a method of a closure that uses nothing but its arguments and the module."""
    begun = owner.method("__init__")
    node = ast.parse(event.statement).body[0] if event.statement else None
    elsewhere = owner.method(event.target) is not None or event.target in dict(owner.built)
    if begun is None or event not in begun.events or event.branch or elsewhere or not isinstance(node, ast.Assign):
        return ()
    own, made = begun.arguments[0], node.value
    if ast.unparse(node.targets[0]) != f"{own}.{event.target}" or "." in event.target:
        return ()
    if isinstance(made, ast.Lambda):
        given, body = ast.unparse(made.args), ast.get_source_segment(event.statement, made.body)
        names = {one.arg for one in (*made.args.posonlyargs, *made.args.args, *made.args.kwonlyargs)}
    elif isinstance(made, ast.Call) and len(made.args) == 1:  # partial
        given, names = "x", {"x"}
        body = f"{ast.unparse(made.args[0])}(x, {', '.join(map(ast.unparse, made.keywords))})"
    else:
        return ()
    used = {one.id for one in ast.walk(ast.parse(body or "")) if isinstance(one, ast.Name)}
    if own in names or not used <= names | {own} | KNOWN:
        return ()
    gone = source_step(owner.name, None, event.statement, file=file.path, line=event.line)
    code = f"def {event.target}({own}, {given}):\n    return {body}"
    return _edit("method", gone, source_step(owner.name, code, file=file.path, line=owner.line))


def called_by_5(file: SourceFile, owner: ModuleClass, method: Method) -> tuple[Edit, ...]:
    """Return the way to take out an override that does nothing, or to let it pass on what it is called with."""
    begun = re.match(r"(def [^#\n]*:)\s*(#.*)?\n|(?=def [^\n]*$)(def [^#\n]*?\)[^#\n:]*:)", method.text)
    if begun is None:
        return ()
    head = begun[1] or begun[3]
    if method.empty:
        return _edit("removed", source_step(owner.name, None, head, file=file.path, line=method.line))
    indent = method.column - 1  # of spaces or tabs
    lines = (line if line[:indent].strip() else line[indent:] for line in method.text.split("\n")[1:])
    node = ast.parse("\n".join((method.text.partition("\n")[0], *lines))).body[0]
    if not isinstance(node, ast.FunctionDef) or node.args.vararg or node.args.kwonlyargs:
        return ()
    new = ast.unparse(ast.arguments([], node.args.args, kwonlyargs=[], kw_defaults=[], defaults=node.args.defaults))
    old, inner = ast.unparse(node.args), "super().tie_weights()"
    calls = [one.lineno for one in ast.walk(node) if isinstance(one, ast.Call) and ast.unparse(one) == inner]
    others = sum("tie_weights" in ast.unparse(one.func) for one in ast.walk(node) if isinstance(one, ast.Call))
    if len(calls) != 1 or others != 1 or old != new or f"({old})" not in head:
        return ()
    whole = source_step(
        owner.name, head.replace(f"({old})", f"({old}, **kwargs)"), head, file=file.path, line=method.line
    )
    on = source_step(
        owner.name, "super().tie_weights(**kwargs)", inner, file=file.path, line=method.line + calls[0] - 1
    )
    return _edit("passed", whole, on)
