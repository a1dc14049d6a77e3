"""The effect of a tied embedding's scale on untrained logits."""

from __future__ import annotations

from tiecheck.records.record import Record


class InitScale(Record):
    """The effect of a tied embedding's scale on the logits of an untrained model."""

    names: tuple[str, ...]
    """The tied group: embedding and head."""
    untrained: bool
    """True where the evidence says that nothing has been trained."""
    evidence: str
    """Evidence for that, in words."""
    std: float | None
    """Standard deviation of the tied tensor; None where a trained model made reading it pointless."""
    width: int
    """Columns of the tied tensor, d_model."""
    vocabulary: int
    """Rows of the tied tensor."""
    head_scale: float | None
    """Factor on the logits after the head; None where nobody could see it."""
    hidden_rms: float | None
    """Root mean square of the head's input as measured; None without a forward pass (1 after a final norm)."""
    predicted: float | None
    """Predicted deviation of the logits: std * sqrt(width) * rms * head_scale."""
    measured: float | None
    """Measured deviation of the logits, each position's own input token left out; None without a forward pass."""
    loss: float | None
    """Measured cross-entropy of random tokens, in nats, to hold against ln(vocabulary)."""
    repeats: float | None
    """Measured share of positions whose most likely next token is the input token itself."""
    reason: str | None
    """Reason why something could not be measured."""
    own: str | None = None
    """Key of the config that holds this very deviation, where the class is the library's own: its init draws it so."""
    drawn: str | None = None
    """Initial draw that the tensor carries, in words: of `nn.Embedding`, of `nn.Linear`; None where it is neither's."""
    embedding_scale: float | None = None
    """Factor on the looked-up rows; None where nobody could see it, and for the four that follow from it."""
    share: float | None = None
    """Predicted cosine between the final hidden state and the token's own row."""
    predicted_margin: float | None = None
    """Predicted logit of a position's own token, less the largest of the others."""
    predicted_loss: float | None = None
    """Predicted cross-entropy of random tokens, in nats."""
    predicted_sampled: float | None = None
    """Predicted probability that sampling among the 50 likeliest tokens repeats the position's own."""
    margin: float | None = None
    """Measured margin."""
    sampled: float | None = None
    """Measured probability of that repetition."""
    path: str | None = None
    """The first name as Python reaches it; None where there is no module."""
