"""The records of the live layer, apart from `facts` since a check of files never needs them.

`Tie` is a plain `NamedTuple`: a model may have tens of thousands, and a `Record` takes longer to make.
"""

from typing import Literal, NamedTuple

from tiecheck.records.hops import Hop
from tiecheck.records.record import Record
from tiecheck.records.words import Kind


class Registration(Record):
    """One place where a module registers a parameter or buffer."""

    owner: str
    """The class of the module that registers it."""
    attribute: str
    """The attribute's name in that module."""
    buffer: bool = False
    """True where it is a buffer."""


class Tie(NamedTuple):
    """A live group: names that share a module, a `Parameter` or memory."""

    names: tuple[str, ...]
    """The names, sorted; capped where there are very many."""
    names_total: int | None
    """Number of names there really are; None where a registered cycle makes them endless."""
    kind: Kind
    """The way they hang together: the weakest link that still holds all of them."""
    shape: tuple[int, ...] | None
    """Shape of the first member; None while it is uninitialised (a lazy module)."""
    dtype: str | None
    """Element type, torch's word without `torch.`."""
    nbytes: int | None
    device: str | None
    """Device of the first member."""
    buffer: bool
    """True where the group is one of buffers (no gradient, so no finding)."""
    requires_grad: tuple[bool, ...]
    """One value a distinct tensor object."""
    registrations: tuple[Registration, ...]
    """Places that register the tensors: one entry means that only module aliases make the names."""
    reason: str | None
    """Reason for an unknown kind, or what limits it."""
    alike: bool = True
    """False where members over one memory differ in shape or stride: one is the other transposed."""

    @property
    def lent(self) -> bool:
        """True where a buffer lies over the memory of a parameter."""
        return self.kind == "storage" and not self.buffer and any(place.buffer for place in self.registrations)


class Alias(Record):
    """One module, with parameters, that is registered under several paths."""

    paths: tuple[str, ...]
    """The paths, sorted; capped."""
    paths_total: int | None
    """Number of paths; None for a cycle."""
    class_name: str
    siblings: bool
    """True where every registration stands in one parent: what accelerate before 0.34 cannot see."""
    names: tuple[str, ...]
    """The parameter names the alias makes, sorted; capped."""


class DeclaredTie(Record):
    """A group that the live class, or the user's own contract, declares as tied, and how it really hangs together."""

    names: tuple[str, ...]
    """The declared names, sorted."""
    source: str
    """The name the others are to be redirected to."""
    by: tuple[str, ...]
    kind: Kind
    """The kind that the module really holds."""
    reason: str | None
    """Reason that limits the kind (`on meta: bytes cannot be read`)."""
    parts: tuple[tuple[str, ...], ...]
    """The members split into those that are really one parameter, largest part first."""
    stored: Kind | None = None
    """The way in which the checkpoint that the model was loaded from stores the group; None where none was loaded."""
    shapes: tuple[tuple[int, ...] | None, ...] = ()
    """The shape of each part, in the order of `parts`; None for one that is not initialised."""
    devices: tuple[str, ...] = ()
    """The device of each part, in the order of `parts`; `offloaded` where accelerate's hooks hold the values."""
    missing: tuple[str, ...] = ()
    """The members that name no parameter."""
    buffers: tuple[str, ...] = ()
    unfit: tuple[str, ...] = ()
    """The members whose shape is not the one that their own module says it has."""
    biases: tuple[str, ...] = ()
    """Where the shapes of the members differ: the biases that stand beside them."""


class Candidate(Record):
    """A group that a class in the model would tie if its flag were true."""

    names: tuple[str, ...]
    """The names, sorted."""
    source: str
    """The name the others are redirected to."""
    by: tuple[str, ...]
    """The class's attribute that says so, and the config's flag."""
    flag: bool | None
    """That flag; None where the model has no config."""
    reloaded: bool | None = None
    """That flag as a save and a load of the config make it: T5's false comes back as true. None where it was not
    asked, since the flag is true or the module holds no such tie."""
    empty: tuple[str, ...] = ()
    """Members on meta, where the flag is false and another member has data."""


