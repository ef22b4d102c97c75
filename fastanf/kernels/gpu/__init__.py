"""Triton kernels for CUDA, a file per operation; each computes what the `_ref` of the file of the
same name one folder up defines.

Only the functions of that folder call these, after `kernels.is_triton` has said yes: to import them
takes Triton. Without a GPU its interpreter runs them on CPU tensors (TRITON_INTERPRET=1 before
the first import).

Shapes of tiles depend on the sizes of one lane and never on the number of lanes, and no result is
added up across programs: a lane has the same bits alone and among others.
"""

import os

# Triton 3.10 no longer fuses products and sums unless it is told to; no release changes bits here.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
