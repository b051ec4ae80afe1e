// The only file that knows Python. Addresses come as integers: the caller (fastmmd/backends) owns all memory
// and has checked dtypes, devices, shapes and strides; nothing on this side can.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/variants.h"
#include "problem.h"
#if FASTMMD_WITH_CUDA
#include "cuda/entry.h"
#endif

namespace py = pybind11;
using namespace fastmmd;

namespace {

using Addresses = std::vector<uintptr_t>;
using Sizes = std::vector<int64_t>;

struct LayerSpec {
  std::vector<double> scales, weights;
  double unit;
  bool follows_mean;
};

Problem make_problem(int64_t n_source, int64_t n_target, const Sizes& dims, const std::vector<LayerSpec>& layers,
                     double joint, const std::vector<double>& marginal, const std::vector<double>& pair_weights,
                     bool clamp) {
  const size_t L = layers.size();
  if (L < 1 || L > kMaxLayers) throw std::invalid_argument("layers: expected 1 to " + std::to_string(kMaxLayers));
  if (dims.size() != L || marginal.size() != L || pair_weights.size() != 4)
    throw std::invalid_argument("one dim and one marginal weight a layer, and four pair weights");
  Problem problem{};
  problem.n_source = n_source;
  problem.n_target = n_target;
  problem.num_layers = static_cast<int>(L);
  problem.joint = joint;
  problem.alpha = pair_weights[0];
  problem.beta = pair_weights[1];
  problem.gamma = pair_weights[2];
  problem.diagonal = pair_weights[3];
  problem.clamp = clamp;
  for (size_t l = 0; l < L; ++l) {
    const LayerSpec& from = layers[l];
    Layer& to = problem.layer[l];
    if (from.scales.empty() || from.scales.size() > kMaxScales || from.scales.size() != from.weights.size())
      throw std::invalid_argument("scales: expected 1 to " + std::to_string(kMaxScales) + ", one weight each");
    to.dim = dims[l];
    to.num_scales = static_cast<int>(from.scales.size());
    to.unit = from.unit;
    to.follows_mean = from.follows_mean;
    for (size_t q = 0; q < from.scales.size(); ++q) {
      to.scale[q] = from.scales[q];
      to.weight[q] = from.weights[q];
    }
    problem.marginal[l] = marginal[l];
  }
  return problem;
}

const CpuVariant& variant_at(int index) {
  const CpuVariant* const* list = cpu_variants();
  for (int i = 0; i <= index; ++i)
    if (!list[i]) throw std::out_of_range("cpu variant");
  return *list[index];
}

const CpuKernel& kernel_for(int variant, bool f64) {
  const CpuVariant& v = variant_at(variant);
  return f64 ? v.f64 : v.f32;
}

template <typename P = void>
P* address(uintptr_t at) {
  return reinterpret_cast<P*>(at);
}

struct LayerAddresses {
  const Addresses &sources, &targets;
  const Sizes &source_strides, &target_strides;
  const Addresses &grad_sources, &grad_targets;
};

Buffers make_buffers(const Problem& problem, const LayerAddresses& layers, uintptr_t bandwidths, uintptr_t loss,
                     uintptr_t report, uintptr_t workspace) {
  const size_t L = static_cast<size_t>(problem.num_layers);
  for (const size_t size : {layers.sources.size(), layers.targets.size(), layers.source_strides.size(),
                            layers.target_strides.size(), layers.grad_sources.size(), layers.grad_targets.size()})
    if (size != L) throw std::invalid_argument("one address and one stride a layer");
  Buffers io{};
  for (size_t l = 0; l < L; ++l) {
    io.source[l] = address(layers.sources[l]);
    io.target[l] = address(layers.targets[l]);
    io.source_stride[l] = layers.source_strides[l];
    io.target_stride[l] = layers.target_strides[l];
    io.grad_source[l] = address(layers.grad_sources[l]);
    io.grad_target[l] = address(layers.grad_targets[l]);
  }
  io.bandwidth = address<const double>(bandwidths);
  io.loss = address(loss);
  io.report = address(report);
  io.workspace = address(workspace);
  return io;
}

void cpu_run(const Problem& problem, bool f64, const Addresses& sources, const Addresses& targets,
             const Sizes& source_strides, const Sizes& target_strides, const Addresses& grad_sources,
             const Addresses& grad_targets, uintptr_t bandwidths, uintptr_t loss, uintptr_t report, uintptr_t workspace,
             int num_threads, int variant) {
  const Buffers io =
      make_buffers(problem, {sources, targets, source_strides, target_strides, grad_sources, grad_targets}, bandwidths,
                   loss, report, workspace);
  bool with_gradient = false;
  for (int l = 0; l < problem.num_layers; ++l) with_gradient = with_gradient || io.grad_source[l] || io.grad_target[l];
  const py::gil_scoped_release release;
  kernel_for(variant, f64).run(problem, io, with_gradient, num_threads);
}

double cpu_median(int64_t n_source, int64_t n_target, int64_t dim, bool f64, uintptr_t source, uintptr_t target,
                  int64_t source_stride, int64_t target_stride, uintptr_t workspace, int num_threads, int variant) {
  const Samples samples = {n_source, n_target, dim, address(source), address(target), source_stride, target_stride};
  const CpuKernel& kernel = kernel_for(variant, f64);
  const py::gil_scoped_release release;
  return kernel.median(samples, address(workspace), num_threads);
}

#if FASTMMD_WITH_CUDA

void check(int code) {
  if (code != 0) throw std::runtime_error(std::string("CUDA: ") + cuda::error_message(code));
}

void cuda_small(const Problem& problem, bool f64, const std::vector<int>& types, const Addresses& sources,
                const Addresses& targets, const Sizes& source_strides, const Sizes& target_strides,
                const Addresses& grad_sources, const Addresses& grad_targets, uintptr_t bandwidths, uintptr_t loss,
                uintptr_t report, uintptr_t workspace, int part_features, int chunk, int device, uintptr_t stream) {
  const Buffers io =
      make_buffers(problem, {sources, targets, source_strides, target_strides, grad_sources, grad_targets}, bandwidths,
                   loss, report, workspace);
  cuda::Type type[kMaxLayers] = {};
  if (types.size() != static_cast<size_t>(problem.num_layers))
    throw std::invalid_argument("types: expected one a layer");
  for (size_t l = 0; l < types.size(); ++l) type[l] = static_cast<cuda::Type>(types[l]);
  const py::gil_scoped_release release;
  check(cuda::small(problem, io, type, f64, {part_features, chunk}, {device, address(stream)}));
}

void cuda_pass(const Problem& problem, bool f64, const Addresses& inner, const Addresses& norms,
               const std::vector<bool>& wanted, bool tf32, uintptr_t bandwidths, uintptr_t noises, uintptr_t sums,
               int64_t rows, int64_t columns, int64_t pitch, int64_t first_row, int64_t first_column, int device,
               uintptr_t stream) {
  const size_t L = static_cast<size_t>(problem.num_layers);
  if (inner.size() != L || norms.size() != L || wanted.size() != L)
    throw std::invalid_argument("inner, norms, wanted: expected one a layer");
  cuda::Pass io{};
  for (size_t l = 0; l < L; ++l) {
    io.inner[l] = address(inner[l]);
    io.norm[l] = address(norms[l]);
    io.wanted[l] = wanted[l];
  }
  io.tf32 = tf32;
  io.rows = rows;
  io.columns = columns;
  io.pitch = pitch;
  io.first_row = first_row;
  io.first_column = first_column;
  io.bandwidth = address<const double>(bandwidths);
  io.noise = address<const double>(noises);
  io.sums = address<double>(sums);
  const py::gil_scoped_release release;
  check(cuda::pass(problem, io, f64, {device, address(stream)}));
}

cuda::Format format_of(const std::string& name) {
  for (int f = 0; f < static_cast<int>(std::size(cuda::kFormats)); ++f)
    if (name == cuda::kFormats[f]) return static_cast<cuda::Format>(f);
  throw std::invalid_argument("format: no such one: " + name);
}

void cuda_tiles(const Problem& problem, const std::string& format, const Sizes& units, const std::vector<bool>& wanted,
                uintptr_t rows, uintptr_t norms, uintptr_t bandwidths, uintptr_t noises, uintptr_t gradient,
                uintptr_t sums, int splits, int buffers, int device, uintptr_t stream) {
  const size_t L = static_cast<size_t>(problem.num_layers);
  if (units.size() != L || wanted.size() != L) throw std::invalid_argument("units, wanted: expected one a layer");
  cuda::Tiles io{};
  for (size_t l = 0; l < L; ++l) {
    io.units[l] = units[l];
    io.wanted[l] = wanted[l];
  }
  io.rows = address(rows);
  io.norm = address<const float>(norms);
  io.bandwidth = address<const double>(bandwidths);
  io.noise = address<const double>(noises);
  io.gradient = address<float>(gradient);
  io.sums = address<double>(sums);
  const cuda::Format found = format_of(format);
  const py::gil_scoped_release release;
  check(cuda::tiles(problem, io, found, {splits, buffers}, {device, address(stream)}));
}

void bind_cuda(py::module_& m) {
  m.attr("CUDA_TILES_ROWS") = cuda::kTilesRows;
  m.def(
      "cuda_probe",
      [](int device) -> std::string {
        const int code = cuda::probe({device, nullptr});
        return code == 0 ? "" : cuda::error_message(code);
      },
      py::arg("device"));
  m.def(
      "cuda_small_workspace_bytes",
      [](const Problem& problem, bool f64, int part_features, int chunk) {
        return cuda::small_workspace_bytes(problem, f64, {part_features, chunk});
      },
      py::arg("problem"), py::arg("f64"), py::arg("part_features"), py::arg("chunk"));
  m.def("cuda_small", &cuda_small, py::arg("problem"), py::arg("f64"), py::arg("types"), py::arg("sources"),
        py::arg("targets"), py::arg("source_strides"), py::arg("target_strides"), py::arg("grad_sources"),
        py::arg("grad_targets"), py::arg("bandwidths"), py::arg("loss"), py::arg("report"), py::arg("workspace"),
        py::arg("part_features"), py::arg("chunk"), py::arg("device"), py::arg("stream"));
  m.def("cuda_pass_blocks", &cuda::pass_blocks, py::arg("rows"), py::arg("columns"));
  m.def("cuda_pass", &cuda_pass, py::arg("problem"), py::arg("f64"), py::arg("inner"), py::arg("norms"),
        py::arg("wanted"), py::arg("tf32"), py::arg("bandwidths"), py::arg("noises"), py::arg("sums"), py::arg("rows"),
        py::arg("columns"), py::arg("pitch"), py::arg("first_row"), py::arg("first_column"), py::arg("device"),
        py::arg("stream"));
  m.def(
      "cuda_tiles_shared_bytes",
      [](const std::string& format, int64_t units, int layers, bool with_gradient, int buffers) {
        return cuda::tiles_shared_bytes(format_of(format), units, layers, with_gradient, {1, buffers});
      },
      py::arg("format"), py::arg("units"), py::arg("layers"), py::arg("with_gradient"), py::arg("buffers"));
  m.def("cuda_tiles", &cuda_tiles, py::arg("problem"), py::arg("format"), py::arg("units"), py::arg("wanted"),
        py::arg("rows"), py::arg("norms"), py::arg("bandwidths"), py::arg("noises"), py::arg("gradient"),
        py::arg("sums"), py::arg("splits"), py::arg("buffers"), py::arg("device"), py::arg("stream"));
}

#endif

}   // namespace

