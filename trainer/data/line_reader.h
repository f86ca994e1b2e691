// The lines of a text file, one at a time, in bounded memory whatever the size of the file or of a line.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "base/hash.h"
#include "base/unique_handle.h"

namespace rankwise {

struct Line {
  std::string_view text{};  // without "\n" or "\r\n"; valid until the next call; empty when too_long
  int64_t number = 0;       // from 1
  bool too_long = false;    // skipped, since it exceeds the limit
  bool has_newline = true;  // false for a last line that ends with the file
};

class LineReader {
 public:
  static constexpr size_t kMaxLineBytes = 16u << 20;

  // Throws NoInputError if the file is absent, and DataError if it is not a regular file or is compressed, a table or
  // an archive by its first bytes, whatever its name says. chunk_bytes: how much is read at a time.
  explicit LineReader(std::filesystem::path path, size_t chunk_bytes = 1u << 20);

  bool next(Line& line);  // false at the end of the file

  // After the last line: the SHA-256 of all that was read. Throws DataError if the file has been changed since it was
  // opened (size, time, or another file at the same path).
  std::string finish();

  const std::filesystem::path& path() const noexcept { return path_; }
  uint64_t bytes_read() const noexcept { return bytes_read_; }

 private:
  struct Identity {
    uint64_t device, inode, size_bytes;
    int64_t modified_ns;
    bool operator==(const Identity&) const = default;
  };
  Identity identity_of_path() const;
  void refuse_other_kinds() const;
  bool fill();       // reads one chunk behind the unread bytes; false at the end of the file
  void skip_line();  // to just behind the next newline

  std::filesystem::path path_;
  size_t chunk_bytes_;
  UniqueFd fd_;
  Identity opened_{};
  Sha256 hash_;
  std::string buffer_;
  size_t begin_ = 0;  // of the unread bytes in buffer_
  uint64_t bytes_read_ = 0;
  int64_t line_number_ = 0;
};

}  // namespace rankwise
