// Sparse evolutionary training on stored connections, in place: the weakest leave, as many grow at
// random places, and the order (block of inputs, output, input) is restored.
//
// Which leave and which grow is what fastanf/sparse/topology.py defines on masks: the smallest
// magnitudes leave, equal ones by their random word and then by place; those places without a
// connection grow whose random words are smallest. The word of place p = o * I + i of copy c is
// word c * O * I + p of the row `step`. Only the words are drawn that decide.
//
// Source: Mocanu et al. 2018, arXiv 1707.04780, Alg. 2.
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "philox.h"

namespace {

using fastanf::EvolveArgs;
using fastanf::TransposeArgs;

struct Candidate {
    uint32_t word;
    int64_t place;
    bool operator<(const Candidate& other) const {
        return word != other.word ? word < other.word : place < other.place;
    }
};

class MatrixEvolution {
  public:
    MatrixEvolution(const EvolveArgs& a, int64_t g)
        : a_(a), g_(g), places_(a.outputs * a.inputs), keys_(a.key[g / a.copies]),
          first_word_(g % a.copies * places_), start_(a.start + g * (a.blocks * a.outputs + 1)),
          column_(a.column + g * a.stored), count_(start_[a.blocks * a.outputs]) {}

    void run() {
        const int64_t num = a_.num_drop[g_];
        if (num == 0) return;
        find_places();
        choose_leaving(num);
        choose_growing(num);
        merge();
    }

  private:
    // Place of each connection, and its number in the order of storage.
    void find_places() {
        place_.resize((size_t)count_);
        order_.resize((size_t)count_);
        for (int64_t segment = 0; segment < a_.blocks * a_.outputs; ++segment) {
            const int64_t output = segment % a_.outputs, block = segment / a_.outputs;
            const int64_t first = block * a_.block_size;
            for (int32_t j = start_[segment]; j < start_[segment + 1]; ++j) {
                place_[(size_t)j] = output * a_.inputs + column_[j];
                order_[(size_t)j] = segment * a_.block_size + (column_[j] - first);
            }
        }
    }

    void choose_leaving(int64_t num) {
        const float* value = a_.value + g_ * a_.stored;
        const auto magnitude = [&](int64_t j) {
            return (uint32_t)bits_of(value[j]) & 0x7FFFFFFFu;  // NaN is above infinity
        };
        std::vector<uint32_t> order((size_t)count_);
        for (int64_t j = 0; j < count_; ++j) order[(size_t)j] = magnitude(j);
        std::nth_element(order.begin(), order.begin() + (num - 1), order.end());
        const uint32_t threshold = order[(size_t)num - 1];
        leaves_.assign((size_t)count_, 0);
        std::vector<std::pair<Candidate, int64_t>> ties;
        for (int64_t j = 0; j < count_; ++j) {
            if (magnitude(j) < threshold) {
                leaves_[(size_t)j] = 1;
                --num;
            } else if (magnitude(j) == threshold) {
                const int64_t place = place_[(size_t)j];
                ties.push_back({{word(a_.drop_stream, place), place}, j});
            }
        }
        std::sort(ties.begin(), ties.end(),
                  [](const auto& x, const auto& y) { return x.first < y.first; });
        for (int64_t i = 0; i < num; ++i) leaves_[(size_t)ties[(size_t)i].second] = 1;
    }

    void choose_growing(int64_t num) {
        std::vector<uint8_t> kept((size_t)places_, 0);
        int64_t free = places_;
        for (int64_t j = 0; j < count_; ++j) {
            if (leaves_[(size_t)j]) continue;
            kept[(size_t)place_[(size_t)j]] = 1;
            --free;
        }
        // Words below a limit that is expected to leave some more than are wanted.
        const double wanted = (double)num + 6.0 * std::sqrt((double)num) + 16.0;
        double limit = 4294967296.0 * (wanted / (double)free);
        for (;;) {
            grows_.clear();
            const bool takes_all = limit >= 4294967295.0;
            collect(takes_all ? 0xFFFFFFFFu : (uint32_t)limit, kept);
            if ((int64_t)grows_.size() >= num) break;
            limit = takes_all ? limit : 4294967295.0;
        }
        std::nth_element(grows_.begin(), grows_.begin() + (num - 1), grows_.end());
        grows_.resize((size_t)num);
        std::sort(grows_.begin(), grows_.end(), [&](const Candidate& x, const Candidate& y) {
            return order_of(x.place) < order_of(y.place);
        });
    }

    // Places without a connection whose growing word is at most `limit`.
    void collect(uint32_t limit, const std::vector<uint8_t>& kept) {
        const int64_t begin = first_word_ / 4, end = (first_word_ + places_ + 3) / 4;
        uint64_t row[kLanesOfWork], block[kLanesOfWork];
        for (int i = 0; i < kLanesOfWork; ++i) {
            row[i] = (uint64_t)a_.step;
            block[i] = (uint64_t)(begin + i);
        }
        Words words;
        for (int64_t first = begin; first < end; first += kLanesOfWork) {
            words_of_counters(block, row, a_.grow_stream, keys_, words);
            uint32_t smallest = 0xFFFFFFFFu;
            for (int j = 0; j < 4; ++j) {
                for (int i = 0; i < kLanesOfWork; ++i) {
                    smallest = words.w[j][i] < smallest ? words.w[j][i] : smallest;
                }
            }
            for (int i = 0; i < kLanesOfWork && smallest <= limit; ++i) {
                for (int j = 0; j < 4; ++j) {
                    const int64_t place = 4 * (first + i) + j - first_word_;
                    if (words.w[j][i] > limit || place < 0 || place >= places_) continue;
                    if (!kept[(size_t)place]) grows_.push_back({words.w[j][i], place});
                }
            }
            for (int i = 0; i < kLanesOfWork; ++i) block[i] += kLanesOfWork;
        }
    }

