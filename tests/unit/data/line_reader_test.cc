#include "trainer/data/line_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <vector>

#include "base/error.h"
#include "base/hash.h"
#include "tests/unit/data/test_files.h"

namespace rankwise {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::message_of;
using testing::ScratchDirectory;

std::vector<std::string> lines_of(const std::filesystem::path& path, size_t chunk_bytes) {
  LineReader reader(path, chunk_bytes);
  std::vector<std::string> lines;
  Line line;
  while (reader.next(line)) {
    lines.emplace_back(line.text);
    EXPECT_EQ(line.number, static_cast<int64_t>(lines.size()));
  }
  reader.finish();
  return lines;
}

TEST(LineReader, GivesTheSameLinesWhateverTheChunkSize) {
  ScratchDirectory dir;
  const auto path = dir.add("a.jsonl", "one\n\ntwo two\r\nthree\n\nfive without newline");
  for (const size_t chunk : {1, 2, 3, 5, 7, 16, 1000}) {
    EXPECT_THAT(lines_of(path, chunk), ElementsAre("one", "", "two two", "three", "", "five without newline")) << chunk;
  }
}

TEST(LineReader, TellsWhetherTheLastLineIsFinished) {
  ScratchDirectory dir;
  Line line;
  LineReader finished(dir.add("a", "x\n"));
  ASSERT_TRUE(finished.next(line));
  EXPECT_TRUE(line.has_newline);
  EXPECT_FALSE(finished.next(line));
  LineReader cut(dir.add("b", "x"));
  ASSERT_TRUE(cut.next(line));
  EXPECT_FALSE(line.has_newline);
}

TEST(LineReader, SkipsALineOverTheLimitAndGoesOn) {
  ScratchDirectory dir;
  const std::string at_limit(LineReader::kMaxLineBytes, 'a');
  const auto path = dir.add("a", at_limit + "\n" + at_limit + "b\nlast\n");
  LineReader reader(path);
  Line line;
  ASSERT_TRUE(reader.next(line));
  EXPECT_EQ(line.text.size(), LineReader::kMaxLineBytes);
  ASSERT_TRUE(reader.next(line));
  EXPECT_TRUE(line.too_long);
  EXPECT_EQ(line.number, 2);
  ASSERT_TRUE(reader.next(line));
  EXPECT_EQ(line.text, "last");
  EXPECT_EQ(line.number, 3);
  EXPECT_FALSE(reader.next(line));
}

TEST(LineReader, MemoryDoesNotGrowWithTheFileNorWithALineWithoutEnd) {
  ScratchDirectory dir;
  const auto path = dir.path() / "big";
  {
    std::ofstream file(path, std::ios::binary);
    const std::string row(99'999, 'x');
    for (int i = 0; i < 1000; ++i) file << row << '\n';
    for (int i = 0; i < 1000; ++i) file << row;  // one line of 100 MB
  }
  struct rusage before {};
  getrusage(RUSAGE_SELF, &before);
  LineReader reader(path);
  Line line;
  while (reader.next(line)) continue;
  EXPECT_EQ(line.number, 1001);
  EXPECT_TRUE(line.too_long);
  struct rusage after {};
  getrusage(RUSAGE_SELF, &after);
  EXPECT_LT(after.ru_maxrss - before.ru_maxrss, 128 * 1024) << "KiB more than before, for a file of 200 MB";
}

TEST(LineReader, HashesWhatItRead) {
  ScratchDirectory dir;
  const std::string text = "one\ntwo\nthree";
  LineReader reader(dir.add("a", text), 4);
  Line line;
  while (reader.next(line)) continue;
  EXPECT_EQ(reader.finish(), sha256_hex(text));
}

TEST(LineReader, RefusesOtherKindsOfFileByTheirFirstBytes) {
  using namespace std::string_literals;
  ScratchDirectory dir;
  for (const auto& [start, what] :
       {std::pair{"\x1f\x8b\x08"s, "gzip"}, std::pair{"\x28\xb5\x2f\xfd"s, "zstd"},
        std::pair{"PK\x03\x04"s, "zip archive"}, std::pair{"PAR1"s, "Parquet"}, std::pair{"\xff\xfe{\0"s, "UTF-16"},
        std::pair{"\xef\xbb\xbf{}"s, "byte-order mark"}}) {
    const auto path = dir.add("train.jsonl", start + "rest");
    const auto message = message_of<DataError>([&] { LineReader reader(path); });
    EXPECT_THAT(message, HasSubstr(path.string() + ":1:1: "));
    EXPECT_THAT(message, HasSubstr(what));
  }
}

TEST(LineReader, RefusesWhatIsNotARegularFileWithoutWaiting) {
  ScratchDirectory dir;
  EXPECT_THAT(message_of<DataError>([&] { LineReader reader(dir.path()); }), HasSubstr("not a regular file"));
  const auto fifo = dir.path() / "fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_THAT(message_of<DataError>([&] { LineReader reader(fifo); }), HasSubstr("not a regular file"));
}

TEST(LineReader, AbsentFileHasTheExitCodeOfAMissingInput) {
  try {
    LineReader reader("/nonexistent/train.jsonl");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kNoInput);
    EXPECT_THAT(error.what(), HasSubstr("/nonexistent/train.jsonl"));
  }
}

TEST(LineReader, SeesThatTheFileGrewWhileItWasRead) {
  ScratchDirectory dir;
  const auto path = dir.add("a", "one\ntwo\n");
  LineReader reader(path);
  Line line;
  ASSERT_TRUE(reader.next(line));
  std::ofstream(path, std::ios::app) << "three\n";
  while (reader.next(line)) continue;
  EXPECT_THAT(message_of<DataError>([&] { reader.finish(); }), HasSubstr("changed while it was read"));
}

TEST(LineReader, SeesThatAnotherFileTookThePlace) {
  ScratchDirectory dir;
  const auto path = dir.add("a", "one\ntwo\n");
  LineReader reader(path);
  Line line;
  while (reader.next(line)) continue;
  std::filesystem::rename(dir.add("b", "one\ntwo\n"), path);
  EXPECT_THAT(message_of<DataError>([&] { reader.finish(); }), HasSubstr("changed while it was read"));
}

}  // namespace
}  // namespace rankwise
