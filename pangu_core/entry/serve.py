"""``pangu serve``, and the pods of a service: a model behind OpenAI's completions API."""

import asyncio
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click
import torch

from pangu_core import loading
from pangu_core.config.stages import ServeConfig
from pangu_core.data.tokenizer import load_tokenizer
from pangu_core.entry import process
from pangu_core.entry.stopping import stopped_by_signals
from pangu_core.errors import ConfigError, Stopped
from pangu_core.generation import load
from pangu_core.messages import Termination
from pangu_core.service import server
from pangu_core.service.app import Service
from pangu_core.service.batching import BatchEngine
from pangu_core.service.health import Health
from pangu_core.service.keys import Keyring, find_keys
from pangu_core.service.server import Times
from pangu_core.service.writing import Served, produce_token
from pangu_core.workspace import resolve

GRACE_VARIABLE: Final = "PANGU_GRACE_SECONDS"
DEFAULT_GRACE_SECONDS: Final = 30.0  # Kubernetes' own
logger = logging.getLogger(__name__)


@click.command(context_settings={"max_content_width": 100})
@click.option("--model", required=True, help="Checkpoint folder, or a run's checkpoints.")
@click.option("--tokenizer", help="Vocabulary file; default: the checkpoint's.")
@click.option("--name", default="pangu", help="What requests call the model; default pangu.")
@click.option("--host", default="127.0.0.1", help="Address to listen on; default 127.0.0.1.")
@click.option("--port", type=int, default=8000, help="Port to listen on; default 8000, 0: any.")
@click.option("--precision", default="fp32", help="fp32 (default), bf16 or fp16.")
@click.option("--device", help="A torch device; default: the GPU if there is one.")
@click.option("--api-keys-file", help="File, or folder of files, with an API key on each line.")
@click.option("--max-batch", type=int, help="Texts written together; default 16.")
@click.option("--max-queue", type=int, help="Texts that may wait; default 64. More get a 429.")
def command(api_keys_file: str | None, **values: Any) -> None:
    """Serve a model: POST /v1/completions, as OpenAI's clients do."""
    given = {name: value for name, value in values.items() if value is not None}
    keys = find_keys(api_keys_file, os.environ)
    # On a laptop nobody routes requests here who would have to be waited for.
    config = loading.load(ServeConfig, {**given, "drain_delay_seconds": 0.0})
    serve(config, Path(config.model), _path(config.tokenizer), keys)


def serve(config: ServeConfig, model: Path, tokenizer: Path | None, keys: Keyring) -> None:
    """Load, listen, serve until a signal, drain.

    Args:
        config: all settings but the paths.
        model: checkpoint folder.
        tokenizer: vocabulary file; None: the checkpoint's.
        keys: who may ask.

    Raises:
        ConfigError: what is asked for cannot work.
        CheckpointError: no checkpoint that can be trusted.
        Stopped: answers were cut off, as the grace period was too short for them.
    """
    if config.tensor_parallel > 1:
        raise ConfigError(
            "tensorParallel",
            seen=config.tensor_parallel,
            rule="is not built yet for services",
            fix="use 1",
        )
    times = Times(config.drain_delay_seconds, grace_seconds(os.environ))
    with stopped_by_signals("serve", "nothing was being written"):
        bound = server.bind(config.host, config.port)
        served = _load(config, model, tokenizer)
        try:
            asyncio.run(produce_token(served))
            logger.info("%s: serving at http://%s:%d", served.name, *bound.getsockname()[:2])
            health = Health(served, stall_seconds=config.stall_seconds)
            service = Service(served, health, keys)
            whole = server.run(service, health, engine=served.engine, bound=bound, times=times)
        finally:
            served.engine.stop()
    if not whole:
        raise Stopped(
            "service",
            seen=f"{times.grace:g} s of grace",
            rule="did not suffice for all answers that were being written",
            fix="set a longer grace period, or a smaller max_tokens",
        )


def serve_pod() -> Termination:
    """Serve what the pod's config file and environment say.

    Raises:
        PanguError: what ``serve`` raises.
    """
    config = process.read_config(ServeConfig)
    tokenizer = resolve(config.tokenizer) if config.tokenizer else None
    serve(config, resolve(config.model), tokenizer, find_keys(None, os.environ))
    return Termination(code=0)


def grace_seconds(environment: Mapping[str, str]) -> float:
    """The time from SIGTERM to SIGKILL.

    Raises:
        ConfigError: it is no number above 0.
    """
    value = environment.get(GRACE_VARIABLE, str(DEFAULT_GRACE_SECONDS))
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(
            GRACE_VARIABLE, seen=value, rule="must be seconds above 0", fix="set for example 60"
        )
    return seconds


def _load(config: ServeConfig, model: Path, tokenizer: Path | None) -> Served:
    """The model in memory, with its engine started."""
    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    logger.info("loading %s on %s", model, device)
    loaded = load.load(model, device=device, dtype=config.precision)
    words = load_tokenizer(tokenizer or loaded.vocabulary)
    sizes = loaded.model.config
    if words.vocab_size != sizes.vocab_size:
        raise ConfigError(
            "tokenizer",
            seen=f"{words.path} with {words.vocab_size} ids",
            rule=f"must have the model's {sizes.vocab_size}",
            fix="use the tokenizer that the model was trained with",
        )
    engine = BatchEngine(
        loaded.model,
        eod_id=words.eod_id,
        max_batch=config.max_batch,
        max_queue=config.max_queue,
    )
    return Served(
        name=config.name,
        engine=engine,
        tokenizer=words,
        vocab_size=sizes.vocab_size,
        max_length=sizes.sequence_length,
        created=int(time.time()),
    )


def _path(name: str | None) -> Path | None:
    return Path(name) if name else None


def run(arguments: Sequence[str]) -> Termination | None:
    """Parse and carry out; without arguments, what a pod is told.

    Raises:
        PanguError: what the user asked for cannot be done.
    """
    if not arguments and process.CONFIG_VARIABLE in os.environ:
        return serve_pod()
    try:
        command.main(list(arguments), prog_name="pangu serve", standalone_mode=False)
    except click.UsageError as error:
        raise process.as_config_error(error) from error
    return None


def main() -> None:
    """Run the command."""
    sys.exit(process.run("serve", lambda: run(sys.argv[1:])))


if __name__ == "__main__":
    main()
