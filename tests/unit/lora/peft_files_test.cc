#include "trainer/lora/peft_files.h"

#include <gmock/gmock.h>

#include <cmath>
#include <fstream>

#include "base/file.h"
#include "tests/support/expect_error.h"
#include "tests/support/scratch_directory.h"
#include "tests/unit/lora/tiny_model.h"
#include "trainer/weights/safetensors.h"

namespace rankwise {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::vector<std::byte> bytes_of(const auto& values) {
  const auto bytes = std::as_bytes(std::span(values));
  return {bytes.begin(), bytes.end()};
}

class PeftFilesTest : public ::testing::Test {
 protected:
  PeftFilesTest() {
    for (const AdapterTensorSpec& spec : adapter_tensor_specs(match_targets(info_.lora, model_))) add(spec);
  }

  void add(const AdapterTensorSpec& spec) {
    std::vector<float> data(static_cast<size_t>(spec.shape[0] * spec.shape[1]));
    for (float& x : data) x = static_cast<float>(++last_value_) / 7;
    tensors_.push_back({spec.key, spec.shape, std::move(data)});
  }

  void write() const {
    std::vector<AdapterTensorView> views;
    for (const AdapterTensor& t : tensors_) views.push_back({t.key, t.shape, t.data});
    write_adapter(directory_.path(), info_, model_, views);
  }
  AdapterFiles read() const { return read_adapter(directory_.path(), model_); }
  bool nothing_was_written() const { return fs::is_empty(directory_.path()); }

  // Puts other tensors beside a good adapter_config.json.
  template <typename Number>
  void replace_tensors(Dtype dtype, const std::vector<std::vector<Number>>& data) const {
    fs::remove(directory_ / "adapter_model.safetensors");
    std::vector<std::vector<std::byte>> bytes;
    for (const auto& values : data) bytes.push_back(bytes_of(values));
    std::vector<TensorView> views;
    for (size_t i = 0; i < data.size(); ++i) views.push_back({tensors_[i].key, dtype, tensors_[i].shape, bytes[i]});
    write_safetensors(directory_ / "adapter_model.safetensors", views, {});
  }
  void replace_tensors() const {
    std::vector<std::vector<float>> data;
    for (const AdapterTensor& t : tensors_) data.push_back(t.data);
    replace_tensors(Dtype::kF32, data);
  }
  void fill_with(Dtype dtype, uint16_t half) const {
    std::vector<std::vector<uint16_t>> data;
    for (const AdapterTensor& t : tensors_) data.emplace_back(t.data.size(), half);
    replace_tensors(dtype, data);
  }

