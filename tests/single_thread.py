"""Import this before numpy and torch: they then compute in one thread, and so do the processes that tests start.

The networks of the tests are too small for more: two threads spend most of their time waiting for each other, five
times the CPU time of one where other programs use the cores too. The fixture `all_cores` gives a test torch's usual
number.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
