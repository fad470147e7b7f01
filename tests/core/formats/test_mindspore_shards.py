"""Distributed MindSpore checkpoints, cut here by other means than the ones that join them."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pangu_core.checkpoint.formats.form import Request
from pangu_core.checkpoint.formats.mindspore import ckpt, files
from pangu_core.checkpoint.formats.mindspore.names import is_transposed, key_of_original, spellings
from pangu_core.checkpoint.formats.mindspore.strategy import Cut, read_strategy
from pangu_core.config.model import ModelConfig
from pangu_core.errors import CheckpointError, ConfigError

TABLES = ("word_embedding", "position_embedding", "top_query_embedding")
RELEASED_RANKS, TENSOR_RANKS = 512, 8
NUM_PIECES = 2  # of the optimizer's cut in the run of 8 ranks, said as 2 or as -1


def cut_by_hand(array, devices, tensor_map, rank, step=0, size=0):
    """A rank's piece: along each dimension the part of its coordinate, then the optimizer's."""
    coordinates = np.unravel_index(rank, devices)
    for dim, axis in enumerate(tensor_map):
        if axis >= 0:
            array = np.split(array, devices[-1 - axis], axis=dim)[coordinates[-1 - axis]]
    if step:
        array = np.split(array, size)[rank // step % size]
    return np.ascontiguousarray(array)


def released_piece(name, array, rank):
    """As the published release is described: 8 tensor ranks, each cut into 64 along dimension 0."""
    mp, dp = rank % TENSOR_RANKS, rank // TENSOR_RANKS
    if name.endswith(("gamma", "beta", "projection.bias")):
        return array
    columns = name.endswith("output.mapping.weight")
    part = np.split(array, TENSOR_RANKS, axis=1 if columns else 0)[mp]
    return np.ascontiguousarray(np.split(part, RELEASED_RANKS // TENSOR_RANKS)[dp])


def assemble(weights, arrays):
    """Whether the tensors put together are these arrays, bit for bit."""
    keys = {key_of_original(name): array for name, array in arrays.items()}
    assert weights.tensors.keys() <= keys.keys()
    for key, tensor in weights.tensors.items():
        array = torch.from_numpy(keys[key])
        assert torch.equal(tensor.read(), array.t() if is_transposed(key) else array), key
    return len(weights.tensors)


@pytest.fixture
def read(mindspore):
    def call(source, **request):
        heads = mindspore.model.num_heads
        return files.read(source, Request(run=mindspore.run, num_heads=heads, **request))

    return call


@pytest.fixture
def write_strategy(proto):
    """Write a strategy file from name -> (devices, tensor map, step, size)."""

    def write(path, rows):
        strategy = proto.StrategyMap(current_stage=1)
        for name, (devices, tensor_map, step, size) in rows.items():
            layouts = strategy.parallel_layout_item.add(param_name=name).parallel_layouts
            layouts.dev_matrix.add(dim=devices)
            layouts.tensor_map.add(dim=tensor_map)
            layouts.opt_weight_shard_step, layouts.opt_weight_shard_size = step, size
        path.write_bytes(strategy.SerializeToString())
        return path

    return write


@pytest.fixture
def run_folder(mindspore, write_strategy, tmp_path):
    """Rank folders of a training run of 8 ranks, cut along both dimensions, with moments."""
    arrays = mindspore.arrays(optimizer=True)
    for parameter in (
        "word_embedding.weight",
        "position_embedding.weight",
        "query_embedding.weight",
    ):
        for prefix in ("", "adam_m.", "adam_v."):
            names = [f"{prefix}{name}" for name in spellings(parameter)]
            arrays[names[-1]] = arrays.pop(names[0])
    devices = (2, 2, 2)
    rows = {name: row_of(name, devices, array.ndim) for name, array in arrays.items()}
    for rank in range(8):
        folder = tmp_path / "run" / f"rank_{rank}"
        folder.mkdir(parents=True)
        pieces = {}
        for name, array in arrays.items():
            _, tensor_map, step, _ = rows[name]
            pieces[name] = cut_by_hand(array, devices, tensor_map, rank, step, NUM_PIECES)
        for old in ("PanguAlpha0-1_10.ckpt", "PanguAlpha0-1_20.ckpt"):
            mindspore.write(folder / old, pieces)
        (folder / "PanguAlpha0-1_30.ckpt").touch()
        if rank == 3:  # it was stopped before it had saved step 30
            (folder / "PanguAlpha0-1_30.ckpt").unlink()
    listed = {name: row for name, row in rows.items() if not name.startswith("adam_")}
    write_strategy(tmp_path / "run" / "strategy.ckpt", listed)
    return tmp_path / "run", arrays


def row_of(name, devices, ndim):
    if name.endswith("attention.projection.weight"):
        return devices, (1, 0), 4, -1  # rows by the middle axis, columns by the last
    if name.endswith(("output.mapping.weight", "output.projection.weight")):
        return devices, (-1, 0), 2, 2  # the optimizer cuts in 2 though 4 ranks have each part
    if name.endswith("dense1.weight"):
        return devices, (2, -1), 0, 0  # by the first axis
    return devices, (-1,) * ndim, 0, 0


def test_rank_folders_of_a_run_are_joined_at_the_newest_step_that_all_have(read, run_folder):
    folder, arrays = run_folder
    assert files.detect(folder)
    assert assemble(read(folder, optimizer=True), arrays) == 3 * 37


def test_a_missing_rank_is_named(read, run_folder):
    folder, _ = run_folder
    (folder / "rank_5").rename(folder / "lost_5")
    with pytest.raises(CheckpointError, match="1 of 8 shards missing, the first of rank 5"):
        read(folder)


def test_a_rank_too_many_is_named(read, run_folder):
    folder, _ = run_folder
    (folder / "rank_0").rename(folder / "rank_8")
    (folder / "rank_9").mkdir()
    for file in (folder / "rank_8").iterdir():
        (folder / "rank_9" / file.name).write_bytes(file.read_bytes())
    (folder / "rank_8").rename(folder / "rank_0")
    with pytest.raises(CheckpointError, match=r"rank_9.*a shard of rank 8 or higher"):
        read(folder)


def test_two_files_for_one_step_are_not_guessed_between(read, run_folder):
    folder, _ = run_folder
    (folder / "rank_2" / "PanguAlpha0_1-1_20.ckpt").touch()
    with pytest.raises(CheckpointError, match=r"rank_2: PanguAlpha0-1_20.*PanguAlpha0_1-1_20"):
        read(folder)


def test_a_rank_with_another_piece_is_named(read, run_folder, mindspore):
    folder, _ = run_folder
    path = folder / "rank_1" / "PanguAlpha0-1_20.ckpt"
    pieces = {name: ckpt.read(path, place).numpy() for name, place in ckpt.index(path).items()}
    wrong = {"backbone.blocks.0.output.mapping.weight": np.zeros((2, 2), np.float32)}
    mindspore.write(path, pieces | wrong)
    with pytest.raises(CheckpointError, match=r"rank_1.*mapping\.weight of fp32 \(2, 2\)"):
        read(folder)


def test_a_damaged_shard_is_named_with_the_offset(read, run_folder):
    folder, _ = run_folder
    path = folder / "rank_6" / "PanguAlpha0-1_20.ckpt"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"rank_6.*offset \d+: a field of"):
        read(folder)


def test_without_a_strategy_file_it_is_asked_for(read, run_folder, tmp_path):
    folder, arrays = run_folder
    elsewhere = (folder / "strategy.ckpt").rename(tmp_path / "cut.bin")
    with pytest.raises(ConfigError, match=r"no \*strategy\*\.ckpt.*--strategy FILE"):
        read(folder)
    assert assemble(read(folder, strategy=elsewhere), arrays) == 37


def test_the_strategy_file_may_lie_in_the_ranks_folders(read, run_folder):
    folder, arrays = run_folder
    data = (folder / "strategy.ckpt").read_bytes()
    (folder / "strategy.ckpt").unlink()
    for rank in range(8):
        (folder / f"rank_{rank}" / "strategy.ckpt").write_bytes(data)
    assert assemble(read(folder), arrays) == 37


def test_the_200b_network_is_refused_before_a_strategy_file_is_asked_for(read, mindspore, tmp_path):
    (tmp_path / "rank_0").mkdir()
    arrays = {"embedding_table": np.zeros((13, 8)), "blocks.0.layernorm1.gamma": np.zeros(8)}
    mindspore.write(tmp_path / "rank_0" / "200B.ckpt", arrays)
    with pytest.raises(ConfigError, match="200B network"):
        read(tmp_path)


def test_two_strategy_files_are_not_guessed_between(read, run_folder):
    folder, _ = run_folder
    (folder / "old_strategy.ckpt").touch()
    with pytest.raises(ConfigError, match=r"old_strategy\.ckpt, strategy\.ckpt"):
        read(folder)


def test_a_strategy_of_another_model_is_refused(read, run_folder, write_strategy):
    folder, _ = run_folder
    write_strategy(folder / "strategy.ckpt", {"backbone.x": ((2, 2, 2), (-1,), 0, 0)})
    with pytest.raises(CheckpointError, match=r"nothing of adam_m\.|nothing of backbone\."):
        read(folder)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (((8,), (0,), 0, 0), "must cut tensors like those of shape"),
        (((2, 2, 2), (1, -1), 8, -1), "without overlap or gap"),
        (((2, 2, 2), (1, -1), 2, 2), "without overlap or gap"),
    ],
)
def test_a_cut_that_leaves_gaps_is_refused(read, run_folder, write_strategy, row, message):
    folder, arrays = run_folder
    whole_cut = {name: ((2, 2, 2), (-1,) * array.ndim, 0, 0) for name, array in arrays.items()}
    write_strategy(folder / "strategy.ckpt", whole_cut | {"embedding_table": row})
    with pytest.raises(CheckpointError, match=message):
        read(folder)


@pytest.fixture(scope="module")
def release(shared, mindspore, tmp_path_factory):
    """The published release in small: the real 2.6B strategy file, 512 shards of two layers."""
    folder = tmp_path_factory.mktemp("release")
    model = ModelConfig(
        num_layers=2, hidden_size=512, num_heads=8, vocab_size=40, sequence_length=16
    )
    arrays = mindspore.arrays(model, np.float16)
    tables = {f"backbone.{name}.embedding_table" for name in TABLES}
    for name in TABLES:
        np.save(folder / f"{name}.npy", arrays[f"backbone.{name}.embedding_table"])
    for rank in range(RELEASED_RANKS):
        pieces = {n: released_piece(n, a, rank) for n, a in arrays.items() if n not in tables}
        mindspore.write(folder / f"filerted_{rank}.ckpt", pieces)
    strategy = shared / "data" / "mindspore_strategy" / "pangu_alpha_2.6B_ckpt_strategy.ckpt"
    (folder / strategy.name).write_bytes(strategy.read_bytes())
    return folder, arrays


def test_the_512_shards_of_the_release_are_joined_bit_for_bit(release, mindspore):
    folder, arrays = release
    assert files.detect(folder)
    weights = files.read(folder, Request(run=mindspore.run, num_heads=8))
    assert assemble(weights, arrays) == 37
    assert weights.header.model.hidden_size == 512


@pytest.fixture
def flat(run_folder, tmp_path):
    """The run's shards named as the release's, its tables as npy files beside them."""
    folder, arrays = run_folder
    for rank in range(8):
        path = folder / f"rank_{rank}" / "PanguAlpha0-1_20.ckpt"
        path.rename(folder / f"filerted_{rank}.ckpt")
        (folder / f"rank_{rank}").rename(tmp_path / f"old_{rank}")
    return folder, arrays


@pytest.mark.parametrize("spelling", ["filtered", "filitered"])
def test_the_documents_spellings_name_the_same_rank(read, flat, spelling):
    folder, arrays = flat
    path = folder / "filerted_5.ckpt"
    twin = path.with_name(f"{spelling}_5.ckpt")
    twin.write_bytes(path.read_bytes())
    with pytest.raises(CheckpointError, match=f"{spelling}_5.*must hold rank 5 once"):
        read(folder)
    path.unlink()
    assert assemble(read(folder), arrays) == 37


def test_tables_beside_the_shards_come_before_those_inside(read, flat):
    folder, _ = flat
    table = np.arange(13 * 8, dtype=np.float32).reshape(13, 8)
    np.save(folder / "word_embedding.npy", table)
    value = read(folder).tensors["model/word_embedding.weight"].read()
    assert torch.equal(value, torch.from_numpy(table))


def test_shards_and_rank_folders_are_not_mixed(read, flat, tmp_path):
    folder, _ = flat
    (folder / "filerted_7.ckpt").unlink()
    (tmp_path / "old_7").rename(folder / "rank_7")
    with pytest.raises(CheckpointError, match="either one release or one run"):
        read(folder)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("file", "count"),
    [("pangu_alpha_2.6B_ckpt_strategy", 1551), ("pangu_alpha_13B_cktp_strategy", 1935)],
)
def test_the_released_strategy_files_are_understood(shared, file, count):
    cuts = read_strategy(shared / "data" / "mindspore_strategy" / f"{file}.ckpt")
    assert len(cuts) == count
    assert set(cuts.values()) == {
        Cut((64, 8), (0, -1), 8, -1),
        Cut((64, 8), (-1, 0), 8, -1),
        Cut((64, 8), (0,), 8, -1),
        Cut((64, 8), (-1,)),
        Cut((64, 8), (-1, -1)),
    }
    mapping = cuts["backbone.blocks.3.output.mapping.weight"]
    assert mapping.whole_shape((40, 1280)) == (2560, 10240)
    assert mapping.part(8 * 5 + 3, (40, 1280)) == ((200, 240), (3 * 1280, 4 * 1280))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (((2, 2), (2, -1), 0, 0), "Cut"),
        (((2, 2), (0, 0), 0, 0), "Cut"),
        (((2, 0), (0, -1), 0, 0), "Cut"),
        (((1 << 20, 8), (0, -1), 0, 0), "Cut"),
        (((2, 2), (0, -1), -3, 1), "Cut"),
        (((2, 2), (), 1, 2), "Cut"),
        (((1,) * 17, (0,), 0, 0), "more than 16 numbers"),
    ],
)
def test_a_cut_that_makes_no_sense_is_refused_with_its_offset(
    write_strategy, tmp_path, row, message
):
    path = write_strategy(tmp_path / "strategy.ckpt", {"backbone.x": row})
    with pytest.raises(CheckpointError, match=rf"offset \d+: {message}"):
        read_strategy(path)


def test_pipeline_stages_are_refused(write_strategy, tmp_path):
    rows = {"a": ((2, 2), (0,), 0, 0), "b": ((4, 2), (0,), 0, 0)}
    with pytest.raises(CheckpointError, match=r"runs of \[4, 8\] ranks"):
        read_strategy(write_strategy(tmp_path / "strategy.ckpt", rows))


def test_a_table_cut_by_hand_is_refused(proto, tmp_path):
    strategy = proto.StrategyMap()
    layouts = strategy.parallel_layout_item.add(param_name="table").parallel_layouts
    layouts.dev_matrix.add(dim=[2])
    layouts.tensor_map.add(dim=[0])
    layouts.param_split_shape.add(dim=[3, 5])
    (tmp_path / "strategy.ckpt").write_bytes(strategy.SerializeToString())
    with pytest.raises(CheckpointError, match="cut by hand"):
        read_strategy(tmp_path / "strategy.ckpt")


@pytest.mark.parametrize("data", [b"", b"\x08\x01", b"\x1a\x00", b"\x1a\x05\x0a", b"\xff" * 11])
def test_what_is_no_strategy_file_is_refused(tmp_path, data):
    (tmp_path / "strategy.ckpt").write_bytes(data)
    with pytest.raises(CheckpointError, match="--strategy"):
        read_strategy(tmp_path / "strategy.ckpt")


@pytest.fixture(scope="module")
def scratch(shared, tmp_path_factory):
    """A file that hypothesis writes again and again, and twenty layouts of a real one."""
    real = shared / "data" / "mindspore_strategy" / "pangu_alpha_2.6B_ckpt_strategy.ckpt"
    data = real.read_bytes()
    # Two keys with a length of one byte each stand before a name.
    starts = [match.start() - 4 for match in re.finditer(rb"adam_v\.", data)]
    return tmp_path_factory.mktemp("scratch") / "strategy.ckpt", data[starts[0] : starts[20]]


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, 2_000), junk=st.binary(max_size=9), skip=st.integers(0, 20))
def test_a_damaged_strategy_file_is_read_or_refused_and_nothing_else(scratch, at, junk, skip):
    path, layouts = scratch
    path.write_bytes(layouts[:at] + junk + layouts[at + skip :])
    try:
        seen = max(cut.num_ranks for cut in read_strategy(path).values())
    except CheckpointError as error:
        seen = error.subject
    assert seen == str(path) or 1 <= seen <= 65_536
