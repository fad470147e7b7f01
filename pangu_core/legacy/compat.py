"""The original generator's own draw, mistakes included, for whoever needs its texts again.

It took raw scores for probabilities (the MindSpore script it came from had softmax behind it), so
it chooses almost evenly among the top k, and it ended every text after 50 tokens.
"""

from typing import Any, Final

import numpy as np
import torch

from pangu_core.errors import ConfigError
from pangu_core.generation.language_model import LanguageModel

MAX_NEW_TOKENS: Final = 50
MAX_REDRAWS: Final = 1000
UNKNOWN: Final = 0
Array = np.ndarray[Any, Any]


def draw(scores: Array, top_k: int, random: np.random.RandomState) -> int:
    """The next token: float64 scores over their sum as probabilities; the unknown id is redrawn.

    Raises:
        ConfigError: a score is negative, where the original ended with an error too.
    """
    best = scores.argsort()[::-1][:top_k]
    shares = scores[best] / scores[best].sum()
    if not (shares >= 0).all():
        raise ConfigError(
            "--compat-sampling",
            seen=f"a score of {scores[best].min():.3f} among the best {top_k}",
            rule="the original's draw needs scores of one sign",
            fix="lower --top_k, or leave --compat-sampling out",
        )
    for _ in range(MAX_REDRAWS):
        token = int(best[random.choice(len(shares), p=shares)])
        if token != UNKNOWN:
            break
    return token


def continue_tokens(
    model: LanguageModel,
    prompt: list[int],
    *,
    eod_id: int,
    top_k: int,
    sequence_length: int,
    random: np.random.RandomState,
) -> list[int]:
    """The tokens that the original would add: at most 50, none at the last position.

    Raises:
        ConfigError: see ``draw``.
    """
    cache = model.new_cache(1, sequence_length)
    tokens, added, start = prompt, list[int](), 0
    while True:
        ids_BT = torch.tensor([tokens], device=model.device)
        positions_BT = torch.arange(start, start + len(tokens), device=model.device)[None]
        last_B = torch.tensor([len(tokens) - 1], device=model.device)
        scores_V = model.extend(ids_BT, positions_BT, cache, last_B)[0]
        token = draw(scores_V.double().cpu().numpy(), top_k, random)
        start += len(tokens)
        if token == eod_id or start == sequence_length - 1 or len(added) >= MAX_NEW_TOKENS:
            return added
        added.append(token)
        tokens = [token]
