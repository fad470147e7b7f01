"""``python -m pangu_core.legacy.change_MspCkpt_ToMgt``: see moving.py."""

import sys

from pangu_core.legacy.moving import convert as main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
