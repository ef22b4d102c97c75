"""Without a GPU, Triton's kernels are interpreted on the CPU; to be said before it is loaded."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
