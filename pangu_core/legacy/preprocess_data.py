"""``python -m pangu_core.legacy.preprocess_data``: see preprocessing.py."""

import sys

from pangu_core.legacy.preprocessing import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
