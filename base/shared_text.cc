#include "base/shared_text.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "base/check.h"

namespace rankwise {
namespace {

using Word = std::atomic_ref<uint64_t>;
static_assert(Word::is_always_lock_free);  // a lock would be one process's own
constexpr size_t kWordBytes = sizeof(uint64_t);
constexpr int kAttempts = 100;  // each fails only if two texts were written meanwhile

size_t words_for(size_t bytes) { return (bytes + kWordBytes - 1) / kWordBytes; }

}  // namespace

SharedText::SharedText(void* memory, size_t max_bytes)
    : newest_(static_cast<uint64_t*>(memory)), num_words_(words_for(max_bytes)) {}

SharedText::Slot SharedText::slot(uint64_t index) const {
  uint64_t* begin = newest_ + 1 + index * (2 + num_words_);
  return {begin, begin + 1, begin + 2};
}

// A sequence lock: Boehm, "Can seqlocks get along with programming language memory models?", MSPC 2012.
void SharedText::write(std::string_view text) {
  RW_CHECK(text.size() <= num_words_ * kWordBytes, Error, "a text of {} bytes for shared memory that holds {}",
           text.size(), num_words_ * kWordBytes);
  const uint64_t index = 1 - Word(*newest_).load(std::memory_order_relaxed);
  const Slot to = slot(index);
  const uint64_t version = Word(*to.version).load(std::memory_order_relaxed) | 1;  // odd already: a writer was ended
  Word(*to.version).store(version, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_release);
  Word(*to.length).store(text.size(), std::memory_order_relaxed);
  for (size_t i = 0; i < words_for(text.size()); ++i) {
    uint64_t word = 0;
    std::memcpy(&word, text.data() + i * kWordBytes, std::min(kWordBytes, text.size() - i * kWordBytes));
    Word(to.words[i]).store(word, std::memory_order_relaxed);
  }
  Word(*to.version).store(version + 1, std::memory_order_release);
  Word(*newest_).store(index, std::memory_order_release);
}

std::string SharedText::read() const {
  std::vector<uint64_t> copy;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const Slot from = slot(Word(*newest_).load(std::memory_order_acquire) & 1);
    const uint64_t before = Word(*from.version).load(std::memory_order_acquire);
    if (before % 2 == 1) continue;
    const size_t length = std::min(Word(*from.length).load(std::memory_order_relaxed), num_words_ * kWordBytes);
    copy.resize(words_for(length));
    for (size_t i = 0; i < copy.size(); ++i) copy[i] = Word(from.words[i]).load(std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_acquire);
    if (Word(*from.version).load(std::memory_order_relaxed) == before)
      return {reinterpret_cast<const char*>(copy.data()), length};
  }
  return {};
}

}  // namespace rankwise
