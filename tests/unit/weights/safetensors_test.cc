#include "trainer/weights/safetensors.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <numeric>
#include <thread>

#include "base/file.h"
#include "tests/support/expect_error.h"
#include "tests/support/safetensors_bytes.h"
#include "tests/support/scratch_directory.h"

namespace rankwise {
namespace {

using testing::little_endian_u64;
using testing::ScratchDirectory;

std::vector<std::byte> counting(size_t bytes) {
  std::vector<std::byte> data(bytes);
  for (size_t i = 0; i < bytes; ++i) data[i] = static_cast<std::byte>(i % 251);
  return data;
}

std::vector<std::byte> read_whole(const SafetensorsFile& file, const std::string& name) {
  const TensorEntry& entry = file.entry(name);
  std::vector<std::byte> data(entry.end - entry.begin);
  file.read(entry, 0, data);
  return data;
}

// The layout is the format's: tests/parity compares it with the reference writer's, byte by byte.
TEST(WriteSafetensors, WritesTheDocumentedLayout) {
  const ScratchDirectory scratch;
  const auto a = counting(2), b = counting(8), c = counting(4);
  write_safetensors(scratch / "f",
                    {{"a", Dtype::kU8, {2}, a}, {"c", Dtype::kF32, {1}, c}, {"b", Dtype::kF32, {2, 1}, b}},
                    {{"format", "pt"}});
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},)"
      R"("c":{"dtype":"F32","shape":[1],"data_offsets":[8,12]},"a":{"dtype":"U8","shape":[2],"data_offsets":[12,14]}})";
  const std::string padded = header + std::string((8 - header.size() % 8) % 8, ' ');
  const std::string data(
      "\0\1\2\3\4\5\6\7"
      "\0\1\2\3"
      "\0\1",
      14);
  EXPECT_EQ(read_file(scratch / "f", 1 << 20), little_endian_u64(padded.size()) + padded + data);
}

TEST(WriteSafetensors, RoundTripsEveryDtypeAndShape) {
  const ScratchDirectory scratch;
  const Dtype dtypes[] = {Dtype::kF64, Dtype::kF32, Dtype::kF16,    Dtype::kBF16,   Dtype::kI64,
                          Dtype::kI32, Dtype::kI16, Dtype::kI8,     Dtype::kU8,     Dtype::kBool,
                          Dtype::kU16, Dtype::kU32, Dtype::kF8E4M3, Dtype::kF8E5M2, Dtype::kU64};
  const std::vector<std::vector<int64_t>> shapes = {{}, {0}, {3}, {2, 3}, {2, 0, 5}, {1, 2, 3, 4}};
  const auto bytes = counting(24 * 8);
  std::vector<TensorView> tensors;
  for (const Dtype dtype : dtypes) {
    for (const auto& shape : shapes) {
      const int64_t elements = std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
      const auto size = static_cast<size_t>(elements * dtype_bytes(dtype));
      tensors.push_back({std::string(dtype_name(dtype)) + "." + std::to_string(tensors.size()), dtype, shape,
                         std::span(bytes).subspan(bytes.size() - size)});
    }
  }
  const std::map<std::string, std::string> metadata = {{"format", "pt"}, {"quote", "\"\\\n\xC3\xA9"}, {"", ""}};
  write_safetensors(scratch / "f", tensors, metadata);

  const SafetensorsFile file(scratch / "f");
  EXPECT_EQ(file.header().metadata, metadata);
  EXPECT_EQ(file.header().data_start % 8, 0u);
  ASSERT_EQ(file.header().tensors.size(), tensors.size());
  for (const TensorView& tensor : tensors) {
    const TensorEntry& entry = file.entry(tensor.name);
    EXPECT_EQ(entry.dtype, tensor.dtype);
    EXPECT_EQ(entry.shape, tensor.shape);
    EXPECT_TRUE(std::ranges::equal(read_whole(file, tensor.name), tensor.data)) << tensor.name;
  }
}

TEST(WriteSafetensors, AlignsEveryTensorToItsDtype) {
  const ScratchDirectory scratch;
  const auto bytes = counting(8);
  const auto view = [&](size_t size) { return std::span(bytes).first(size); };
  write_safetensors(scratch / "f",
                    {{"a", Dtype::kI8, {1}, view(1)},
                     {"b", Dtype::kF64, {1}, view(8)},
                     {"c", Dtype::kBF16, {3}, view(6)},
                     {"d", Dtype::kF32, {1}, view(4)}},
                    {});
  const SafetensorsFile file(scratch / "f");
  for (const TensorEntry& entry : file.header().tensors) {
    EXPECT_EQ(entry.begin % static_cast<uint64_t>(dtype_bytes(entry.dtype)), 0u) << entry.name;
  }
}

