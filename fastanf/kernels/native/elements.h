// A float's bits as an integer, and back.
#pragma once

#include <cstdint>
#include <cstring>

namespace {

inline __attribute__((always_inline)) int32_t bits_of(float x) {
    int32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}

inline __attribute__((always_inline)) float float_of(int32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

}  // namespace
