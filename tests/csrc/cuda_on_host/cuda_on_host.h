// CUDA C++ on the CPU, for tests: the part of the language and of the runtime that csrc/cuda uses, with checks that a
// GPU does not make. README.md says how it works, what it can see and how to compile with it.
#pragma once

#include "copy_async.h"
#include "intrinsics.h"
#include "language.h"
#include "launch.h"
#include "matrix.h"
#include "numbers.h"
#include "thread_block.h"
