#include "finish.cuh"

namespace fastmmd::cuda {

namespace {

template <typename T, typename S>
int run(const FinishProblem& p, int64_t packed_rows, bool with_gradient, Device device) {
  const auto blocks = static_cast<unsigned>(packed_rows / kFinishRows);
  const dim3 grid = with_gradient ? dim3(1 + blocks, p.plan.layers) : dim3(1);
  return launch(finish_loss_and_gradients<T, S>, grid, dim3(kFinishThreads), 0,
                static_cast<cudaStream_t>(device.stream), p);
}

}   // namespace

int finish(const Problem& problem, const Buffers& io, bool f64, Format format, const PackedSums& packed,
           Device device) {
  FinishProblem p{};
  p.plan = make_plan(problem);
  p.source_rows = static_cast<int>(packed_rows(problem.n_source));
  p.sums = packed.sums;
  p.sum_rows = static_cast<int>(packed.sum_rows);
  p.bandwidth = packed.bandwidth;
  p.parts = static_cast<int>(packed.parts);
  p.part_pitch = packed.part_pitch;
  p.loss = io.loss;
  p.statistics = io.statistics;
  bool with_gradient = false;
  for (int l = 0; l < problem.num_layers; ++l) {
    const auto in_pieces = [](const void* address) { return reinterpret_cast<uintptr_t>(address) % 16 == 0; };
    with_gradient = with_gradient || io.layer_needs_grad(l);
    if (io.layer_needs_grad(l) && (packed.pitch[l] % kCudaFeatureGroup != 0 || packed.parts < 1))
      return cudaErrorInvalidValue;
    p.dim[l] = static_cast<int>(problem.layer[l].dim);
    p.aligned[l] = p.dim[l] % 4 == 0 && in_pieces(io.grad_source[l]) && in_pieces(io.grad_target[l]);
    p.weighted[l] = packed.weighted[l];
    p.rows[l] = packed.rows[l];
    p.pitch[l] = packed.pitch[l];
    p.grad_source[l] = io.grad_source[l];
    p.grad_target[l] = io.grad_target[l];
  }
  if (const cudaError_t error = cudaSetDevice(device.index); error != cudaSuccess) return error;
  const int64_t rows = p.source_rows + packed_rows(problem.n_target);
  if (f64) return run<double, double>(p, rows, with_gradient, device);
  if (format == Format::bf16) return run<float, bf16>(p, rows, with_gradient, device);
  return run<float, float>(p, rows, with_gradient, device);
}

}   // namespace fastmmd::cuda
