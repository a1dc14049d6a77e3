"""Shared by the rules on declared groups of a live model: which of them speaks for a broken one, and why."""

from __future__ import annotations

from tiecheck.records.live import DeclaredTie, Head

BROKEN = ("copy", "separate", "overlap")


def speaking_rule(claim: DeclaredTie, declared: tuple[DeclaredTie, ...], heads: tuple[Head, ...]) -> str | None:
    """Return the code of the one rule that reports a declared group; None where the group is not broken.

    Where one cause fits several rules, the more precise one speaks: half on meta, half tied, a bias out of step with
    its weight, a head tied to an embedding that was replaced, and last that the tie is not applied.
    """
    if claim.kind not in BROKEN or claim.stored == "separate":
        return None  # a loader that keeps apart what is stored apart is right; the checkpoint is TIE101's matter
    if "meta" in claim.devices and set(claim.devices) - {"meta", "offloaded"}:
        return "TIE314"
    if len(claim.names) > 2 and any(len(part) > 1 for part in claim.parts):
        return "TIE307"
    if follows_weight(claim, declared):
        return "TIE308"
    return "TIE306" if why_stale(claim, heads) else "TIE301"


def follows_weight(claim: DeclaredTie, declared: tuple[DeclaredTie, ...]) -> bool:
    """Tell whether a group is of biases, one of which stands beside a weight that is declared tied as well."""
    if not all(name.rpartition(".")[2].endswith("bias") for name in claim.names):
        return False
    owners = {name.rpartition(".")[0] for name in claim.names}
    weights = {name for other in declared for name in other.names if name.endswith("weight")}
    return any(weight.rpartition(".")[0] in owners for weight in weights)


def why_stale(claim: DeclaredTie, heads: tuple[Head, ...]) -> str | None:
    """Return why a broken group looks like a tie to an embedding that was replaced; None where nothing says so."""
    two = [shape for shape in claim.shapes if shape is not None and len(shape) == 2]
    if len(two) > 1 and len(set(two)) > 1 and claim.reason is None:  # a transposed copy was never tied
        return "they have different shapes: " + " and ".join(str(list(shape)) for shape in dict.fromkeys(two))
    for head in heads:
        others = set(head.head) - set(claim.names)
        if set(head.head) & set(claim.names) and others and set(head.embedding) & set(claim.names):
            return f"the head is one tensor with {min(others)}"
    return None


def parts_text(claim: DeclaredTie) -> str:
    """Return the members as they fall apart."""
    return "; ".join(" = ".join(part) for part in claim.parts[:4])
