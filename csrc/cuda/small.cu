#include "small_distances.cuh"
#include "small_loss.cuh"

namespace fastmmd::cuda {

namespace {

struct Workspace {
  int64_t distance, distance_sum, sums, arrived, bytes;   // offsets, and their end
};

int64_t parts_of(const Problem& problem, SmallLaunch config) {
  int64_t parts = 0;
  for (int l = 0; l < problem.num_layers; ++l)
    parts += (problem.layer[l].dim + config.part_features - 1) / config.part_features;
  return parts;
}

Workspace workspace(const Problem& problem, bool f64, SmallLaunch config) {
  const int64_t panels = (problem.n() + kSmallPanelRows - 1) / kSmallPanelRows, parts = parts_of(problem, config);
  const auto aligned = [](int64_t bytes) { return (bytes + 255) / 256 * 256; };
  Workspace w{};
  w.distance_sum = aligned(parts * panels * panels * kSmallPanelRows * kSmallPanelRows * (f64 ? 8 : 4));
  w.sums = w.distance_sum + aligned(parts * panels * (panels + 1) / 2 * 8);
  w.arrived = w.sums + aligned(panels * 3 * (1 + problem.num_layers) * 8);
  w.bytes = w.arrived + aligned(sizeof(unsigned));
  return w;
}

int form_chunks(const SmallProblem& p) { return (p.form_columns + kSmallFormColumns - 1) / kSmallFormColumns; }

template <typename T, int Layers, bool Weighted>
int run(const SmallProblem& p, bool with_gradient, SmallLaunch config, Device device) {
  const auto stream = static_cast<cudaStream_t>(device.stream);
  const int layers = p.plan.layers;
  const cudaError_t queued =
      launch(small_distances<T>, dim3(p.panel_pairs(), p.first_part[layers]), dim3(kDistanceThreads), 0, stream, p);
  if (queued != cudaSuccess) return queued;
  const Begin begin = config.overlap ? Begin::during_last_launch : Begin::after_last_launch;
  if (!with_gradient) {
    const dim3 grid(p.panels(), p.kw ? form_chunks(p) : 1);
    return launch(begin, small_loss<T, Layers, 32, false, Weighted>, grid, dim3(128), 0, stream, p);
  }
  const dim3 grid(p.panels(), p.first_chunk[layers]);
  if (config.chunk == 32)
    return launch(begin, small_loss<T, Layers, 32, true, Weighted>, grid, dim3(128), 0, stream, p);
  return launch(begin, small_loss<T, Layers, 64, true, Weighted>, grid, dim3(256), 0, stream, p);
}

template <typename T>
int run(const SmallProblem& p, bool with_gradient, SmallLaunch config, Device device) {
  // Of a form a layer alone takes the kernels of two: fewer to compile.
  if (p.form_columns > 0)
    return p.plan.layers <= 2 ? run<T, 2, true>(p, with_gradient, config, device)
                              : run<T, kMaxLayers, true>(p, with_gradient, config, device);
  if (p.plan.layers == 1) return run<T, 1, false>(p, with_gradient, config, device);
  if (p.plan.layers == 2) return run<T, 2, false>(p, with_gradient, config, device);
  return run<T, kMaxLayers, false>(p, with_gradient, config, device);
}

}   // namespace

int64_t small_workspace_bytes(const Problem& problem, bool f64, SmallLaunch config) {
  return workspace(problem, f64, config).bytes;
}

int small(const Problem& problem, const Buffers& io, const Dtype* dtypes, bool f64, SmallLaunch config, Device device) {
  SmallProblem p{};
  p.plan = make_plan(problem, f64);
  p.part_features = config.part_features;
  bool with_gradient = false;
  for (int l = 0; l < problem.num_layers; ++l) {
    const int dim = static_cast<int>(problem.layer[l].dim);
    with_gradient = with_gradient || io.layer_needs_grad(l);
    p.dtype[l] = dtypes[l];
    p.dim[l] = dim;
    p.first_part[l + 1] = p.first_part[l] + (dim + config.part_features - 1) / config.part_features;
    p.first_chunk[l + 1] = p.first_chunk[l] + (io.layer_needs_grad(l) ? (dim + config.chunk - 1) / config.chunk : 0);
    p.source[l] = io.source[l];
    p.target[l] = io.target[l];
    p.source_stride[l] = io.source_stride[l];
    p.target_stride[l] = io.target_stride[l];
    p.grad_source[l] = io.grad_source[l];
    p.grad_target[l] = io.grad_target[l];
  }
  p.given_bandwidth = io.given_bandwidth;
  p.loss = io.loss;
  p.statistics = io.statistics;
  if (problem.form_columns > 0) {
    p.w = io.w;
    p.wa = io.wa;
    p.kw = io.kw;
    p.form_columns = static_cast<int>(problem.form_columns);
    const int chunks = with_gradient ? p.first_chunk[problem.num_layers] : form_chunks(p);
    p.columns_per_chunk = (form_chunks(p) + chunks - 1) / chunks * kSmallFormColumns;
  }
  const Workspace offset = workspace(problem, f64, config);
  char* const base = static_cast<char*>(io.workspace);
  p.distance = base + offset.distance;
  p.distance_sum = reinterpret_cast<double*>(base + offset.distance_sum);
  p.sums = reinterpret_cast<double*>(base + offset.sums);
  p.arrived = reinterpret_cast<unsigned*>(base + offset.arrived);
  if (config.part_features < 1 || (config.chunk != 32 && config.chunk != 64)) return cudaErrorInvalidValue;
  if (const cudaError_t error = cudaSetDevice(device.index); error != cudaSuccess) return error;
  return f64 ? run<double>(p, with_gradient, config, device) : run<float>(p, with_gradient, config, device);
}

}   // namespace fastmmd::cuda
