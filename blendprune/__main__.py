# PYTHON_ARGCOMPLETE_OK
"""``python -m blendprune``."""

import sys

from .command_line import main

if __name__ == "__main__":
    sys.exit(main())
