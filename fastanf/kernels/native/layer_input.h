// What enters a layer, block of features by block of features: real ones, noise, and actions.
//
// Noise is drawn where it is wanted and never stored: a block lives in the scratch memory of the
// thread that multiplies it.
#pragma once

#include "philox.h"
#include "scratch.h"
#include "simd.h"

namespace {

using fastanf::InputArgs;
using fastanf::PartArgs;

// Features [first, last) of one part at rows [row, row + n), `to` [last - first, stride].
inline void copy_part(const PartArgs& part, int64_t lane, int64_t first, int64_t last, int64_t row,
                      int64_t n, float* to, int64_t stride) {
    const float* from = part.data + lane * part.lane_stride + row * part.row_stride;
    if (part.row_stride == 1) {
        for (int64_t f = first; f < last; ++f) {
            copy_padded(to + (f - first) * stride, from + f * part.feature_stride, n, stride);
        }
        return;
    }
    for (int64_t f = first; f < last; ++f) {
        float* line = to + (f - first) * stride;
        for (int64_t r = 0; r < n; ++r) {
            line[r] = from[f * part.feature_stride + r * part.row_stride];
        }
        for (int64_t r = n; r < stride; ++r) line[r] = 0.0f;
    }
}

// Noise features [first, last) at rows [row, row + n).
inline void draw_part(const InputArgs& in, int64_t lane, int64_t first, int64_t last, int64_t row,
                      int64_t n, float* to, int64_t stride) {
    const int64_t begin = first / 4, end = (last + 3) / 4;
    // A block of four words may start before `first`: it is drawn whole, and cut by first_word.
    const RandomArgs a{to,          0,          stride,       1,
                       last - first, n,          in.key + lane, in.noise_row + lane * in.rows + row,
                       in.stream,   first,      in.std + lane, in.quantiles,
                       in.num_tables, 0,         1};
    if (n <= kLanesOfWork / 2) {
        if (in.quantiles) {
            blocks_by_counters<Draw::kEmpirical>(a, 0, begin, end);
        } else {
            blocks_by_counters<Draw::kNormal>(a, 0, begin, end);
        }
    } else if (in.quantiles) {
        blocks_by_rows<Draw::kEmpirical>(a, 0, begin, end);
    } else {
        blocks_by_rows<Draw::kNormal>(a, 0, begin, end);
    }
    for (int64_t f = first; f < last; ++f) {
        float* line = to + (f - first) * stride;
        for (int64_t r = n; r < stride; ++r) line[r] = 0.0f;
    }
}

// Inputs [first, last) of one lane at rows [row, row + n): `tile` [last - first, stride], zero
// from column n on.
inline void fill_tile(const InputArgs& in, int64_t lane, int64_t first, int64_t last, int64_t row,
                      int64_t n, float* tile, int64_t stride) {
    const int64_t ends[3] = {in.real.num, in.real.num + in.num_noise,
                             in.real.num + in.num_noise + in.extra.num};
    int64_t begin = 0;
    for (int part = 0; part < 3; ++part) {
        const int64_t from = first > begin ? first : begin, to = last < ends[part] ? last : ends[part];
        if (from < to) {
            float* out = tile + (from - first) * stride;
            if (part == 0) copy_part(in.real, lane, from, to, row, n, out, stride);
            if (part == 1) draw_part(in, lane, from - begin, to - begin, row, n, out, stride);
            if (part == 2) {
                copy_part(in.extra, lane, from - begin, to - begin, row, n, out, stride);
            }
        }
        begin = ends[part];
    }
}

// How one lane's columns are shared out: parts of equal width, a multiple of four, so that the
// tasks keep all threads busy and a part's block of features stays in the cache.
struct Parts {
    int64_t count, width, columns;

    Parts(int64_t lanes, int64_t columns, int threads) : columns(columns) {
        constexpr int64_t kWidest = 128, kNarrowest = 16;
        const int64_t least = (columns + kWidest - 1) / kWidest;
        const int64_t most = columns / kNarrowest > least ? columns / kNarrowest : least;
        count = least;
        while (count < most && lanes * count % threads != 0 && lanes * count < 4 * threads) ++count;
        width = ((columns + count - 1) / count + 3) / 4 * 4;
        count = (columns + width - 1) / width;
    }
    int64_t begin(int64_t part) const { return part * width; }
    int64_t size(int64_t part) const {
        return columns - part * width < width ? columns - part * width : width;
    }
};

}  // namespace
