"""`python -m jaxformers`: see `cli`."""

import sys

from jaxformers.cli import main

if __name__ == "__main__":
    sys.exit(main())