  testing::ScratchDirectory directory_;
  std::vector<ModuleInfo> model_ = tiny_llama(1);
  AdapterInfo info_{{.r = 2, .target_modules = NameList{"q_proj", "v_proj"}, .rank_pattern = {{"v_proj", 3}}}, "base"};
  std::vector<AdapterTensor> tensors_;
  int last_value_ = 0;
};

TEST(AdapterTensorSpecs, NameAThenBOfEachModule) {
  const LoraConfig config{.r = 2, .target_modules = NameList{"k_proj"}};
  const std::string module = "base_model.model.model.layers.0.self_attn.k_proj";
  EXPECT_THAT(adapter_tensor_specs(match_targets(config, tiny_llama(1))),
              ::testing::ElementsAre(AdapterTensorSpec{module + ".lora_A.weight", {2, 8}},
                                     AdapterTensorSpec{module + ".lora_B.weight", {4, 2}}));
}

TEST_F(PeftFilesTest, ReadsBackWhatWasWrittenInAnyOrder) {
  const std::vector<AdapterTensor> in_model_order = tensors_;
  std::ranges::reverse(tensors_);
  write();
  const AdapterFiles files = read();
  EXPECT_EQ(files.info.base_model_name_or_path, "base");
  EXPECT_EQ(files.modules.size(), 2u);
  ASSERT_EQ(files.tensors.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(files.tensors[i].key, in_model_order[i].key);
    EXPECT_EQ(files.tensors[i].shape, in_model_order[i].shape);
    EXPECT_EQ(files.tensors[i].data, in_model_order[i].data);
  }
}

TEST_F(PeftFilesTest, TheModelCardHasFrontMatterAndTheTable) {
  info_.base_model_name_or_path = "a \"b\": c\n";
  write();
  const std::string card = read_file(directory_ / "README.md", 1 << 20);
  EXPECT_THAT(card, StartsWith("---\nbase_model: \"a \\\"b\\\": c\\n\"\nlibrary_name: peft\n"));
  EXPECT_THAT(card, HasSubstr("q_proj        1      2"));
}

TEST_F(PeftFilesTest, RefusesToWriteWhatDoesNotFitTheConfig) {
  info_.lora.r = 4;
  EXPECT_ERROR(write(), Error, "q_proj.lora_A.weight has shape [2, 8]", "say [4, 8]");
  info_.lora.r = 2;
  tensors_.pop_back();
  EXPECT_ERROR(write(), Error, "v_proj.lora_B.weight is missing");
  EXPECT_TRUE(nothing_was_written());
}

TEST_F(PeftFilesTest, RefusesToWriteNonFiniteValues) {
  tensors_[1].data[3] = NAN;
  EXPECT_ERROR(write(), Error, "q_proj.lora_B.weight", "nan at element 3");
  EXPECT_TRUE(nothing_was_written());
}

TEST_F(PeftFilesTest, RefusesToWriteOneKeyTwiceOrShortData) {
  tensors_.push_back(tensors_[0]);
  EXPECT_ERROR(write(), Error, "q_proj.lora_A.weight twice");
  tensors_.pop_back();
  tensors_[0].data.pop_back();
  EXPECT_ERROR(write(), Error, "q_proj.lora_A.weight has shape [2, 8] but 15 elements");
  EXPECT_TRUE(nothing_was_written());
}

TEST_F(PeftFilesTest, NeverOverwritesAnAdapter) {
  write();
  EXPECT_THROW(write(), Error);
}

TEST_F(PeftFilesTest, SixteenBitTensorsAreWidened) {
  write();
  fill_with(Dtype::kF16, 0x3e00);
  EXPECT_EQ(read().tensors[0].data[0], 1.5f);
  fill_with(Dtype::kBF16, 0x3e00);
  EXPECT_EQ(read().tensors[0].data[0], 0.125f);
}

TEST_F(PeftFilesTest, OtherNumberFormatsAreRefused) {
  write();
  fill_with(Dtype::kI16, 1);
  EXPECT_ERROR(read(), DataError, "is stored as I16; supported: F32, F16, BF16");
}

TEST_F(PeftFilesTest, MissingUnexpectedAndMisshapenTensorsAreListed) {
  write();
  tensors_[0].key = "base_model.model.other.lora_A.weight";
  std::swap(tensors_[1].shape[0], tensors_[1].shape[1]);
  replace_tensors();
  EXPECT_ERROR(read(), DataError, "adapter_model.safetensors: ", "q_proj.lora_A.weight is missing",
               "q_proj.lora_B.weight has shape [2, 8], but adapter_config.json and the base model say [8, 2]",
               "other.lora_A.weight is unexpected");
}

TEST_F(PeftFilesTest, AtMostFiveProblemsAreListed) {
  write();
  model_ = tiny_llama(3);  // eight more tensors are expected
  EXPECT_ERROR(read(), DataError, "(and 3 more)");
}

TEST_F(PeftFilesTest, AnAdapterOfAnotherModelIsRefused) {
  write();
  model_ = {{"h.0.c_attn", 4, 4}};
  EXPECT_ERROR(read(), DataError, "target_modules names no linear layer of this base model");
}

TEST_F(PeftFilesTest, NonFiniteValuesAreRefused) {
  write();
  tensors_[0].data[1] = -INFINITY;
  replace_tensors();
  EXPECT_ERROR(read(), DataError, "q_proj.lora_A.weight", "-inf at element 1");
}

TEST_F(PeftFilesTest, AHostilePatternInAFileIsBadData) {
  directory_.add("adapter_config.json", R"({"peft_type": "LORA", "target_modules": "(.*)*(.*)*(.*)*[!?]"})");
  EXPECT_ERROR(read(), DataError, "adapter_config.json: lora.target_modules", "simpler pattern");
}

TEST_F(PeftFilesTest, APickleIsRefusedWithTheRemedy) {
  write();
  fs::rename(directory_ / "adapter_model.safetensors", directory_ / "adapter_model.bin");
  EXPECT_ERROR(read(), DataError, "adapter_model.bin", "safe_serialization=True");
}

TEST_F(PeftFilesTest, AMissingFileIsNoInput) {
  EXPECT_ERROR(read(), NoInputError, "adapter_config.json");
  write();
  fs::remove(directory_ / "adapter_model.safetensors");
  EXPECT_ERROR(read(), NoInputError, "adapter_model.safetensors");
}

}  // namespace
}  // namespace rankwise
