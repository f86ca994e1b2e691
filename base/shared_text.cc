#include "base/shared_text.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "base/check.h"

namespace rankwise {
namespace {

using Word = std::atomic_ref<uint64_t>;
constexpr size_t kWordBytes = sizeof(uint64_t);
constexpr int kAttempts = 100;  // a writer is at it for microseconds, some hundred times a second at most

size_t words_for(size_t bytes) { return (bytes + kWordBytes - 1) / kWordBytes; }

}  // namespace

SharedText::SharedText(void* memory, size_t bytes)
    : version_(static_cast<uint64_t*>(memory)),
      length_(version_ + 1),
      words_(version_ + 2),
      num_words_(bytes / kWordBytes - 2) {}

// A sequence lock: Boehm, "Can seqlocks get along with programming language memory models?", MSPC 2012.
void SharedText::write(std::string_view text) {
  RW_CHECK(text.size() <= num_words_ * kWordBytes, Error, "a text of {} bytes for shared memory that holds {}",
           text.size(), num_words_ * kWordBytes);
  const uint64_t version = Word(*version_).load(std::memory_order_relaxed);
  Word(*version_).store(version + 1, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_release);
  Word(*length_).store(text.size(), std::memory_order_relaxed);
  for (size_t i = 0; i < words_for(text.size()); ++i) {
    uint64_t word = 0;
    std::memcpy(&word, text.data() + i * kWordBytes, std::min(kWordBytes, text.size() - i * kWordBytes));
    Word(words_[i]).store(word, std::memory_order_relaxed);
  }
  Word(*version_).store(version + 2, std::memory_order_release);
}

std::string SharedText::read() const {
  std::vector<uint64_t> copy(num_words_);
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const uint64_t before = Word(*version_).load(std::memory_order_acquire);
    const size_t length = std::min(Word(*length_).load(std::memory_order_relaxed), num_words_ * kWordBytes);
    for (size_t i = 0; i < words_for(length); ++i) copy[i] = Word(words_[i]).load(std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_acquire);
    const uint64_t after = Word(*version_).load(std::memory_order_relaxed);
    if (before == after && before % 2 == 0) return {reinterpret_cast<const char*>(copy.data()), length};
  }
  return {};
}

}  // namespace rankwise
