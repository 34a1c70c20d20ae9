"""From a store to a run: configuration, loop, metrics, run folder. `python -m train --help`."""
