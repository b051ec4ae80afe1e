// What tests ask of the extension besides its bindings: how many kernels it has launched so far.
#include "cuda_on_host.h"

extern "C" __attribute__((visibility("default"))) int cuda_on_host_launches() { return cuda_on_host::launches; }
