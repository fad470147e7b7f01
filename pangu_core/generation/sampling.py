"""From scores to the next token, as pure functions.

The order is the published scripts': repetition penalty, temperature, top-k, top-p, softmax, draw.
A draw is a function of (seed, prompt, which copy of that prompt, position), never of a state, so
a prompt gets the same text alone, in any batch, streamed or not, and on every tensor rank.

Shapes: B rows, V vocabulary. Ties go to the lowest id.
"""

from collections.abc import Sequence

import torch

from pangu_core.generation.settings import GenerationSettings
from pangu_core.parallel.rng import derive_seed


def next_ids(
    logits_BV: torch.Tensor,
    settings: GenerationSettings,
    *,
    seen_BV: torch.Tensor,
    uniforms_B: Sequence[float],
) -> torch.Tensor:
    """The next token of each row.

    Args:
        logits_BV: finite scores, float32 or float64.
        settings: the rules.
        seen_BV: True for the ids in a row's prompt and text so far.
        uniforms_B: each row's random number in [0, 1); unused when greedy.

    Returns:
        int64 ids [B].
    """
    scores_BV = penalise(logits_BV, seen_BV, settings.repetition_penalty)
    if settings.is_greedy:
        return scores_BV.argmax(dim=-1)
    scores_BV = heat(scores_BV, settings.temperature)
    scores_BV = keep_top_k(scores_BV, settings.top_k)
    scores_BV = keep_top_p(scores_BV, settings.top_p)
    return draw(scores_BV, uniforms_B)


def penalise(scores_BV: torch.Tensor, seen_BV: torch.Tensor, penalty: float) -> torch.Tensor:
    """Divide the positive and multiply the negative scores of seen ids (CTRL, 1909.05858)."""
    if penalty == 1.0:
        return scores_BV
    lower_BV = torch.where(scores_BV > 0, scores_BV / penalty, scores_BV * penalty)
    return torch.where(seen_BV, lower_BV, scores_BV)


def heat(scores_BV: torch.Tensor, temperature: float) -> torch.Tensor:
    """Divide by a temperature above 0; the best score becomes 0, so that none can overflow."""
    temperature = max(temperature, torch.finfo(scores_BV.dtype).tiny)  # less may be 0 as such
    return (scores_BV - scores_BV.amax(dim=-1, keepdim=True)) / temperature


def keep_top_k(scores_BV: torch.Tensor, k: int) -> torch.Tensor:
    """Set all but the k best scores to -inf; 0 keeps all."""
    if k == 0 or k >= scores_BV.shape[-1]:
        return scores_BV
    last_B1 = scores_BV.topk(k, dim=-1).values[:, -1:]
    above_BV, equal_BV = scores_BV > last_B1, scores_BV == last_B1
    room_B1 = k - above_BV.sum(dim=-1, keepdim=True)
    kept_BV = above_BV | (equal_BV & (equal_BV.cumsum(dim=-1) <= room_B1))
    return scores_BV.masked_fill(~kept_BV, -torch.inf)


def keep_top_p(scores_BV: torch.Tensor, p: float) -> torch.Tensor:
    """Set all but the smallest set whose probabilities reach p to -inf; 1 keeps all."""
    if p == 1.0:
        return scores_BV
    ordered_BV, ids_BV = scores_BV.sort(dim=-1, descending=True, stable=True)
    probabilities_BV = ordered_BV.double().softmax(dim=-1)
    before_BV = probabilities_BV.cumsum(dim=-1) - probabilities_BV
    dropped_BV = torch.zeros_like(scores_BV, dtype=torch.bool).scatter(-1, ids_BV, before_BV >= p)
    return scores_BV.masked_fill(dropped_BV, -torch.inf)


def draw(scores_BV: torch.Tensor, uniforms_B: Sequence[float]) -> torch.Tensor:
    """Draw an id per row: the first whose cumulative probability exceeds the random number.

    In id order, not by rank: rounding then moves a border a little, but swaps nothing.
    """
    probabilities_BV = scores_BV.double().softmax(dim=-1)
    # Ids of probability 0 are taken out, so that no rounding in the sum can pick one.
    reach_BV = probabilities_BV.cumsum(dim=-1).masked_fill(probabilities_BV == 0, 0.0)
    uniforms_B1 = torch.tensor(uniforms_B, dtype=torch.float64, device=scores_BV.device)[:, None]
    goal_B1 = uniforms_B1 * reach_BV.amax(dim=-1, keepdim=True)
    return (reach_BV > goal_B1).int().argmax(dim=-1)


def stream_seed(seed: int, prompt: Sequence[int], copy: int) -> int:
    """Seed of one row's draws; ``copy`` counts equal prompts, which get texts of their own."""
    return derive_seed(seed, "sample", copy, *prompt)


def uniform(stream: int, position: int) -> float:
    """The random number for the token at a position: in [0, 1 - 2**-52]."""
    # 52 of 63 bits: one bit below a double's precision, so that u * total < total always holds.
    return (derive_seed(stream, position) >> 11) / 2**52
