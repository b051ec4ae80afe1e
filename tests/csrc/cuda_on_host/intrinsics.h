// What threads say to each other: barriers, shuffles, votes, fences, atomics.
#pragma once

#include <cstring>

#include "thread_block.h"

namespace cuda_on_host {

struct Shuffle {
  uint64_t value, result;
  unsigned source;   // a lane; 32: out of range, the lane keeps its own value
};

CUDA_ON_HOST_RUNTIME inline void resolve_shuffle(void* const* contributions, unsigned mask) {
  for (unsigned l = 0; l < 32; ++l) {
    if (!(mask >> l & 1)) continue;
    auto* lane = static_cast<Shuffle*>(contributions[l]);
    if (lane->source == 32) {
      lane->result = lane->value;
      continue;
    }
    if (!(mask >> lane->source & 1))
      throw Error("lane " + std::to_string(l) + " shuffles from lane " + std::to_string(lane->source) +
                  ", which does not take part");
    lane->result = static_cast<const Shuffle*>(contributions[lane->source])->value;
  }
}

template <typename T>
T shuffle(const Collective& collective, unsigned mask, T value, unsigned source) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  Shuffle contribution{0, 0, source};
  std::memcpy(&contribution.value, &value, sizeof(T));
  ThreadBlock::current->meet(collective, mask, contribution, resolve_shuffle);
  std::memcpy(&value, &contribution.result, sizeof(T));
  return value;
}

struct Vote {
  bool predicate;
  unsigned ballot;
};

CUDA_ON_HOST_RUNTIME inline void resolve_vote(void* const* contributions, unsigned mask) {
  unsigned ballot = 0;
  for (unsigned l = 0; l < 32; ++l)
    if (mask >> l & 1) ballot |= static_cast<unsigned>(static_cast<const Vote*>(contributions[l])->predicate) << l;
  for (unsigned l = 0; l < 32; ++l)
    if (mask >> l & 1) static_cast<Vote*>(contributions[l])->ballot = ballot;
}

inline constexpr Collective kSyncWarp{"__syncwarp", true};
inline constexpr Collective kShuffle{"__shfl_sync", false}, kShuffleXor{"__shfl_xor_sync", false};
inline constexpr Collective kShuffleUp{"__shfl_up_sync", false}, kShuffleDown{"__shfl_down_sync", false};
inline constexpr Collective kBallot{"__ballot_sync", false}, kAny{"__any_sync", false}, kAll{"__all_sync", false};

inline unsigned vote(const Collective& collective, unsigned mask, bool predicate) {
  Vote contribution{predicate, 0};
  ThreadBlock::current->meet(collective, mask, contribution, resolve_vote);
  return contribution.ballot;
}

// TSan takes a relaxed atomic for no order at all, and knows no fences. Here memory is ordered as by the usual ticket:
// from a thread that fences and then changes a number atomically to a thread that fences after its own thread block has
// changed the same number. (CUDA's memory model orders any two __threadfence that follow each other.)
CUDA_ON_HOST_RUNTIME inline void before_atomic(void* address) {
  ThreadBlock& block = *ThreadBlock::current;
  if (block.thread().fenced) order_release(address);
  block.thread().last_atomic = block.last_atomic = address;
}

CUDA_ON_HOST_RUNTIME inline void fence() {
  ThreadBlock& block = *ThreadBlock::current;
  block.thread().fenced = true;
  if (block.thread().last_atomic) order_acquire(block.thread().last_atomic);
  if (block.last_atomic) order_acquire(block.last_atomic);
#if !CUDA_ON_HOST_TSAN
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

// `update` gives the new value from the old one; the old one is returned.
template <typename T, typename F>
T atomic_update(T* address, F update) {
  before_atomic(address);
  T old, updated;
  __atomic_load(address, &old, __ATOMIC_RELAXED);
  do {
    updated = update(old);
  } while (!__atomic_compare_exchange(address, &old, &updated, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}

}   // namespace cuda_on_host

inline void __syncthreads() { cuda_on_host::ThreadBlock::current->barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  cuda_on_host::ThreadBlock::current->meet(cuda_on_host::kSyncWarp, mask, mask, nullptr);
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const unsigned lane = cuda_on_host::ThreadBlock::current->lane(), in_group = static_cast<unsigned>(width - 1);
  return cuda_on_host::shuffle(cuda_on_host::kShuffle, mask, value,
                               (lane & ~in_group) | (static_cast<unsigned>(source) & in_group));
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int flip, int width = 32) {
  const unsigned lane = cuda_on_host::ThreadBlock::current->lane(), in_group = static_cast<unsigned>(width - 1);
  const unsigned source = lane ^ static_cast<unsigned>(flip);
  return cuda_on_host::shuffle(cuda_on_host::kShuffleXor, mask, value, source > (lane | in_group) ? 32 : source);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const unsigned lane = cuda_on_host::ThreadBlock::current->lane(), in_group = static_cast<unsigned>(width - 1);
  return cuda_on_host::shuffle(cuda_on_host::kShuffleUp, mask, value, (lane & in_group) < delta ? 32 : lane - delta);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const unsigned lane = cuda_on_host::ThreadBlock::current->lane(), in_group = static_cast<unsigned>(width - 1);
  return cuda_on_host::shuffle(cuda_on_host::kShuffleDown, mask, value,
                               (lane & in_group) + delta > in_group ? 32 : lane + delta);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return cuda_on_host::vote(cuda_on_host::kBallot, mask, predicate != 0);
}
inline int __any_sync(unsigned mask, int predicate) {
  return cuda_on_host::vote(cuda_on_host::kAny, mask, predicate != 0) != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
  return cuda_on_host::vote(cuda_on_host::kAll, mask, predicate == 0) == 0;
}

inline void __threadfence() { cuda_on_host::fence(); }

inline int atomicAdd(int* address, int x) {   // wraps round, as a GPU does
  return static_cast<int>(cuda_on_host::atomic_update(reinterpret_cast<unsigned*>(address),
                                                      [=](unsigned old) { return old + static_cast<unsigned>(x); }));
}
inline unsigned atomicAdd(unsigned* address, unsigned x) {
  return cuda_on_host::atomic_update(address, [=](unsigned old) { return old + x; });
}
inline unsigned long long atomicAdd(unsigned long long* address, unsigned long long x) {
  return cuda_on_host::atomic_update(address, [=](unsigned long long old) { return old + x; });
}
inline float atomicAdd(float* address, float x) {
  return cuda_on_host::atomic_update(address, [=](float old) { return old + x; });
}
inline double atomicAdd(double* address, double x) {
  return cuda_on_host::atomic_update(address, [=](double old) { return old + x; });
}
inline unsigned atomicInc(unsigned* address, unsigned last) {   // 0, 1, ..., last, 0, ...
  return cuda_on_host::atomic_update(address, [=](unsigned old) { return old >= last ? 0 : old + 1; });
}
template <typename T>
T atomicExch(T* address, T x) {
  return cuda_on_host::atomic_update(address, [=](T) { return x; });
}

template <typename T>
T __ldg(const T* address) {
  return *address;
}
template <typename T>
T __ldcg(const T* address) {
  return *address;
}
