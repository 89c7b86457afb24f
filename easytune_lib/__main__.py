"""``python -m easytune_lib`` is the command ``easytune``."""

import sys

from easytune_lib.app.cli import main

if __name__ == "__main__":
    sys.exit(main())
