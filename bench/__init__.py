"""`make bench`: the loader against its limits and against others, on the same chips, work and cores."""