PYBIND11_MODULE(_C, m) {
  m.attr("ABI") = kAbi;
  m.attr("COMPILER") = FASTMMD_COMPILER;
  m.attr("OPENMP") = FASTMMD_OPENMP != 0;
  m.attr("CUDA") = FASTMMD_WITH_CUDA != 0;
  m.attr("CUDA_ABSENT") = FASTMMD_CUDA_ABSENT;     // why there are no CUDA kernels
  m.attr("CUDA_VERSION") = FASTMMD_CUDA_VERSION;   // the compiler's
  m.attr("CUDA_ARCHS") = FASTMMD_CUDA_ARCHS;       // such as "80 90 120 120+PTX"
#if defined(FASTMMD_CUDA_ON_HOST)
  m.attr("CUDA_ON_HOST") = true;   // kernels run on the CPU, for tests
#else
  m.attr("CUDA_ON_HOST") = false;
#endif
#if FASTMMD_WITH_CUDA
  bind_cuda(m);
#endif

  py::class_<LayerSpec>(m, "LayerSpec")
      .def(py::init([](std::vector<double> scales, std::vector<double> weights, double unit, bool follows_mean) {
             return LayerSpec{std::move(scales), std::move(weights), unit, follows_mean};
           }),
           py::arg("scales"), py::arg("weights"), py::arg("unit"), py::arg("follows_mean"));

  py::class_<Problem>(m, "Problem")
      .def(py::init(&make_problem), py::arg("n_source"), py::arg("n_target"), py::arg("dims"), py::arg("layers"),
           py::arg("joint"), py::arg("marginal"), py::arg("pair_weights"), py::arg("clamp"));

  m.def("cpu_variants", [] {
    std::vector<std::string> names;
    for (const CpuVariant* const* v = cpu_variants(); *v; ++v) names.emplace_back((*v)->name);
    return names;
  });
  m.def(
      "cpu_workspace_bytes",
      [](const Problem& problem, bool f64, bool with_gradient, int variant) {
        return kernel_for(variant, f64).workspace_bytes(problem, with_gradient);
      },
      py::arg("problem"), py::arg("f64"), py::arg("with_gradient"), py::arg("variant") = 0);
  m.def("cpu_run", &cpu_run, py::arg("problem"), py::arg("f64"), py::arg("sources"), py::arg("targets"),
        py::arg("source_strides"), py::arg("target_strides"), py::arg("grad_sources"), py::arg("grad_targets"),
        py::arg("bandwidths"), py::arg("loss"), py::arg("report"), py::arg("workspace"), py::arg("num_threads"),
        py::arg("variant") = 0);
  m.def(
      "cpu_median_workspace_bytes",
      [](int64_t n_source, int64_t n_target, int64_t dim, bool f64, int num_threads, int variant) {
        return kernel_for(variant, f64)
            .median_workspace_bytes({n_source, n_target, dim, nullptr, nullptr, 0, 0}, num_threads);
      },
      py::arg("n_source"), py::arg("n_target"), py::arg("dim"), py::arg("f64"), py::arg("num_threads"),
      py::arg("variant") = 0);
  m.def("cpu_median", &cpu_median, py::arg("n_source"), py::arg("n_target"), py::arg("dim"), py::arg("f64"),
        py::arg("source"), py::arg("target"), py::arg("source_stride"), py::arg("target_stride"), py::arg("workspace"),
        py::arg("num_threads"), py::arg("variant") = 0);
}
