// Matrix instructions of a warp, in the fragment layouts of the PTX manual.
#pragma once

#include "numbers.h"
#include "thread_block.h"

namespace cuda_on_host {

inline constexpr Collective kMmaTf32{"mma_tf32", false}, kMmaBf16{"mma_bf16", false};
inline constexpr Collective kLoadMatrices{"load_matrices", false};
inline constexpr Collective kLoadMatricesTransposed{"load_matrices_transposed", false};

inline void check_aligned(const void* address, const char* what) {
  if (reinterpret_cast<uintptr_t>(address) % 16) throw Error(std::string(what) + " is not aligned to 16 bytes");
}

inline void check_whole_warp(unsigned mask, const char* what) {
  if (mask != 0xffffffffu) throw Error(std::string(what) + " in a warp of fewer than 32 lanes");
}

struct Fragments {   // of one lane
  uint32_t a[4], b[2];
  float c[4];
};

// Element e of the registers of a lane, e = 0 .. K / 2 - 1 in a, 0 .. K / 4 - 1 in b. K = 8: a register holds one
// element; K = 16: two, the first in the low half.
struct Tf32 {
  static constexpr int k = 8;
  static constexpr const Collective& collective = kMmaTf32;
  CUDA_ON_HOST_RUNTIME static float element(const uint32_t* r, int e) { return __uint_as_float(r[e] & 0xffffe000u); }
};
struct Bf16 {
  static constexpr int k = 16;
  static constexpr const Collective& collective = kMmaBf16;
  CUDA_ON_HOST_RUNTIME static float element(const uint32_t* r, int e) {
    return fastmmd::widen(fastmmd::bf16{static_cast<uint16_t>(r[e / 2] >> 16 * (e % 2))});
  }
};

// c [16, 8] += a [16, k] b [k, 8]. With `group` = lane / 4 and `place` = lane % 4 a lane holds rows group and group + 8
// of a and c, and column group of b. Along k it holds `pack` neighbours at pack * place and again half-way down; of c
// the columns 2 * place and the next. Products of these formats are exact in fp32; the sum is rounded after each.
template <typename Format>
CUDA_ON_HOST_RUNTIME void resolve_mma(void* const* contributions, unsigned mask) {
  constexpr int K = Format::k, pack = K / 8;
  check_whole_warp(mask, Format::collective.name);
  float a[16][K], b[K][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto* fragments = static_cast<const Fragments*>(contributions[lane]);
    const int group = lane / 4, place = lane % 4;
    for (int half = 0; half < 2; ++half)
      for (int p = 0; p < pack; ++p) {
        const int k = half * K / 2 + place * pack + p;
        a[group][k] = Format::element(fragments->a, 2 * half * pack + p);
        a[group + 8][k] = Format::element(fragments->a, (2 * half + 1) * pack + p);
        b[k][group] = Format::element(fragments->b, half * pack + p);
      }
  }
  for (int row = 0; row < 16; ++row) {
    float sum[8];
    for (int n = 0; n < 8; ++n)
      sum[n] = static_cast<const Fragments*>(contributions[row % 8 * 4 + n / 2])->c[row / 8 * 2 + n % 2];
    for (int k = 0; k < K; ++k)
      for (int n = 0; n < 8; ++n) sum[n] += a[row][k] * b[k][n];
    for (int n = 0; n < 8; ++n)
      static_cast<Fragments*>(contributions[row % 8 * 4 + n / 2])->c[row / 8 * 2 + n % 2] = sum[n];
  }
}

template <typename Format>
void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  Fragments fragments{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}, {c[0], c[1], c[2], c[3]}};
  ThreadBlock::current->meet(Format::collective, 0xffffffffu, fragments, resolve_mma<Format>);
  for (int i = 0; i < 4; ++i) c[i] = fragments.c[i];
}

struct MatrixRows {   // of one lane
  const uint16_t* row;
  uint32_t r[4];
  const uint16_t* element[4][2];   // where the halves of r came from
};

template <bool Transposed>
CUDA_ON_HOST_RUNTIME void resolve_load(void* const* contributions, unsigned mask) {
  check_whole_warp(mask, kLoadMatrices.name);
  for (int lane = 0; lane < 32; ++lane) {
    auto* rows = static_cast<MatrixRows*>(contributions[lane]);
    for (int matrix = 0; matrix < 4; ++matrix) {
      rows->r[matrix] = 0;
      for (int half = 0; half < 2; ++half) {
        const int across = lane / 4, along = lane % 4 * 2 + half;
        const int row = Transposed ? along : across, column = Transposed ? across : along;
        const uint16_t* from = static_cast<const MatrixRows*>(contributions[8 * matrix + row])->row + column;
        rows->element[matrix][half] = from;
        rows->r[matrix] |= static_cast<uint32_t>(*from) << 16 * half;
      }
    }
  }
}

template <bool Transposed>
void load(const Collective& collective, uint32_t (&r)[4], const void* row) {
  check_aligned(row, "the row of load_matrices");
  MatrixRows rows{static_cast<const uint16_t*>(row), {}, {}};
  ThreadBlock::current->meet(collective, 0xffffffffu, rows, resolve_load<Transposed>);
  for (int i = 0; i < 4; ++i) {
    r[i] = rows.r[i];
    // TSan learns here that this lane has read; the values above were taken for all lanes at once.
    for (int half = 0; half < 2; ++half) (void)*static_cast<const volatile uint16_t*>(rows.element[i][half]);
  }
}

}   // namespace cuda_on_host

namespace fastmmd {

inline void mma_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  cuda_on_host::mma<cuda_on_host::Tf32>(c, a, b);
}
inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  cuda_on_host::mma<cuda_on_host::Bf16>(c, a, b);
}
inline void load_matrices(uint32_t (&r)[4], SharedAddress row) {
  cuda_on_host::load<false>(cuda_on_host::kLoadMatrices, r, row);
}
inline void load_matrices_transposed(uint32_t (&r)[4], SharedAddress row) {
  cuda_on_host::load<true>(cuda_on_host::kLoadMatricesTransposed, r, row);
}

}   // namespace fastmmd
