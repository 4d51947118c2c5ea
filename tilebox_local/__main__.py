"""`python -m tilebox_local`: the command line."""

import sys

from tilebox_local.cli import main

if __name__ == "__main__":
    sys.exit(main())
