"""What a run is to do, in one frozen record made of flags."""

from typing import Literal

from tiecheck.record import Record
from tiecheck.report import Severity


class Config(Record):
    """The options of one run. The Python functions take the same words as keywords."""

    select: tuple[str, ...] = ()
    """Rule codes or prefixes to run; empty for all."""
    ignore: tuple[str, ...] = ()
    """Rule codes or prefixes to leave out."""
    fail_on: Severity = "warning"
    """The mildest severity that fails a target."""
    strict: bool = False
    """Whether a skip fails the run."""
    values: Literal["auto", "never", "always"] = "auto"
    """Whether tensor bytes may be read."""
    live: bool = False
    """Whether to build the class on the meta device."""
    load: bool = False
    """Whether to load the weights too; implies `live`."""
    trust_remote_code: bool = False
    """Whether the directory's own modeling file may be run; implies `live`."""

    judge_for: tuple[str, ...] = ()
    """The loaders that matter (`--for`), as `name` or `name==version`; empty for every loader of the matrix."""
    revision: str | None = None
    """The branch, tag or commit of a hub model; None for what the address says, else the main branch."""
    offline: bool = False
    """Whether nothing may be fetched: a hub model then comes from the local cache alone."""

    @property
    def wants_live(self) -> bool:
        """Whether the live layer was asked for."""
        return self.live or self.load or self.trust_remote_code
