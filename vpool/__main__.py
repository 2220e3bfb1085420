"""``python -m vpool``: the same as the command ``vpool``."""

from vpool.cli import main

if __name__ == "__main__":
    main()