TEST(WriteSafetensors, WritesNothingThatItsReaderRefuses) {
  const ScratchDirectory scratch;
  const auto data = counting(8);
  const TensorView good{"t", Dtype::kF32, {2}, data};
  const auto path = scratch / "f";
  EXPECT_ERROR(write_safetensors(path, {good, good}, {}), DataError, path.native(), "\"t\" is listed twice");
  EXPECT_ERROR(write_safetensors(path, {{"t", Dtype::kF32, {3}, data}}, {}), DataError,
               "make 12 bytes, data_offsets 8");
  EXPECT_ERROR(write_safetensors(path, {{"t", Dtype::kF32, {-2}, data}}, {}), DataError, "found -2");
  EXPECT_ERROR(write_safetensors(path, {{"", Dtype::kF32, {2}, data}}, {}), DataError, "empty tensor name");
  EXPECT_ERROR(write_safetensors(path, {{"__metadata__", Dtype::kF32, {2}, data}}, {}), DataError, "__metadata__");
  EXPECT_ERROR(write_safetensors(path, {{"\xff", Dtype::kF32, {2}, data}}, {}), DataError, path.native(), "UTF-8");
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(WriteSafetensors, NeverOverwrites) {
  const ScratchDirectory scratch;
  write_safetensors(scratch / "f", {}, {});
  EXPECT_ERROR(write_safetensors(scratch / "f", {}, {}), IoError, "exists already");
}

class SafetensorsFileTest : public ::testing::Test {
 protected:
  SafetensorsFileTest() {
    write_safetensors(scratch_ / "f",
                      {{"half", Dtype::kF16, {50}, bytes_of(100)}, {"brain", Dtype::kBF16, {10, 20}, bytes_of(400)}},
                      {});
    file_ = std::make_unique<SafetensorsFile>(scratch_ / "f");
  }
  std::span<const std::byte> bytes_of(size_t size) const { return std::span(data_).first(size); }

  const std::vector<std::byte> data_ = counting(400);
  const ScratchDirectory scratch_;
  std::unique_ptr<SafetensorsFile> file_;
};

TEST_F(SafetensorsFileTest, ReadsAnyRangeAndCountsItsBytes) {
  EXPECT_EQ(file_->bytes_read(), 0u);
  std::vector<std::byte> out(7);
  file_->read(file_->entry("half"), 93, out);
  EXPECT_TRUE(std::ranges::equal(out, std::span(data_).subspan(93, 7)));
  file_->read(file_->entry("brain"), 0, out);
  EXPECT_TRUE(std::ranges::equal(out, std::span(data_).first(7)));
  file_->read(file_->entry("brain"), 400, {});
  EXPECT_EQ(file_->bytes_read(), 14u);
}

TEST_F(SafetensorsFileTest, RefusesARangeOutsideTheTensor) {
  std::vector<std::byte> out(8);
  const TensorEntry& half = file_->entry("half");
  EXPECT_ERROR(file_->read(half, 93, out), DataError, "/f: ", "bytes 93 to 101", "\"half\"", "has 100");
  EXPECT_ERROR(file_->read(half, 101, {}), DataError, "bytes 101");
  EXPECT_ERROR(file_->read(half, ~0ull, out), DataError, "\"half\"");
  EXPECT_EQ(file_->bytes_read(), 0u);
}

TEST_F(SafetensorsFileTest, NamesATensorThatIsNotThere) {
  EXPECT_EQ(file_->find("whole"), nullptr);
  EXPECT_ERROR(file_->entry("whole"), DataError, "/f: ", "no tensor \"whole\"");
}

TEST_F(SafetensorsFileTest, KeepsItsEntriesWhenMoved) {
  const SafetensorsFile moved = std::move(*file_);
  EXPECT_EQ(read_whole(moved, "brain"), data_);
  EXPECT_EQ(moved.find("half")->dtype, Dtype::kF16);
}

TEST_F(SafetensorsFileTest, ReportsAFileThatShrinksWhileItIsOpen) {
  std::filesystem::resize_file(scratch_ / "f", file_->header().data_start + 10);
  std::vector<std::byte> out(100);
  EXPECT_ERROR(file_->read(file_->entry("half"), 0, out), IoError, "/f: ", "was it changed");
}

TEST_F(SafetensorsFileTest, ServesSeveralThreads) {
  std::vector<std::thread> threads;
  std::atomic<int> num_right = 0;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int k = 0; k < 100; ++k) num_right += read_whole(*file_, "brain") == data_;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(num_right, 400);
  EXPECT_EQ(file_->bytes_read(), 400u * 400u);
}

TEST(SafetensorsFile, ReadsTheEndOfASparseTerabyte) {
  const ScratchDirectory scratch;
  constexpr uint64_t kBytes = 1ull << 40;
  const std::string header = R"({"t":{"dtype":"F16","shape":[1048576,524288],"data_offsets":[0,1099511627776]}})";
  const auto path = scratch.add("f", little_endian_u64(header.size()) + header);
  const uint64_t file_bytes = 8 + header.size() + kBytes;
  if (::truncate(path.c_str(), static_cast<off_t>(file_bytes)) != 0) GTEST_SKIP() << "no file of 1 TB on this disk";
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  ASSERT_EQ(::pwrite(fd.get(), "end", 3, static_cast<off_t>(file_bytes - 3)), 3);

  const SafetensorsFile file(path);
  std::vector<std::byte> out(4);
  file.read(file.entry("t"), kBytes - 4, out);
  EXPECT_TRUE(std::ranges::equal(out, std::as_bytes(std::span("\0end", 4))));
}

}  // namespace
}  // namespace rankwise
