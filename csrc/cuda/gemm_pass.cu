#include "gemm_pass.cuh"

namespace fastmmd::cuda {

namespace {

dim3 grid_of(int64_t rows, int64_t columns) {
  return dim3(static_cast<unsigned>(columns / kTileRows), static_cast<unsigned>(rows / kTileRows));
}

template <typename C>
auto single_kernel(const Plan& plan) {
  if (plan.layers == 1)
    return plan.chain == 5   ? gemm_coefficients<float, C, 1, 5>
           : plan.chain == 1 ? gemm_coefficients<float, C, 1, 1>
                             : gemm_coefficients<float, C, 1, 0>;
  if (plan.layers == 2) return plan.chain == 5 ? gemm_coefficients<float, C, 2, 5> : gemm_coefficients<float, C, 2, 0>;
  return gemm_coefficients<float, C, kMaxLayers, 0>;
}

auto double_kernel(const Plan& plan) {
  return plan.layers == 1   ? gemm_coefficients<double, double, 1, 0>
         : plan.layers == 2 ? gemm_coefficients<double, double, 2, 0>
                            : gemm_coefficients<double, double, kMaxLayers, 0>;
}

bool whole_tiles(int64_t rows) { return rows >= 0 && rows % kTileRows == 0; }

}   // namespace

int64_t gemm_pass_programs(int64_t rows, int64_t columns) {
  const dim3 grid = grid_of(rows, columns);
  return static_cast<int64_t>(grid.x) * grid.y;
}

int gemm_pass(const Problem& problem, const GemmPass& io, bool f64, Device device) {
  GemmPassProblem p{};
  p.plan = make_plan(problem, f64);
  bool transposes = false;
  for (int l = 0; l < problem.num_layers; ++l) {
    p.inner_products[l] = io.inner_products[l];
    p.coefficients[l] = io.coefficients[l];
    p.transposed[l] = io.transposed[l];
    p.norm[l] = io.norm[l];
    if (io.transposed[l] && !io.coefficients[l]) return cudaErrorInvalidValue;
    transposes = transposes || io.transposed[l];
  }
  for (const int64_t rows : {io.rows, io.columns, io.first_row, io.first_column, io.pitch, io.transposed_pitch})
    if (!whole_tiles(rows)) return cudaErrorInvalidValue;
  const bool rounds_to_bf16 = io.format == Format::bf16;
  if ((f64 && io.format != Format::ieee) || io.format == Format::tf32x3 || (rounds_to_bf16 && transposes))
    return cudaErrorInvalidValue;
  p.first_row_tile = static_cast<int>(io.first_row / kTileRows);
  p.first_column_tile = static_cast<int>(io.first_column / kTileRows);
  p.pitch = static_cast<int>(io.pitch);
  p.transposed_pitch = static_cast<int>(io.transposed_pitch);
  p.split = io.format == Format::tf32 ? kTf32Split : 0;
  p.bandwidth = io.bandwidth;
  p.tolerance = io.tolerance;
  p.sums = io.sums;
  if (const cudaError_t error = cudaSetDevice(device.index); error != cudaSuccess) return error;
  const auto kernel = f64              ? double_kernel(p.plan)
                      : rounds_to_bf16 ? single_kernel<bf16>(p.plan)
                                       : single_kernel<float>(p.plan);
  return launch(kernel, grid_of(io.rows, io.columns), dim3(kGemmPassThreads), 0,
                static_cast<cudaStream_t>(device.stream), p);
}

}   // namespace fastmmd::cuda
