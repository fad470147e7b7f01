"""Writes a Hugging Face folder, one tensor after another, with the model's own code in it."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pangu_core.checkpoint import durable
from pangu_core.checkpoint.formats.form import Weights, check_free
from pangu_core.checkpoint.formats.huggingface import description
from pangu_core.checkpoint.formats.huggingface.names import name_of
from pangu_core.checkpoint.formats.huggingface.reading import INDEX, SAFE_NAME
from pangu_core.checkpoint.manifest import MODEL, VOCABULARY_FILE
from pangu_core.checkpoint.reader import Report
from pangu_core.checkpoint.stream import Incoming
from pangu_core.checkpoint.tensor_file import DTYPES, Entry, TensorWriter
from pangu_core.errors import ConfigError

# Above it, another file: transformers reads several in turn, and no copy is all or nothing.
SHARD_BYTES: Final = 5_000_000_000
CODE: Final = Path(__file__).with_name("remote_code")
logger = logging.getLogger(__name__)
Named = Mapping[str, Incoming]  # under the names of the folder


def write_folder(
    weights: Weights,
    target: Path,
    *,
    replace_old: bool,
    report: Report,
    shard_bytes: int = SHARD_BYTES,
) -> str:
    """A folder that transformers reads with ``trust_remote_code``; returns a SHA-256.

    Raises:
        ConfigError: the target is there and may not be replaced, or moments are to be written.
        CheckpointError: a tensor could not be read.
        OSError: the volume refused.
    """
    named = _named(weights)
    is_ours = description.looks_like(target)
    check_free(target, may_replace=replace_old and is_ours)
    durable.remove_temporaries(target.parent, target.name)
    temporary = durable.new_temporary(target.parent, target.name)
    try:
        digest = _write_tensors(temporary, cut(named, shard_bytes), report)
        _write_json(temporary / "generation_config.json", description.generation())
        _write_tokenizer(temporary, weights.vocabulary)
        for code in sorted(CODE.glob("*.py")):
            durable.copy_file(code, temporary / code.name)
        digest.update(
            _write_json(temporary / description.FILE_NAME, description.configuration(weights))
        )
        durable.publish(temporary, target)
    finally:
        durable.remove_folder(temporary)  # renamed by now, if all went well
    return digest.hexdigest()


def cut(named: Named, shard_bytes: int) -> Sequence[Named]:
    """The tensors of each file, in order; a file holds at most so many bytes, or one tensor."""
    files: list[dict[str, Incoming]] = []
    room = 0
    for name, tensor in named.items():
        if not files or tensor.num_bytes > room:
            files.append({})
            room = shard_bytes
        files[-1][name] = tensor
        room -= tensor.num_bytes
    return files


def _named(weights: Weights) -> Named:
    named = {}
    for key, tensor in weights.tensors.items():
        group, _, parameter = key.partition("/")
        if group != MODEL:
            raise ConfigError(
                "optimizer",
                seen=key,
                rule="a Hugging Face folder holds weights only",
                fix="leave the optimizer out",
            )
        named[name_of(parameter, weights.header.model.num_layers)] = tensor
    return named


def _write_tensors(folder: Path, files: Sequence[Named], report: Report) -> "hashlib._Hash":
    """Write all tensor files, and their index if there are several."""
    digest = hashlib.sha256()
    done, total = 0, sum(tensor.num_bytes for named in files for tensor in named.values())
    places: dict[str, str] = {}
    for number, named in enumerate(files, start=1):
        file = SAFE_NAME
        if len(files) > 1:
            file = SAFE_NAME.replace(".", f"-{number:05d}-of-{len(files):05d}.")
        entries = [Entry(name, tensor.shape, tensor.dtype) for name, tensor in named.items()]
        with TensorWriter(folder / file, entries, {}) as writer:
            for name, tensor in named.items():
                written = writer.write(name, tensor.read().to(DTYPES[tensor.dtype].torch))
                digest.update(f"{name} {written}\n".encode())
                places[name] = file
                done += tensor.num_bytes
                report(done, total)
    if len(files) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": places}
        _write_json(folder / f"{SAFE_NAME}{INDEX}", index)
    return digest


def _write_tokenizer(folder: Path, vocabulary: Path | None) -> None:
    _write_json(folder / "tokenizer_config.json", description.tokenizer())
    if vocabulary is None:
        logger.warning("no vocabulary came along: copy %s into the result", VOCABULARY_FILE)
    else:
        durable.copy_file(vocabulary, folder / VOCABULARY_FILE)


def _write_json(path: Path, values: Mapping[str, Any]) -> bytes:
    data = f"{json.dumps(values, indent=2)}\n".encode()
    durable.write_bytes(path, data)
    return data
