// What the scheduler knows of a CUDA thread, and of lanes that meet.
#pragma once

#include <vector>

#include "fiber.h"
#include "language.h"

namespace cuda_on_host {

enum class State { kReady, kAtBarrier, kInMeeting, kReturned };

struct AsyncCopy {
  void* shared;
  const void* global;
  int group;
};

struct Thread {
  Context context;
  uint3 index;
  unsigned number;
  State state;
  std::vector<AsyncCopy> copies;   // under way, oldest first
  int groups;                      // of copies, committed so far
  bool fenced;                     // has called __threadfence
  void* last_atomic;               // what it last changed atomically
};

// What lanes may meet in. Told apart by address.
struct Collective {
  const char* name;
  bool orders_memory;
};

// Lanes of one warp on their way to, in, or leaving a collective.
struct Meeting {
  const Collective* collective;
  unsigned mask;             // lanes that take part
  unsigned arrived;          // of these
  unsigned inside;           // of these, not yet gone on
  void* contributions[32];   // one per lane: something on its stack, which stays while the lane waits
  char order = 0;            // TSan's object for the order of memory
  bool open() const { return inside && arrived != mask; }
};

struct Warp {
  Meeting meeting[32];   // a lane is in one at most
};

}   // namespace cuda_on_host
