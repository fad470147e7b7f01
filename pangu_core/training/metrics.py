"""What training reports: JSON lines (always), TensorBoard, tokens/s and MFU."""

import json
import math
import time
from pathlib import Path
from typing import Any, Final, Self

import torch

from pangu_core.config.model import ModelConfig

# Dense bf16 peak in FLOP/s, NVIDIA data sheets (SXM), used for MFU only.
PEAK_FLOPS: Final = {"H100": 989.4e12, "H200": 989.4e12, "A100": 312e12}


class MetricsWriter:
    """Appends events to metrics.jsonl and curves to TensorBoard; on one rank only.

    Lines of steps after the one resumed from are history that was redone: they stay, and the
    ``start`` event says from where the story goes on.
    """

    def __init__(self, path: Path, tensorboard: Path) -> None:
        # Slow to import, and only the first rank writes.
        from torch.utils.tensorboard import SummaryWriter

        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(tensorboard))

    def write(self, event: str, **values: Any) -> None:
        """One line, flushed at once: a killed process loses nothing."""
        line = {"time": time.time(), "event": event, **values}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        step = values.get("step", 0)
        for name, value in values.items():
            if isinstance(value, float) and event in ("step", "evaluate"):
                self._board.add_scalar(name, value, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._board.close()
        self._file.close()


def finite(value: float | None) -> float | None:
    """What JSON and those who read it can hold: None instead of infinity and NaN."""
    return value if value is not None and math.isfinite(value) else None


def flops_per_token(model: ModelConfig, sequence_length: int) -> float:
    """Training FLOPs of one token: 6 N_mm + 6 L h S, causal attention counted at half.

    N_mm = 12 h^2 L + V h are the parameters in matrix products. Recomputation is not counted.
    """
    h, layers = model.hidden_size, model.num_layers
    matrices = 12 * h * h * layers + model.vocab_size * h
    return 6.0 * matrices + 6.0 * layers * h * sequence_length


def utilisation(
    tokens_per_second: float, flops: float, world_size: int, device: torch.device
) -> float | None:
    """Share of the GPUs' dense bf16 peak, or None where the peak is unknown."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    peak = next((value for card, value in PEAK_FLOPS.items() if card in name), None)
    return tokens_per_second * flops / (peak * world_size) if peak else None
