"""How much memory a process may still use: the smaller of the machine's and its cgroup's."""

import psutil
import pytest

from pangu_core.memory import room

GIB = 2**30
V1 = {
    "memory.limit_in_bytes": f"{2 * GIB}\n",
    "memory.usage_in_bytes": f"{GIB}\n",
    "memory.stat": f"cache {GIB}\ntotal_inactive_file {GIB // 4}\n",
}
V2 = {
    "memory.max": f"{2 * GIB}\n",
    "memory.current": f"{GIB}\n",
    "memory.stat": f"anon {GIB}\ninactive_file {GIB // 4}\n",
}


@pytest.fixture
def cgroup(tmp_path):
    def make(folder, files, membership=""):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (tmp_path / folder / name).write_text(text)
        (tmp_path / "membership").write_text(membership)
        return room(tmp_path, tmp_path / "membership")

    return make


@pytest.mark.parametrize(
    ("folder", "files", "membership"),
    [
        ("memory/pod/a", V1, "4:memory:/pod/a\n"),
        ("memory", V1, "4:memory:/not/seen/here\n"),
        ("pod/b", V2, "0::/pod/b\n"),
        (".", V2, "0::/\n"),
    ],
)
def test_the_cgroups_limit_counts_and_its_droppable_cache_does_not(
    cgroup, folder, files, membership
):
    found = cgroup(folder, files, membership)
    assert (found.available, found.total) == (GIB + GIB // 4, 2 * GIB)


def test_a_cgroup_over_its_limit_has_no_room(cgroup):
    assert cgroup(".", V2 | {"memory.current": f"{3 * GIB}"}).available == 0


@pytest.mark.parametrize("limit", ["max", str(2**63 - 4096)])
def test_without_a_limit_the_machines_memory_counts(cgroup, limit):
    total = psutil.virtual_memory().total
    found = cgroup(".", V2 | {"memory.max": limit})
    assert found.total == total
    assert 0 < found.available <= total
