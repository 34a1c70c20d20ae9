"""`python -m canopy COMMAND NAME=value ...`; `python -m canopy help` lists the commands."""

from canopy.main import main

if __name__ == "__main__":
    main()
