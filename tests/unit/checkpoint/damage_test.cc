// Every kind of damage to every file of a checkpoint is found, named, and stepped over.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <random>

#include "small_checkpoint.h"
#include "trainer/checkpoint/resume.h"

namespace rankwise::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::AnyOf;
using ::testing::HasSubstr;

class Damage : public ::testing::TestWithParam<std::string> {
 protected:
  Damage() {
    save_small(run_, 1);
    newest_ = save_small(run_, 2).directory;
    path_ = newest_ / GetParam();
    original_ = read_all(path_);
  }

  void replace_by(const std::string& content) { std::ofstream(path_, std::ios::binary | std::ios::trunc) << content; }

  void expect_fallback() {
    const ResumeSearch search = find_resumable(run_.path());
    ASSERT_EQ(search.damaged.size(), 1u);
    EXPECT_EQ(search.damaged[0].directory, newest_);
    EXPECT_THAT(search.damaged[0].reason, HasSubstr(GetParam()));
    ASSERT_TRUE(search.newest.has_value());
    EXPECT_EQ(search.newest->manifest.step, 1u);
  }

  void expect_found(const std::string& content) {
    replace_by(content);
    expect_fallback();
  }

  ScratchDirectory scratch_;
  RunDirectory run_{scratch_ / "run", "damage"};
  fs::path newest_;
  fs::path path_;
  std::string original_;
};

TEST_P(Damage, OneBitAnywhere) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 generator(seed);
  for (int flip = 0; flip < 200; ++flip) {
    const size_t bit = std::uniform_int_distribution<size_t>(0, original_.size() * 8 - 1)(generator);
    std::string flipped = original_;
    flipped[bit / 8] = static_cast<char>(static_cast<unsigned char>(flipped[bit / 8]) ^ (1u << (bit % 8)));
    SCOPED_TRACE("bit " + std::to_string(bit));
    ASSERT_NO_FATAL_FAILURE(expect_found(flipped));
  }
  replace_by(original_);
  EXPECT_EQ(find_resumable(run_.path()).newest->manifest.step, 2u);
}

TEST_P(Damage, Truncation) {
  for (size_t part = 0; part < 50; ++part)
    ASSERT_NO_FATAL_FAILURE(expect_found(original_.substr(0, original_.size() * part / 50)));
}

TEST_P(Damage, OneByteMore) { expect_found(original_ + "\n"); }

TEST_P(Damage, ZeroedBlock) {
  std::string zeroed = original_;
  zeroed.replace(zeroed.size() / 2, 64, 64, '\0');
  expect_found(zeroed);
}

TEST_P(Damage, Deletion) {
  fs::remove(path_);
  expect_fallback();
}

TEST_P(Damage, DirectoryInItsPlace) {
  fs::remove(path_);
  fs::create_directory(path_);
  expect_fallback();
}

TEST_P(Damage, SameFileOfAnotherStep) { expect_found(read_all(run_.path() / "checkpoint-1" / GetParam())); }

INSTANTIATE_TEST_SUITE_P(Of, Damage,
                         ::testing::Values("MANIFEST.json", "adapter_config.json", "adapter_model.safetensors",
                                           "trainer_state/optimizer.safetensors", "trainer_state/state.json"),
                         [](const auto& parameter) {
                           std::string name = parameter.param;
                           std::erase_if(name, [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; });
                           return name;
                         });

TEST(DamageOfTwo, SwappedFilesAreFound) {
  const ScratchDirectory scratch;
  const RunDirectory run(scratch / "run", "swap");
  const fs::path newest = save_small(run, 1).directory;
  fs::rename(newest / "adapter_config.json", newest / "swap");
  fs::rename(newest / "adapter_model.safetensors", newest / "adapter_config.json");
  fs::rename(newest / "swap", newest / "adapter_model.safetensors");
  EXPECT_THAT(error_of([&] { verify_checkpoint(newest); }).message, HasSubstr("adapter_config.json"));
}

TEST(DamageOfTwo, SwappedCheckpointsAreFound) {
  const ScratchDirectory scratch;
  const RunDirectory run(scratch / "run", "swap");
  const fs::path first = save_small(run, 1).directory;
  fs::remove_all(save_small(run, 2).directory);
  fs::rename(first, run.path() / "checkpoint-2");
  EXPECT_THAT(error_of([&] { verify_checkpoint(run.path() / "checkpoint-2"); }).message,
              HasSubstr("is of step 1, the directory's name says 2"));
}

}  // namespace
}  // namespace rankwise::testing
