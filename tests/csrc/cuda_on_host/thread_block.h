// One thread block: its threads as fibers, the barrier, and the meetings of a warp's lanes.
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "fiber.h"
#include "language.h"
#include "options.h"
#include "static_shared.h"
#include "thread.h"

namespace cuda_on_host {

class ThreadBlock {
 public:
  ThreadBlock(dim3 grid, dim3 shape, size_t shared_bytes, const std::function<void()>& kernel, Stacks& stacks,
              unsigned seed)
      : grid_(grid), shape_(shape), kernel_(kernel), stacks_(stacks), random_(seed) {
    const size_t count = size_t{1} * shape.x * shape.y * shape.z;
    threads_.resize(count);
    warps_.resize((count + 31) / 32);
    turn_.resize(count);
    stacks_.reserve(count);
    shared_bytes_ = shared_bytes;
    // Exactly as long as asked for, so that ASan sees what lies beyond.
    if (shared_bytes && posix_memalign(&shared_, 128, shared_bytes)) throw Error("no memory for shared memory");
  }
  ThreadBlock(const ThreadBlock&) = delete;
  ThreadBlock& operator=(const ThreadBlock&) = delete;
  ~ThreadBlock() { std::free(shared_); }

  CUDA_ON_HOST_RUNTIME void run(uint3 index);

  // Called by the fibers.
  CUDA_ON_HOST_RUNTIME void barrier();
  template <typename Contribution>
  CUDA_ON_HOST_RUNTIME void meet(const Collective& collective, unsigned mask, Contribution& contribution,
                                 void (*resolve)(void* const* contributions, unsigned mask));
  void* shared() { return shared_; }
  Thread& thread() { return *current_; }
  unsigned lane() const { return current_->number % 32; }

  static inline thread_local ThreadBlock* current = nullptr;
  void* last_atomic = nullptr;   // what one of its threads last changed atomically

 private:
  CUDA_ON_HOST_RUNTIME void start(uint3 index);
  CUDA_ON_HOST_RUNTIME void finish();
  CUDA_ON_HOST_RUNTIME bool round();
  CUDA_ON_HOST_RUNTIME void resume(Thread& thread);
  CUDA_ON_HOST_RUNTIME void suspend(State state);
  CUDA_ON_HOST_RUNTIME void open_barrier();
  CUDA_ON_HOST_RUNTIME Meeting& join_meeting(const Collective& collective, unsigned mask);
  CUDA_ON_HOST_RUNTIME static void thread_main();
  std::string place() const;
  std::string deadlock() const;

