// A text in memory that processes share: one writes it anew from time to time, others read what was written last.
// Neither waits for the other. The memory is the caller's, zeroed before the first use and aligned to 8 bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace rankwise {

class SharedText {
 public:
  SharedText(void* memory, size_t bytes);  // a view; bytes > 16, as 16 of them say how long the text is

  // By one thread of one process. Throws Error for a text that does not fit.
  void write(std::string_view text);
  // The last whole text; empty before the first, and where its writer was ended while it wrote.
  std::string read() const;

 private:
  uint64_t* version_;  // odd while a text is being written
  uint64_t* length_;
  uint64_t* words_;
  size_t num_words_;
};

}  // namespace rankwise