    // Old connections that stay and new ones, in order. A connection that left and came back at
    // once starts anew; its target does not notice.
    void merge() {
        std::vector<int32_t> column((size_t)count_);
        std::vector<int64_t> from((size_t)count_), segment_of((size_t)count_);
        std::vector<uint8_t> is_new((size_t)count_, 0);
        const int64_t none = INT64_MAX;
        size_t n = 0, old = 0, grown = 0;
        int64_t next = order_of(grows_[0].place);
        for (;;) {
            const int64_t here = old < (size_t)count_ ? order_[old] : none;
            if (here < next && leaves_[old]) {
                ++old;
                continue;
            }
            if (here == none && next == none) break;
            if (here < next) {
                column[n] = column_[old];
                segment_of[n] = here / a_.block_size;
                from[n] = (int64_t)old++;
            } else {
                const int64_t place = grows_[grown].place;
                column[n] = (int32_t)(place % a_.inputs);
                segment_of[n] = next / a_.block_size;
                from[n] = here == next ? (int64_t)old++ : -1 - place;
                is_new[n] = 1;
                next = ++grown < grows_.size() ? order_of(grows_[grown].place) : none;
            }
            ++n;
        }
        std::copy(column.begin(), column.end(), column_);
        size_t j = 0;
        for (int64_t segment = 0; segment < a_.blocks * a_.outputs; ++segment) {
            while (j < n && segment_of[j] == segment) ++j;
            start_[segment + 1] = (int32_t)j;
        }
        const float bound = a_.new_bound[g_];
        std::vector<float> before((size_t)count_);
        for (int which = 0; which < 4; ++which) {
            float* tensor = which == 0 ? a_.value
                                       : (which == 1 ? a_.exp_avg
                                                     : (which == 2 ? a_.exp_avg_sq : a_.target));
            if (!tensor) continue;
            tensor += g_ * a_.stored;
            std::copy(tensor, tensor + count_, before.begin());
            for (size_t k = 0; k < n; ++k) {
                const int64_t source = from[k];
                const bool is_fresh = source < 0 || (is_new[k] && which != 3);
                tensor[k] = is_fresh ? 0.0f : before[(size_t)source];
                if (which == 0 && is_new[k] && bound != 0.0f) {
                    const int64_t place = source < 0 ? -1 - source : place_[(size_t)source];
                    tensor[k] = (2.0f * uniform(word(a_.value_stream, place)) - 1.0f) * bound;
                }
            }
        }
    }

    int64_t order_of(int64_t place) const {
        const int64_t output = place / a_.inputs, input = place % a_.inputs;
        const int64_t block = input / a_.block_size;
        return (block * a_.outputs + output) * a_.block_size + (input - block * a_.block_size);
    }

    uint32_t word(uint32_t stream, int64_t place) const {
        const int64_t index = first_word_ + place;
        uint64_t row[kLanesOfWork] = {(uint64_t)a_.step};
        uint64_t block[kLanesOfWork] = {(uint64_t)(index / 4)};
        Words words;
        words_of_counters(block, row, stream, keys_, words);
        return words.w[index % 4][0];
    }

    const EvolveArgs& a_;
    const int64_t g_, places_;
    const Keys keys_;
    const int64_t first_word_;
    int32_t* start_;
    int32_t* column_;
    const int64_t count_;
    std::vector<int64_t> place_, order_;
    std::vector<uint8_t> leaves_;
    std::vector<Candidate> grows_;
};

void evolve(const EvolveArgs& a) {
#pragma omp parallel for num_threads(a.threads) schedule(dynamic) if (a.matrices > 1 && a.threads > 1)
    for (int64_t g = 0; g < a.matrices; ++g) MatrixEvolution(a, g).run();
}

// The connections of the transposed matrices, in the order (block of outputs, input, output).
void transpose_connections(const TransposeArgs& a) {
    const int64_t turned_blocks = (a.outputs + a.turned_size - 1) / a.turned_size;
    const int64_t turned_segments = turned_blocks * a.inputs, segments = a.blocks * a.outputs;
#pragma omp parallel for num_threads(a.threads) schedule(static) if (a.matrices > 1 && a.threads > 1)
    for (int64_t g = 0; g < a.matrices; ++g) {
        const int32_t* start = a.start + g * (segments + 1);
        const int32_t* column = a.column + g * a.stored;
        int32_t* turned_start = a.turned_start + g * (turned_segments + 1);
        std::vector<int32_t> next((size_t)turned_segments + 1, 0);
        const auto each = [&](auto visit) {
            for (int64_t segment = 0; segment < segments; ++segment) {
                const int64_t o = segment % a.outputs, base = o / a.turned_size * a.inputs;
                for (int32_t j = start[segment]; j < start[segment + 1]; ++j) {
                    visit((size_t)(base + column[j]), (int32_t)o, j);
                }
            }
        };
        each([&](size_t segment, int32_t, int32_t) { ++next[segment + 1]; });
        for (int64_t s = 0; s < turned_segments; ++s) next[(size_t)s + 1] += next[(size_t)s];
        std::copy(next.begin(), next.end(), turned_start);
        each([&](size_t segment, int32_t o, int32_t j) {
            const int32_t to = next[segment]++;
            a.turned_column[g * a.stored + to] = o;
            a.source[g * a.stored + to] = j;
        });
        for (int64_t j = start[segments]; j < a.stored; ++j) {
            a.turned_column[g * a.stored + j] = 0;
            a.source[g * a.stored + j] = (int32_t)j;
        }
    }
}

}  // namespace
