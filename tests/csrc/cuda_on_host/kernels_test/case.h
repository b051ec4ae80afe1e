// Cases, and what they say of wrong numbers.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

#include "../../../../csrc/cuda/device.h"
#include "../../../../csrc/cuda/entry.h"
#include "dense.h"

namespace kernels_test {

using cuda_on_host::Order;

inline bool only_sample = false, all_good = true;
inline unsigned cases_run = 0, cases_bad = 0;

// What a number is; it becomes text only where it is wrong.
struct Number {
  const char* what;
  size_t l;
  size_t row = SIZE_MAX, column = 0;
  std::string text() const {
    const std::string where = what + (" " + std::to_string(l));
    return row == SIZE_MAX ? where : where + " at [" + std::to_string(row) + ", " + std::to_string(column) + "]";
  }
};

class Case {
 public:
  Case(const char* route, const Setting& s, const std::string& details) : name_(route) {
    name_ += " " + std::to_string(s.n_source) + "+" + std::to_string(s.n_target) + " rows of";
    for (const size_t d : s.dims) name_ += " " + std::to_string(d);
    name_ += details;
  }

  // NaN is no number within the tolerance.
  void expect(const Number& what, double computed, double exact, double scale, double tolerance) {
    const double error = std::abs(computed - exact) / (scale > 0 ? scale : 1);
    if (!(error <= tolerance)) complain(what.text(), computed, exact);
  }
  void expect_untouched(const Number& what, double after, double before) {
    if (std::memcmp(&after, &before, sizeof after) != 0 && !(std::isnan(after) && std::isnan(before)))
      complain(what.text(), after, before);
  }

  // `once` in every order of threads.
  template <typename Once>
  void run(Once once) {
    constexpr Order kOrders[] = {Order::kForward, Order::kReverse, Order::kShuffled};
    constexpr const char* kNames[] = {"forward", "reverse", "shuffled"};
    ++cases_run;
    for (size_t o = 0; o < 3; ++o) {
      if (only_sample && o != cases_run % 3) continue;
      cuda_on_host::options().order = kOrders[o];
      cuda_on_host::options().seed = cases_run;
      order_ = kNames[o];
      complaints_ = 0;
      try {
        const int code = once();
        if (code != 0) complain(cuda::error_message(code), kNaN, 0);
      } catch (const std::exception& error) {
        complain(error.what(), kNaN, 0);
      }
      if (complaints_ > kShown) std::printf("  and %u more\n", complaints_ - kShown);
    }
    cases_bad += bad_;
    all_good = all_good && !bad_;
  }

 private:
  static constexpr unsigned kShown = 3;
  void complain(const std::string& what, double computed, double exact) {
    bad_ = true;
    if (complaints_++ == 0) std::printf("BAD  %s, %s order\n", name_.c_str(), order_);
    if (complaints_ <= kShown) std::printf("  %s: %.9g instead of %.9g\n", what.c_str(), computed, exact);
  }

  std::string name_;
  const char* order_ = "";
  unsigned complaints_ = 0;
  bool bad_ = false;
};

inline void expect_sums(Case* c, const Dense& exact, const std::vector<double>& sums, double tolerance) {
  constexpr const char* kSums[] = {"sum over ss of term", "sum over tt of term", "sum over st of term"};
  const size_t terms = 1 + exact.bandwidth.size();
  for (size_t r = 0; r < 3; ++r)
    for (size_t t = 0; t < terms; ++t)
      c->expect({kSums[r], t}, sums[r * terms + t], exact.sums[r][t], exact.sums[r][t], tolerance);
}

// In files of their names.
void test_small();
void test_packed();
void test_fused();
void test_gemm_pass();

}   // namespace kernels_test
