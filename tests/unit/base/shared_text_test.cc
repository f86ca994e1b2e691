#include "base/shared_text.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <string>
#include <thread>

#include "base/error.h"

namespace rankwise {
namespace {

constexpr size_t kBytes = 4096;
struct alignas(8) Memory {
  std::array<char, SharedText::memory_for(kBytes)> bytes{};
};

TEST(SharedText, HoldsWhatWasWrittenLast) {
  Memory memory;
  SharedText text(&memory, kBytes);
  EXPECT_EQ(text.read(), "");
  for (const std::string written : {"first", "a longer one", "eight by", "", "x"}) {
    text.write(written);
    EXPECT_EQ(SharedText(&memory, kBytes).read(), written);
  }
}

TEST(SharedText, RefusesWhatDoesNotFitAndKeepsWhatWasThere) {
  Memory memory;
  SharedText text(&memory, kBytes);
  const std::string most(kBytes, 'm');
  text.write("before");
  text.write(most);
  EXPECT_THROW(text.write(most + "m"), Error);
  EXPECT_EQ(text.read(), most);
}

TEST(SharedText, IsNeverReadHalfWritten) {
  Memory memory;
  std::atomic<bool> over = false;
  const auto text_of = [](int i) {
    return std::string(static_cast<size_t>(i % 997) + 1, static_cast<char>('a' + i % 26));
  };
  std::thread writer([&] {
    SharedText text(&memory, kBytes);
    for (int i = 0; i < 20'000; ++i) text.write(text_of(i));
    over = true;
  });
  const SharedText text(&memory, kBytes);
  while (!over) {
    const std::string seen = text.read();
    EXPECT_TRUE(seen.empty() || seen.find_first_not_of(seen.front()) == std::string::npos) << seen;
  }
  writer.join();
  EXPECT_EQ(text.read(), text_of(19'999));
}

TEST(SharedText, IsReadByOtherProcessesAlsoWhereItsWriterEndedWithinTheNext) {
  const size_t bytes = SharedText::memory_for(kBytes);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  const pid_t child = fork();
  if (child == 0) {
    SharedText(memory, kBytes).write("from the child");
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(SharedText(memory, kBytes).read(), "from the child");
  auto* words = static_cast<uint64_t*>(memory);
  ASSERT_EQ(words[0], 1u);
  words[1] += 1;  // the version of the other slot
  EXPECT_EQ(SharedText(memory, kBytes).read(), "from the child");
  SharedText(memory, kBytes).write("from its successor");
  EXPECT_EQ(SharedText(memory, kBytes).read(), "from its successor");
  munmap(memory, bytes);
}

}  // namespace
}  // namespace rankwise
