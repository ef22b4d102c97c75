#pragma once
// Counter-based random words (Philox4x32, 7 rounds) and what is drawn from them.
//
// out[l, i, r] comes from word first_word + i of row row[l, r] under key[l]. Sixteen counters go
// through the generator together: sixteen rows of one block of four words, or where there are few
// rows, several blocks. Rounds 1 and 2 split into a part of the row and a part of the block, so
// that the first is computed once per row and the second once per block.
//
// Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011.

#if defined(__AVX2__)
#include <immintrin.h>
#endif
#include <cstring>

#include "elements.h"
#include "variates.h"

namespace {

using fastanf::Draw;
using fastanf::RandomArgs;

constexpr int kLanesOfWork = 16;  // counters in flight
constexpr int kRounds = 7;
constexpr int kChunksOfRows = 16;        // row tables held at once: 256 rows
constexpr int64_t kWordsPerPiece = 8192; // work of one parallel task, at least
constexpr uint64_t kMul0 = 0xD2511F53u, kMul1 = 0xCD9E8D57u;
constexpr uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
constexpr uint64_t kLow = 0xFFFFFFFFu;

#if defined(__AVX512F__)
constexpr int kU64 = 8;
#elif defined(__AVX2__)
constexpr int kU64 = 4;
#else
constexpr int kU64 = 2;
#endif
constexpr int kParts = kLanesOfWork / kU64;

// 32-bit values live in 64-bit elements; bits 32 to 63 are garbage between the operations.
typedef uint64_t U64 __attribute__((vector_size(8 * kU64)));

inline __attribute__((always_inline)) U64 splat(uint64_t value) { return U64{} + value; }

// 64-bit product of the low halves.
inline __attribute__((always_inline)) U64 multiply(U64 a, uint64_t b) {
#if defined(__AVX512F__)
    return (U64)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64((int64_t)b));
#elif defined(__AVX2__)
    return (U64)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x((int64_t)b));
#else
    return (a & kLow) * b;
#endif
}

// The low halves of two vectors, in one store as wide as the loads that follow.
inline __attribute__((always_inline)) void store_low(U64 a, U64 b, uint32_t* to) {
#if defined(__AVX512F__)
    const __m512i even =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    _mm512_storeu_si512(to, _mm512_permutex2var_epi32((__m512i)a, even, (__m512i)b));
#elif defined(__AVX2__)
    const __m256 mixed = _mm256_shuffle_ps((__m256)a, (__m256)b, 0x88);
    _mm256_storeu_si256((__m256i*)to, _mm256_permute4x64_epi64((__m256i)mixed, 0xD8));
#else
    for (int i = 0; i < kU64; ++i) {
        to[i] = (uint32_t)a[i];
        to[kU64 + i] = (uint32_t)b[i];
    }
#endif
}

struct Keys {
    uint32_t k0[kRounds], k1[kRounds];

    explicit Keys(int64_t key) {
        uint32_t lo = (uint32_t)(uint64_t)key, hi = (uint32_t)((uint64_t)key >> 32);
        for (int round = 0; round < kRounds; ++round) {
            k0[round] = lo;
            k1[round] = hi;
            lo += kWeyl0;
            hi += kWeyl1;
        }
    }
};

struct Words {
    alignas(64) uint32_t w[4][kLanesOfWork];
};

inline __attribute__((always_inline)) void finish_rounds(U64 c[4][kParts], const Keys& keys,
                                                         int first_round, Words& words) {
    for (int round = first_round; round < kRounds; ++round) {
        const uint64_t k0 = keys.k0[round], k1 = keys.k1[round];
        for (int p = 0; p < kParts; ++p) {
            const U64 p0 = multiply(c[0][p], kMul0), p1 = multiply(c[2][p], kMul1);
            c[0][p] = (p1 >> 32) ^ c[1][p] ^ k0;
            c[1][p] = p1;
            c[2][p] = (p0 >> 32) ^ c[3][p] ^ k1;
            c[3][p] = p0;
        }
    }
    for (int j = 0; j < 4; ++j) {
        for (int p = 0; p < kParts; p += 2) store_low(c[j][p], c[j][p + 1], &words.w[j][p * kU64]);
    }
}

// What rounds 1 and 2 owe to sixteen rows alone.
struct RowPart {
    U64 x1[kParts];   // word 1 after round 1
    U64 hi[kParts];   // high half of the first product of round 2
    U64 lo[kParts];   // its low half

    void set(const int64_t* row, int count, const Keys& keys) {
        uint64_t padded[kLanesOfWork] = {};
        for (int i = 0; i < count; ++i) padded[i] = (uint64_t)row[i];
        for (int p = 0; p < kParts; ++p) {
            U64 id;
            std::memcpy(&id, padded + p * kU64, sizeof(id));
            const U64 product = multiply(id >> 32, kMul1);
            const U64 x0 = (product >> 32) ^ id ^ (uint64_t)keys.k0[0];
            const U64 second = multiply(x0, kMul0);
            x1[p] = product;
            hi[p] = second >> 32;
            lo[p] = second;
        }
    }
};

