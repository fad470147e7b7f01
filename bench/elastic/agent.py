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
        settings = train_pod.read_settings(None)
        spare = COMMAND if settings.spare_command else None
        return train_pod.train(replace(settings, command=COMMAND, spare_command=spare), stop)

    return process.run("train", work)


if __name__ == "__main__":
    sys.exit(main())
