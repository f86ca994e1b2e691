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

TEST(SharedText, HoldsWhatWasWrittenLast) {
  alignas(8) std::array<char, kBytes> memory{};
  SharedText text(memory.data(), kBytes);
  EXPECT_EQ(text.read(), "");
  for (const std::string written : {"first", "a longer one", "eight by", "", "x"}) {
    text.write(written);
    EXPECT_EQ(SharedText(memory.data(), kBytes).read(), written);
  }
}

TEST(SharedText, RefusesWhatDoesNotFitAndKeepsWhatWasThere) {
  alignas(8) std::array<char, kBytes> memory{};
  SharedText text(memory.data(), kBytes);
  const std::string most(kBytes - 16, 'm');
  text.write(most);
  EXPECT_THROW(text.write(most + "m"), Error);
  EXPECT_EQ(text.read(), most);
}

TEST(SharedText, IsNeverReadHalfWritten) {
  alignas(8) std::array<char, kBytes> memory{};
  std::atomic<bool> over = false;
  std::thread writer([&] {
    SharedText text(memory.data(), kBytes);
    for (int i = 0; i < 20'000; ++i)
      text.write(std::string(static_cast<size_t>(i % 997) + 1, static_cast<char>('a' + i % 26)));
    over = true;
  });
  const SharedText text(memory.data(), kBytes);
  while (!over) {
    const std::string seen = text.read();
    EXPECT_EQ(seen.find_first_not_of(seen.substr(0, 1)), std::string::npos) << seen;
  }
  writer.join();
}

TEST(SharedText, IsReadByOtherProcessesAlsoAfterItsWriterHasEnded) {
  void* memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  const pid_t child = fork();
  if (child == 0) {
    SharedText(memory, kBytes).write("from the child");
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(SharedText(memory, kBytes).read(), "from the child");
  static_cast<uint64_t*>(memory)[0] += 1;  // as if it had been killed within the next one
  EXPECT_EQ(SharedText(memory, kBytes).read(), "");
  munmap(memory, kBytes);
}

}  // namespace
}  // namespace rankwise
