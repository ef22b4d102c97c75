"""SAC and TD3 with dynamic sparse training on extremely noisy environments, many lanes in one
process.
"""

import os

# OpenMP's threads wait for the next parallel region by spinning, for milliseconds. Where another
# process wants the core (the simulator's threads, a second run, a busy machine), every region then
# waits for the scheduler: with one competitor on two cores, 100 us of work took 11.9 ms by default
# and 0.25 ms with this count (AMD EPYC 9004, torch 2.13). It is read when torch is first imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

__version__ = "0.1.0"
