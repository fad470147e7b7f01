"""``python -m pangu_core.legacy.pretrain_gpt2``: see training.py."""

import sys

from pangu_core.legacy.training import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
