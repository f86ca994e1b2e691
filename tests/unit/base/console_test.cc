#include "base/console.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <string>
#include <thread>

namespace rankwise::testing {
namespace {

TEST(Console, WritesMoreThanAPipeHolds) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe(ends.data()), 0);
  const std::string text(1 << 20, 'x');
  std::thread writer([&] {
    write_to_watcher(ends[1], text);
    ::close(ends[1]);
  });
  std::string read;
  std::array<char, 4096> buffer{};
  for (ssize_t count = 0; (count = ::read(ends[0], buffer.data(), buffer.size())) > 0;)
    read.append(buffer.data(), static_cast<size_t>(count));
  writer.join();
  ::close(ends[0]);
  EXPECT_EQ(read, text);
}

TEST(Console, DropsWhatNobodyTakes) { write_to_watcher(-1, "text"); }

}  // namespace
}  // namespace rankwise::testing
