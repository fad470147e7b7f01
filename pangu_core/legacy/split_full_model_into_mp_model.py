"""``python -m pangu_core.legacy.split_full_model_into_mp_model``: see moving.py."""

import sys

from pangu_core.legacy.moving import split as main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
