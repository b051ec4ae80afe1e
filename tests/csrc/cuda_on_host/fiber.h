// Fibers: stacks that take turns on one thread of the operating system, announced to the sanitizers.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define CUDA_ON_HOST_ASAN 1
#else
#define CUDA_ON_HOST_ASAN 0
#endif
#if defined(__SANITIZE_THREAD__)
extern "C" {
void* __tsan_get_current_fiber(void);
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* object);
void __tsan_release(void* object);
}
#define CUDA_ON_HOST_TSAN 1
#else
#define CUDA_ON_HOST_TSAN 0
#endif

// The scheduler's own data pass from fiber to fiber without locks, which TSan would call races.
#define CUDA_ON_HOST_RUNTIME __attribute__((no_sanitize("thread")))

namespace cuda_on_host {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

constexpr size_t kPage = 4096;
constexpr size_t kStackBytes = (CUDA_ON_HOST_ASAN || CUDA_ON_HOST_TSAN ? 256 : 64) * 1024;

// Where a fiber, or the thread that schedules them, goes on.
struct Context {
  void* stack_pointer = nullptr;
  const void* stack = nullptr;   // its lowest address
  size_t stack_bytes = 0;
  void* fake_stack = nullptr;   // ASan's
  void* tsan = nullptr;
};

// Saves what a function must preserve, then returns on the other stack.
#if defined(__x86_64__)
__attribute__((naked, noinline)) CUDA_ON_HOST_RUNTIME inline void switch_stack(void** /*save*/, void* /*to*/) {
  asm(R"(
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
  )");
}

// A stack on which switch_stack will "return" into `entry`.
inline void* prepare_stack(char* stack, void (*entry)()) {
  auto** top = reinterpret_cast<void**>(stack + kStackBytes);
  *--top = nullptr;   // the place of a return address, so that the stack is aligned as after a call
  *--top = reinterpret_cast<void*>(entry);
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
  return top;
}
#else
#error "CUDA on the host switches stacks in assembly, which is written for x86-64 only: add this processor in fiber.h."
#endif

CUDA_ON_HOST_RUNTIME inline void switch_context(Context& from, Context& to, bool for_good) {
  (void)for_good;
#if CUDA_ON_HOST_TSAN
  __tsan_switch_to_fiber(to.tsan, 1);   // 1: the switch itself orders nothing
#endif
#if CUDA_ON_HOST_ASAN
  __sanitizer_start_switch_fiber(for_good ? nullptr : &from.fake_stack, to.stack, to.stack_bytes);
#endif
  switch_stack(&from.stack_pointer, to.stack_pointer);
#if CUDA_ON_HOST_ASAN
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

// First thing on a new stack; `from` is the thread that switched to it.
CUDA_ON_HOST_RUNTIME inline void entered(Context& from) {
  (void)from;
#if CUDA_ON_HOST_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &from.stack, &from.stack_bytes);
#endif
}

#if CUDA_ON_HOST_TSAN
// TSan takes most of a millisecond to make a fiber, so they are kept for the next launch. Within one launch each serves
// once: what it did in one thread block would seem ordered before what it does in another. Handed out without a lock,
// which would order the thread blocks, too.
class TsanFibers {
 public:
  CUDA_ON_HOST_RUNTIME void* take() {
    const size_t number = __atomic_fetch_add(&taken_, size_t{1}, __ATOMIC_RELAXED);
    if (number >= kKept) return __tsan_create_fiber(0);
    if (!kept_[number]) kept_[number] = __tsan_create_fiber(0);
    return kept_[number];
  }
  CUDA_ON_HOST_RUNTIME void give_back(void* fiber, bool reusable) {
    for (size_t i = 0; i < kKept; ++i)
      if (kept_[i] == fiber) {
        if (reusable) return;
        kept_[i] = nullptr;
      }
    __tsan_destroy_fiber(fiber);
  }
  CUDA_ON_HOST_RUNTIME void launch_is_over() { taken_ = 0; }

 private:
  static constexpr size_t kKept = 1024;
  void* kept_[kKept] = {};
  size_t taken_ = 0;
};
inline TsanFibers tsan_fibers;
#endif

// The stacks of a thread block, kept from launch to launch by each thread of the operating system. Below each lies a
// page that may not be touched.
class Stacks {
 public:
  Stacks() = default;
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;
  ~Stacks() { release(); }

  char* get(size_t number) { return memory_ + number * (kPage + kStackBytes) + kPage; }

  void reserve(size_t count) {
    if (count <= count_) return;
    release();
    const size_t bytes = count * (kPage + kStackBytes);
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw Error("no memory for the stacks of a thread block");
    memory_ = static_cast<char*>(memory);
    count_ = count;
    for (size_t i = 0; i < count; ++i) mprotect(get(i) - kPage, kPage, PROT_NONE);
  }

  // Fibers given up after an error leave the red zones of their frames behind.
  void unpoison() {
#if CUDA_ON_HOST_ASAN
    for (size_t i = 0; i < count_; ++i) __asan_unpoison_memory_region(get(i), kStackBytes);
#endif
  }

 private:
  void release() {
    if (!memory_) return;
    unpoison();
    munmap(memory_, count_ * (kPage + kStackBytes));
    memory_ = nullptr;
    count_ = 0;
  }

  char* memory_ = nullptr;
  size_t count_ = 0;
};

}   // namespace cuda_on_host
