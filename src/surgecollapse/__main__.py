"""``python -m surgecollapse``."""

import sys

from surgecollapse.cli import main

if __name__ == "__main__":
    sys.exit(main())
