"""Every flag of the original commands: its type, its default, and what becomes of it.

The flags are those of Megatron-LM in the state that the port was made from, and what the port
added. A command that is not in a flag's ``used_by`` accepts it and says in one line why it has no
effect there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

Command = Literal["generate", "split", "merge", "preprocess", "pretrain", "convert"]
Kind = Callable[[str], Any] | None  # None: a switch
Used = tuple[Command, ...]

# Megatron's own flags, which all commands but preprocessing take.
MEGATRON: Final[Used] = ("generate", "split", "merge", "pretrain", "convert")
NOBODY: Final[Used] = ()
ELSEWHERE: Final = "this command does not need it"


@dataclass(frozen=True)
class Flag:
    """One flag. ``why`` completes the sentence "... has no effect: " for whoever ignores it."""

    spellings: str  # separated by blanks, the usual one first
    kind: Kind = None
    default: Any = None
    used_by: Used = NOBODY
    why: str = ELSEWHERE
    known_to: Used = MEGATRON
    is_list: bool = False

    @property
    def names(self) -> list[str]:
        """All spellings."""
        return self.spellings.split()

    @property
    def name(self) -> str:
        """The usual spelling."""
        return self.names[0]

    @property
    def key(self) -> str:
        """What the value is called in Python."""
        return self.name.removeprefix("--").replace("-", "_")


WEIGHTS: Final[Used] = ("generate", "split", "merge", "convert")
TRAIN: Final[Used] = ("pretrain",)
GENERATE: Final[Used] = ("generate",)
PREPROCESS: Final[Used] = ("preprocess",)
SAME_SIZES: Final = "a weights file says its own sizes"
ONE_TOKENIZER: Final = "there is one tokenizer, the published one"
ONE_GELU_CHOICE: Final = "the weights file says which GELU it was tuned with"
NO_SCALE: Final = "fp32 and bf16 need no loss scale"
NO_RANDOM_STATE: Final = "random numbers are functions of seed and step; there is no state"
FUSED: Final = "the attention kernel is chosen by PyTorch, and honours the mask"
BERT: Final = "it is for BERT"
REALM: Final = "it is for retrieval models"
OTHER_CLUSTER: Final = "it is for one cluster of NVIDIA's"

_NETWORK: Final = (
    Flag("--num-layers", int, None, MEGATRON),
    Flag("--num-unique-layers", int, why="PanGu-alpha's layers share no parameters"),
    Flag("--param-sharing-style", str, "grouped", why="PanGu-alpha's layers share no parameters"),
    Flag("--hidden-size", int, None, MEGATRON),
    Flag("--num-attention-heads", int, None, MEGATRON),
    Flag("--max-position-embeddings", int, None, MEGATRON),
    Flag(
        "--make-vocab-size-divisible-by",
        int,
        128,
        ("split", "merge", "pretrain", "convert"),
        "padding rows of a weights file are dropped",
    ),
    Flag("--layernorm-epsilon", float, 1e-5, MEGATRON),
    Flag(
        "--apply-residual-connection-post-layernorm",
        why="PanGu-alpha's residuals go around the LayerNorm",
    ),
    Flag("--openai-gelu", None, False, ("generate", "pretrain"), ONE_GELU_CHOICE),
    Flag("--onnx-safe", bool, why="nothing is exported to ONNX here"),
)
_REGULARISATION: Final = (
    Flag("--attention-dropout", float, 0.1, TRAIN),
    Flag("--hidden-dropout", float, 0.1, TRAIN),
    Flag("--weight-decay", float, 0.01, TRAIN),
    Flag("--clip-grad", float, 1.0, TRAIN),
)
_TRAINING: Final = (
    Flag("--batch-size", int, None, ("generate", "pretrain")),
    Flag("--checkpoint-activations", None, False, TRAIN),
    Flag("--distribute-checkpointed-activations", why="recomputed activations stay on their rank"),
    Flag("--checkpoint-num-layers", int, 1, why="each layer is recomputed by itself"),
    Flag("--train-iters", int, None, TRAIN),
    Flag("--log-interval", int, 100, TRAIN),
    Flag("--exit-interval", int, why="SIGTERM ends training at a step, and saves"),
    Flag("--tensorboard-dir", str, None, TRAIN),
    Flag("--scaled-upper-triang-masked-softmax-fusion", why=FUSED),
    Flag("--bias-gelu-fusion", None, False, ("generate", "pretrain"), ONE_GELU_CHOICE),
    Flag("--bias-dropout-fusion", why="it changes no result"),
    Flag("--seed", int, 1234, ("generate", "pretrain")),
    Flag("--init-method-std", float, 0.02, TRAIN),
)
_LEARNING_RATE: Final = (
    Flag("--lr", float, None, TRAIN),
    Flag("--lr-decay-style", str, "linear", TRAIN),
    Flag("--lr-decay-iters", int, None, TRAIN),
    Flag("--min-lr", float, 0.0, TRAIN),
    Flag("--warmup", float, 0.01, TRAIN),
    Flag("--override-lr-scheduler", why="the flags always decide the learning rate"),
    Flag("--use-checkpoint-lr-scheduler", why="the flags always decide the learning rate"),
)
_CHECKPOINTS: Final = (
    Flag("--save", str, None, TRAIN),
    Flag("--save-interval", int, None, TRAIN),
    Flag("--no-save-optim", None, False, TRAIN),
    Flag("--no-save-rng", why=NO_RANDOM_STATE),
    Flag("--load", str, None, ("generate", "split", "merge", "pretrain")),
    Flag("--no-load-optim", None, False, TRAIN),
    Flag("--no-load-rng", why=NO_RANDOM_STATE),
    Flag("--finetune", None, False, TRAIN, "weights load without it"),
)
_PRECISION: Final = (
    Flag("--fp16", None, False, ("generate", "pretrain", "convert"), "weights keep their type"),
    Flag("--apply-query-key-layer-scaling", why="it was against overflow in fp16"),
    Flag("--attention-softmax-in-fp32", why="the softmax is always computed in fp32"),
    Flag("--fp32-allreduce", why="gradients are always summed in fp32"),
    Flag("--hysteresis", int, 2, why=NO_SCALE),
    Flag("--loss-scale", float, why=NO_SCALE),
    Flag("--loss-scale-window", float, 1000, why=NO_SCALE),
    Flag("--min-scale", float, 1, why=NO_SCALE),
    Flag("--fp16-lm-cross-entropy", why="the loss is always computed in fp32"),
)
_DISTRIBUTED: Final = (
    Flag("--model-parallel-size", int, 1, TRAIN, "the folder says how many files it has"),
    Flag("--distributed-backend", str, "nccl", why="NCCL is used on GPUs and gloo on CPUs"),
    Flag("--DDP-impl", str, "local", why="data parallelism is sharded"),
    Flag("--local_rank --local-rank", int, why="LOCAL_RANK in the environment counts"),
    Flag("--lazy-mpu-init", bool, why="process groups are made when they are needed"),
    Flag("--use-cpu-initialization", why="the first weights do not depend on the device"),
)
_DATA: Final = (
    Flag("--eval-iters", int, 100, TRAIN),
    Flag("--eval-interval", int, 1000, TRAIN),
    Flag("--data-path", str, None, TRAIN),
    Flag("--split", str, "969, 30, 1", TRAIN),
    Flag("--vocab-file", str, None, ("generate", "pretrain")),
    Flag("--merge-file", str, why=ONE_TOKENIZER),
    Flag("--seq-length", int, None, ("generate", "pretrain")),
    Flag("--mask-prob", float, 0.15, why=BERT),
    Flag("--short-seq-prob", float, 0.1, why=BERT),
    Flag("--mmap-warmup", why="token files are read without it"),
    Flag("--num-workers", int, 2, why="batches are read from mapped files in no time"),
    Flag("--tokenizer-type", str, why=ONE_TOKENIZER),
    Flag("--data-impl", str, "infer", why="token files are mapped (mmap)"),
    Flag("--reset-position-ids", why="positions restart exactly where --reset-attention-mask is"),
    Flag("--reset-attention-mask", None, False, TRAIN),
    Flag("--eod-mask-loss", why="the loss behind an end mark counts, as in pre-training"),
)
_UNUSED: Final = (
    Flag("--adlr-autoresume", why=OTHER_CLUSTER),
    Flag("--adlr-autoresume-interval", int, 1000, why=OTHER_CLUSTER),
    Flag("--ict-head-size", int, why=REALM),
    Flag("--ict-load", str, why=REALM),
    Flag("--bert-load", str, why=REALM),
    Flag("--titles-data-path", str, why=REALM),
    Flag("--query-in-block-prob", float, 0.1, why=REALM),
    Flag("--use-one-sent-docs", why=REALM),
    Flag("--report-topk-accuracies", int, why=REALM, is_list=True),
    Flag("--faiss-use-gpu", why=REALM),
    Flag("--block-data-path", str, why=REALM),
    Flag("--indexer-batch-size", int, 128, why=REALM),
    Flag("--indexer-log-interval", int, 1000, why=REALM),
)
_SAMPLING: Final = (
    Flag("--temperature", float, 1.0, GENERATE, known_to=GENERATE),
    Flag("--greedy", None, False, GENERATE, known_to=GENERATE),
    Flag("--top_p --top-p", float, 0.0, GENERATE, known_to=GENERATE),
    Flag("--top_k --top-k", int, 5, GENERATE, known_to=GENERATE),
    Flag("--out-seq-length", int, 1024, GENERATE, known_to=GENERATE),
    Flag("--sample-input-file", str, None, GENERATE, known_to=GENERATE),
    Flag("--sample-output-file", str, None, GENERATE, known_to=GENERATE),
    Flag("--num-samples", int, 0, GENERATE, known_to=GENERATE),
    Flag("--genfile", str, None, GENERATE, known_to=GENERATE),
    Flag("--recompute", why="the text is the same with a cache", known_to=GENERATE),
    Flag("--generate_max_tokens", int, None, GENERATE, known_to=GENERATE),
    Flag("--sample-input", str, None, GENERATE, known_to=GENERATE),
    Flag("--isEvolution", why="PanGu-alpha Evolution is another model", known_to=GENERATE),
    # Ours: the original's own draw, for whoever needs its texts.
    Flag("--compat-sampling", None, False, GENERATE, known_to=GENERATE),
)
_TOOLS: Final = (
    Flag(
        "--model-type",
        str,
        why="there is one kind of model",
        known_to=("split", "merge", "convert"),
    ),
    Flag("--num-mp-model", int, 1, ("split",), known_to=("split",)),
    Flag("--mp-model-save", str, None, ("split",), known_to=("split",)),
    Flag("--mp-model-parallel-size", int, None, ("merge",), known_to=("merge",)),
    Flag("--npy-ckpt-path", str, None, ("convert",), known_to=("convert",)),
)
_PREPROCESSING: Final = (
    Flag("--input", str, None, PREPROCESS, known_to=PREPROCESS, is_list=True),
    Flag("--json-keys", str, ["text"], PREPROCESS, known_to=PREPROCESS, is_list=True),
    Flag("--split-sentences", None, False, PREPROCESS, known_to=PREPROCESS),
    Flag("--keep-newlines", why="line breaks are always kept", known_to=PREPROCESS),
    Flag("--tokenizer-type", str, why=ONE_TOKENIZER, known_to=PREPROCESS),
    Flag("--vocab-file", str, None, PREPROCESS, known_to=PREPROCESS),
    Flag("--merge-file", str, why=ONE_TOKENIZER, known_to=PREPROCESS),
    Flag("--append-eod", None, False, PREPROCESS, known_to=PREPROCESS),
    Flag(
        "--eod-num",
        int,
        1,
        why="one end mark ends a document; more would only be empty documents",
        known_to=PREPROCESS,
    ),
    Flag("--output-prefix", str, None, PREPROCESS, known_to=PREPROCESS),
    Flag("--dataset-impl", str, "mmap", why="token files are mapped (mmap)", known_to=PREPROCESS),
    Flag("--workers", int, None, PREPROCESS, known_to=PREPROCESS),
    Flag("--log-interval", int, 1, why="progress is shown as time passes", known_to=PREPROCESS),
)
FLAGS: Final = (
    *_NETWORK,
    *_REGULARISATION,
    *_TRAINING,
    *_LEARNING_RATE,
    *_CHECKPOINTS,
    *_PRECISION,
    *_DISTRIBUTED,
    *_DATA,
    *_UNUSED,
    *_SAMPLING,
    *_TOOLS,
    *_PREPROCESSING,
)


def flags_of(command: Command) -> list[Flag]:
    """The flags that a command knows."""
    return [flag for flag in FLAGS if command in flag.known_to]