inline __attribute__((always_inline)) void words_of_rows(const RowPart& part, uint32_t block,
                                                         uint32_t stream, const Keys& keys,
                                                         Words& words) {
    const uint64_t product = kMul0 * block;
    const uint64_t x2 = ((product >> 32) ^ stream ^ keys.k1[0]) & kLow, x3 = product & kLow;
    const uint64_t second = kMul1 * x2;
    const uint64_t c0 = (second >> 32) ^ keys.k0[1], c2 = x3 ^ keys.k1[1];
    U64 c[4][kParts];
    for (int p = 0; p < kParts; ++p) {
        c[0][p] = part.x1[p] ^ c0;
        c[1][p] = splat(second);
        c[2][p] = part.hi[p] ^ c2;
        c[3][p] = part.lo[p];
    }
    finish_rounds(c, keys, 2, words);
}

// Sixteen arbitrary counters.
inline void words_of_counters(const uint64_t* block, const uint64_t* row, uint32_t stream,
                              const Keys& keys, Words& words) {
    U64 c[4][kParts];
    for (int p = 0; p < kParts; ++p) {
        U64 id;
        std::memcpy(&id, row + p * kU64, sizeof(id));
        std::memcpy(&c[0][p], block + p * kU64, sizeof(id));
        c[1][p] = id;
        c[2][p] = id >> 32;
        c[3][p] = splat(stream);
    }
    finish_rounds(c, keys, 0, words);
}

// Four words of sixteen counters become four values each.
struct Values {
    alignas(64) float v[4][kLanesOfWork];
};

// Word i of a row follows table i modulo the number of tables.
inline const float* table_of(const RandomArgs& a, int64_t feature) {
    return a.quantiles + ((a.first_word + feature) % a.num_tables) * kTablePoints;
}

// Sixteen values of each of four features, to[j] + 0 .. 15; does nothing for the other draws.
template <Draw kDraw>
inline __attribute__((always_inline)) void transform(const Words& words, float scale,
                                                     float* const to[4]) {
    if constexpr (kDraw == Draw::kNormal) {
        for (int j = 0; j < 4; j += 2) {
            float *__restrict n0 = to[j], *__restrict n1 = to[j + 1];
#pragma omp simd
            for (int i = 0; i < kLanesOfWork; ++i) {
                box_muller(words.w[j][i], words.w[j + 1][i], scale, n0[i], n1[i]);
            }
        }
    } else if constexpr (kDraw == Draw::kUniform) {
        for (int j = 0; j < 4; ++j) {
            float* __restrict u = to[j];
            for (int i = 0; i < kLanesOfWork; ++i) u[i] = uniform(words.w[j][i]);
        }
    }
}

// Copies up to sixteen values in pieces of fixed size: no call, and no loads across two stores.
inline __attribute__((always_inline)) void copy_few(float* to, const float* from, int count) {
    if (count & 16) {
        std::memcpy(to, from, 64);
        return;
    }
    if (count & 8) {
        std::memcpy(to, from, 32);
        to += 8, from += 8;
    }
    if (count & 4) {
        std::memcpy(to, from, 16);
        to += 4, from += 4;
    }
    if (count & 2) {
        std::memcpy(to, from, 8);
        to += 2, from += 2;
    }
    if (count & 1) *to = *from;
}

// Writes `count` neighbouring rows of one feature.
template <Draw kDraw>
inline __attribute__((always_inline)) void store_rows(const RandomArgs& a, int64_t offset,
                                                      int64_t feature, const uint32_t* word,
                                                      const float* value, float scale, int count) {
    if constexpr (kDraw == Draw::kBits) {
        int64_t* to = (int64_t*)a.out + offset;
        for (int i = 0; i < count; ++i) to[i] = word[i];
    } else if constexpr (kDraw == Draw::kEmpirical) {
        float* to = (float*)a.out + offset;
        const float* table = table_of(a, feature);
        for (int i = 0; i < count; ++i) to[i] = quantile(word[i], table, scale);
    } else {
        copy_few((float*)a.out + offset, value, count);
    }
}

