// Parts of the program that cost too much to load where they are not used: shared libraries, opened when first asked
// for.
#pragma once

#include <string>

namespace rankwise {

// The address of `symbol` in `library`, which is looked for beside the program, then where the loader looks, and stays
// loaded to the end of the process. Thread-safe. Throws UnavailableError with the loader's own text.
void* shared_library_symbol(const std::string& library, const std::string& symbol);

}  // namespace rankwise
