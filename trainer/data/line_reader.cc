#include "trainer/data/line_reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <utility>

#include "base/check.h"

namespace rankwise {
namespace {

struct Magic {
  std::string_view bytes;
  std::string_view what;
  std::string_view remedy;
};

using namespace std::string_view_literals;
constexpr std::array kMagics = {
    Magic{"\x1f\x8b"sv, "gzip-compressed", "unpack it with gunzip"},
    Magic{"\x28\xb5\x2f\xfd"sv, "zstd-compressed", "unpack it with unzstd"},
    Magic{"BZh"sv, "bzip2-compressed", "unpack it with bunzip2"},
    Magic{"\xfd\x37zXZ"sv, "xz-compressed", "unpack it with unxz"},
    Magic{"PK\x03\x04"sv, "a zip archive", "unpack it"},
    Magic{"PAR1"sv, "a Parquet table", "convert it to one JSON object a line"},
    Magic{"ARROW1"sv, "an Arrow table", "convert it to one JSON object a line"},
    Magic{"\xff\xfe"sv, "UTF-16 text", "convert it to UTF-8"},
    Magic{"\xfe\xff"sv, "UTF-16 text", "convert it to UTF-8"},
    Magic{"\xef\xbb\xbf"sv, "text with a byte-order mark", "remove its first three bytes"},
};

size_t read_some(int fd, char* to, size_t n, const std::filesystem::path& path) {
  while (true) {
    const ssize_t got = ::read(fd, to, n);
    if (got >= 0) return static_cast<size_t>(got);
    if (errno != EINTR) throw_errno("read " + path.string(), errno);
  }
}

}  // namespace

LineReader::LineReader(std::filesystem::path path, size_t chunk_bytes)
    : path_(std::move(path)), chunk_bytes_(chunk_bytes) {
  // Non-blocking, so that a FIFO is refused below rather than waited for.
  fd_.reset(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd_) throw_errno("open " + path_.string(), errno);
  opened_ = identity_of_path();
  refuse_other_kinds();
}

LineReader::Identity LineReader::identity_of_path() const {
  struct stat status {};
  if (::stat(path_.c_str(), &status) != 0) throw_errno("stat " + path_.string(), errno);
  RW_CHECK(S_ISREG(status.st_mode), DataError, "{}: not a regular file; name a file with one JSON object a line",
           path_.string());
  return {status.st_dev, status.st_ino, static_cast<uint64_t>(status.st_size),
          status.st_mtim.tv_sec * 1'000'000'000 + status.st_mtim.tv_nsec};
}

void LineReader::refuse_other_kinds() const {
  std::array<char, 8> start{};
  const ssize_t got = ::pread(fd_.get(), start.data(), start.size(), 0);
  if (got < 0) throw_errno("read " + path_.string(), errno);
  const std::string_view head(start.data(), static_cast<size_t>(got));
  for (const Magic& magic : kMagics) {
    RW_CHECK(!head.starts_with(magic.bytes), DataError,
             "{}:1:1: this is {}, not UTF-8 text with one JSON object a line; {}", path_.string(), magic.what,
             magic.remedy);
  }
}

bool LineReader::fill() {
  buffer_.erase(0, std::exchange(begin_, 0));
  const size_t old_size = buffer_.size();
  buffer_.resize(old_size + chunk_bytes_);
  const size_t got = read_some(fd_.get(), buffer_.data() + old_size, chunk_bytes_, path_);
  buffer_.resize(old_size + got);
  hash_.update(std::string_view(buffer_).substr(old_size));
  bytes_read_ += got;
  return got > 0;
}

void LineReader::skip_line() {
  while (true) {
    const size_t newline = buffer_.find('\n', begin_);
    if (newline != std::string::npos) {
      begin_ = newline + 1;
      return;
    }
    begin_ = buffer_.size();
    if (!fill()) return;
  }
}

bool LineReader::next(Line& line) {
  size_t searched = 0;  // of the unread bytes
  while (true) {
    const size_t newline = buffer_.find('\n', begin_ + searched);
    const bool found = newline != std::string::npos;
    const size_t length = (found ? newline : buffer_.size()) - begin_;
    if (length > kMaxLineBytes) {
      skip_line();
      line = {.number = ++line_number_, .too_long = true};
      return true;
    }
    searched = length;
    if (!found && fill()) continue;
    if (!found && length == 0) return false;
    line = {.text = std::string_view(buffer_).substr(begin_, length), .number = ++line_number_, .has_newline = found};
    if (line.text.ends_with('\r')) line.text.remove_suffix(1);
    begin_ += length + (found ? 1 : 0);
    return true;
  }
}

std::string LineReader::finish() {
  RW_CHECK(
      identity_of_path() == opened_ && bytes_read_ == opened_.size_bytes, DataError,
      "{}: the file was changed while it was read ({} bytes at the start, {} read); start again when it is complete",
      path_.string(), opened_.size_bytes, bytes_read_);
  return hash_.hex();
}

}  // namespace rankwise
