// What a thread block does with pairs of rows, however it has computed their distances.
#pragma once

#include "device.h"
#include "plan.h"

namespace fastmmd::cuda {

constexpr int kWarp = 32;

// Four neighbours that are read together.
template <typename T>
struct alignas(sizeof(T) < 4 ? 4 * sizeof(T) : 16) Four {
  T v[4];
};

// Which of S_ss, S_tt and S_st a pair belongs to.
__device__ inline int region(bool row_is_source, bool column_is_source) {
  return row_is_source != column_is_source ? 2 : row_is_source ? 0 : 1;
}

// Rows of one tile of packed rows, source first: their domain, and how many of them are no padding.
struct TileRows {
  bool is_source;
  int count;
};

__device__ inline TileRows tile_rows(const Plan& plan, int tile) {
  const bool is_source = tile < plan.source_tiles();
  const int left =
      is_source ? plan.n_source - tile * kTileRows : plan.n_target - (tile - plan.source_tiles()) * kTileRows;
  return {is_source, min(left, kTileRows)};
}

// Of two rows, from their squared norms. (The compiler would make 2 x an addition of its own.)
template <typename T>
__device__ T squared_distance(T norm, T other_norm, T inner_product) {
  return clamp_to_zero(std::fma(static_cast<T>(-2), inner_product, norm + other_norm));
}

// The kernels' exponential: 2^x on the GPU's own unit for floats, so that rates carry the factor log2(e).
struct Exp {
  __device__ float operator()(float x) const { return exp2_approximate(x); }
  __device__ double operator()(double x) const { return exp(x); }
};
template <typename T>
constexpr T kExpRate = std::is_same_v<T, float> ? static_cast<T>(1.4426950408889634) : static_cast<T>(1);

// The mixtures of all layers and the weights, in shared memory.
template <typename T>
struct Mixtures {
  T rate[kCudaMaxGaussians];   // times kExpRate
  T weight[kCudaMaxGaussians], weighted_rate[kCudaMaxGaussians];
  bool squares[kCudaMaxGaussians];
  T tolerance[kMaxLayers];   // to be taken from distances: their round-off where the bandwidth is 0, 0 elsewhere
  T joint, marginal[kMaxLayers], pair_weight[3];   // of the plan; weights of ss, tt and st
};

// One layer's part of it, as `evaluate` expects a mixture.
template <typename T>
struct MixtureView {
  int num_gaussians;
  const T *rate, *weight, *weighted_rate;
  const bool* squares;
};

template <typename T>
__device__ MixtureView<T> layer_mixture(const Plan& plan, const Mixtures<T>& all, int l) {
  const int q = plan.first_gaussian[l];
  return {plan.first_gaussian[l + 1] - q, all.rate + q, all.weight + q, all.weighted_rate + q, all.squares + q};
}

// All threads of the thread block call it; a barrier must follow. `bandwidth`: [L]; `tolerance`: round-off of each
// layer's distances [L], or null where equal rows are exactly 0 apart.
template <typename T>
__device__ void make_mixtures(const Plan& plan, const double* bandwidth, const double* tolerance, Mixtures<T>* all) {
  for (int q = threadIdx.x; q < plan.first_gaussian[plan.layers]; q += blockDim.x) {
    int l = 0;
    while (q >= plan.first_gaussian[l + 1]) ++l;
    const Rate<T> gaussian = rate_at<T>(plan.multiplier[q], plan.weight[q], bandwidth[l]);
    all->rate[q] = kExpRate<T> * gaussian.rate;
    all->weighted_rate[q] = gaussian.weighted;
    all->weight[q] = static_cast<T>(plan.weight[q]);
    all->squares[q] = plan.squares[q];
  }
  for (int l = threadIdx.x; l < kMaxLayers; l += blockDim.x) {
    const bool limit = l < plan.layers && bandwidth[l] == 0 && tolerance;
    all->tolerance[l] = limit ? static_cast<T>(tolerance[l]) : static_cast<T>(0);
    all->marginal[l] = static_cast<T>(plan.marginal[l]);
  }
  if (threadIdx.x == 0) {
    all->joint = static_cast<T>(plan.joint);
    all->pair_weight[0] = static_cast<T>(plan.alpha);
    all->pair_weight[1] = static_cast<T>(plan.beta);
    all->pair_weight[2] = static_cast<T>(0.5 * plan.gamma);
  }
}

// Kernel and slope of every layer at `Count` pairs, for any mixtures. Layers that a problem does not have leave 1 and
// 0, so that products over `Layers` are right.
template <bool WithSlope, typename T, int Layers, int Count>
__device__ void evaluate_any(const Plan& plan, const Mixtures<T>& all, const T (&distance)[Layers][Count],
                             T (&value)[Layers][Count], T (&slope)[Layers][Count]) {
#pragma unroll
  for (int l = 0; l < Layers; ++l) {
    if (l < plan.layers) {
      evaluate<T, Count, WithSlope>(layer_mixture(plan, all, l), Exp{}, distance[l], value[l], slope[l]);
    } else {
#pragma unroll
      for (int v = 0; v < Count; ++v) {
        value[l][v] = 1;
        slope[l][v] = 0;
      }
    }
  }
}

// Mixtures that `usual_chain` knows, in shared memory: what `Pairs` needs besides what is constant, for pairs of ss, tt
// and st.
template <int Layers>
struct UsualMixtures {
  struct alignas(16) Factors {
    float negative_rate;     // of the broadest Gaussian, times kExpRate
    float joint, marginal;   // of coefficients
    float tolerance;         // as in Mixtures
  };
  Factors factors[3][Layers];
};

template <int Layers>
__device__ void make_mixtures(const Plan& plan, const double* bandwidth, const double* tolerance,
                              UsualMixtures<Layers>* all) {
  if (threadIdx.x >= 3 * Layers) return;
  const int l = threadIdx.x % Layers, pairs = threadIdx.x / Layers, q = l * plan.chain;
  const Rate<float> gaussian = rate_at<float>(plan.multiplier[q], plan.weight[q], bandwidth[l]);
  const double scale = gaussian.weighted * (pairs == 0 ? plan.alpha : pairs == 1 ? plan.beta : 0.5 * plan.gamma);
  const double other = Layers == 1 ? 1.0 : plan.weight[(1 - l) * plan.chain], marginal = plan.marginal[l];
  all->factors[pairs][l] = {-kExpRate<float> * gaussian.rate,
                            static_cast<float>(scale * (plan.joint * other + (Layers == 1 ? marginal : 0.0))),
                            static_cast<float>(scale * marginal),
                            bandwidth[l] == 0 ? static_cast<float>(tolerance[l]) : 0.0f};
}

template <typename T, int Layers, int Chain>
using MixturesOf = std::conditional_t<Chain == 0, Mixtures<T>, UsualMixtures<Layers>>;

template <typename T>
__device__ T distance_tolerance(const Mixtures<T>& all, int l) {
  return all.tolerance[l];
}
template <int Layers>
__device__ float distance_tolerance(const UsualMixtures<Layers>& all, int l) {
  return all.factors[0][l].tolerance;
}

// Kernels, slopes and coefficients of pairs of the same domains. `Layers` is the number of layers, or kMaxLayers for
// any number.
//
// Chain = 0: any mixtures, by loops over their Gaussians. Chain > 0: the mixtures of `usual_chain`, whose shape the
// compiler sees; the kernel of a layer comes in units of its broadest Gaussian's weight, so that this one takes no
// multiplication, and the slope in units of that weight times that rate. `unit_of_term` and `coefficients` know it.
template <typename T, int Layers, int Chain>
class Pairs {
 public:
  __device__ Pairs(const Plan& plan, const MixturesOf<T, Layers, Chain>& all, bool row_is_source, bool column_is_source)
      : plan_(plan), all_(all), region_(region(row_is_source, column_is_source)) {
    if constexpr (Chain > 0) {
#pragma unroll
      for (int l = 0; l < Layers; ++l) factors_[l] = all.factors[region_][l];
    }
  }

