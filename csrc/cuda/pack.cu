#include "pack.cuh"

namespace fastmmd::cuda {

namespace {

struct Workspace {
  int64_t centre, norm_sum, arrived, bytes;   // offsets, and their end
};

int groups_of(const Problem& problem) { return static_cast<int>(problem.n() < kRowGroups ? problem.n() : kRowGroups); }

// So many that a thread sums eight rows or more.
int slices_of(const Problem& problem) {
  const int64_t slices = problem.n() / (kRowGroups * kSumRows * 8);
  return static_cast<int>(slices < 1 ? 1 : slices < kMaxSlices ? slices : kMaxSlices);
}

int chunks_of(const Layer& layer) { return static_cast<int>((layer.dim + kSumFeatures - 1) / kSumFeatures); }

Workspace workspace(const Problem& problem, bool f64) {
  const auto aligned = [](int64_t bytes) { return (bytes + 255) / 256 * 256; };
  const int64_t size = f64 ? 8 : 4;
  const int64_t rows = packed_rows(problem.n_source) + packed_rows(problem.n_target);
  int64_t features = 0;
  for (int l = 0; l < problem.num_layers; ++l) features += chunks_of(problem.layer[l]) * kSumFeatures;
  Workspace w{};
  w.centre = aligned(groups_of(problem) * slices_of(problem) * features * size);
  w.norm_sum = w.centre + aligned(features * size);
  w.arrived = w.norm_sum + aligned(problem.num_layers * (rows / kPackRows) * 8);
  w.bytes = w.arrived + aligned(sizeof(unsigned));
  return w;
}

bool in_fours(const void* rows, int64_t stride, int64_t size) {
  const int64_t piece = 4 * size < 16 ? 4 * size : 16;
  return reinterpret_cast<uintptr_t>(rows) % piece == 0 && stride * size % piece == 0;
}

template <typename T, typename S>
int run(const PackProblem& p, cudaStream_t stream) {
  const dim3 sums(p.chunks(), p.groups * p.slices), rows(p.packed_rows / kPackRows, p.plan.layers);
  if (const cudaError_t error = launch(column_sums<T>, sums, dim3(kPackThreads), 0, stream, p)) return error;
  if (const cudaError_t error = launch(column_centres<T>, dim3(p.chunks()), dim3(kSumFeatures), 0, stream, p))
    return error;
  return launch(centred_rows<T, S>, rows, dim3(kPackThreads), 0, stream, p);
}

}   // namespace

int64_t pack_workspace_bytes(const Problem& problem, bool f64) { return workspace(problem, f64).bytes; }

int pack(const Problem& problem, const Buffers& io, const Dtype* dtypes, bool f64, Format format,
         const PackedRows& packed, Device device) {
  constexpr int64_t kSizes[] = {2, 2, 4, 8};   // of dtypes
  PackProblem p{};
  p.plan = make_plan(problem);
  for (int l = 0; l < problem.num_layers; ++l) {
    const int64_t dim = problem.layer[l].dim, size = kSizes[static_cast<int>(dtypes[l])];
    if (packed.width[l] < dim + packed.ones || packed.width[l] % kCudaFeatureGroup != 0 ||
        packed.pitch[l] < packed.width[l] || packed.pitch[l] % kCudaFeatureGroup != 0)
      return cudaErrorInvalidValue;
    p.dtype[l] = dtypes[l];
    p.aligned[l] = dim % 4 == 0 && in_fours(io.source[l], io.source_stride[l], size) &&
                   in_fours(io.target[l], io.target_stride[l], size);
    p.dim[l] = static_cast<int>(dim);
    p.first_chunk[l + 1] = p.first_chunk[l] + chunks_of(problem.layer[l]);
    p.source[l] = io.source[l];
    p.target[l] = io.target[l];
    p.source_stride[l] = io.source_stride[l];
    p.target_stride[l] = io.target_stride[l];
    p.rows[l] = packed.rows[l];
    p.transposed[l] = packed.transposed[l];
    p.width[l] = static_cast<int>(packed.width[l]);
    p.pitch[l] = packed.pitch[l];
  }
  p.given_bandwidth = io.given_bandwidth;
  p.groups = groups_of(problem);
  p.slices = slices_of(problem);
  p.source_rows = static_cast<int>(packed_rows(problem.n_source));
  p.packed_rows = p.source_rows + static_cast<int>(packed_rows(problem.n_target));
  p.ones = packed.ones;
  p.tf32 = format == Format::tf32;
  p.norm = packed.norm;
  p.bandwidth = packed.bandwidth;
  p.tolerance = packed.tolerance;
  const Workspace offset = workspace(problem, f64);
  char* const base = static_cast<char*>(io.workspace);
  p.sums = base;
  p.centre = base + offset.centre;
  p.norm_sum = reinterpret_cast<double*>(base + offset.norm_sum);
  p.arrived = reinterpret_cast<unsigned*>(base + offset.arrived);
  if (const cudaError_t error = cudaSetDevice(device.index); error != cudaSuccess) return error;
  const auto stream = static_cast<cudaStream_t>(device.stream);
  if (f64) return run<double, double>(p, stream);
  if (format == Format::bf16) return run<float, bf16>(p, stream);
  return run<float, float>(p, stream);
}

}   // namespace fastmmd::cuda
