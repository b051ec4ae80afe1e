// The number formats of csrc/cuda/device.h on the host against their definitions, in double.
#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>

#include "../../../csrc/cuda/device.h"

using namespace fastmmd;

namespace {

bool all_good = true;

void expect(bool good, const char* what, const char* detail = "") {
  if (!good) std::printf("BAD  %s %s\n", what, detail);
  all_good = all_good && good;
}

// The nearest multiple of the unit in the last place, by definition.
double nearest(double x, int mantissa, int least_exponent, double overflow, bool ties_to_even) {
  if (x == 0 || std::isinf(x)) return x;
  int exponent;
  std::frexp(x, &exponent);
  const double unit = std::ldexp(1.0, std::max(exponent - 1, least_exponent) - mantissa);
  const double rounded = (ties_to_even ? std::nearbyint(x / unit) : std::round(x / unit)) * unit;
  return std::abs(rounded) >= overflow ? std::copysign(std::numeric_limits<double>::infinity(), x) : rounded;
}

bool same(double found, double expected) {
  return std::isnan(expected) ? std::isnan(found) : found == expected && std::signbit(found) == std::signbit(expected);
}

void test_number(float x) {
  const double largest = std::ldexp(1.0, 128);
  const bool nan = std::isnan(x);
  const bool good = same(widen(narrow<bf16>(x)), nan ? x : nearest(x, 7, -126, largest, true)) &&
                    same(widen(to_f16(x)), nan ? x : nearest(x, 10, -14, 65536, true)) &&
                    same(round_to_tf32(x), nan ? x : nearest(x, 10, -126, largest, false)) &&
                    (__float_as_uint(round_to_tf32(x)) & 0x1fffu) == 0 && same(narrow<float>(x), x);
  // One unit off below powers of two, half a unit elsewhere.
  const float upper = upper_digits(x, kTf32Split), unit = std::ldexp(1.0f, std::ilogb(x) - 10);
  const bool within = !(std::abs(x) < 0x1p112f) || std::abs(x) < 0x1p-100f ||
                      ((__float_as_uint(upper) & 0x1fffu) == 0 && std::abs(upper - x) <= unit &&
                       (std::abs(upper - x) <= unit / 2 || (__float_as_uint(x) & 0x7fe000u) == 0x7fe000u));
  const float all_digits = upper_digits(x, 0);
  expect(within && (nan || std::isinf(x) ? std::isnan(all_digits) : all_digits == x), "upper_digits");
  if (good) return;
  char text[40];
  std::snprintf(text, sizeof text, "%a (0x%08" PRIx32 ")", static_cast<double>(x), __float_as_uint(x));
  expect(false, "rounding of", text);
}

void test_all() {
  for (uint32_t i = 0; i < 65536; ++i) {
    const int sign = i >> 15 ? -1 : 1, exponent = i >> 10 & 31, mantissa = i & 1023;
    const double value = exponent == 31 ? (mantissa ? NAN : INFINITY)
                         : exponent     ? std::ldexp(1024 + mantissa, exponent - 25)
                                        : std::ldexp(mantissa, -24);
    const f16 half{static_cast<uint16_t>(i)};
    const bf16 brain{static_cast<uint16_t>(i)};
    expect(same(widen(half), sign * value), "widen(f16)");
    expect(std::isnan(value) || to_f16(widen(half)).bits == i, "f16 to float and back");
    expect(__float_as_uint(widen(brain)) == i << 16, "widen(bf16)");
    for (const uint32_t low : {0u, 1u, 0x0fffu, 0x1000u, 0x1001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu})
      test_number(__uint_as_float(i << 16 | low));   // ties of bf16 and tf32
    if (exponent != 31) {                            // ties of f16 and their neighbours
      const float next = widen(f16{static_cast<uint16_t>(i + 1)});
      const float tie =
          exponent == 30 && mantissa == 1023 ? static_cast<float>(sign) * 65520.0f : 0.5f * (widen(half) + next);
      for (const float x : {tie, std::nextafter(tie, 0.0f), std::nextafter(tie, 2 * tie)}) test_number(x);
    }
  }
  std::mt19937 random(5);
  for (int i = 0; i < 200000; ++i) test_number(__uint_as_float(static_cast<uint32_t>(random())));
  expect(narrow<double>(0.1) == 0.1 && narrow<float>(0.1) == 0.1f && widen(0.1) == 0.1, "double");
}

}   // namespace

int main() {
  test_all();
  std::puts(all_good ? "numbers are rounded as they should be" : "NUMBERS ARE ROUNDED WRONGLY");
  return all_good ? 0 : 1;
}
