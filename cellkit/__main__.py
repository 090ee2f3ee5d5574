"""``python -m cellkit`` is the command ``cellkit``."""

import sys

from cellkit.cli import main

if __name__ == "__main__":
    sys.exit(main())