// Blocks [begin, end) of one lane, sixteen rows at a time.
template <Draw kDraw>
void blocks_by_rows(const RandomArgs& a, int64_t lane, int64_t begin, int64_t end) {
    const Keys keys(a.key[lane]);
    const float scale = a.scale ? a.scale[lane] : 1.0f;
    constexpr bool kIsDirect = kDraw == Draw::kNormal || kDraw == Draw::kUniform;
    const int64_t tile = (int64_t)kChunksOfRows * kLanesOfWork;
    RowPart part[kChunksOfRows];
    Words words;
    Values values;
    float* const scratch[4] = {values.v[0], values.v[1], values.v[2], values.v[3]};
    for (int64_t first_row = 0; first_row < a.rows; first_row += tile) {
        const int rows = (int)(a.rows - first_row < tile ? a.rows - first_row : tile);
        for (int row = 0; row < rows; row += kLanesOfWork) {
            const int count = rows - row < kLanesOfWork ? rows - row : kLanesOfWork;
            part[row / kLanesOfWork].set(a.row + lane * a.rows + first_row + row, count, keys);
        }
        for (int64_t block = begin; block < end; ++block) {
            const int64_t feature = 4 * block - a.first_word;
            const int from = feature < 0 ? (int)-feature : 0;
            const int to = a.features - feature < 4 ? (int)(a.features - feature) : 4;
            const int64_t offset =
                lane * a.lane_stride + feature * a.feature_stride + first_row;
            for (int row = 0; row < rows; row += kLanesOfWork) {
                const int count = rows - row < kLanesOfWork ? rows - row : kLanesOfWork;
                words_of_rows(part[row / kLanesOfWork], (uint32_t)block, a.stream, keys, words);
                if (kIsDirect && count == kLanesOfWork && from == 0 && to == 4) {
                    float* first = (float*)a.out + offset + row;
                    float* const direct[4] = {first, first + a.feature_stride,
                                              first + 2 * a.feature_stride,
                                              first + 3 * a.feature_stride};
                    transform<kDraw>(words, scale, direct);
                    continue;
                }
                transform<kDraw>(words, scale, scratch);
                for (int j = from; j < to; ++j) {
                    store_rows<kDraw>(a, offset + j * a.feature_stride + row, feature + j,
                                      words.w[j], values.v[j], scale, count);
                }
            }
        }
    }
}

// Blocks [begin, end) of one lane that has at most eight rows: several blocks at a time.
template <Draw kDraw>
void blocks_by_counters(const RandomArgs& a, int64_t lane, int64_t begin, int64_t end) {
    const Keys keys(a.key[lane]);
    const float scale = a.scale ? a.scale[lane] : 1.0f;
    const int rows = (int)a.rows, packed = kLanesOfWork / rows;
    uint64_t row[kLanesOfWork] = {}, block[kLanesOfWork] = {};
    for (int i = 0; i < packed * rows; ++i) {
        row[i] = (uint64_t)a.row[lane * rows + i % rows];
        block[i] = (uint64_t)(begin + i / rows);
    }
    Words words;
    Values values;
    float* const scratch[4] = {values.v[0], values.v[1], values.v[2], values.v[3]};
    for (int64_t first = begin; first < end; first += packed) {
        words_of_counters(block, row, a.stream, keys, words);
        transform<kDraw>(words, scale, scratch);
        const int here = (int)(end - first < packed ? end - first : packed);
        for (int b = 0; b < here; ++b) {
            for (int j = 0; j < 4; ++j) {
                const int64_t feature = 4 * (first + b) + j - a.first_word;
                if (feature < 0 || feature >= a.features) continue;
                store_rows<kDraw>(a, lane * a.lane_stride + feature * a.feature_stride, feature,
                                  words.w[j] + b * rows, values.v[j] + b * rows, scale, rows);
            }
        }
        for (int i = 0; i < kLanesOfWork; ++i) block[i] += packed;
    }
}

template <Draw kDraw>
void draw_all(const RandomArgs& a) {
    const int64_t begin = a.first_word / 4, end = (a.first_word + a.features + 3) / 4;
    const int64_t blocks = end - begin;
    // Pieces of about 8192 words: coarse enough to amortise a piece's row tables.
    const int64_t words_per_block = 4 * (a.rows < kLanesOfWork ? kLanesOfWork : a.rows);
    int64_t piece = kWordsPerPiece / words_per_block;
    piece = piece < 8 ? 8 : piece;
    const int64_t pieces = (blocks + piece - 1) / piece;
    const int64_t tasks = pieces * a.lanes;
#pragma omp parallel for num_threads(a.threads) schedule(static) if (tasks > 1 && a.threads > 1)
    for (int64_t task = 0; task < tasks; ++task) {
        const int64_t lane = task / pieces, first = begin + task % pieces * piece;
        const int64_t last = first + piece < end ? first + piece : end;
        if (a.rows <= kLanesOfWork / 2) {
            blocks_by_counters<kDraw>(a, lane, first, last);
        } else {
            blocks_by_rows<kDraw>(a, lane, first, last);
        }
    }
}

void draw_random(const RandomArgs& a) {
    if (a.lanes <= 0 || a.features <= 0 || a.rows <= 0) return;
    switch ((Draw)a.draw) {
        case Draw::kBits: return draw_all<Draw::kBits>(a);
        case Draw::kUniform: return draw_all<Draw::kUniform>(a);
        case Draw::kNormal: return draw_all<Draw::kNormal>(a);
        case Draw::kEmpirical: return draw_all<Draw::kEmpirical>(a);
    }
}

}  // namespace
