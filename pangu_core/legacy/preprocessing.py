"""preprocess_data, later preprocess_data_pangu: text files to token files under the old names."""

import glob
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from pangu_core.config.stages import PreprocessConfig, RunIdentity
from pangu_core.entry import process
from pangu_core.entry.marker import fingerprint
from pangu_core.entry.preprocess import describe, write_tokens
from pangu_core.errors import ConfigError
from pangu_core.legacy import vocabulary
from pangu_core.legacy.parsing import Options, parse
from pangu_core.messages import Termination

SCRIPT: Final = "preprocess_data"


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    return process.run(SCRIPT, lambda: run(parse("preprocess", SCRIPT, arguments)))


def run(options: Options) -> Termination:
    """Write PREFIX + KEY_document.bin and .idx, or KEY_sentence of split sentences.

    Raises:
        ConfigError: no input, no output, no file that matches, or text that cannot be used.
    """
    files = expand(options.require("input", "names the text files"))
    prefix = options.require("output_prefix", "says where the token files go")
    level = "sentence" if options["split_sentences"] else "document"
    # The original puts nothing between prefix and key: a prefix that ends in / names a folder.
    output = f"{prefix}{options['json_keys'][0]}_{level}"
    config = PreprocessConfig(
        run=RunIdentity(name="legacy", uid="legacy"),
        input=glob.escape(str(files[0])),
        output=output,
        split_sentences=options["split_sentences"],
        append_eod=options["append_eod"],
        tokenizer=str(vocabulary.locate(options["vocab_file"])),
        workers=options["workers"],
    )
    first = describe(config, locate=Path)
    corpus = replace(first, files=files, fingerprint=fingerprint(config, files))
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    return write_tokens(corpus, output)


def expand(patterns: Sequence[str]) -> tuple[Path, ...]:
    """The files of quoted patterns, or of those that the shell has put in their place.

    Raises:
        ConfigError: a pattern matches nothing.
    """
    found: list[Path] = []
    for pattern in patterns:
        names = glob.glob(pattern, recursive=True)  # noqa: PTH207 - absolute patterns too
        files = sorted(Path(name) for name in names if Path(name).is_file())
        if not files:
            raise ConfigError(
                "--input", seen=pattern, rule="must match a file", fix="check the pattern"
            )
        found += files
    return tuple(found)
