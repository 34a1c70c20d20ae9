"""From a finished run to understanding. Reads files; needs no GPU."""
