"""The logarithm as a device function, by the polynomial of the compiled CPU kernels."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def split_log(value, SHIFT: tl.constexpr):
    """Exponent k and -2 ln m, float32, of value = m 2^(k + SHIFT) with m in [sqrt(1/2), sqrt(2)).

    A minimax polynomial of log1p with a relative error of 3e-8; value is normal and positive.
    """
    # sqrt(1/2) = 0x3F3504F3.
    shifted = value.to(tl.int32, bitcast=True) - (0x3F3504F3 + (SHIFT << 23))
    exponent = (shifted >> 23).to(tl.float32)
    x = ((shifted & 0x7FFFFF) + 0x3F3504F3).to(tl.float32, bitcast=True) - 1.0
    q = tl.fma(x, -0.174696822, 0.286150420)
    q = tl.fma(q, x, -0.298359479)
    q = tl.fma(q, x, 0.331410166)
    q = tl.fma(q, x, -0.399241442)
    q = tl.fma(q, x, 0.500035105)
    q = tl.fma(q, x, -0.666679004)
    q = tl.fma(q, x, 0.999999832)
    return exponent, x * tl.fma(x, q, -2.0)
