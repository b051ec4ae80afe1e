// Copies behind the thread's back, made as late as they may be: in the wait that promises them. From issue to wait the
// destination holds NaN, so that a missing wait shows.
#pragma once

#include "matrix.h"
#include "thread_block.h"

namespace cuda_on_host {

// Kernels give any type of memory. Volatile: reads whose value is not used must be seen by the sanitizers.
typedef volatile uint32_t __attribute__((may_alias)) Word;
constexpr int kWords = 4;   // 16 bytes

inline void complete(const AsyncCopy& copy) {
  auto* to = static_cast<Word*>(copy.shared);
  for (int i = 0; i < kWords; ++i) to[i] = static_cast<const Word*>(copy.global)[i];
}

}   // namespace cuda_on_host

namespace fastmmd {

inline void copy_async(SharedAddress to, const void* global) {
  void* const shared = to;
  using namespace cuda_on_host;
  check_aligned(shared, "the destination of copy_async");
  check_aligned(global, "the source of copy_async");
  for (int i = 0; i < kWords; ++i) {
    static_cast<Word*>(shared)[i] = 0xffffffffu;
    (void)static_cast<const Word*>(global)[i];   // a fault is reported here, not in the wait
  }
  Thread& thread = ThreadBlock::current->thread();
  thread.copies.push_back({shared, global, thread.groups});
}

inline void copy_async_commit() { ++cuda_on_host::ThreadBlock::current->thread().groups; }

template <int N>
void copy_async_wait() {
  cuda_on_host::Thread& thread = cuda_on_host::ThreadBlock::current->thread();
  size_t done = 0;
  for (; done < thread.copies.size() && thread.copies[done].group < thread.groups - N; ++done)
    cuda_on_host::complete(thread.copies[done]);
  thread.copies.erase(thread.copies.begin(), thread.copies.begin() + static_cast<ptrdiff_t>(done));
}

}   // namespace fastmmd
