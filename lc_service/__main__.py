"""`python -m lc_service` is `lc-service`."""

import sys

from lc_service.cli import main

if __name__ == "__main__":
    sys.exit(main())
