"""`python -m rft_jax.commands`, which is `rft`."""

import sys

from rft_jax.commands.entry import main

if __name__ == "__main__":
    sys.exit(main())
