"""`python -m fastmmd.models`: see `fastmmd.models.cli`."""

from fastmmd.models.cli import main

if __name__ == "__main__":
    main()
