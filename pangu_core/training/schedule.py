"""The learning rate at a step, as the original's schedules (Megatron of 2020)."""

import math

from pangu_core.config.train import OptimizerConfig


def learning_rate(step: int, config: OptimizerConfig, total_steps: int) -> float:
    """Rate used by update ``step`` (counted from 1).

    With D decay steps and W = warmup * D: linear rise lr0 * step / W, then with
    t = min(step, D - W) - W the cosine lr0 / 2 * (cos(pi t / D) + 1) or the line
    lr0 * (D - t) / D, never below ``min_learning_rate``. As in the original, the decay ends W
    steps early and does not reach zero.
    """
    decay_steps = config.decay_steps or total_steps
    warmup_steps = config.warmup * decay_steps
    peak = config.learning_rate
    if warmup_steps > 0 and step <= warmup_steps:
        return peak * step / warmup_steps
    if config.schedule == "constant":
        return peak
    progress = (min(step, decay_steps - warmup_steps) - warmup_steps) / decay_steps
    shape = (math.cos(math.pi * progress) + 1) / 2 if config.schedule == "cosine" else 1 - progress
    return max(peak * shape, config.min_learning_rate)
