// csrc/bindings is the only folder that knows Python. Structures come by name, addresses as integers (0 = null): the
// caller (fastmmd/backends) owns all memory and has checked dtypes, devices, shapes and strides; nothing on this side
// can. Checked here is what would otherwise be read beyond an end: how many entries, and from which range.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "../problem.h"

namespace fastmmd::bindings {

namespace py = pybind11;

void bind_problem(py::module_& m);
void bind_cpu(py::module_& m);
void bind_cuda(py::module_& m);

template <typename P = void>
P* pointer(uintptr_t address) {
  return reinterpret_cast<P*>(address);
}

[[noreturn]] inline void refuse(const std::string& argument, const std::string& expected, const std::string& got) {
  throw std::invalid_argument(argument + ": expected " + expected + ", got " + got);
}

// `entries` says what each of the expected ones stands for: "one per layer".
inline void expect_size(const char* argument, size_t got, size_t expected, const char* entries) {
  if (got != expected)
    refuse(argument, "length " + std::to_string(expected) + " (" + entries + ")", std::to_string(got));
}

inline void expect_range(const char* argument, int64_t got, int64_t least, int64_t most) {
  if (got < least || got > most)
    refuse(argument, std::to_string(least) + " to " + std::to_string(most), std::to_string(got));
}

inline void expect_at_least(const char* argument, int64_t got, int64_t least) {
  if (got < least) refuse(argument, "at least " + std::to_string(least), std::to_string(got));
}

inline void expect_positive(const char* argument, int64_t got) { expect_at_least(argument, got, 1); }

// A structure with one entry per layer in each of its lists, and the number of layers that it was made for.
template <typename Structure>
class PerLayer {
 public:
  Structure structure{};

  explicit PerLayer(size_t layers) : layers_(layers) {
    expect_range("layers", static_cast<int64_t>(layers), 1, kMaxLayers);
  }

  void expect_entries(const char* argument, size_t got) const { expect_size(argument, got, layers_, "one per layer"); }

  // One integer or bool per layer for each of `sides`; addresses become pointers. Every call of a loss hands over such
  // lists, so they go where they belong without a std::vector in between.
  template <typename Entry>
  void read(const char* argument, const py::sequence& list, std::initializer_list<Entry*> sides) const {
    using Number = std::conditional_t<std::is_pointer_v<Entry>, uintptr_t, Entry>;
    const auto items = py::reinterpret_steal<py::object>(PySequence_Fast(list.ptr(), argument));
    if (!items) throw py::error_already_set();
    expect_size(argument, static_cast<size_t>(PySequence_Fast_GET_SIZE(items.ptr())), sides.size() * layers_,
                sides.size() == 1 ? "one per layer" : "two per layer");
    Py_ssize_t next = 0;
    for (Entry* const entries : sides) {
      for (size_t l = 0; l < layers_; ++l, ++next) {
        py::detail::make_caster<Number> number;
        const py::handle item = PySequence_Fast_GET_ITEM(items.ptr(), next);
        if (!number.load(item, true)) refuse(argument, "numbers", py::repr(item));
        if constexpr (std::is_pointer_v<Entry>)
          entries[l] = reinterpret_cast<Entry>(static_cast<uintptr_t>(number));
        else
          entries[l] = static_cast<Entry>(number);
      }
    }
  }
  template <typename Entry>
  void read(const char* argument, const py::sequence& list, Entry* entries) const {
    read(argument, list, {entries});
  }

  const Structure& of(const Problem& problem) const {
    expect_size("buffers", layers_, static_cast<size_t>(problem.num_layers), "one per layer of the problem");
    return structure;
  }

 private:
  size_t layers_;
};

using LayerBuffers = PerLayer<Buffers>;

}   // namespace fastmmd::bindings
