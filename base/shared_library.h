// Parts of the program that cost too much to load where they are not used: shared libraries, opened when first asked
// for.
#pragma once

#include <string>

namespace rankwise {

// The address of `symbol` in `library`, which is looked for beside the program, then where the loader looks, and stays
// loaded to the end of the process. Thread-safe. Throws UnavailableError with the loader's own text.
void* shared_library_symbol(const std::string& library, const std::string& symbol);

// A C function of the program's CUDA part. Throws likewise.
template <typename Function>
Function* cuda_library_function(const char* symbol) {
  return reinterpret_cast<Function*>(shared_library_symbol("librankwise_cuda.so", symbol));
}

}  // namespace rankwise
