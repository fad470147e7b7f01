"""The store pod's command: hear signals first, then do the work (store_pod.py)."""

import sys

from pangu_core.launch.stop import StopRequest


def main() -> None:
    """Run the command."""
    stop = StopRequest.installed()
    # After the handler: this loads for a while.
    from pangu_core.entry import store_pod

    sys.exit(store_pod.run(stop))


if __name__ == "__main__":
    main()
