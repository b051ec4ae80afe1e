// CUDA C++ on the CPU, for tests: the part of the language and of the runtime that csrc/cuda uses, with checks that a
// GPU does not make. Every CUDA thread is a fiber; the fibers of a block run in turn on one thread of the operating
// system and change places only where the kernel waits for others, in an order that options() chooses. So a missing
// barrier gives wrong numbers in some order, and the sanitizers see each CUDA thread as a thread:
//
//     g++ -std=c++17 -O2 -fopenmp ...                                              several blocks at a time
//     g++ -std=c++17 -O1 -g -fopenmp -fsanitize=address,undefined ...              accesses out of bounds
//     g++ -std=c++17 -O1 -g -fsanitize=thread ...                                  races, also between blocks
//
// always with -I tests/csrc/cuda_on_host -fno-strict-aliasing -Wno-unknown-pragmas: kernels look at the same bytes
// through several types, which CUDA allows, and say "#pragma unroll". No -fopenmp with -fsanitize=thread, which does
// not know libgomp's barriers; a launch of up to 1024 threads in all is fast there, each further one costs half a
// millisecond. A wait for another thread costs 40 ns, a product of matrices 2 us.
//
// What is stricter than a GPU: shared memory holds NaN (bytes 0xff) when a block starts; lanes of a warp that meet in
// different collectives or with different masks, shuffles from a lane outside the mask and misaligned copies are
// errors; copy_async copies as late as it may; only __syncthreads and __syncwarp order memory (shuffles, votes and
// matrix instructions do not), and atomics do so between two __threadfence of the threads that perform them.
//
// What is not emulated: waiting in a loop for another thread or block, cooperative and clustered launches, wgmma, TMA,
// mbarrier; the order of additions inside the tensor core; approximate functions (exp2f and the like are the C
// library's); limits on registers; textures. A barrier ignores threads that have returned, as hardware does, and
// threads may meet in it from different lines.
#pragma once

#include "block.h"
#include "copy_async.h"
#include "intrinsics.h"
#include "language.h"
#include "launch.h"
#include "matrix.h"
#include "numbers.h"
