#include "base/file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <numeric>
#include <vector>

#include "tests/support/expect_error.h"
#include "tests/support/scratch_directory.h"

namespace rankwise {
namespace {

namespace fs = std::filesystem;
using testing::ScratchDirectory;

constexpr uint64_t kLimit = 1 << 20;

std::vector<std::string> names_in(const fs::path& directory) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) names.push_back(entry.path().filename());
  return names;
}

// Files of this process end at `bytes` while it lives; writing on gives EFBIG.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : old_handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &old_);
    const rlimit limited{bytes, old_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limited);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, old_handler_);
  }

 private:
  rlimit old_{};
  void (*old_handler_)(int);
};

TEST(ReadFile, ReturnsTheWholeContent) {
  const ScratchDirectory scratch;
  const std::string content("line\nzero\0byte", 14);
  EXPECT_EQ(read_file(scratch.add("a", content), kLimit), content);
  EXPECT_EQ(read_file(scratch.add("empty", ""), kLimit), "");
}

TEST(ReadFile, RefusesWhatIsNoReadableFile) {
  const ScratchDirectory scratch;
  EXPECT_ERROR(read_file(scratch / "absent", kLimit), NoInputError, "absent");
  EXPECT_ERROR(read_file(scratch / "absent/below", kLimit), NoInputError, "absent/below");
  EXPECT_ERROR(read_file(scratch.path(), kLimit), DataError, scratch.path().native(), "not a regular file");
  EXPECT_ERROR(read_file("/dev/zero", kLimit), DataError, "/dev/zero", "not a regular file");
}

TEST(ReadFile, DoesNotBlockOnAFifo) {
  const ScratchDirectory scratch;
  ASSERT_EQ(::mkfifo((scratch / "fifo").c_str(), 0600), 0);
  EXPECT_ERROR(read_file(scratch / "fifo", kLimit), DataError, "fifo", "not a regular file");
}

TEST(ReadFile, RefusesAFileAboveTheLimit) {
  const ScratchDirectory scratch;
  const fs::path path = scratch.add("a", "12345");
  EXPECT_EQ(read_file(path, 5), "12345");
  EXPECT_ERROR(read_file(path, 4), DataError, path.native(), "5 bytes", "at most 4");
}

TEST(ReadExactlyAt, TellsWhereAFileEnded) {
  const ScratchDirectory scratch;
  const fs::path path = scratch.add("a", "0123456789");
  const InputFile file = open_input(path);
  EXPECT_EQ(file.size_bytes, 10u);
  std::vector<std::byte> out(4);
  read_exactly_at(file.fd.get(), 6, out, path);
  EXPECT_EQ(out[3], std::byte{'9'});
  EXPECT_ERROR(read_exactly_at(file.fd.get(), 8, out, path), IoError, path.native(), "byte 10", "2 bytes early");
}

TEST(WriteNewFile, WritesThePiecesInOrder) {
  const ScratchDirectory scratch;
  const std::string first = "one ", second = "two";
  const std::span<const std::byte> pieces[] = {std::as_bytes(std::span(first)), {}, std::as_bytes(std::span(second))};
  write_new_file(scratch / "a", pieces);
  EXPECT_EQ(read_file(scratch / "a", kLimit), "one two");
}

TEST(WriteNewFile, RefusesAnExistingFileAndLeavesItAlone) {
  const ScratchDirectory scratch;
  const fs::path path = scratch.add("a", "old");
  EXPECT_ERROR(write_new_file(path, "new"), IoError, path.native(), "exists already");
  EXPECT_EQ(read_file(path, kLimit), "old");
}

TEST(WriteNewFile, RefusesToWriteThroughADanglingLink) {
  const ScratchDirectory scratch;
  fs::create_symlink(scratch / "target", scratch / "link");
  EXPECT_ERROR(write_new_file(scratch / "link", "new"), IoError, "exists already");
  EXPECT_FALSE(fs::exists(scratch / "target"));
}

