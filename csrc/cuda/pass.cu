#include "pass.cuh"

namespace fastmmd::cuda {

namespace {

dim3 grid_of(int64_t rows, int64_t columns) {
  return dim3(static_cast<unsigned>((columns + kPassColumns - 1) / kPassColumns),
              static_cast<unsigned>((rows + kPassRows - 1) / kPassRows));
}

template <typename T>
int run(const PassProblem& p, cudaStream_t stream) {
  const dim3 grid = grid_of(p.rows, p.columns), block(kPassThreads);
  if (p.plan.layers == 1) return launch(coefficients_in_place<T, 1>, grid, block, 0, stream, p);
  if (p.plan.layers == 2) return launch(coefficients_in_place<T, 2>, grid, block, 0, stream, p);
  return launch(coefficients_in_place<T, kMaxLayers>, grid, block, 0, stream, p);
}

}   // namespace

int64_t pass_blocks(int64_t rows, int64_t columns) {
  const dim3 grid = grid_of(rows, columns);
  return static_cast<int64_t>(grid.x) * grid.y;
}

int pass(const Problem& problem, const Pass& io, bool f64, Device device) {
  PassProblem p{};
  p.plan = make_plan(problem);
  p.rows = static_cast<int>(io.rows);
  p.columns = static_cast<int>(io.columns);
  p.pitch = static_cast<int>(io.pitch);
  p.first_row = static_cast<int>(io.first_row);
  p.first_column = static_cast<int>(io.first_column);
  for (int l = 0; l < problem.num_layers; ++l) {
    p.inner[l] = io.inner[l];
    p.norm[l] = io.norm[l];
    p.wanted[l] = io.wanted[l];
  }
  p.tf32 = io.tf32;
  p.bandwidth = io.bandwidth;
  p.noise = io.noise;
  p.sums = io.sums;
  if (const cudaError_t error = cudaSetDevice(device.index); error != cudaSuccess) return error;
  const auto stream = static_cast<cudaStream_t>(device.stream);
  return f64 ? run<double>(p, stream) : run<float>(p, stream);
}

const char* error_message(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }

}   // namespace fastmmd::cuda
