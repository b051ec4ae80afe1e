// Backend "cuda": csrc/cuda.
#include <array>

#include "../cuda/entry.h"
#include "bindings.h"

namespace fastmmd::bindings {

namespace {

using GemmPassBuffers = PerLayer<cuda::GemmPass>;
using FusedLayerBuffers = PerLayer<cuda::FusedBuffers>;
using PackedRowBuffers = PerLayer<cuda::PackedRows>;
using PackedSumBuffers = PerLayer<cuda::PackedSums>;

void check(int code) {
  if (code != 0) throw std::runtime_error(std::string("CUDA: ") + cuda::error_message(code));
}

// The enumerator of that name, `names` being those of all.
template <typename Enum, size_t N>
Enum named(const char* argument, const char* const (&names)[N], const std::string& name) {
  std::string all;
  for (size_t k = 0; k < N; ++k) {
    if (name == names[k]) return static_cast<Enum>(k);
    all += (k == 0 ? "" : k + 1 < N ? ", " : " or ") + std::string(names[k]);
  }
  refuse(argument, all, "'" + name + "'");
}

cuda::Format format_of(const std::string& name) { return named<cuda::Format>("format", cuda::kFormats, name); }

using LayerDtypes = std::array<cuda::Dtype, kMaxLayers>;

LayerDtypes dtypes_of(const LayerBuffers& buffers, const std::vector<std::string>& names) {
  buffers.expect_entries("dtypes", names.size());
  LayerDtypes dtypes{};
  for (size_t l = 0; l < names.size(); ++l) dtypes[l] = named<cuda::Dtype>("dtypes", cuda::kDtypes, names[l]);
  return dtypes;
}

cuda::Device make_device(int index, uintptr_t stream) { return {index, pointer(stream)}; }

std::string probe(int index) {
  const int code = cuda::probe({index, nullptr});
  return code == 0 ? "" : cuda::error_message(code);
}

// ---- route "small"

cuda::SmallLaunch make_small_launch(int part_features, int chunk, bool overlap) {
  expect_positive("part_features", part_features);
  if (chunk != 32 && chunk != 64) refuse("chunk", "32 or 64", std::to_string(chunk));
  return {part_features, chunk, overlap};
}

void small(const Problem& problem, const LayerBuffers& buffers, const std::vector<std::string>& dtypes, bool f64,
           const cuda::SmallLaunch& launch, const cuda::Device& device) {
  const Buffers& io = buffers.of(problem);
  const LayerDtypes dtype = dtypes_of(buffers, dtypes);
  if (problem.form_columns > 0) {
    if (!io.w) refuse("w", "an address, as the problem has a form", "0");
    if (!io.wa && !io.kw) refuse("wa, kw", "an address of at least one of them", "0");
  }
  const py::gil_scoped_release release;
  check(cuda::small(problem, io, dtype.data(), f64, launch, device));
}

// ---- packed rows

PackedRowBuffers make_packed_rows(const py::sequence& rows, const py::sequence& transposed, const py::sequence& width,
                                  const py::sequence& pitch, bool ones, uintptr_t norm, uintptr_t bandwidth,
                                  uintptr_t tolerance) {
  PackedRowBuffers buffers(rows.size());
  cuda::PackedRows& io = buffers.structure;
  buffers.read("rows", rows, io.rows);
  buffers.read("transposed", transposed, io.transposed);
  buffers.read("width", width, io.width);
  buffers.read("pitch", pitch, io.pitch);
  io.ones = ones;
  io.norm = pointer(norm);
  io.bandwidth = pointer<double>(bandwidth);
  io.tolerance = pointer<double>(tolerance);
  return buffers;
}

PackedSumBuffers make_packed_sums(uintptr_t sums, int64_t sum_rows, uintptr_t bandwidth, const py::sequence& weighted,
                                  const py::sequence& rows, const py::sequence& pitch, int64_t parts,
                                  int64_t part_pitch) {
  PackedSumBuffers buffers(weighted.size());
  cuda::PackedSums& io = buffers.structure;
  expect_positive("sum_rows", sum_rows);
  expect_positive("parts", parts);
  io.sums = pointer<const double>(sums);
  io.sum_rows = sum_rows;
  io.bandwidth = pointer<const double>(bandwidth);
  buffers.read("weighted", weighted, io.weighted);
  buffers.read("rows", rows, io.rows);
  buffers.read("pitch", pitch, io.pitch);
  io.parts = parts;
  io.part_pitch = part_pitch;
  return buffers;
}

void pack(const Problem& problem, const LayerBuffers& buffers, const std::vector<std::string>& dtypes, bool f64,
          const std::string& format, const PackedRowBuffers& packed, const cuda::Device& device) {
  if (problem.form_columns > 0)
    refuse("form_columns", "0, as only route 'small' takes a form", std::to_string(problem.form_columns));
  const Buffers& io = buffers.of(problem);
  const cuda::PackedRows& rows = packed.of(problem);
  const LayerDtypes dtype = dtypes_of(buffers, dtypes);
  const cuda::Format operands = format_of(format);
  const py::gil_scoped_release release;
  check(cuda::pack(problem, io, dtype.data(), f64, operands, rows, device));
}

void finish(const Problem& problem, const LayerBuffers& buffers, bool f64, const std::string& format,
            const PackedSumBuffers& packed, const cuda::Device& device) {
  const Buffers& io = buffers.of(problem);
  const cuda::PackedSums& sums = packed.of(problem);
  const cuda::Format operands = format_of(format);
  const py::gil_scoped_release release;
  check(cuda::finish(problem, io, f64, operands, sums, device));
}

// ---- route "fused"

cuda::FusedLaunch make_fused_launch(int splits, int stages) {
  expect_positive("splits", splits);
  expect_range("stages", stages, 1, 2);
  return {splits, stages};
}

FusedLayerBuffers make_fused_buffers(const py::sequence& width, const py::sequence& layer_needs_grad, uintptr_t rows,
                                     uintptr_t norm, uintptr_t bandwidth, uintptr_t tolerance, uintptr_t gradient,
                                     uintptr_t sums) {
  FusedLayerBuffers buffers(width.size());
  cuda::FusedBuffers& io = buffers.structure;
  buffers.read("width", width, io.width);
  buffers.read("layer_needs_grad", layer_needs_grad, io.layer_needs_grad);
  for (const int64_t features : io.width)
    if (features % kCudaFeatureGroup != 0)
      refuse("width", "multiples of " + std::to_string(kCudaFeatureGroup), std::to_string(features));
  io.rows = pointer(rows);
  io.norm = pointer<const float>(norm);
  io.bandwidth = pointer<const double>(bandwidth);
  io.tolerance = pointer<const double>(tolerance);
  io.gradient = pointer<float>(gradient);
  io.sums = pointer<double>(sums);
  return buffers;
}

int64_t fused_shared_bytes(const std::string& format, int64_t width, int layers, bool with_gradient,
                           const cuda::FusedLaunch& launch) {
  return cuda::fused_shared_bytes(format_of(format), width, layers, with_gradient, launch);
}

void fused(const Problem& problem, const FusedLayerBuffers& buffers, const std::string& format,
           const cuda::FusedLaunch& launch, const cuda::Device& device) {
  const cuda::FusedBuffers& io = buffers.of(problem);
  const cuda::Format operands = format_of(format);
  const py::gil_scoped_release release;
  check(cuda::fused(problem, io, operands, launch, device));
}

// ---- route "gemm"

GemmPassBuffers make_gemm_pass(const py::sequence& inner_products, const py::sequence& coefficients,
                               const py::sequence& transposed, int64_t pitch, int64_t transposed_pitch,
                               const std::string& format, const py::sequence& norm, uintptr_t bandwidth,
                               uintptr_t tolerance, uintptr_t sums, int64_t rows, int64_t columns, int64_t first_row,
                               int64_t first_column) {
  GemmPassBuffers buffers(inner_products.size());
  cuda::GemmPass& io = buffers.structure;
  const auto expect_tiles = [](const char* argument, int64_t size, int64_t least) {
    if (size < least || size % kCudaTileRows != 0)
      refuse(argument, "a multiple of " + std::to_string(kCudaTileRows) + ", at least " + std::to_string(least),
             std::to_string(size));
  };
  expect_tiles("rows", rows, kCudaTileRows);
  expect_tiles("columns", columns, kCudaTileRows);
  expect_tiles("first_row", first_row, 0);
  expect_tiles("first_column", first_column, 0);
  expect_tiles("pitch", pitch, columns);
  buffers.read("inner_products", inner_products, io.inner_products);
  buffers.read("coefficients", coefficients, io.coefficients);
  buffers.read("transposed", transposed, io.transposed);
  for (const void* const address : io.transposed)
    if (address) expect_tiles("transposed_pitch", transposed_pitch, rows);
  buffers.read("norm", norm, io.norm);
  io.pitch = pitch;
  io.transposed_pitch = transposed_pitch;
  io.format = format_of(format);
  io.bandwidth = pointer<const double>(bandwidth);
  io.tolerance = pointer<const double>(tolerance);
  io.sums = pointer<double>(sums);
  io.rows = rows;
  io.columns = columns;
  io.first_row = first_row;
  io.first_column = first_column;
  return buffers;
}

void gemm_pass(const Problem& problem, const GemmPassBuffers& buffers, bool f64, const cuda::Device& device) {
  const cuda::GemmPass& io = buffers.of(problem);
  const py::gil_scoped_release release;
  check(cuda::gemm_pass(problem, io, f64, device));
}

}   // namespace

void bind_cuda(py::module_& m) {
  py::class_<cuda::Device>(m, "CudaDevice")
      .def(py::init(&make_device), py::kw_only(), py::arg("index"), py::arg("stream"));
  m.def("cuda_probe", &probe, py::arg("index"));

  py::class_<cuda::SmallLaunch>(m, "CudaSmallLaunch")
      .def(py::init(&make_small_launch), py::kw_only(), py::arg("part_features"), py::arg("chunk"), py::arg("overlap"));
  m.def("cuda_small_workspace_bytes", &cuda::small_workspace_bytes, py::arg("problem"), py::arg("f64"),
        py::arg("launch"));
  m.def("cuda_small", &small, py::arg("problem"), py::arg("buffers"), py::arg("dtypes"), py::arg("f64"),
        py::arg("launch"), py::arg("device"));

  py::class_<PackedRowBuffers>(m, "CudaPackedRows")
      .def(py::init(&make_packed_rows), py::kw_only(), py::arg("rows"), py::arg("transposed"), py::arg("width"),
           py::arg("pitch"), py::arg("ones"), py::arg("norm"), py::arg("bandwidth"), py::arg("tolerance"));
  py::class_<PackedSumBuffers>(m, "CudaPackedSums")
      .def(py::init(&make_packed_sums), py::kw_only(), py::arg("sums"), py::arg("sum_rows"), py::arg("bandwidth"),
           py::arg("weighted"), py::arg("rows"), py::arg("pitch"), py::arg("parts"), py::arg("part_pitch"));
  m.def("cuda_pack_workspace_bytes", &cuda::pack_workspace_bytes, py::arg("problem"), py::arg("f64"));
  m.def("cuda_pack", &pack, py::arg("problem"), py::arg("buffers"), py::arg("dtypes"), py::arg("f64"),
        py::arg("format"), py::arg("rows"), py::arg("device"));
  m.def("cuda_finish", &finish, py::arg("problem"), py::arg("buffers"), py::arg("f64"), py::arg("format"),
        py::arg("sums"), py::arg("device"));

  py::class_<cuda::FusedLaunch>(m, "CudaFusedLaunch")
      .def(py::init(&make_fused_launch), py::kw_only(), py::arg("splits"), py::arg("stages"));
  py::class_<FusedLayerBuffers>(m, "CudaFusedBuffers")
      .def(py::init(&make_fused_buffers), py::kw_only(), py::arg("width"), py::arg("layer_needs_grad"), py::arg("rows"),
           py::arg("norm"), py::arg("bandwidth"), py::arg("tolerance"), py::arg("gradient"), py::arg("sums"));
  m.def("cuda_fused_shared_bytes", &fused_shared_bytes, py::arg("format"), py::arg("width"), py::arg("layers"),
        py::arg("with_gradient"), py::arg("launch"));
  m.def("cuda_fused", &fused, py::arg("problem"), py::arg("buffers"), py::arg("format"), py::arg("launch"),
        py::arg("device"));

  py::class_<GemmPassBuffers>(m, "CudaGemmPass")
      .def(py::init(&make_gemm_pass), py::kw_only(), py::arg("inner_products"), py::arg("coefficients"),
           py::arg("transposed"), py::arg("pitch"), py::arg("transposed_pitch"), py::arg("format"), py::arg("norm"),
           py::arg("bandwidth"), py::arg("tolerance"), py::arg("sums"), py::arg("rows"), py::arg("columns"),
           py::arg("first_row"), py::arg("first_column"));
  m.def("cuda_gemm_pass_programs", &cuda::gemm_pass_programs, py::arg("rows"), py::arg("columns"));
  m.def("cuda_gemm_pass", &gemm_pass, py::arg("problem"), py::arg("buffers"), py::arg("f64"), py::arg("device"));
}

}   // namespace fastmmd::bindings
