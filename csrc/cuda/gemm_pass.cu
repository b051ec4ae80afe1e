#include "gemm_pass.cuh"

namespace fastmmd::cuda {

namespace {

dim3 grid_of(int64_t rows, int64_t columns) {
  return dim3(static_cast<unsigned>((columns + kGemmPassColumns - 1) / kGemmPassColumns),
              static_cast<unsigned>((rows + kGemmPassRows - 1) / kGemmPassRows));
}

template <typename T>
int run(const GemmPassProblem& p, cudaStream_t stream) {
  const dim3 grid = grid_of(p.rows, p.columns), threads(kGemmPassThreads);
  if (p.plan.layers == 1) return launch(gemm_coefficients<T, 1>, grid, threads, 0, stream, p);
  if (p.plan.layers == 2) return launch(gemm_coefficients<T, 2>, grid, threads, 0, stream, p);
  return launch(gemm_coefficients<T, kMaxLayers>, grid, threads, 0, stream, p);
}

}   // namespace

int64_t gemm_pass_programs(int64_t rows, int64_t columns) {
  const dim3 grid = grid_of(rows, columns);
  return static_cast<int64_t>(grid.x) * grid.y;
}

int gemm_pass(const Problem& problem, const GemmPass& io, bool f64, Device device) {
  GemmPassProblem p{};
  p.plan = make_plan(problem);
  p.rows = static_cast<int>(io.rows);
  p.columns = static_cast<int>(io.columns);
  p.pitch = static_cast<int>(io.pitch);
  p.first_row = static_cast<int>(io.first_row);
  p.first_column = static_cast<int>(io.first_column);
  for (int l = 0; l < problem.num_layers; ++l) {
    p.inner_products[l] = io.inner_products[l];
    p.norm[l] = io.norm[l];
    p.layer_needs_grad[l] = io.layer_needs_grad[l];
  }
  p.tf32 = io.tf32;
  p.bandwidth = io.bandwidth;
  p.tolerance = io.tolerance;
  p.sums = io.sums;
  if (const cudaError_t error = cudaSetDevice(device.index); error != cudaSuccess) return error;
  const auto stream = static_cast<cudaStream_t>(device.stream);
  return f64 ? run<double>(p, stream) : run<float>(p, stream);
}

}   // namespace fastmmd::cuda
