// The only file that knows Python. Addresses come as integers: the caller (fastmmd/backends/cpu.py) owns all memory
// and has checked dtypes, devices, shapes and strides; nothing on this side can.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/variants.h"
#include "problem.h"

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

void cpu_run(const Problem& problem, bool f64, const Addresses& sources, const Addresses& targets,
             const Sizes& source_strides, const Sizes& target_strides, const Addresses& grad_sources,
             const Addresses& grad_targets, uintptr_t bandwidths, uintptr_t loss, uintptr_t report, uintptr_t workspace,
             int num_threads, int variant) {
  const size_t L = static_cast<size_t>(problem.num_layers);
  for (const size_t size : {sources.size(), targets.size(), source_strides.size(), target_strides.size(),
                            grad_sources.size(), grad_targets.size()})
    if (size != L) throw std::invalid_argument("one address and one stride a layer");
  Buffers io{};
  bool with_gradient = false;
  for (size_t l = 0; l < L; ++l) {
    io.source[l] = reinterpret_cast<const void*>(sources[l]);
    io.target[l] = reinterpret_cast<const void*>(targets[l]);
    io.source_stride[l] = source_strides[l];
    io.target_stride[l] = target_strides[l];
    io.grad_source[l] = reinterpret_cast<void*>(grad_sources[l]);
    io.grad_target[l] = reinterpret_cast<void*>(grad_targets[l]);
    with_gradient = with_gradient || io.grad_source[l] || io.grad_target[l];
  }
  io.bandwidth = reinterpret_cast<const double*>(bandwidths);
  io.loss = reinterpret_cast<void*>(loss);
  io.report = reinterpret_cast<void*>(report);
  io.workspace = reinterpret_cast<void*>(workspace);
  const py::gil_scoped_release release;
  kernel_for(variant, f64).run(problem, io, with_gradient, num_threads);
}

}   // namespace

PYBIND11_MODULE(_C, m) {
  m.attr("ABI") = kAbi;
  m.attr("COMPILER") = FASTMMD_COMPILER;
  m.attr("OPENMP") = FASTMMD_OPENMP != 0;

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
}
