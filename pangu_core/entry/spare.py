"""A rank before it is one: loads all that a rank needs, and waits to be told its place.

``--gently``: beside ranks that train, load on time that they hardly miss.
"""

import importlib
import os
import sys
import threading
from typing import Final

from pangu_core.launch.parent_death import die_with_parent
from pangu_core.launch.rank_names import SPARE_NAME, name_this_process
from pangu_core.launch.starter import wait_for_place

RANK: Final = "pangu_core.entry.rank"
# The rank, and what sharding, the first step and the first line of metrics load late.
MODULES: Final = (
    RANK,
    "torch.distributed.fsdp",
    "torch._dynamo",
    "torch._functorch.aot_autograd",
    "torch.utils.tensorboard",
)


# About a tenth of the time of an ordinary process where all cores are busy (setpriority(2)). With
# less, a spare beside ranks that compute on the processor would never be ready.
GENTLE: Final = 10


def main() -> None:
    """Become a rank once the launcher needs one; end if it never does."""
    die_with_parent()
    if "--gently" in sys.argv[1:]:
        # Priority is a thread's own, and only lowering it is free to everybody.
        thread = threading.Thread(target=_load_gently)
        thread.start()
        thread.join()
    else:
        _load()
    name_this_process(SPARE_NAME)
    wait_for_place()
    importlib.import_module(RANK).main()


def _load() -> None:
    for module in MODULES:
        importlib.import_module(module)


def _load_gently() -> None:
    thread = threading.get_native_id()
    priority = os.getpriority(os.PRIO_PROCESS, thread)
    os.setpriority(os.PRIO_PROCESS, thread, min(19, priority + GENTLE))
    _load()


if __name__ == "__main__":
    main()
