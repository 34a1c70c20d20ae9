"""`python -m train NAME=value ...`: the commands of this package; `help` lists them."""

from canopy.main import main

if __name__ == "__main__":
    main("train")
