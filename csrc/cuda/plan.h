// A problem as kernel parameters: below 4 KiB, so that a launch copies it with its own packet.
#pragma once

#include <stdexcept>
#include <string>

#include "../kernel_math.h"

namespace fastmmd::cuda {

constexpr int kTileRows = kCudaTileRows;   // packed rows: each domain is padded to whole tiles of so many

// The GPU's exponential of floats is right to 2 ulp, and every squaring doubles that.
constexpr int kMaxFloatSquarings = 2;
constexpr int kUsualGaussians = 5;   // of the first layer, see usual_chain

struct Plan {
  int n_source, n_target, layers;
  int first_gaussian[kMaxLayers + 1];   // of each layer in the lists below, which are broadest first
  bool squares[kCudaMaxGaussians];      // see mark_squares
  double multiplier[kCudaMaxGaussians], weight[kCudaMaxGaussians];
  double bandwidth_scale[kMaxLayers], at_zero[kMaxLayers], marginal[kMaxLayers];
  bool follows_mean[kMaxLayers];
  double joint, alpha, beta, gamma, diagonal;
  bool clamp;
  int chain;   // see usual_chain
  // With a chain, of the first layer's Gaussians but the broadest, relative to that one's: weight, weight * rate.
  float relative_weight[kUsualGaussians - 1], relative_slope[kUsualGaussians - 1];

  FM_INLINE int n() const { return n_source + n_target; }
  FM_INLINE int source_tiles() const { return (n_source + kTileRows - 1) / kTileRows; }
};

// A domain's rows, padded to whole tiles.
inline int64_t packed_rows(int64_t rows) { return (rows + kTileRows - 1) / kTileRows * kTileRows; }

// The mixtures that kernels are compiled for: the first layer has this many Gaussians, 1 or 5, each half as
// broad as the one before, and a second layer has one. 0: any other mixtures. Values and slopes are computed relative
// to the broadest Gaussian's, so no weight may be too far above that one's, let alone negative.
inline int usual_chain(const Plan& plan) {
  constexpr double kMostRelative = 1e6;
  const int count = plan.first_gaussian[1];
  const bool usual = (plan.layers == 1 && (count == 1 || count == kUsualGaussians)) ||
                     (plan.layers == 2 && count == kUsualGaussians && plan.first_gaussian[2] == count + 1);
  if (!usual) return 0;
  for (int q = 0; q < plan.first_gaussian[plan.layers]; ++q)
    if (!(plan.weight[q] > 0) || (q < count && plan.weight[q] > kMostRelative * plan.weight[0])) return 0;
  for (int q = 1; q < count; ++q)
    if (plan.multiplier[q - 1] != 2 * plan.multiplier[q]) return 0;
  return count;
}

inline Plan make_plan(const Problem& problem, bool f64 = false) {
  Plan plan{};
  if (problem.n() > kCudaMaxRows)
    throw std::invalid_argument("backend 'cuda': expected at most " + std::to_string(kCudaMaxRows) +
                                " rows, source and target together, got " + std::to_string(problem.n()));
  plan.n_source = static_cast<int>(problem.n_source);
  plan.n_target = static_cast<int>(problem.n_target);
  plan.layers = problem.num_layers;
  for (int l = 0; l < problem.num_layers; ++l) {
    const Layer& layer = problem.layer[l];
    const int first = plan.first_gaussian[l], last = layer.num_gaussians - 1;
    plan.first_gaussian[l + 1] = first + layer.num_gaussians;
    if (plan.first_gaussian[l + 1] > kCudaMaxGaussians)
      throw std::invalid_argument("backend 'cuda': expected at most " + std::to_string(kCudaMaxGaussians) +
                                  " Gaussians in the kernels of all layers together");
    for (int q = 0; q < layer.num_gaussians; ++q) {
      plan.multiplier[first + q] = layer.multiplier[last - q];
      plan.weight[first + q] = layer.weight[last - q];
      plan.at_zero[l] += layer.weight[last - q];
    }
    mark_squares(
        layer.num_gaussians, [&](int q) { return plan.multiplier[first + q]; },
        f64 ? kMaxSquarings : kMaxFloatSquarings, plan.squares + first);
    plan.bandwidth_scale[l] = layer.bandwidth_scale;
    plan.follows_mean[l] = layer.follows_mean;
    plan.marginal[l] = problem.marginal[l];
  }
  plan.joint = problem.joint;
  plan.alpha = problem.alpha;
  plan.beta = problem.beta;
  plan.gamma = problem.gamma;
  plan.diagonal = problem.diagonal;
  plan.clamp = problem.clamp;
  plan.chain = usual_chain(plan);
  for (int q = 1; q < plan.chain; ++q) {
    plan.relative_weight[q - 1] = static_cast<float>(plan.weight[q] / plan.weight[0]);
    plan.relative_slope[q - 1] = static_cast<float>(std::ldexp(plan.weight[q] / plan.weight[0], q));
  }
  return plan;
}

}   // namespace fastmmd::cuda
