"""``python -m pangu_core.legacy.merge_mp_partitions``: see moving.py."""

import sys

from pangu_core.legacy.moving import merge as main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
