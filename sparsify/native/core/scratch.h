// Memory of the calling thread that is kept from call to call.
#pragma once

#include <stdint.h>

namespace sparsify {

// At least `bytes` bytes, aligned to a page, with any content; null where memory is short. The next
// call on the same thread may give the same memory.
void *scratch(int64_t bytes);

}  // namespace sparsify
