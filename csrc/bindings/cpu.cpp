// Backend "cpu": csrc/cpu.
#include "../cpu/variants.h"
#include "bindings.h"

namespace fastmmd::bindings {

namespace {

struct CpuLaunch {
  int num_threads, variant;   // variant: an index of cpu_variants()
};

int64_t count_variants() {
  int64_t count = 0;
  while (cpu_variants()[count]) ++count;
  return count;
}

const CpuKernel& kernel_of(int variant, bool f64) {
  static const int64_t count = count_variants();
  expect_range("variant", variant, 0, count - 1);
  const CpuVariant& chosen = *cpu_variants()[variant];
  return f64 ? chosen.f64 : chosen.f32;
}

CpuLaunch make_launch(int num_threads, int variant) {
  expect_positive("num_threads", num_threads);
  return {num_threads, variant};
}

std::vector<std::string> variant_names() {
  std::vector<std::string> names;
  for (const CpuVariant* const* v = cpu_variants(); *v; ++v) names.emplace_back((*v)->name);
  return names;
}

int64_t workspace_bytes(const Problem& problem, bool f64, bool with_gradient, bool with_kw, int variant) {
  return kernel_of(variant, f64).workspace_bytes(problem, with_gradient, with_kw);
}

void run(const Problem& problem, const LayerBuffers& buffers, bool f64, const CpuLaunch& launch) {
  const CpuKernel& kernel = kernel_of(launch.variant, f64);
  const Buffers& io = buffers.of(problem);
  bool with_gradient = false;
  for (int l = 0; l < problem.num_layers; ++l) with_gradient = with_gradient || io.layer_needs_grad(l);
  const py::gil_scoped_release release;
  kernel.run(problem, io, with_gradient, launch.num_threads);
}

int64_t median_workspace_bytes(const Samples& samples, bool f64, const CpuLaunch& launch) {
  return kernel_of(launch.variant, f64).median_workspace_bytes(samples, launch.num_threads);
}

double median(const Samples& samples, bool f64, uintptr_t workspace, const CpuLaunch& launch) {
  const CpuKernel& kernel = kernel_of(launch.variant, f64);
  const py::gil_scoped_release release;
  return kernel.median(samples, pointer(workspace), launch.num_threads);
}

}   // namespace

void bind_cpu(py::module_& m) {
  py::class_<CpuLaunch>(m, "CpuLaunch")
      .def(py::init(&make_launch), py::kw_only(), py::arg("num_threads"), py::arg("variant"));
  m.def("cpu_variants", &variant_names);
  m.def("cpu_workspace_bytes", &workspace_bytes, py::arg("problem"), py::arg("f64"), py::arg("with_gradient"),
        py::arg("with_kw"), py::arg("variant"));
  m.def("cpu_run", &run, py::arg("problem"), py::arg("buffers"), py::arg("f64"), py::arg("launch"));
  m.def("cpu_median_workspace_bytes", &median_workspace_bytes, py::arg("samples"), py::arg("f64"), py::arg("launch"));
  m.def("cpu_median", &median, py::arg("samples"), py::arg("f64"), py::arg("workspace"), py::arg("launch"));
}

}   // namespace fastmmd::bindings
