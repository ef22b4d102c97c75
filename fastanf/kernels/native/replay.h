// Minibatches from the replay's rings, transition by transition.
//
// Every row is another place in memory: the rows ahead are asked for while one is copied.
#pragma once

#include <cstdint>
#include <cstring>

namespace {

using fastanf::GatherArgs;

void gather_transitions(const GatherArgs& a) {
    constexpr int64_t kAhead = 8;
    const int64_t T = a.slots, E = a.envs, D = a.features, A = a.actions, B = a.batch;
#pragma omp parallel for num_threads(a.threads) schedule(static) if (a.lanes > 1 && a.threads > 1)
    for (int64_t lane = 0; lane < a.lanes; ++lane) {
        const int64_t* time = a.time + lane * B;
        const int64_t* env = a.env + lane * B;
        const auto row_at = [&](int64_t b, int64_t later) {
            return (lane * T + (time[b] + later) % T) * E + env[b];
        };
        for (int64_t b = 0; b < B + kAhead; ++b) {
            if (b < B) {
                const int64_t row = row_at(b, 0), next = row_at(b, 1);
                __builtin_prefetch(a.obs + row * D);
                __builtin_prefetch(a.obs + row * D + D - 1);
                __builtin_prefetch(a.obs + next * D + D - 1);
                __builtin_prefetch(a.action + row * A);
                __builtin_prefetch(a.reward + row);
                __builtin_prefetch(a.not_terminated + row);
                __builtin_prefetch(a.final_slot + row);
            }
            const int64_t now = b - kAhead;
            if (now < 0 || now >= B) continue;
            const int64_t row = row_at(now, 0), to = lane * B + now;
            const int32_t final = a.final_slot[row];
            const float* next = final < 0 ? a.obs + row_at(now, 1) * D
                                          : a.final_obs + (lane * a.finals + final) * D;
            std::memcpy(a.out_obs + to * D, a.obs + row * D, (size_t)D * sizeof(float));
            std::memcpy(a.out_next_obs + to * D, next, (size_t)D * sizeof(float));
            std::memcpy(a.out_action + to * A, a.action + row * A, (size_t)A * sizeof(float));
            a.out_reward[to] = a.reward[row];
            a.out_not_terminated[to] = (float)a.not_terminated[row];
            const int64_t id = 2 * (time[now] * E + env[now]);
            a.out_obs_id[to] = id;
            a.out_next_obs_id[to] = final < 0 ? id + 2 * E : id + 1;
        }
    }
}

}  // namespace
