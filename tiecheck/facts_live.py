"""The records of the live layer, apart from `facts` since a check of files never needs them."""

from tiecheck.facts import Kind
from tiecheck.record import Record


class Registration(Record):
    """One place where a module registers a parameter or buffer."""

    owner: str
    """The class of the module that registers it."""
    attribute: str
    """The attribute's name in that module."""


class Tie(Record):
    """A live group: names that share a module, a `Parameter` or memory."""

    names: tuple[str, ...]
    """The names, sorted; capped where there are very many."""
    names_total: int | None
    """How many names there really are; None where a registered cycle makes them endless."""
    kind: Kind
    """How they hang together: the weakest link that still holds all of them."""
    shape: tuple[int, ...] | None
    """Shape of the first member; None while it is uninitialised (a lazy module)."""
    dtype: str | None
    """Element type, torch's word without `torch.`."""
    nbytes: int | None
    """Bytes of one member."""
    device: str | None
    """Device of the first member."""
    buffer: bool
    """Whether the group is one of buffers (no gradient, so no finding)."""
    requires_grad: tuple[bool, ...]
    """One value a distinct tensor object."""
    registrations: tuple[Registration, ...]
    """Who registers the tensors: one entry means that only module aliases make the names."""
    reason: str | None
    """Why the kind is unknown, or what limits it."""


class Alias(Record):
    """One module, with parameters, that is registered under several paths."""

    paths: tuple[str, ...]
    """The paths, sorted; capped."""
    paths_total: int | None
    """How many there are; None for a cycle."""
    class_name: str
    """The module's class."""
    siblings: bool
    """Whether every registration stands in one parent: what accelerate before 0.34 cannot see."""
    names: tuple[str, ...]
    """The parameter names the alias makes, sorted; capped."""


class DeclaredTie(Record):
    """A group that the live class declares as tied, and how it really hangs together."""

    names: tuple[str, ...]
    """The declared names, sorted."""
    source: str
    """The name the others are to be redirected to."""
    by: tuple[str, ...]
    """Who declares it."""
    kind: Kind
    """What the module really holds."""
    reason: str | None
    """What limits the kind (`on meta: bytes cannot be read`)."""
    parts: tuple[tuple[str, ...], ...]
    """The members split into those that are really one parameter, largest part first."""
    stored: Kind | None = None
    """How the checkpoint that the model was loaded from stores the group; None where none was loaded."""


class LiveModel(Record):
    """The live layer of one `nn.Module`."""

    class_name: str
    """The model's class."""
    origin: str
    """How it came to be: `given`, `built on meta`, `loaded`."""
    ties: tuple[Tie, ...]
    """Groups of parameters that share a module, a `Parameter` or memory."""
    aliases: tuple[Alias, ...]
    """Modules with parameters under several paths."""
    declared: tuple[DeclaredTie, ...]
    """Groups that the class declares as tied under the config it has."""
    candidates: tuple[tuple[str, ...], ...]
    """Groups the class would tie if its flag were true, declared or not under this config."""
    flag: bool | None
    """`config.tie_word_embeddings` as the class reads it; None where there is no such config."""
    library: str | None
    """`transformers 5.23.0` for a `PreTrainedModel`, else None."""
    reasons: tuple[str, ...]
    """Why a declaration could not be read, where there is one (a 4.x list, a pattern that fits nothing)."""
    parameters: int
    """Distinct parameters."""
    names: int | None
    """Parameter names, aliases counted; None for a cycle."""
