"""The next token of every running sequence: forced, or drawn from its row of logits."""

from collections.abc import Callable, Sequence

from torch import Tensor

from openqwq.engine.sampler import alternatives, mask_logits, penalised, sample
from openqwq.engine.sequence import Sequence as Running
from openqwq.types import OpenQwQError

# Draws (rows,) in [0, 1) -> token ids and log-probs, both (rows,)
Draw = Callable[[Tensor], tuple[Tensor, Tensor]]


def extend(
    sequences: Sequence[Running], logits: Tensor, version: int, plainly: Draw | None
) -> None:
    """Append a token that weights of `version` drew, or a forced one, to each sequence.

    `logits` are (rows, vocab). `plainly` draws from these very logits; it serves where no row has a
    grammar, a penalty or a filter.
    """
    forced: list[int | None] = []
    masks: list[bytes | None] = []
    for sequence in sequences:
        token_id = sequence.next_forced()
        forced.append(token_id)
        masks.append(sequence.mask() if token_id is None else None)

    changed = _changed(sequences, logits, masks)
    if changed is not logits:
        plainly = None

    params = [sequence.params for sequence in sequences]
    seeds = [sequence.seed for sequence in sequences]
    steps = [len(sequence.token_ids) for sequence in sequences]
    drawn, drawn_log_probs = sample(changed, params, seeds, steps, plainly)
    token_ids = drawn.tolist()
    log_probs = drawn_log_probs.tolist()
    others = alternatives(changed, params)

    for row, sequence in enumerate(sequences):
        forced_id = forced[row]
        if sequence.failure:
            continue
        if forced_id is not None:
            sequence.append(forced_id, 0.0, False, version)
            continue
        try:
            sequence.append(token_ids[row], log_probs[row], True, version, others[row])
        except OpenQwQError as error:  # of its grammar: it ends alone
            sequence.cancel(error)


def _changed(
    sequences: Sequence[Running], logits: Tensor, masks: Sequence[bytes | None]
) -> Tensor:
    """The logits after penalties and masks; the same tensor where no row has any."""
    params = [sequence.params for sequence in sequences]
    prompts = [sequence.prompt_ids for sequence in sequences]
    replies = [sequence.token_ids for sequence in sequences]
    with_penalties = penalised(logits, params, prompts, replies)
    return mask_logits(with_penalties, masks)