  template <bool WithSlope, int Count>
  __device__ void evaluate(const T (&distance)[Layers][Count], T (&value)[Layers][Count],
                           T (&slope)[Layers][Count]) const {
    if constexpr (Chain == 0) {
      evaluate_any<WithSlope>(plan_, all_, distance, value, slope);
    } else {
#pragma unroll
      for (int l = 0; l < Layers; ++l)
#pragma unroll
        for (int v = 0; v < Count; ++v) {
          const T exponent = distance[l][v] * factors_[l].negative_rate;
          T x = Exp{}(exponent);
          value[l][v] = x;
          if constexpr (WithSlope) slope[l][v] = x;
#pragma unroll
          for (int q = 1; q < (l == 0 ? Chain : 1); ++q) {
            x = q % (1 + kMaxFloatSquarings) == 0 ? Exp{}(exponent * static_cast<T>(1 << q)) : x * x;
            value[l][v] += plan_.relative_weight[q - 1] * x;
            if constexpr (WithSlope) slope[l][v] += plan_.relative_slope[q - 1] * x;
          }
        }
    }
  }

  // C of all layers at pair v, handed to `store(l, C)`.
  template <int Count, typename Store>
  __device__ void coefficients(const T (&value)[Layers][Count], const T (&slope)[Layers][Count], int v,
                               Store store) const {
    if constexpr (Chain == 0) {
      fastmmd::coefficients<T, Count>(Layers, all_.joint, all_.marginal, all_.pair_weight[region_], &value[0][v],
                                      &slope[0][v], store);
    } else if constexpr (Layers == 1) {
      store(0, factors_[0].joint * slope[0][v]);
    } else {
#pragma unroll
      for (int l = 0; l < Layers; ++l)
        store(l, (factors_[l].joint * value[1 - l][v] + factors_[l].marginal) * slope[l][v]);
    }
  }