TEST(WriteNewFile, NamesAMissingDirectory) {
  const ScratchDirectory scratch;
  EXPECT_ERROR(write_new_file(scratch / "no/a", "new"), Error, "no/a", "No such file or directory");
}

TEST(WriteNewFile, RemovesAFileThatItCouldNotFinish) {
  const ScratchDirectory scratch;
  {
    const FileSizeLimit limit(1000);
    EXPECT_ERROR(write_new_file(scratch / "a", std::string(5000, 'x')), Error, "write", "/a: File too large");
  }
  EXPECT_TRUE(names_in(scratch.path()).empty());
}

TEST(WriteAll, ReportsAFullDisk) {
  const UniqueFd full(::open("/dev/full", O_WRONLY | O_CLOEXEC));
  ASSERT_TRUE(full);
  const std::vector<std::byte> bytes(10);
  try {
    write_all(full.get(), bytes, "/dev/full");
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kCannotWrite);
    EXPECT_STREQ(e.what(), "write /dev/full: No space left on device");
  }
}

TEST(ReplaceFile, CreatesThenReplacesAndLeavesNothingBeside) {
  const ScratchDirectory scratch;
  replace_file(scratch / "a", "first");
  replace_file(scratch / "a", "second");
  EXPECT_EQ(read_file(scratch / "a", kLimit), "second");
  EXPECT_EQ(names_in(scratch.path()), std::vector<std::string>{"a"});
}

TEST(ReplaceFile, KeepsTheOldFileWhenTheNewOneDoesNotFit) {
  const ScratchDirectory scratch;
  replace_file(scratch / "a", "old");
  {
    const FileSizeLimit limit(1000);
    EXPECT_ERROR(replace_file(scratch / "a", std::string(5000, 'x')), Error, "File too large");
  }
  EXPECT_EQ(read_file(scratch / "a", kLimit), "old");
  EXPECT_EQ(names_in(scratch.path()), std::vector<std::string>{"a"});
}

TEST(PublishDirectory, MovesItWhole) {
  const ScratchDirectory scratch;
  scratch.add("tmp/a", "content");
  publish_directory(scratch / "tmp", scratch / "final");
  EXPECT_EQ(read_file(scratch / "final/a", kLimit), "content");
  EXPECT_FALSE(fs::exists(scratch / "tmp"));
}

TEST(PublishDirectory, NeverReplacesEvenAnEmptyOne) {
  const ScratchDirectory scratch;
  scratch.add("tmp/a", "new");
  fs::create_directory(scratch / "empty");
  scratch.add("full/a", "old");
  EXPECT_ERROR(publish_directory(scratch / "tmp", scratch / "empty"), IoError, "empty: exists already");
  EXPECT_ERROR(publish_directory(scratch / "tmp", scratch / "full"), IoError, "full: exists already");
  EXPECT_EQ(read_file(scratch / "full/a", kLimit), "old");
  EXPECT_EQ(read_file(scratch / "tmp/a", kLimit), "new");
}

TEST(FsyncDirectory, NamesAMissingOne) {
  const ScratchDirectory scratch;
  fsync_directory(scratch.path());
  EXPECT_ERROR(fsync_directory(scratch / "absent"), Error, "absent", "No such file");
}

TEST(ProbeWritable, MakesTheDirectoryAndLeavesItEmpty) {
  const ScratchDirectory scratch;
  probe_writable(scratch / "runs/one");
  EXPECT_TRUE(fs::is_directory(scratch / "runs/one"));
  EXPECT_TRUE(fs::is_empty(scratch / "runs/one"));
}

TEST(ProbeWritable, TellsThatOutputCannotBeWritten) {
  const ScratchDirectory scratch;
  scratch.add("file", "");
  for (const fs::path& place : {scratch / "file", scratch / "file/below", fs::path("/proc/rankwise")}) {
    try {
      probe_writable(place);
      ADD_FAILURE() << place << " passed";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::kCannotWrite) << e.what();
      EXPECT_NE(std::string(e.what()).find(place.native()), std::string::npos) << e.what();
    }
  }
}

}  // namespace
}  // namespace rankwise
