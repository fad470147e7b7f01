"""MindSpore files made by the protobuf library, whose reading of the format is not ours."""

from types import SimpleNamespace

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from pangu_core.checkpoint.formats.mindspore.names import is_transposed, original_of_key
from pangu_core.checkpoint.manifest import MODEL, MOMENTS, key_of
from pangu_core.config.model import ModelConfig
from pangu_core.config.stages import RunIdentity
from pangu_core.layout import parameter_shapes

SMALL = ModelConfig(num_layers=2, hidden_size=8, num_heads=2, vocab_size=13, sequence_length=5)
RUN = RunIdentity(name="formats", uid="formats")
_WORDS = {"float16": "Float16", "float32": "Float32", "float64": "Float64", "int32": "Int32"}
_KINDS = {"int64": 3, "string": 9, "message": 11, "bytes": 12, "uint32": 13, "int32": 5}
_LABELS = {"one": 1, "many": 3}
_MESSAGES = {
    "Tensor": [("dims", 1, "int64", "many"), ("tensor_type", 2, "string", "one"),
               ("tensor_content", 3, "bytes", "one")],
    "MapTensor": [("tensor", 1, "Tensor", "many")],
    "Value": [("tag", 1, "string", "one"), ("tensor", 2, "Tensor", "one"),
              ("maptensor", 3, "MapTensor", "one")],
    "Checkpoint": [("value", 1, "Value", "many")],
    "Dims": [("dim", 1, "int64", "many")],
    "Layouts": [("dev_matrix", 1, "Dims", "many"), ("tensor_map", 2, "Dims", "many"),
                ("param_split_shape", 3, "Dims", "many"), ("indices_offset", 4, "Dims", "many"),
                ("field", 5, "int32", "one"), ("opt_weight_shard_step", 6, "int32", "one"),
                ("opt_weight_shard_size", 7, "int32", "one")],
    "LayoutItem": [("param_name", 1, "string", "one"), ("parallel_layouts", 2, "Layouts", "one")],
    "StrategyMap": [("current_stage", 1, "uint32", "one"),
                    ("parallel_layout_item", 3, "LayoutItem", "many")],
}  # fmt: skip


@pytest.fixture(scope="session")
def proto():
    """Message classes of MindSpore's files: proto.Checkpoint, proto.StrategyMap, ..."""
    file = descriptor_pb2.FileDescriptorProto(name="mindspore.proto", syntax="proto2", package="ms")
    for name, rows in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, label in rows:
            is_message = kind in _MESSAGES
            message.field.add(
                name=field,
                number=number,
                label=_LABELS[label],
                type=_KINDS["message" if is_message else kind],
                type_name=f".ms.{kind}" if is_message else None,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    find = pool.FindMessageTypeByName
    classes = {name: message_factory.GetMessageClass(find(f"ms.{name}")) for name in _MESSAGES}
    return SimpleNamespace(**classes)


@pytest.fixture(scope="session")
def mindspore(proto):
    """Makers of MindSpore files and of a small network's arrays."""

    def message(name, array, dims=None, word=None):
        """One tensor as the bytes of a Checkpoint message."""
        checkpoint = proto.Checkpoint()
        value = checkpoint.value.add(tag=name)
        value.tensor.dims.extend(array.shape or (0,) if dims is None else dims)
        value.tensor.tensor_type = word or _WORDS[str(array.dtype)]
        value.tensor.tensor_content = array.tobytes()
        return checkpoint.SerializeToString()

    def write(path, arrays):
        path.write_bytes(b"".join(message(name, array) for name, array in arrays.items()))
        return path

    def arrays(model=SMALL, dtype=np.float32, *, optimizer=False, seed=0):
        """The original's name -> array, transposed as MindSpore stores it."""
        generator = np.random.default_rng(seed)
        found = {}
        for group in (MODEL, *MOMENTS) if optimizer else (MODEL,):
            for name, shape in parameter_shapes(model).items():
                stored = shape[::-1] if is_transposed(name) else shape
                array = generator.standard_normal(stored, dtype=np.float32)
                found[original_of_key(key_of(group, name))] = array.astype(dtype)
        return found

    return SimpleNamespace(message=message, write=write, arrays=arrays, model=SMALL, run=RUN)
