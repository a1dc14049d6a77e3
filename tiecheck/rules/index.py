"""Code of a rule -> its module in this package, and the facts that it wants. Made by docs/generate.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tiecheck.facts.registry import FactName

INDEX: dict[str, tuple[str, tuple[FactName, ...]]] = {
    "TIE101": ("stored.lost", ("groups", "loaders")),
    "TIE102": ("stored.lost", ("groups", "loaders")),
    "TIE103": ("stored.flags", ("groups", "loaders", "flags")),
    "TIE104": ("stored.flags", ("groups", "loaders", "flags")),
    "TIE105": ("stored.flags", ("groups", "loaders", "flags")),
    "TIE106": ("stored.copies", ("groups", "loaders")),
    "TIE107": ("stored.names", ("groups", "loaders")),
    "TIE108": ("stored.shapes", ("groups", "loaders")),
    "TIE109": ("stored.copies", ("groups", "loaders")),
    "TIE110": ("stored.names", ("groups",)),
    "TIE111": ("stored.names", ("groups", "loaders")),
    "TIE112": ("stored.odd_flags", ("groups", "load_problems", "flags")),
    "TIE201": ("files.shards", ("index", "index_gaps")),
    "TIE202": ("files.shards", ("duplicates",)),
    "TIE203": ("files.formats", ("layouts",)),
    "TIE204": ("files.optimizer", ("optimizer",)),
    "TIE205": ("files.strict", ("strict_load",)),
    "TIE206": ("files.loading", ("load_problems",)),
    "TIE207": ("files.loading", ("load_problems",)),
    "TIE301": ("live.applied", ("live_class", "mending", "declared_ties", "heads")),
    "TIE302": ("live.applied", ("live_class", "mending", "live_ties")),
    "TIE303": ("live.seen", ("live_class", "mending", "aliases")),
    "TIE304": ("live.seen", ("live_class", "mending", "save_problems", "derived_weights")),
    "TIE305": ("live.flags", ("live_class", "mending", "live_ties", "declared_ties", "tie_candidates")),
    "TIE306": ("live.groups", ("live_class", "mending", "declared_ties", "heads")),
    "TIE307": ("live.groups", ("live_class", "mending", "declared_ties", "heads")),
    "TIE308": ("live.groups", ("live_class", "mending", "declared_ties", "heads", "bias_misfits")),
    "TIE309": ("live.keys", ("key_problems",)),
    "TIE310": ("live.keys", ("key_problems",)),
    "TIE311": ("live.keys", ("key_problems",)),
    "TIE312": ("live.freezes", ("live_class", "mending", "intended_differences")),
    "TIE313": ("live.members", ("live_class", "mending", "live_ties", "derived_weights")),
    "TIE314": ("live.applied", ("live_class", "mending", "declared_ties", "heads", "tie_candidates")),
    "TIE315": ("live.flags", ("live_class", "mending", "declared_ties", "heads", "tie_candidates")),
    "TIE316": ("live.members", ("live_class", "mending", "live_ties", "declared_ties", "equal_copies")),
    "TIE317": ("live.members", ("live_class", "mending", "live_ties")),
    "TIE318": ("live.seen", ("live_class", "mending", "aliases")),
    "TIE501": ("placement.splits", ("placement", "live_class", "declared_ties", "aliases")),
    "TIE502": ("placement.unseen", ("placement", "live_class", "live_ties", "heads", "aliases", "mending")),
    "TIE503": ("placement.counts", ("placement",)),
    "TIE508": ("placement.planners", ("placement",)),
    "TIE509": ("placement.planners", ("placement",)),
    "TIE510": ("placement.loads", ("placement",)),
    "TIE511": ("placement.loads", ("placement",)),
    "TIE605": ("artefacts.adapters", ("groups", "beside_adapter")),
    "TIE701": ("training.scale", ("scale",)),
}
