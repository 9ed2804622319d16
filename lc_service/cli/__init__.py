"""The command line: `lc-service demo | chat | chains | chain | usage | simulate`.

Every error is one line on stderr, with an exit code that says of what kind it is. A command imports what it
needs when it runs, so that `--help` is quick; the work itself is done elsewhere.
"""

from lc_service.cli.main import app, main
from lc_service.cli.options import EXIT_CODES

__all__ = ["EXIT_CODES", "app", "main"]
