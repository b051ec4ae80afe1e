// SIMD on compiler vector extensions: one source, a width per instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#include "../problem.h"

namespace fastmmd::FASTMMD_VARIANT {

template <typename T>
struct SimdTypes;
template <>
struct SimdTypes<float> {
  typedef float V __attribute__((vector_size(FASTMMD_VECTOR_BYTES)));
  typedef float Unaligned __attribute__((vector_size(FASTMMD_VECTOR_BYTES), aligned(4)));
  typedef int32_t I __attribute__((vector_size(FASTMMD_VECTOR_BYTES)));
  using Int = int32_t;
};
template <>
struct SimdTypes<double> {
  typedef double V __attribute__((vector_size(FASTMMD_VECTOR_BYTES)));
  typedef double Unaligned __attribute__((vector_size(FASTMMD_VECTOR_BYTES), aligned(8)));
  typedef int64_t I __attribute__((vector_size(FASTMMD_VECTOR_BYTES)));
  using Int = int64_t;
};

template <typename T>
using Vec = typename SimdTypes<T>::V;
template <typename T>
using IntVec = typename SimdTypes<T>::I;
template <typename T>
constexpr int kLanes = FASTMMD_VECTOR_BYTES / sizeof(T);

template <typename T>
FM_INLINE Vec<T> load(const T* p) {
  return *reinterpret_cast<const typename SimdTypes<T>::Unaligned*>(p);
}
template <typename T>
FM_INLINE void store(T* p, Vec<T> v) {
  *reinterpret_cast<typename SimdTypes<T>::Unaligned*>(p) = v;
}
template <typename T>
FM_INLINE Vec<T> broadcast(T x) {
  return Vec<T>{} + x;
}
template <typename T>
FM_INLINE Vec<T> load_first(const T* p, int64_t count) {   // the rest is zero
  T lanes[kLanes<T>] = {};
  std::memcpy(lanes, p, static_cast<size_t>(count) * sizeof(T));
  return load(lanes);
}
template <typename T>
FM_INLINE void store_first(T* p, Vec<T> v, int64_t count) {
  T lanes[kLanes<T>];
  store(lanes, v);
  std::memcpy(p, lanes, static_cast<size_t>(count) * sizeof(T));
}
template <typename T>
FM_INLINE IntVec<T> lane_index() {
  IntVec<T> index{};
  for (int i = 0; i < kLanes<T>; ++i) index[i] = i;
  return index;
}

// Transposes a kLanes x kLanes matrix held in registers: log2(kLanes) rounds that swap off-diagonal quarters.
template <typename T, int Step = kLanes<T> / 2>
FM_INLINE void transpose(Vec<T>* r) {
  if constexpr (Step >= 1) {
    constexpr int n = kLanes<T>;
    IntVec<T> upper{}, lower{};
    for (int i = 0; i < n; ++i) {
      upper[i] = (i & Step) ? n + i - Step : i;
      lower[i] = (i & Step) ? n + i : i + Step;
    }
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) {
      if (i & Step) continue;
      const Vec<T> a = r[i], b = r[i + Step];
#if defined(__clang__)
      Vec<T> x{}, y{};
      for (int k = 0; k < n; ++k) {
        x[k] = (k & Step) ? b[k - Step] : a[k];
        y[k] = (k & Step) ? b[k] : a[k + Step];
      }
      r[i] = x;
      r[i + Step] = y;
#else
      r[i] = __builtin_shuffle(a, b, upper);
      r[i + Step] = __builtin_shuffle(a, b, lower);
#endif
    }
    transpose<T, Step / 2>(r);
  }
}

template <typename T>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  // 1.5 * 2^23: adding it leaves round(x) in the low mantissa bits. ln 2 is split so that n * high is exact.
  static constexpr float magic = 12582912.0f, log2e = 1.44269504f, high = 0.693359375f, low = -2.12194440e-4f;
  static constexpr float smallest = -88.0f;
  static constexpr int degree = 7, mantissa = 23, bias = 127;
};
template <>
struct ExpConstants<double> {
  static constexpr double magic = 6755399441055744.0, log2e = 1.4426950408889634;
  static constexpr double high = 6.93147180369123816490e-01, low = 1.90821492927058770002e-10;
  static constexpr double smallest = -708.5;
  static constexpr int degree = 13, mantissa = 52, bias = 1023;
};

template <typename T>
constexpr T inverse_factorial(int k) {   // rounded once: an error here would be systematic
  double f = 1;
  for (int i = 2; i <= k; ++i) f *= i;
  return static_cast<T>(1 / f);
}

// exp(x) for x <= 0: 2^n * P(x - n ln 2), P the Taylor polynomial on |r| <= ln(2)/2, whose next term is below an
// eighth of an ulp. NaN stays NaN; below the normal range the result is 0.
template <typename T>
FM_INLINE Vec<T> exp_nonpositive(Vec<T> x) {
  using C = ExpConstants<T>;
  x = x < C::smallest ? broadcast<T>(C::smallest) : x;
  const Vec<T> shifted = x * C::log2e + C::magic;
  const Vec<T> n = shifted - C::magic;
  const Vec<T> r = (x - n * C::high) - n * C::low;
  Vec<T> p = broadcast<T>(inverse_factorial<T>(C::degree));
#pragma GCC unroll 16
  for (int k = C::degree - 1; k >= 0; --k) p = p * r + inverse_factorial<T>(k);
  const IntVec<T> magic_bits = reinterpret_cast<IntVec<T>>(broadcast<T>(C::magic));
  const IntVec<T> exponent = reinterpret_cast<IntVec<T>>(shifted) - magic_bits + C::bias;
  return p * reinterpret_cast<Vec<T>>(exponent << C::mantissa);
}

}   // namespace fastmmd::FASTMMD_VARIANT
