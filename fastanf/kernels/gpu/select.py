"""SET on masked layers without sorting: thresholds found digit by digit, words drawn where needed.

A connection's key is (bits of |weight|, random word, position) if it may leave and (random word,
position) if it may grow. One kernel per digit of eight bits, most significant first, counts the
digits of those connections that agree with what is known of the row's threshold; the next one
begins by reading the digit of the threshold off the counts. A row whose threshold leaves nothing to
choose is done early, and then a program of it ends at once: of ties, random words are drawn only
where there are any. Counts are integers, so that no order of programs shows.

The row of a layer is cut into tiles at the blocks of the random words; one program counts several.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastanf.kernels.csr_evolve import EvolutionKeys
from fastanf.kernels.gpu.philox import key_halves, philox4, uniform_of_bits

_TILE = 1024
_MAX_TILES = 16
_DIGIT_BITS = 8
_WORD_BITS = 32
_BINS = tl.constexpr(2**_DIGIT_BITS)
_STATE = tl.constexpr(5)  # threshold's magnitude, word and position; how many below; open

# The parts of a key.
_MAGNITUDE, _WORD, _POSITION = (tl.constexpr(level) for level in range(3))

# Not worth a kernel of their own for each value, or each divisibility by 16.
_VARYING = [
    "slot", "level_before", "shift_before", "shift", "step_low", "step_high", "stream",
    "value_stream", "num_tiles", "spans",
]  # fmt: skip


@triton.jit
def _narrow(state, histogram, level, shift):
    """The threshold after one more digit of part `level`, from the counts of that digit."""
    magnitude, word, position = tl.load(state), tl.load(state + 1), tl.load(state + 2)
    left, is_open = tl.load(state + 3), tl.load(state + 4)
    bins = tl.arange(0, _BINS)
    counts = tl.load(histogram + bins).to(tl.int64)
    wanted = tl.minimum(left, tl.sum(counts, 0))
    digit = tl.sum((tl.cumsum(counts, 0) < wanted).to(tl.int64), 0)
    wanted -= tl.sum(tl.where(bins < digit, counts, 0), 0)
    # All that share the threshold's digits are taken: the rest of it is as large as can be.
    is_closed = wanted == tl.sum(tl.where(bins == digit, counts, 0), 0)
    one = tl.full((), 1, tl.int64)
    digits = (digit << shift) + tl.where(is_closed, (one << shift) - 1, 0)
    rest = tl.where(is_closed, (one << 32) - 1, 0)
    was_open = is_open != 0
    magnitude += tl.where(was_open & (level == _MAGNITUDE), digits, 0)
    word += tl.where(
        was_open, tl.where(level == _WORD, digits, tl.where(level < _WORD, rest, 0)), 0
    )
    position += tl.where(was_open, tl.where(level == _POSITION, digits, rest), 0)
    left = tl.where(was_open, wanted, left)
    is_open = tl.where(was_open & (is_closed == 0), one, 0)
    return magnitude, word, position, left, is_open


@triton.jit
def _low(threshold):
    return (threshold & 0xFFFFFFFF).to(tl.uint32)


@triton.jit
def _tile(start, copy, n, IS_ALIGNED: tl.constexpr, TILE: tl.constexpr):
    """First block of random words, position and validity of a tile of one copy's row.

    The row of copy c begins at word c n of its lane, perhaps within a block of four.
    """
    begin = copy.to(tl.int64) * n
    i = start + tl.arange(0, TILE)
    if not IS_ALIGNED:
        i -= (begin % 4).to(tl.int32)
    return (begin // 4).to(tl.int32) + start // 4, i, (i >= 0) & (i < n)


@triton.jit
def _words(first_block, step_low, step_high, stream, key_low, key_high, TILE: tl.constexpr):
    block = first_block + tl.arange(0, TILE // 4)
    row_low = tl.full((), step_low, tl.int32).to(tl.uint32, bitcast=True)
    row_high = tl.full((), step_high, tl.int32).to(tl.uint32, bitcast=True)
    w0, w1, w2, w3 = philox4(block, row_low, row_high, stream, key_low, key_high)
    return tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))


@triton.jit
def _magnitude(weight, at, active):
    value = tl.load(weight + at, mask=active, other=0.0)
    return value.to(tl.uint32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def _continues(value, threshold, shift):
    # Two shifts: a shift of a uint32 by 32 is undefined.
    return (((value ^ threshold) >> shift) >> 8) == 0


@triton.jit
def _count_digit(value, shift, candidate):
    return tl.histogram(((value >> shift) & 0xFF).to(tl.int32), _BINS, mask=candidate)


@triton.jit(do_not_specialize=_VARYING)
def _count(
    weight, mask, num_drop, key, histogram, state,
    slot, level_before, shift_before, shift, step_low, step_high, stream,
    n, copies, rows, num_tiles, spans,
    DROPS: tl.constexpr, LEVEL: tl.constexpr, IS_FIRST: tl.constexpr, IS_ALIGNED: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Counts the digits at `shift` of part LEVEL of the keys that continue the row's threshold."""
    row = (tl.program_id(0) // spans).to(tl.int64)
    span = tl.program_id(0) % spans
    count = tl.load(num_drop + row)
    if count == 0:
        return
    own = slot * rows + row
    if IS_FIRST:
        magnitude, word, position = count * 0, count * 0, count * 0
        left, is_open = count, count * 0 + 1
    else:
        magnitude, word, position, left, is_open = _narrow(
            state + (own - rows) * _STATE, histogram + (own - rows) * _BINS,
            level_before, shift_before,
        )  # fmt: skip
    if span == 0:
        tl.store(state + own * _STATE, magnitude)
        tl.store(state + own * _STATE + 1, word)
        tl.store(state + own * _STATE + 2, position)
        tl.store(state + own * _STATE + 3, left)
        tl.store(state + own * _STATE + 4, is_open)
    if is_open == 0:
        return
    key_low, key_high = key_halves(tl.load(key + row // copies))
    magnitude, word, position = _low(magnitude), _low(word), _low(position)
    total = tl.zeros((_BINS,), tl.int32)
    for index in range(num_tiles):
        start = (span * num_tiles + index) * TILE
        first_block, i, is_inside = _tile(start, row % copies, n, IS_ALIGNED, TILE)
        at = row * n + i
        is_active = tl.load(mask + at, mask=is_inside, other=0) != 0
        if DROPS:
            candidate = is_active
            bits = _magnitude(weight, at, is_active)
        else:
            candidate = is_inside & (is_active == 0)
        if LEVEL == _MAGNITUDE:
            total += _count_digit(bits, shift, candidate & _continues(bits, magnitude, shift))
        else:
            if DROPS:
                candidate = candidate & (bits == magnitude)
            if tl.max(candidate.to(tl.int32), 0) != 0:
                drawn = _words(first_block, step_low, step_high, stream, key_low, key_high, TILE)
                if LEVEL == _WORD:
                    total += _count_digit(drawn, shift, candidate & _continues(drawn, word, shift))
                else:
                    place = i.to(tl.uint32)
                    continues = (drawn == word) & _continues(place, position, shift)
                    total += _count_digit(place, shift, candidate & continues)
    bins = tl.arange(0, _BINS)
    tl.atomic_add(histogram + own * _BINS + bins, total, mask=total > 0, sem="relaxed")


@triton.jit
def _is_below(drawn, i, word, position):
    return (drawn < word) | ((drawn == word) & (i.to(tl.uint32) <= position))


@triton.jit(do_not_specialize=_VARYING)
def _leave(
    weight, mask, exp_avg, exp_avg_sq, num_drop, fresh, key, histogram, state,
    slot, level_before, shift_before, step_low, step_high, stream,
    n, copies, rows, num_tiles, spans,
    HAS_MOMENTS: tl.constexpr, HAS_FRESH: tl.constexpr, IS_ALIGNED: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Takes connections up to the threshold off the mask, with their weights and moments."""
    row = (tl.program_id(0) // spans).to(tl.int64)
    span = tl.program_id(0) % spans
    if tl.load(num_drop + row) == 0:
        return
    last = slot * rows + row
    magnitude, word, position, _, _ = _narrow(
        state + last * _STATE, histogram + last * _BINS, level_before, shift_before
    )
    lane = row // copies
    key_low, key_high = key_halves(tl.load(key + lane))
    is_fresh = tl.load(fresh + lane) != 0 if HAS_FRESH else True
    magnitude, word, position = _low(magnitude), _low(word), _low(position)
    for index in range(num_tiles):
        start = (span * num_tiles + index) * TILE
        first_block, i, is_inside = _tile(start, row % copies, n, IS_ALIGNED, TILE)
        at = row * n + i
        is_active = tl.load(mask + at, mask=is_inside, other=0) != 0
        bits = _magnitude(weight, at, is_active)
        leaves = is_active & (bits < magnitude)
        is_tied = is_active & (bits == magnitude)
        if tl.max(is_tied.to(tl.int32), 0) != 0:
            drawn = _words(first_block, step_low, step_high, stream, key_low, key_high, TILE)
            leaves = leaves | (is_tied & _is_below(drawn, i, word, position))
        tl.store(mask + at, tl.zeros((TILE,), tl.uint8), mask=leaves)
        tl.store(weight + at, tl.zeros((TILE,), tl.float32), mask=leaves)
        if HAS_MOMENTS:  # noqa: SIM102  known when compiled
            if is_fresh:
                tl.store(exp_avg + at, tl.zeros((TILE,), tl.float32), mask=leaves)
                tl.store(exp_avg_sq + at, tl.zeros((TILE,), tl.float32), mask=leaves)


@triton.jit(do_not_specialize=_VARYING)
def _grow(
    weight, mask, exp_avg, exp_avg_sq, target, num_drop, new_bound, fresh, key, histogram, state,
    slot, level_before, shift_before, step_low, step_high, stream, value_stream,
    n, copies, rows, num_tiles, spans,
    HAS_MOMENTS: tl.constexpr, HAS_FRESH: tl.constexpr, HAS_TARGET: tl.constexpr,
    IS_ALIGNED: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Puts connections up to the threshold on the mask, with new weights and no moments, and clears
    the target where no connection is.
    """
    row = (tl.program_id(0) // spans).to(tl.int64)
    span = tl.program_id(0) % spans
    if tl.load(num_drop + row) == 0:
        return
    last = slot * rows + row
    _, word, position, _, _ = _narrow(
        state + last * _STATE, histogram + last * _BINS, level_before, shift_before
    )
    lane = row // copies
    key_low, key_high = key_halves(tl.load(key + lane))
    is_fresh = tl.load(fresh + lane) != 0 if HAS_FRESH else True
    word, position = _low(word), _low(position)
    bound = tl.load(new_bound + row)
    for index in range(num_tiles):
        start = (span * num_tiles + index) * TILE
        first_block, i, is_inside = _tile(start, row % copies, n, IS_ALIGNED, TILE)
        at = row * n + i
        is_active = tl.load(mask + at, mask=is_inside, other=0) != 0
        drawn = _words(first_block, step_low, step_high, stream, key_low, key_high, TILE)
        grows = is_inside & (is_active == 0) & _is_below(drawn, i, word, position)
        value = tl.zeros((TILE,), tl.float32)
        if (bound > 0) & (tl.max(grows.to(tl.int32), 0) != 0):
            uniform = uniform_of_bits(
                _words(first_block, step_low, step_high, value_stream, key_low, key_high, TILE)
            )
            value = (2.0 * uniform - 1.0) * bound
        tl.store(mask + at, tl.full((TILE,), 1, tl.uint8), mask=grows)
        tl.store(weight + at, value, mask=grows)
        if HAS_MOMENTS:  # noqa: SIM102  known when compiled
            if is_fresh:
                tl.store(exp_avg + at, tl.zeros((TILE,), tl.float32), mask=grows)
                tl.store(exp_avg_sq + at, tl.zeros((TILE,), tl.float32), mask=grows)
        if HAS_TARGET:
            is_empty = is_inside & (is_active == 0) & (grows == 0)
            tl.store(target + at, tl.zeros((TILE,), tl.float32), mask=is_empty)


def _digits(n: int, levels: Sequence[int]) -> list[tuple[int, int]]:
    """(part of the key, shift) of each digit, most significant first."""
    position_bits = -(-max(1, (n - 1).bit_length()) // _DIGIT_BITS) * _DIGIT_BITS
    bits = {_POSITION.value: position_bits}
    return [
        (level, shift)
        for level in levels
        for shift in reversed(range(0, bits.get(level, _WORD_BITS), _DIGIT_BITS))
    ]


def _signed(word: int) -> int:
    """An int32 of the same bits, the type that Triton gives small numbers."""
    return word - (word >> 31 << 32)


def masked_evolve_(
    weight: Tensor,
    mask: Tensor,
    num_drop: Tensor,
    keys: EvolutionKeys,
    new_bound: Tensor,
    moments: Sequence[Tensor],
    fresh_moments: Tensor | None,
    target: Tensor | None,
) -> None:
    """`kernels.select.masked_evolve_` of float32 tensors; arguments are checked there."""
    M, n = weight.shape
    if weight.numel() == 0:
        return
    is_aligned = n % 4 == 0
    tiles = triton.cdiv(n if is_aligned else n + 3, _TILE)
    num_tiles = min(_MAX_TILES, tiles)
    spans = triton.cdiv(tiles, num_tiles)
    grid = (M * spans,)
    drop_digits = _digits(n, [_MAGNITUDE.value, _WORD.value, _POSITION.value])
    grow_digits = _digits(n, [_WORD.value, _POSITION.value])
    slots = len(drop_digits) + len(grow_digits)
    histogram = torch.zeros(slots, M, _BINS.value, dtype=torch.int32, device=weight.device)
    state = torch.empty(slots, M, _STATE.value, dtype=torch.int64, device=weight.device)
    key, flags = keys.key.contiguous(), mask.view(torch.uint8)
    values = weight.detach()
    fresh = num_drop if fresh_moments is None else fresh_moments.view(torch.uint8)
    exp_avg, exp_avg_sq = moments or (values, values)
    step = _signed(keys.step & 0xFFFFFFFF), _signed(keys.step >> 32)
    geometry = (n, M // key.shape[0], M, num_tiles, spans)
    common = {"IS_ALIGNED": is_aligned, "TILE": _TILE}
    changes = {"HAS_MOMENTS": bool(moments), "HAS_FRESH": fresh_moments is not None, **common}

    def count(digits: Sequence[tuple[int, int]], first_slot: int, stream: int, drops: bool) -> None:
        before = digits[0]
        for slot, (level, shift) in enumerate(digits, start=first_slot):
            part = {"DROPS": drops, "LEVEL": level, "IS_FIRST": slot == first_slot, **common}
            _count[grid](
                values, flags, num_drop, key, histogram, state, slot, *before, shift, *step,
                stream, *geometry, **part,
            )  # fmt: skip
            before = level, shift

    count(drop_digits, 0, keys.drop, True)
    _leave[grid](
        values, flags, exp_avg, exp_avg_sq, num_drop, fresh, key, histogram, state,
        len(drop_digits) - 1, *drop_digits[-1], *step, keys.drop, *geometry, **changes,
    )  # fmt: skip
    count(grow_digits, len(drop_digits), keys.grow, False)
    grows = {"HAS_TARGET": target is not None, **changes}
    _grow[grid](
        values, flags, exp_avg, exp_avg_sq, values if target is None else target, num_drop,
        new_bound, fresh, key, histogram, state, slots - 1, *grow_digits[-1], *step,
        keys.grow, keys.value, *geometry, **grows,
    )  # fmt: skip
    changed = [weight, mask, *moments, *([] if target is None else [target])]
    torch.autograd.graph.increment_version(changed)
