"""`python -m clkit` is `clkit`."""

from clkit.cli.app import main

if __name__ == "__main__":
    main()
