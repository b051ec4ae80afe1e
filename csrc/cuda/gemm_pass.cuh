// The pass between two products of the platform's library: the inner products of a pair of row panels become
// coefficients, rounded to what the next product multiplies, and add to the sums. It reads each element once, and
// writes it once or, with its transposed, twice, always 16 bytes or four bf16 at a time.
#pragma once

#include "entry.h"
#include "pair.cuh"

namespace fastmmd::cuda {

constexpr int kGemmPassThreads = 256;   // one tile of pairs; a thread has four rows and four columns of it

struct GemmPassProblem {
  Plan plan;
  int first_row_tile, first_column_tile;    // of the row panels, among all tiles of packed rows
  const void* inner_products[kMaxLayers];   // [rows, columns]
  void* coefficients[kMaxLayers];           // [rows, columns], or null
  void* transposed[kMaxLayers];             // [columns, rows], or null
  int pitch, transposed_pitch;              // elements from one row to the next
  const void* norm[kMaxLayers];             // [packed rows], squared
  float split;                              // see upper_digits
  const double *bandwidth, *tolerance;      // [L]
  double* sums;                             // [thread blocks, 3, 1 + L], added to
};
static_assert(sizeof(GemmPassProblem) <= 4000, "kernel parameters of more than 4 KiB make a launch slower");

// Four elements as they are stored.
template <typename C, typename T>
__device__ void store_four(C* to, const Four<T>& c) {
  if constexpr (std::is_same_v<C, bf16>)
    *reinterpret_cast<uint2*>(to) = make_uint2(pack_bf16(c.v[0], c.v[1]), pack_bf16(c.v[2], c.v[3]));
  else
    *reinterpret_cast<Four<T>*>(to) = c;
}

// Grid (tiles of columns, tiles of rows). C: of coefficients, bf16 or T.
template <typename T, typename C, int Layers, int Chain>
__global__ void __launch_bounds__(kGemmPassThreads) gemm_coefficients(const __grid_constant__ GemmPassProblem p) {
  constexpr bool kFewLayers = Layers <= 2;   // all of a thread's pairs are in registers, else those of one row
  constexpr int kHeld = kFewLayers ? 4 : 1;
  __shared__ MixturesOf<T, Layers, Chain> mixtures;
  __shared__ double scratch[(1 + Layers) * kGemmPassThreads / kWarp];
  const Plan& plan = p.plan;
  const int layers = kFewLayers ? Layers : plan.layers;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int row_tile = p.first_row_tile + static_cast<int>(blockIdx.y),
            column_tile = p.first_column_tile + static_cast<int>(blockIdx.x);
  // Of a warp 4 x 8 threads: whole sectors of 32 bytes in rows and in columns.
  const int row = 16 * (warp / 2) + 4 * (lane / 8), column = 32 * (warp % 2) + 4 * (lane % 8);
  const int64_t first = static_cast<int64_t>(blockIdx.y * kTileRows + row) * p.pitch + blockIdx.x * kTileRows + column;

  const auto load_row = [&](int l, int i) {
    return *reinterpret_cast<const Four<T>*>(static_cast<const T*>(p.inner_products[l]) + first + i * p.pitch);
  };
  const auto load_norms = [&](int l, int tile, int within) {
    return *reinterpret_cast<const Four<T>*>(static_cast<const T*>(p.norm[l]) + tile * kTileRows + within);
  };
  Four<T> block[Layers][kHeld];   // inner products, then coefficients
  if constexpr (kFewLayers) {     // under way before the mixtures are made
#pragma unroll
    for (int l = 0; l < Layers; ++l) {
#pragma unroll
      for (int i = 0; i < 4; ++i) block[l][i] = load_row(l, i);
    }
  }
  make_mixtures(plan, p.bandwidth, p.tolerance, &mixtures);
  __syncthreads();

  const TileRows rows = tile_rows(plan, row_tile), columns = tile_rows(plan, column_tile);
  const Pairs<T, Layers, Chain> pairs(plan, mixtures, rows.is_source, columns.is_source);
  T terms[1 + Layers] = {};
  const auto compute = [&](auto masked) {
    constexpr bool kMasked = decltype(masked)::value;
#pragma unroll kHeld
    for (int i = 0; i < 4; ++i) {
      const int held = kFewLayers ? i : 0;
      T distance[Layers][4] = {}, value[Layers][4], slope[Layers][4];
#pragma unroll
      for (int l = 0; l < Layers; ++l) {
        if (l >= layers) break;
        if constexpr (!kFewLayers) block[l][0] = load_row(l, i);
        const Four<T> row_norms = load_norms(l, row_tile, row), column_norm = load_norms(l, column_tile, column);
        const T row_norm = row_norms.v[i] - distance_tolerance(mixtures, l);
#pragma unroll
        for (int v = 0; v < 4; ++v) distance[l][v] = squared_distance(row_norm, column_norm.v[v], block[l][held].v[v]);
      }
      pairs.template evaluate<true>(distance, value, slope);
#pragma unroll
      for (int v = 0; v < 4; ++v) {
        if constexpr (kMasked) {
          const bool pair =
              row + i < rows.count && column + v < columns.count && (row_tile != column_tile || row + i != column + v);
#pragma unroll
          for (int l = 0; l < Layers; ++l) {
            value[l][v] = pair ? value[l][v] : T{0};
            slope[l][v] = pair ? slope[l][v] : T{0};
          }
        }
        T product = 1;
#pragma unroll
        for (int l = 0; l < Layers; ++l) {
          product *= value[l][v];
          terms[1 + l] += value[l][v];
        }
        terms[0] += product;
        pairs.coefficients(value, slope, v, [&](int l, T c) {
          if constexpr (std::is_same_v<C, float>) c = upper_digits(c, p.split);
          block[l][held].v[v] = c;
        });
      }
#pragma unroll
      for (int l = 0; l < Layers; ++l) {
        if (l >= layers) break;
        if (C* const to = static_cast<C*>(p.coefficients[l])) store_four(to + first + i * p.pitch, block[l][held]);
      }
    }
  };
  if (Chain > 0 && rows.count == kTileRows && columns.count == kTileRows && row_tile != column_tile)
    compute(std::false_type{});
  else
    compute(std::true_type{});

  if constexpr (std::is_same_v<T, C>) {
    const int64_t first_transposed =
        static_cast<int64_t>(blockIdx.x * kTileRows + column) * p.transposed_pitch + blockIdx.y * kTileRows + row;
#pragma unroll
    for (int l = 0; l < Layers; ++l) {
      if (l >= layers || !p.transposed[l]) continue;
      Four<T> c[4];
#pragma unroll
      for (int i = 0; i < 4; ++i)   // of many layers a thread reads back what it has written
        c[i] = kFewLayers ? block[l][kFewLayers ? i : 0]
                          : *reinterpret_cast<const Four<T>*>(static_cast<T*>(p.coefficients[l]) + first + i * p.pitch);
#pragma unroll
      for (int v = 0; v < 4; ++v)
        store_four(static_cast<T*>(p.transposed[l]) + first_transposed + v * p.transposed_pitch,
                   Four<T>{c[0].v[v], c[1].v[v], c[2].v[v], c[3].v[v]});
    }
  }

  // A panel paired with itself holds both triangles, of which one counts where domains differ; other pairs of panels
  // stand for their mirror image, too.
  const bool same = rows.is_source == columns.is_source, diagonal = p.first_row_tile == p.first_column_tile;
  const int multiplicity = !diagonal ? (same ? 2 : 1) : same || rows.is_source ? 1 : 0;
  const double sum = block_sum(terms, scratch);
  const int term = threadIdx.x;
  if (term <= layers && multiplicity > 0) {
    const int64_t program = static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x;
    p.sums[(program * 3 + region(rows.is_source, columns.is_source)) * (1 + layers) + term] +=
        multiplicity * unit_of_term<Chain>(plan, term) * sum;
  }
}

}   // namespace fastmmd::cuda
