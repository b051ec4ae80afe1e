// Static shared memory is made of thread_local variables of functions. To fill it with NaN before each thread block
// their places are looked up in the symbol table of the program, or of the library that holds the kernels. Every such
// variable of a function in namespace fastmmd or in an unnamed namespace counts as shared memory, so these have none
// for other ends. In a stripped program static shared memory starts with what the thread block before left there.
#pragma once

#include <dlfcn.h>
#include <elf.h>

#include <cstdio>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "fiber.h"

namespace cuda_on_host {

inline thread_local char tls_anchor = 0;   // a variable whose place is known both here and in the symbol table

// Distance from the anchor and length of every variable.
using Places = std::vector<std::pair<ptrdiff_t, size_t>>;

inline std::vector<char> read_file(const char* path) {
  std::vector<char> bytes;
  if (std::FILE* file = std::fopen(path, "rb")) {
    char piece[1 << 16];
    while (const size_t count = std::fread(piece, 1, sizeof piece, file))
      bytes.insert(bytes.end(), piece, piece + count);
    std::fclose(file);
  }
  return bytes;
}

inline bool starts_with(const char* text, const char* prefix) {
  return std::strncmp(text, prefix, std::strlen(prefix)) == 0;
}

inline Places find_static_shared(const char* path) {
  const std::vector<char> program = read_file(path);
  Places places;
  if (program.size() < sizeof(Elf64_Ehdr)) return places;
  const auto* header = reinterpret_cast<const Elf64_Ehdr*>(program.data());
  const auto* section = reinterpret_cast<const Elf64_Shdr*>(program.data() + header->e_shoff);
  ptrdiff_t anchor = -1;
  for (int s = 0; s < header->e_shnum; ++s) {
    if (section[s].sh_type != SHT_SYMTAB) continue;
    const auto* symbol = reinterpret_cast<const Elf64_Sym*>(program.data() + section[s].sh_offset);
    const char* names = program.data() + section[section[s].sh_link].sh_offset;
    for (size_t i = 0; i < section[s].sh_size / sizeof(Elf64_Sym); ++i) {
      if (ELF64_ST_TYPE(symbol[i].st_info) != STT_TLS || symbol[i].st_shndx == SHN_UNDEF) continue;
      const char* name = names + symbol[i].st_name;
      const auto offset = static_cast<ptrdiff_t>(symbol[i].st_value);
      if (std::strcmp(name, "_ZN12cuda_on_host10tls_anchorE") == 0) anchor = offset;
      if (starts_with(name, "_ZZN7fastmmd") || starts_with(name, "_ZZN12_GLOBAL__N_1"))
        places.push_back({offset, symbol[i].st_size});
    }
  }
  if (anchor < 0) return {};
  for (auto& place : places) place.first -= anchor;
  return places;
}

inline void poison_static_shared() {
  static const Places places = [] {
    Dl_info module;
    Places library;
    if (dladdr(reinterpret_cast<const void*>(&read_file), &module)) library = find_static_shared(module.dli_fname);
    return library.empty() ? find_static_shared("/proc/self/exe") : library;   // a program may be known by another name
  }();
  for (const auto& [distance, bytes] : places) std::memset(&tls_anchor + distance, 0xff, bytes);
}

}   // namespace cuda_on_host
