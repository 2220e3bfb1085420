"""``python -m registry``: see :func:`registry.server.main`."""

import sys
import traceback

from registry.server import EXIT_DEFECT, main

if __name__ == "__main__":
    try:
        code = main()
    except Exception:
        traceback.print_exc()
        code = EXIT_DEFECT
    sys.exit(code)
