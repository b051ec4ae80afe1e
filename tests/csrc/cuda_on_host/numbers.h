// The number formats of two bytes, bit by bit.
#pragma once

#include "language.h"

namespace fastmmd {

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

inline float widen(bf16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
inline float widen(f16 x) {
  const uint32_t magnitude = x.bits & 0x7fffu, sign = (x.bits & 0x8000u) << 16;
  if (magnitude >= 0x7c00) return __uint_as_float(sign | 0x7f800000u | magnitude << 13);   // infinity, NaN
  const float value = __uint_as_float(magnitude << 13) * 0x1p112f;   // another bias, subnormals too
  return __uint_as_float(sign | __float_as_uint(value));
}

inline bf16 to_bf16(float x) {
  const uint32_t bits = __float_as_uint(x);
  if (x != x) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};   // a carry runs into the exponent
}

inline uint32_t pack_bf16(float first, float second) {
  return static_cast<uint32_t>(to_bf16(second).bits) << 16 | to_bf16(first).bits;
}

inline f16 to_f16(float x) {
  const uint32_t sign = __float_as_uint(x) >> 16 & 0x8000u, magnitude = __float_as_uint(x) & 0x7fffffffu;
  uint32_t bits;
  if (x != x) return {0x7fff};
  if (magnitude >= 0x477ff000u) {   // 65520, half-way between the largest number and the next power of two
    bits = 0x7c00;
  } else if (magnitude < 0x38800000u) {   // below 2^-14: the sum with 1/2 rounds to multiples of 2^-24
    bits = __float_as_uint(__uint_as_float(magnitude) + 0.5f) - __float_as_uint(0.5f);
  } else {   // 112 less in the exponent
    bits = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1)) >> 13;
  }
  return {static_cast<uint16_t>(sign | bits)};
}

}   // namespace fastmmd
