// What every backend computes: Layer, Problem, and the Buffers and Samples that it reads and writes.
#include "bindings.h"

namespace fastmmd::bindings {

namespace {

Layer make_layer(int64_t dim, const std::vector<double>& multipliers, const std::vector<double>& weights,
                 double bandwidth_scale, bool follows_mean) {
  expect_positive("dim", dim);
  expect_range("multipliers", static_cast<int64_t>(multipliers.size()), 1, kMaxGaussians);
  expect_size("weights", weights.size(), multipliers.size(), "one per multiplier");
  Layer layer{};
  layer.dim = dim;
  layer.num_gaussians = static_cast<int>(multipliers.size());
  for (size_t q = 0; q < multipliers.size(); ++q) {
    layer.multiplier[q] = multipliers[q];
    layer.weight[q] = weights[q];
  }
  layer.bandwidth_scale = bandwidth_scale;
  layer.follows_mean = follows_mean;
  return layer;
}

Problem make_problem(int64_t n_source, int64_t n_target, const std::vector<Layer>& layers, double joint,
                     const std::vector<double>& marginal, const std::vector<double>& pair_weights, bool clamp,
                     int64_t form_columns) {
  expect_positive("n_source", n_source);
  expect_at_least("n_target", n_target, form_columns > 0 ? 0 : 1);
  expect_at_least("form_columns", form_columns, 0);
  expect_range("layers", static_cast<int64_t>(layers.size()), 1, kMaxLayers);
  expect_size("marginal", marginal.size(), layers.size(), "one per layer");
  expect_size("pair_weights", pair_weights.size(), 4, "alpha, beta, gamma and diagonal");
  Problem problem{};
  problem.n_source = n_source;
  problem.n_target = n_target;
  problem.num_layers = static_cast<int>(layers.size());
  for (size_t l = 0; l < layers.size(); ++l) {
    problem.layer[l] = layers[l];
    problem.marginal[l] = marginal[l];
  }
  problem.joint = joint;
  problem.alpha = pair_weights[0];
  problem.beta = pair_weights[1];
  problem.gamma = pair_weights[2];
  problem.diagonal = pair_weights[3];
  problem.clamp = clamp;
  problem.form_columns = form_columns;
  return problem;
}

// Lists have the sources' entries first.
LayerBuffers make_buffers(const py::sequence& inputs, const py::sequence& strides, const py::sequence& gradients,
                          uintptr_t given_bandwidth, uintptr_t w, uintptr_t wa, uintptr_t kw, uintptr_t loss,
                          uintptr_t statistics, uintptr_t workspace) {
  LayerBuffers buffers(inputs.size() / 2);
  Buffers& io = buffers.structure;
  buffers.read("inputs", inputs, {io.source, io.target});
  buffers.read("strides", strides, {io.source_stride, io.target_stride});
  buffers.read("gradients", gradients, {io.grad_source, io.grad_target});
  io.given_bandwidth = pointer<const double>(given_bandwidth);
  io.w = pointer(w);
  io.wa = pointer(wa);
  io.kw = pointer(kw);
  io.loss = pointer(loss);
  io.statistics = pointer(statistics);
  io.workspace = pointer(workspace);
  return buffers;
}

Samples make_samples(int64_t n_source, int64_t n_target, int64_t dim, uintptr_t source, uintptr_t target,
                     int64_t source_stride, int64_t target_stride) {
  expect_positive("n_source", n_source);
  expect_at_least("n_target", n_target, 0);
  expect_positive("dim", dim);
  return {n_source, n_target, dim, pointer(source), pointer(target), source_stride, target_stride};
}

}   // namespace

void bind_problem(py::module_& m) {
  py::class_<Layer>(m, "Layer")
      .def(py::init(&make_layer), py::kw_only(), py::arg("dim"), py::arg("multipliers"), py::arg("weights"),
           py::arg("bandwidth_scale"), py::arg("follows_mean"));
  py::class_<Problem>(m, "Problem")
      .def(py::init(&make_problem), py::kw_only(), py::arg("n_source"), py::arg("n_target"), py::arg("layers"),
           py::arg("joint"), py::arg("marginal"), py::arg("pair_weights"), py::arg("clamp"), py::arg("form_columns"));
  py::class_<LayerBuffers>(m, "Buffers")
      .def(py::init(&make_buffers), py::kw_only(), py::arg("inputs"), py::arg("strides"), py::arg("gradients"),
           py::arg("given_bandwidth"), py::arg("w"), py::arg("wa"), py::arg("kw"), py::arg("loss"),
           py::arg("statistics"), py::arg("workspace"));
  py::class_<Samples>(m, "Samples")
      .def(py::init(&make_samples), py::kw_only(), py::arg("n_source"), py::arg("n_target"), py::arg("dim"),
           py::arg("source"), py::arg("target"), py::arg("source_stride"), py::arg("target_stride"));
}

}   // namespace fastmmd::bindings
