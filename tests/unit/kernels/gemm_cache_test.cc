#include "trainer/kernels/gemm_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "base/log.h"
#include "tests/support/scratch_directory.h"

namespace rankwise::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const GemmDevice kDevice{"NVIDIA H100 80GB HBM3", 132, 130100};
constexpr float kNever = std::numeric_limits<float>::infinity();

GemmShape shape(int64_t rows) { return {rows, 4096, 14336, false, false, true, GemmStart::kOut, 256, 256, 256, 256}; }

GemmAlgorithm algorithm(uint64_t first) { return {{first, 2, 0, ~uint64_t{0}, 5, 6, 7, 0x0123456789abcdef}}; }

std::string text_in(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

// What is warned of during one test.
class GemmCacheTest : public ::testing::Test {
 protected:
  GemmCacheTest() {
    set_log_listener([this](std::string_view line) { warnings.emplace_back(line); });
  }
  ~GemmCacheTest() override { set_log_listener(nullptr); }

  // The file after one choice was kept.
  std::filesystem::path one_kept() const {
    GemmCache cache(scratch.path(), kDevice);
    cache.keep(shape(8192), algorithm(1));
    return cache.file();
  }
  GemmCache again() const { return GemmCache(scratch.path(), kDevice); }

  ScratchDirectory scratch;
  std::vector<std::string> warnings;
};

TEST_F(GemmCacheTest, WhatIsKeptIsReadByTheNext) {
  GemmCache cache(scratch / "made/with/parents", kDevice);
  EXPECT_EQ(cache.find(shape(8192)), nullptr);
  EXPECT_EQ(cache.stored(shape(8192)), std::nullopt);
  cache.keep(shape(8192), algorithm(1));
  cache.keep(shape(6144), algorithm(2));
  ASSERT_NE(cache.find(shape(8192)), nullptr);
  EXPECT_EQ(*cache.find(shape(8192)), algorithm(1));

  const GemmCache next(scratch / "made/with/parents", kDevice);
  EXPECT_EQ(next.file(), cache.file());
  EXPECT_EQ(next.stored(shape(8192)), algorithm(1));
  EXPECT_EQ(next.stored(shape(6144)), algorithm(2));
  EXPECT_EQ(next.find(shape(8192)), nullptr);  // until somebody has seen that it fits
  EXPECT_THAT(warnings, IsEmpty());
}

TEST_F(GemmCacheTest, EachPartOfAShapeTellsItFromOthers) {
  one_kept();
  std::vector<GemmShape> others(11, shape(8192));
  others[0].rows = 6144;
  others[1].columns = 4097;
  others[2].depth = 4096;
  others[3].float8 = true;
  others[4].left_transposed = true;
  others[5].right_transposed = false;
  others[6].start = GemmStart::kZeros;
  others[7].left_alignment = 16;
  others[8].right_alignment = 16;
  others[9].start_alignment = 16;
  others[10].out_alignment = 16;
  const GemmCache cache = again();
  for (size_t i = 0; i < others.size(); ++i) EXPECT_EQ(cache.stored(others[i]), std::nullopt) << i;
  EXPECT_NE(cache.stored(shape(8192)), std::nullopt);
}

TEST_F(GemmCacheTest, RememberedAloneIsNotWritten) {
  GemmCache cache(scratch.path(), kDevice);
  cache.remember(shape(8192), algorithm(1));
  cache.remember(shape(6144), std::nullopt);
  EXPECT_EQ(*cache.find(shape(8192)), algorithm(1));
  ASSERT_NE(cache.find(shape(6144)), nullptr);
  EXPECT_EQ(*cache.find(shape(6144)), std::nullopt);
  EXPECT_FALSE(std::filesystem::exists(cache.file()));
  GemmCache nowhere;
  nowhere.keep(shape(8192), algorithm(1));
  EXPECT_EQ(*nowhere.find(shape(8192)), algorithm(1));
}

TEST_F(GemmCacheTest, TwoThatShareAFileAddToIt) {
  GemmCache one = again(), other = again();
  one.keep(shape(8192), algorithm(1));
  other.keep(shape(6144), algorithm(2));
  EXPECT_EQ(again().stored(shape(8192)), algorithm(1));
  other.keep(shape(8192), algorithm(3));  // the last one wins
  EXPECT_EQ(again().stored(shape(8192)), algorithm(3));
  EXPECT_EQ(again().stored(shape(6144)), algorithm(2));
  EXPECT_EQ(*one.find(shape(8192)), algorithm(1));
}

TEST_F(GemmCacheTest, DevicesAndVersionsHaveFilesOfTheirOwn) {
  const auto file = one_kept();
  EXPECT_EQ(file.filename(), "gemm-NVIDIA-H100-80GB-HBM3-132-130100.json");
  for (const GemmDevice& device :
       {GemmDevice{"NVIDIA H200", 132, 130100}, GemmDevice{"NVIDIA H100 80GB HBM3", 66, 130100},
        GemmDevice{"NVIDIA H100 80GB HBM3", 132, 130200}}) {
    const GemmCache cache(scratch.path(), device);
    EXPECT_EQ(cache.stored(shape(8192)), std::nullopt) << cache.file();
    std::filesystem::copy_file(file, cache.file());  // a file of another one, under our name
    EXPECT_EQ(GemmCache(scratch.path(), device).stored(shape(8192)), std::nullopt) << cache.file();
  }
  ASSERT_EQ(warnings.size(), 3u);
  for (const auto& warning : warnings) EXPECT_THAT(warning, HasSubstr("of another GPU or version of cuBLASLt"));
}

TEST_F(GemmCacheTest, WhatIsBrokenIsWarnedOfAndReplaced) {
  const auto file = one_kept();
  const std::string whole = text_in(file);
  const size_t digit = whole.find("0123456789abcdef");
  ASSERT_NE(digit, std::string::npos);
  std::string changed = whole, no_number = whole, later = whole;
  changed[digit] = '1';
  no_number[digit] = 'x';
  later.replace(later.find("\"format\": 1"), 11, "\"format\": 2");
  const std::string broken[] = {"", "[]", "{}", whole.substr(0, whole.size() / 2), changed, no_number, later};
  for (const auto& text : broken) {
    SCOPED_TRACE(text);
    std::ofstream(file) << text;
    warnings.clear();
    GemmCache cache = again();
    EXPECT_EQ(warnings.size(), 1u);
    EXPECT_EQ(cache.stored(shape(8192)), std::nullopt);
    cache.keep(shape(6144), algorithm(2));
    EXPECT_EQ(warnings.size(), 1u);
    EXPECT_EQ(again().stored(shape(6144)), algorithm(2));
  }
}

TEST_F(GemmCacheTest, WhereNothingCanBeWrittenOneWarningIsEnough) {
  scratch.add("file", "");
  GemmCache cache(scratch / "file/below", kDevice);
  EXPECT_THAT(warnings, IsEmpty());
  cache.keep(shape(8192), algorithm(1));
  cache.keep(shape(6144), algorithm(2));
  EXPECT_THAT(warnings, ElementsAre(HasSubstr("the next start times GEMM algorithms again")));
  EXPECT_EQ(*cache.find(shape(8192)), algorithm(1));
  EXPECT_EQ(*cache.find(shape(6144)), algorithm(2));
}

TEST(Fastest, TheFirstStaysUnlessAnotherIsClearlyFaster) {
  using Times = std::vector<std::vector<float>>;
  EXPECT_EQ(fastest(Times{{1.0f, 1.0f, 1.0f}, {0.995f, 0.995f, 0.995f}}), 0u);
  EXPECT_EQ(fastest(Times{{1.0f, 1.0f, 1.0f}, {0.985f, 0.985f, 0.985f}, {0.98f, 0.98f, 0.98f}}), 2u);
  EXPECT_EQ(fastest(Times{{1.0f, 1.0f, 1.0f}, {0.1f, 1.1f, 1.1f}}), 0u);  // one lucky run
  EXPECT_EQ(fastest(Times{{9.0f, 1.0f, 1.0f}, {0.5f, 8.0f, 0.5f}}), 1u);  // and disturbed ones
}

TEST(Fastest, WhatCannotRunIsNotChosen) {
  using Times = std::vector<std::vector<float>>;
  EXPECT_EQ(fastest(Times{{kNever, kNever}, {3.0f, 3.0f}}), 1u);
  EXPECT_EQ(fastest(Times{{kNever}, {kNever}}), std::nullopt);
  EXPECT_EQ(fastest(Times{}), std::nullopt);
}

TEST(GemmShapes, RowsOfAGroupShareAChoice) {
  for (const auto& [rows, group] : {std::pair<int64_t, int64_t>{1, 1},
                                    {3, 3},
                                    {4, 4},
                                    {5, 6},
                                    {256, 256},
                                    {257, 384},
                                    {4096, 4096},
                                    {4097, 6144},
                                    {6144, 6144},
                                    {6145, 8192},
                                    {8192, 8192}}) {
    EXPECT_EQ(rows_of_choice(rows), group) << rows;
  }
}

TEST(GemmShapes, AlignmentIsThatOfEachRow) {
  const auto at = [](uintptr_t address) { return reinterpret_cast<const void*>(address); };
  EXPECT_EQ(alignment_of(at(0x1000), 8192), 256u);
  EXPECT_EQ(alignment_of(at(0x1010), 8192), 16u);
  EXPECT_EQ(alignment_of(at(0x1000), 2 * 577), 2u);
  GpuGemm call{};
  call.left_NK = at(0x1000);
  call.right_KM = at(0x2020);
  call.out_NM = const_cast<void*>(at(0x4000));
  call.rows = 500;
  call.columns = 512;
  call.depth = call.left_stride = call.right_stride = 640;
  call.out_stride = 520;
  call.right_transposed = true;
  GemmShape seen = shape_of(call);
  EXPECT_EQ(seen, (GemmShape{512, 512, 640, false, false, true, GemmStart::kZeros, 256, 32, 16, 16}));
  call.start_NM = call.out_NM;
  EXPECT_EQ(shape_of(call).start, GemmStart::kOut);
  call.start_NM = at(0x8002);
  call.start_stride = 512;
  const float scale = 1;
  call.left_scales_N = call.right_scales_M = &scale;
  seen = shape_of(call);
  EXPECT_EQ(seen.start, GemmStart::kOther);
  EXPECT_EQ(seen.start_alignment, 2u);
  EXPECT_TRUE(seen.float8);
  EXPECT_EQ(seen.left_alignment, 128u);  // bytes now: 640 of a row
}

}  // namespace
}  // namespace rankwise::testing