KeyForm = Literal["list", "signature", "uninitialised", "inert", "nothing", "itself", "beside", "drops"]
"""Mistakes in a class's word on its ties: `list`, keys without sources; `signature`, a `tie_weights` of 4.x;
`uninitialised`, an `__init__` that calls no `post_init`; `inert`, a `tie_weights` that does nothing;
`nothing`, a key or a source that names no parameter; `itself`, a key that names its own source; `beside`, a key that as
a pattern matches names beside the one meant; `drops`, one that matches members of a real tie which nobody declares, so
that a save drops them."""


class KeyProblem(Record):
    """Something in a class's `_tied_weights_keys`, or its `tie_weights`, that the installed transformers misreads."""

    form: KeyForm
    model: str
    """Path of the model in the module; empty for the module itself."""
    class_name: str
    key: str
    """The target as declared; for `list` the type's name, for `signature` the method's signature."""
    source: str | None
    """The source as declared, where it is about a pair."""
    names: tuple[str, ...]
    """The names that are matched and were not meant (`beside`), the real tie (`drops`), or what was found; capped."""
    flag: bool | None
    """The flag under which the class reads its keys; None where there is no config."""
    raised: str | None
    """The error that transformers raises because of it, where it was seen to."""
    written: str | None = None
    """The statement, or the method's first line, as the class has it; None where it cannot be written down."""
    wanted: str | None = None
    """The one that the class should have; None where that is not known."""
    paths: tuple[str, ...] = ()
    """The names as Python reaches them."""


class Head(Record):
    """Where one `PreTrainedModel` of the module takes its words in and gives them out, by its own getters."""

    class_name: str
    embedding: tuple[str, ...]
    """The names of the weight of `get_input_embeddings()`, sorted and capped; empty where it is registered nowhere."""
    head: tuple[str, ...]
    """The names of the weight of `get_output_embeddings()`, likewise."""
    same: bool
    """True where the two are one parameter."""
    alike: bool
    """True where they have one shape of two dimensions, so that they could be tied."""
    flags: tuple[tuple[str, bool], ...]
    """Every tie flag of the config that is true or false, dotted, the outermost first."""
    usual: str | None
    """The name that the class's `get_input_embeddings` has in the tie table; None for a class it lacks."""
    older: tuple[tuple[str, ...], ...]
    """Groups that transformers 4.57 ties under a false flag, by the tie table for it, and this module does not."""
    encoder_decoder: bool
    """True where the config calls the model an encoder-decoder, which may have several embeddings."""
    stored: bool | None = None
    """True where the checkpoint beside it stores the head; None where none was read or it stores neither."""


EffectForm = Literal["changes", "adapts", "replaces", "transposes"]
"""`changes`: a hook or a parametrization computes another weight; `adapts`: an adapter, meant to differ in training;
`replaces`: an adapter that trains a copy of its own (PEFT's `modules_to_save`), which a merge puts in its place;
`transposes`: a parametrization that turns a matrix round for a linear layer which wants its transpose."""


class Effect(Record):
    """A member of a tie whose module does not use it as it is."""

    name: str
    by: str
    """The thing that stands between: `torch.nn.utils.prune`, `spectral_norm`, the parametrization's class, `LoRA`."""
    form: EffectForm
    value: int | None = None
    """Number of the weight that comes out: members of one tie with the same number use the same weight, and 0 is the
    tied tensor as it is. None where it was not computed."""


class Misfit(Record):
    """A bias that does not fit the tied weight beside it, or another bias that its class means as the same one."""

    bias: str
    """The bias, or buffer, added to the logits."""
    weight: str
    """The tied weight, or the other bias."""
    rows: int
    """Rows of the weight, elements of the other bias."""
    size: int
    """Elements of the bias."""


