"""Our launcher with its default limits, and the measured payload in place of the training rank."""

import sys
from dataclasses import replace
from typing import Final

from pangu_core.entry import process, train_pod
from pangu_core.launch.stop import StopRequest
from pangu_core.messages import Termination

COMMAND: Final = (sys.executable, "-m", "bench.elastic.payload")


def main() -> int:
    stop = StopRequest.installed()

    def work() -> Termination:
        return train_pod.train(replace(train_pod.read_settings(None), command=COMMAND), stop)

    return process.run("train", work)


if __name__ == "__main__":
    sys.exit(main())
