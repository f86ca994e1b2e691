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
  // What a text of up to `max_bytes` takes: it is written beside the one before.
  static constexpr size_t memory_for(size_t max_bytes) { return 8 + 2 * (16 + (max_bytes + 7) / 8 * 8); }

  SharedText(void* memory, size_t max_bytes);  // a view

  // By one thread of one process. Throws Error for a text that does not fit.
  void write(std::string_view text);
  // The last whole text, also where its writer was ended while it wrote the next; empty before the first.
  std::string read() const;

 private:
  struct Slot {
    uint64_t* version;  // odd while it is being written
    uint64_t* length;
    uint64_t* words;
  };
  Slot slot(uint64_t index) const;

  uint64_t* newest_;  // 0 or 1: the slot that holds the last whole text
  size_t num_words_;  // of a slot's text
};

}  // namespace rankwise