  dim3 grid_, shape_;
  uint3 index_{};
  const std::function<void()>& kernel_;
  Stacks& stacks_;
  std::mt19937 random_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::vector<unsigned> turn_;
  void* shared_ = nullptr;
  size_t shared_bytes_ = 0;
  Context scheduler_;
  Thread* current_ = nullptr;
  size_t live_ = 0, at_barrier_ = 0;
  unsigned barriers_ = 0;   // opened so far
  bool failed_ = false;
  std::string error_;
  // Objects by which TSan learns what is ordered. Barriers use two in turn: a thread slow to leave one barrier must not
  // be ordered after what others did before the next.
  char order_start_ = 0, order_end_ = 0, order_barrier_[2] = {};
};

inline void order_release(void* object) {
#if CUDA_ON_HOST_TSAN
  __tsan_release(object);
#else
  (void)object;
#endif
}
inline void order_acquire(void* object) {
#if CUDA_ON_HOST_TSAN
  __tsan_acquire(object);
#else
  (void)object;
#endif
}

inline void ThreadBlock::resume(Thread& thread) {
  current_ = &thread;
  threadIdx = thread.index;
  switch_context(scheduler_, thread.context, false);
}

inline void ThreadBlock::suspend(State state) {
  Thread& waiting = *current_;
  waiting.state = state;
  switch_context(waiting.context, scheduler_, state == State::kReturned);
}

inline void ThreadBlock::thread_main() {
  ThreadBlock& block = *current;
  entered(block.scheduler_);
  order_acquire(&block.order_start_);
  try {
    block.kernel_();
  } catch (const std::exception& error) {
    if (!block.failed_) {
      const uint3 index = block.current_->index;
      block.error_ = std::string(error.what()) + "; in " + block.place() + ", thread (" + std::to_string(index.x) +
                     "," + std::to_string(index.y) + "," + std::to_string(index.z) + ")";
    }
    block.failed_ = true;
  }
  --block.live_;
  if (block.live_ && block.at_barrier_ == block.live_) block.open_barrier();   // it does not wait for the returned
  block.suspend(State::kReturned);
  std::abort();   // never resumed
}

inline void ThreadBlock::open_barrier() {
  at_barrier_ = 0;
  ++barriers_;
  for (size_t i = 0; i < threads_.size(); ++i)
    if (threads_[i].state == State::kAtBarrier) threads_[i].state = State::kReady;
}

inline void ThreadBlock::barrier() {
  char* order = &order_barrier_[barriers_ % 2];
  order_release(order);
  if (++at_barrier_ == live_)
    open_barrier();
  else
    suspend(State::kAtBarrier);
  order_acquire(order);
}

// The meeting under way that this lane comes to, or a new one. Lanes may be awaited in one meeting while they take part
// in another of fewer lanes; but two that wait for each other in different ones would do so for ever.
inline Meeting& ThreadBlock::join_meeting(const Collective& collective, unsigned mask) {
  Warp& warp = warps_[current_->number / 32];
  const unsigned lane_bit = 1u << lane();
  Meeting *joined = nullptr, *unused = nullptr;
  for (Meeting& meeting : warp.meeting) {
    if (meeting.open() && (meeting.mask & lane_bit)) {
      if (meeting.collective == &collective && meeting.mask == mask) {
        joined = &meeting;
      } else if (meeting.arrived & mask) {
        char text[200];
        std::snprintf(text, sizeof text, "lanes of a warp meet in different collectives: %s(0x%08x) and %s(0x%08x)",
                      meeting.collective->name, meeting.mask, collective.name, mask);
        throw Error(text);
      }
    }
    if (!meeting.inside && !unused) unused = &meeting;
    if (!meeting.collective) break;   // nor has any further one ever been used
  }
  if (joined) return *joined;
  unused->collective = &collective;
  unused->mask = mask;
  unused->arrived = 0;
  return *unused;
}

// Every lane of the mask comes here; the last computes all results from what they contribute, and none goes on before.
// Nothing can be overwritten by a fast lane, since inputs and results lie on each lane's own stack.
template <typename Contribution>
void ThreadBlock::meet(const Collective& collective, unsigned mask, Contribution& contribution,
                       void (*resolve)(void* const* contributions, unsigned mask)) {
  const unsigned lane_bit = 1u << lane();
  if (!(mask & lane_bit)) throw Error(std::string(collective.name) + " is called by a lane that its mask leaves out");
  const size_t first = current_->number / 32 * 32;
  if (threads_.size() - first < 32) mask &= (1u << (threads_.size() - first)) - 1;   // a last warp of fewer lanes
  Meeting& meeting = join_meeting(collective, mask);
  meeting.contributions[lane()] = &contribution;
  meeting.arrived |= lane_bit;
  meeting.inside |= lane_bit;
  if (collective.orders_memory) order_release(&meeting.order);
  if (meeting.arrived == mask) {
    if (resolve) resolve(meeting.contributions, mask);
    for (unsigned l = 0; l < 32; ++l)
      if (mask >> l & 1) threads_[first + l].state = State::kReady;
  } else {
    suspend(State::kInMeeting);
  }
  if (collective.orders_memory) order_acquire(&meeting.order);
  meeting.inside &= ~lane_bit;
}

inline void ThreadBlock::start(uint3 index) {
  index_ = index;
  current = this;
  blockIdx = index;
  blockDim = shape_;
  gridDim = grid_;
  live_ = threads_.size();
  at_barrier_ = 0;
  failed_ = false;
  last_atomic = nullptr;
  if (shared_bytes_) std::memset(shared_, 0xff, shared_bytes_);
  poison_static_shared();
  for (Warp& warp : warps_) warp = Warp{};
#if CUDA_ON_HOST_TSAN
  scheduler_.tsan = __tsan_get_current_fiber();
#endif
  for (unsigned i = 0; i < threads_.size(); ++i) {
    Thread& t = threads_[i];
    t.index = {i % shape_.x, i / shape_.x % shape_.y, i / (shape_.x * shape_.y)};
    t.number = i;
    t.state = State::kReady;
    t.copies.clear();
    t.groups = 0;
    t.fenced = false;
    t.last_atomic = nullptr;
    t.context.stack = stacks_.get(i);
    t.context.stack_bytes = kStackBytes;
    t.context.stack_pointer = prepare_stack(stacks_.get(i), thread_main);
#if CUDA_ON_HOST_TSAN
    t.context.tsan = tsan_fibers.take();
#endif
    turn_[i] = options().order == Order::kReverse ? static_cast<unsigned>(threads_.size()) - 1 - i : i;
  }
  order_release(&order_start_);
}

inline void ThreadBlock::finish() {
#if CUDA_ON_HOST_TSAN
  for (Thread& t : threads_) {   // also those given up after an error: all they did is over now
    __tsan_switch_to_fiber(t.context.tsan, 1);
    __tsan_release(&order_end_);
    __tsan_switch_to_fiber(scheduler_.tsan, 1);
    tsan_fibers.give_back(t.context.tsan, t.state == State::kReturned);
  }
  __tsan_acquire(&order_end_);
#endif
  current = nullptr;
  if (failed_) stacks_.unpoison();
}

// Every thread that can go on does so, once; false if none could.
inline bool ThreadBlock::round() {
  if (options().order == Order::kShuffled) std::shuffle(turn_.begin(), turn_.end(), random_);
  bool any = false;
  for (size_t i = 0; i < turn_.size() && !failed_; ++i)
    if (threads_[turn_[i]].state == State::kReady) {
      any = true;
      resume(threads_[turn_[i]]);
    }
  return any;
}

inline void ThreadBlock::run(uint3 index) {
  start(index);
  while (live_ && !failed_)
    if (!round()) {
      failed_ = true;
      error_ = deadlock();
    }
  finish();
  if (failed_) throw Error(error_);
}

inline std::string ThreadBlock::place() const {
  return "thread block (" + std::to_string(index_.x) + "," + std::to_string(index_.y) + "," + std::to_string(index_.z) +
         ")";
}

inline std::string ThreadBlock::deadlock() const {
  size_t returned = 0, in_meetings = 0;
  for (const Thread& t : threads_) {
    returned += t.state == State::kReturned;
    in_meetings += t.state == State::kInMeeting;
  }
  std::string text = "deadlock in " + place() + ": of " + std::to_string(threads_.size()) + " threads " +
                     std::to_string(at_barrier_) + " wait in __syncthreads, " + std::to_string(in_meetings) +
                     " in a collective of their warp, " + std::to_string(returned) + " have returned";
  for (size_t w = 0; w < warps_.size(); ++w)
    for (const Meeting& meeting : warps_[w].meeting)
      if (meeting.open()) {
        char line[200];
        std::snprintf(line, sizeof line, "\n  warp %zu: %s(0x%08x) waits for the lanes 0x%08x", w,
                      meeting.collective->name, meeting.mask, meeting.mask & ~meeting.arrived);
        text += line;
      }
  return text;
}

}   // namespace cuda_on_host
