"""``python -m pangu_core.legacy.generate_samples_Pangu``: see generating.py."""

import sys

from pangu_core.legacy.generating import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
