// Text for whoever watches a program.
#pragma once

#include <string_view>

namespace rankwise {

// All of it, through interruptions. What cannot be written is dropped: that nobody reads any more ends no run.
void write_to_watcher(int fd, std::string_view text) noexcept;

}  // namespace rankwise
