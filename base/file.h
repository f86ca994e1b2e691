// Reading whole files with a limit, and writing them so that a kill or a power cut leaves either the old or the new.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "base/unique_handle.h"

namespace rankwise {

// The whole of a regular file. NoInputError if absent, DataError if larger than limit_bytes or not a regular file.
std::string read_file(const std::filesystem::path& path, uint64_t limit_bytes);

// A regular file open for reading; anything else (directory, FIFO, device) is a DataError, an absent one a
// NoInputError.
struct InputFile {
  UniqueFd fd;
  uint64_t size_bytes = 0;  // when it was opened
};
InputFile open_input(const std::filesystem::path& path);
// `name` below an open directory; `shown_as` is what messages call it.
InputFile open_input_at(int directory_fd, const std::string& name, const std::filesystem::path& shown_as);

// Fills `out` from byte `offset`. IoError when the file ends before. Thread-safe: the file position is not used.
void read_exactly_at(int fd, uint64_t offset, std::span<std::byte> out, const std::filesystem::path& shown_as);
// Writes all of `bytes` at the file position. throw_errno on failure, as for a full disk.
void write_all(int fd, std::span<const std::byte> bytes, const std::filesystem::path& shown_as);

// Creates `path` (it must not exist), writes, fsyncs and closes; every return value is checked. Does not fsync the
// directory: the caller does, once, after the last file of it. Throws IoError / throw_errno with the path; a file left
// half-written by a failure is removed.
void write_new_file(const std::filesystem::path& path, std::string_view content);

// Several pieces, written in order, into one new durable file.
void write_new_file(const std::filesystem::path& path, std::span<const std::span<const std::byte>> pieces);

// Replaces one small file atomically: temporary sibling, fsync, rename, fsync of the directory.
void replace_file(const std::filesystem::path& path, std::string_view content);

void fsync_directory(const std::filesystem::path& directory);
// rename(from, to), then fsync of the parent; `to` must not exist.
void publish_directory(const std::filesystem::path& from, const std::filesystem::path& to);
// Proves that a file can be created, written and fsynced in `directory` (made if absent). Throws with code 73 or 77.
void probe_writable(const std::filesystem::path& directory);

}  // namespace rankwise