class Freeze(Record):
    """A sign that the members of a tie were meant to differ in `requires_grad` or dtype, which one tensor cannot."""

    form: Literal["attribute", "frozen", "trainable", "dtype"]
    """`attribute`: `requires_grad` set on a module, which does nothing; `frozen`: the tied tensor alone is frozen;
    `trainable`: it alone trains below a module that is otherwise frozen; `dtype`: it alone has another dtype."""
    names: tuple[str, ...]
    where: str
    """The module that was set, or that is otherwise frozen."""
    found: str
    """The state of the tied tensor: `trains`, `frozen`, or its dtype."""
    others: str
    """The state of the rest."""


class SaveProblem(Record):
    """A real tie that a model's own `save_pretrained` does not write so that a load brings it back."""

    names: tuple[str, ...]
    """The tied names, sorted and capped."""
    kind: Kind
    class_name: str
    """The class of the model that would save it."""
    form: Literal["raises", "unpropagated"]
    """`raises`: it refuses; `unpropagated`: an inner model's own tie, which the outer one drops and never ties."""
    dropped: tuple[str, ...]
    """The names it leaves out of the file."""
    written: str | None = None
    """The declaration of that class as it stands; None where it has none of its own."""
    wanted: str | None = None
    """The declaration that has the tie too; None where it cannot be written down."""


class LiveClass(Record):
    """The class of a live module, and how it came to be."""

    class_name: str
    origin: str
    """The way it came to be: `given`, `built on meta`, `loaded`."""
    library: str | None
    """`transformers 5.23.0` for a `PreTrainedModel`, else None."""
    reasons: tuple[str, ...] = ()
    """Reasons why a declaration, or what a tie holds, could not be told."""
    twice: tuple[tuple[str, ...], ...] = ()
    """Names of each tensor that a traced pass looks up and multiplies with; empty where none was traced."""


class LiveModel(Record):
    """The live layer of one `nn.Module`. Names are the user's: without what torch.compile, DDP or PEFT put before."""

    class_name: str
    origin: str
    """The way it came to be: `given`, `built on meta`, `loaded`."""
    ties: tuple[Tie, ...]
    """Groups of parameters that share a module, a `Parameter` or memory."""
    aliases: tuple[Alias, ...]
    """Modules with parameters under several paths."""
    declared: tuple[DeclaredTie, ...]
    """Groups that the class declares as tied under the config it has."""
    candidates: tuple[Candidate, ...]
    """Groups the classes would tie if their flags were true, declared or not under these configs."""
    flag: bool | None
    """`config.tie_word_embeddings` as the outermost model reads it; None where there is no such config."""
    library: str | None
    """`transformers 5.23.0` for a `PreTrainedModel`, else None."""
    reasons: tuple[str, ...]
    """Reasons why a declaration could not be read (a 4.x list, a pattern that fits nothing), or a tie's values."""
    wrappers: tuple[str, ...] = ()
    """Wrappers of the model or parts of it, from the outside in: `torch.compile`, `PEFT`."""
    problems: tuple[KeyProblem, ...] = ()
    """Mistakes in the classes' declarations themselves."""
    heads: tuple[Head, ...] = ()
    """Input and output embeddings of each `PreTrainedModel` that has both, or of which 4.57 ties more."""
    effects: tuple[Effect, ...] = ()
    """Members of ties that their module does not use as they are."""
    misfits: tuple[Misfit, ...] = ()
    """Biases beside tied weights that do not fit them."""
    freezes: tuple[Freeze, ...] = ()
    """Signs that tied members were meant to differ."""
    unsaved: tuple[SaveProblem, ...] = ()
    """Real ties that `save_pretrained` refuses or loses."""
    equal: tuple[tuple[str, str], ...] = ()
    """Embeddings and linear layers of one shape that hold equal bytes and are two parameters."""
    fixed: tuple[str, ...] = ()
    """Flags whose false a save and a load make true, where a declared group is not as its class means it."""
    keyed: tuple[str, ...] = ()
    """Paths of dictionaries of modules or parameters, in which a number is a text."""
    sharded_apart: tuple[tuple[str, ...], ...] = ()
    """Names that were one parameter before FSDP2 put them into groups of their own."""
    hops: tuple[Hop, ...] = ()