 private:
  const Plan& plan_;
  const MixturesOf<T, Layers, Chain>& all_;
  int region_;
  typename UsualMixtures<Layers>::Factors factors_[Layers];
};

// What `Pairs` computes the product (t = 0) and the kernel of layer t - 1 in units of.
template <int Chain>
__device__ double unit_of_term(const Plan& plan, int t) {
  if (Chain == 0) return 1;
  const double first = plan.weight[0], second = plan.layers > 1 ? plan.weight[Chain] : 1.0;
  return t == 0 ? first * second : t == 1 ? first : second;
}

// The thread block's sums of every thread's `part`, in fixed order: thread k has that of entry k as what it returns.
// All threads call it. Within a warp they are added in T, pairwise. scratch: [warps][Count].
template <typename T, int Count>
__device__ double block_sum(const T (&part)[Count], double* scratch) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
#pragma unroll
  for (int k = 0; k < Count; ++k) {
    T sum = part[k];
#pragma unroll
    for (int step = kWarp / 2; step > 0; step /= 2) sum += __shfl_down_sync(~0u, sum, step);
    if (lane == 0) scratch[warp * Count + k] = static_cast<double>(sum);
  }
  __syncthreads();
  double sum = 0;
  if (threadIdx.x < Count)
    for (int w = 0; w < static_cast<int>(blockDim.x) / kWarp; ++w) sum += scratch[w * Count + threadIdx.x];
  return sum;
}

// A thread's part of S_ss, S_tt and S_st of the product and of each layer.
template <typename T, int Layers>
struct Sums {
  T part[3][1 + Layers] = {};

  __device__ void add(bool row_is_source, bool column_is_source, const T (&value)[1 + Layers]) {
    const int pair_region = region(row_is_source, column_is_source);
#pragma unroll
    for (int r = 0; r < 3; ++r)
#pragma unroll
      for (int t = 0; t <= Layers; ++t) part[r][t] += r == pair_region ? value[t] : static_cast<T>(0);
  }

  // The thread block's sums go to `out` [3, 1 + L], in fixed order. All threads call it; scratch:
  // [warps][3 * (1 + Layers)].
  __device__ void reduce(const Plan& plan, double* scratch, double* out) const {
    constexpr int kTerms = 3 * (1 + Layers);
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
#pragma unroll
    for (int k = 0; k < kTerms; ++k) {
      double sum = static_cast<double>(part[k / (1 + Layers)][k % (1 + Layers)]);
#pragma unroll
      for (int step = kWarp / 2; step > 0; step /= 2) sum += __shfl_down_sync(~0u, sum, step);
      if (lane == 0) scratch[warp * kTerms + k] = sum;
    }
    __syncthreads();
    const int terms = 1 + plan.layers, k = threadIdx.x;
    if (k < 3 * terms) {
      double sum = 0;
      for (int w = 0; w < static_cast<int>(blockDim.x) / kWarp; ++w)
        sum += scratch[w * kTerms + k / terms * (1 + Layers) + k % terms];
      out[k] = sum;
    }
  }
};

template <int Layers>
constexpr int kSumsScratch = 3 * (1 + Layers) * 8;   // doubles, for 8 warps at most

}   // namespace fastmmd::cuda
