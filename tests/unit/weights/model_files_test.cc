#include "trainer/weights/model_files.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <functional>

#include "tests/support/expect_error.h"
#include "tests/support/safetensors_bytes.h"
#include "tests/support/scratch_directory.h"

namespace rankwise {
namespace {

namespace fs = std::filesystem;
using testing::safetensors_bytes;
using testing::ScratchDirectory;

constexpr const char* kIndex = "model.safetensors.index.json";
constexpr const char* kFirst = "model-00001-of-00002.safetensors";
constexpr const char* kSecond = "model-00002-of-00002.safetensors";

// One tensor of `bytes` bytes that count up from 0.
std::string shard(const std::string& tensor, size_t bytes) {
  return safetensors_bytes(
      fmt::format(R"({{"{}":{{"dtype":"U8","shape":[{}],"data_offsets":[0,{}]}}}})", tensor, bytes, bytes), bytes);
}

// Tensor "b" as above, and an empty one.
std::string second_shard_with(char name) {
  return safetensors_bytes(fmt::format(R"({{"b":{{"dtype":"U8","shape":[20],"data_offsets":[0,20]}},)"
                                       R"("{}":{{"dtype":"U8","shape":[0],"data_offsets":[20,20]}}}})",
                                       name),
                           20);
}

std::string index_of(const std::string& a, const std::string& b, const std::string& total_size = "30") {
  return fmt::format(R"({{"metadata":{{"total_size":{}}},"weight_map":{{"a":"{}","b":"{}"}}}})", total_size, a, b);
}

// A model of tensor "a", 10 bytes, and tensor "b", 20 bytes, in two shards.
class ShardedModel : public ::testing::Test {
 protected:
  ShardedModel() {
    scratch_.add(kFirst, shard("a", 10));
    scratch_.add(kSecond, shard("b", 20));
    scratch_.add(kIndex, index_of(kFirst, kSecond));
  }
  const ScratchDirectory scratch_;
};

TEST(ModelFiles, ReadsASingleFile) {
  const ScratchDirectory scratch;
  scratch.add("model.safetensors", shard("only", 5));
  const ModelFiles model(scratch.path());
  EXPECT_EQ(model.names(), std::vector<std::string>{"only"});
  EXPECT_EQ(model.total_bytes(), 5u);
}

TEST_F(ShardedModel, ReadsRangesByNameAndCountsThem) {
  const ModelFiles model(scratch_.path());
  EXPECT_EQ(model.names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(model.total_bytes(), 30u);
  EXPECT_EQ(model.find("b")->shape, std::vector<int64_t>{20});
  EXPECT_EQ(model.find("c"), nullptr);
  std::vector<std::byte> out(2);
  model.read("b", 18, out);
  EXPECT_EQ(out, (std::vector{std::byte{18}, std::byte{19}}));
  model.read("a", 0, out);
  EXPECT_EQ(model.bytes_read(), 4u);
}

TEST_F(ShardedModel, NamesTheNearestTensor) {
  const ModelFiles model(scratch_.path());
  EXPECT_ERROR(model.entry("bb"), DataError, scratch_.path().native(), "no tensor \"bb\"", "nearest: \"b\"");
  EXPECT_ERROR(model.read("bb", 0, {}), DataError, "no tensor \"bb\"");
}

TEST_F(ShardedModel, NeedsNoMetadata) {
  scratch_.add(kIndex, fmt::format(R"({{"weight_map":{{"a":"{}","b":"{}"}}}})", kFirst, kSecond));
  EXPECT_EQ(ModelFiles(scratch_.path()).total_bytes(), 30u);
}

TEST_F(ShardedModel, LeavesOtherFilesAlone) {
  scratch_.add("consolidated.safetensors", "not read");
  scratch_.add("adapter-00001-of-00001.safetensors", "not read");
  scratch_.add("pytorch_model.bin", "not read");
  EXPECT_NO_THROW(ModelFiles(scratch_.path()));
}

TEST_F(ShardedModel, RefusesFileNamesThatLeadElsewhere) {
  const std::string names[] = {"../x.safetensors",
                               "/etc/passwd",
                               "a/../../b.safetensors",
                               "..\\\\x.safetensors",
                               "",
                               ".",
                               "..",
                               "a\\u0000.safetensors",
                               ".hidden.safetensors",
                               "model.bin",
                               "a b.safetensors",
                               "./model.safetensors",
                               "x.safetensors/",
                               "\\u00e9.safetensors",
                               std::string(250, 'x') + ".safetensors"};
  for (const std::string& name : names) {
    scratch_.add(kIndex, index_of(kFirst, name));
    EXPECT_ERROR(ModelFiles(scratch_.path()), DataError, kIndex, "weight_map: \"b\" must name one file");
  }
}

struct BadModel {
  const char* what;
  std::function<void(const ScratchDirectory&)> change;
  const char* message;
};

TEST_F(ShardedModel, RefusesAnIndexThatDoesNotFitItsShards) {
  const auto with_index = [](std::string text) {
    return [text](const ScratchDirectory& dir) { dir.add(kIndex, text); };
  };
  const auto with_second = [](std::string bytes) {
    return [bytes](const ScratchDirectory& dir) { dir.add(kSecond, bytes); };
  };
  const BadModel cases[] = {
      {"empty", with_index(""), "syntax error"},
      {"no object", with_index("[]"), "needs an object with weight_map"},
      {"no weight_map", with_index(R"({"metadata":{}})"), "needs an object with weight_map"},
      {"weight_map no object", with_index(R"({"weight_map":["a"]})"), "weight_map must name"},
      {"weight_map empty", with_index(R"({"weight_map":{}})"), "weight_map must name"},
      {"file no string", with_index(R"({"weight_map":{"a":1}})"), "weight_map: \"a\" must name one file"},
      {"bad tensor name", with_index(R"({"weight_map":{"\u001b":"a.safetensors"}})"), "weight_map: control character"},
      {"metadata no object", with_index(fmt::format(R"({{"metadata":1,"weight_map":{{"a":"{}"}}}})", kFirst)),
       "metadata must be"},
      {"duplicate key", with_index(R"({"weight_map":{"a":"x.safetensors","a":"x.safetensors"}})"),
       ":1:38: duplicate key"},
      {"total_size wrong", with_index(index_of(kFirst, kSecond, "31")), "total_size is 31, the tensors have 30 bytes"},
      {"total_size no integer", with_index(index_of(kFirst, kSecond, "3e1")), "metadata.total_size: expected"},
      {"total_size negative", with_index(index_of(kFirst, kSecond, "-30")), "metadata.total_size: expected"},
      {"tensors swapped", with_index(index_of(kSecond, kFirst)),
       "\"a\" should be in model-00002-of-00002.safetensors and is in"},
      {"tensor missing in its shard", with_index(index_of(kFirst, kFirst)),
       "model-00002-of-00002.safetensors is a shard"},
      {"tensor of another name", with_second(shard("c", 20)),
       "\"c\" of model-00002-of-00002.safetensors is not in weight_map"},
      {"shard without tensors", with_second(safetensors_bytes("{}", 0)),
       "\"b\" should be in model-00002-of-00002.safetensors and is not there"},
      {"tensor in two shards", with_second(second_shard_with('a')),
       "\"a\" should be in model-00001-of-00002.safetensors and is in model-00002"},
      {"tensor not in the map", with_second(second_shard_with('c')),
       "\"c\" of model-00002-of-00002.safetensors is not in"},
      {"shard that is not listed", [](const ScratchDirectory& dir) { dir.add("model-00003-of-00003.safetensors", ""); },
       "model-00003-of-00003.safetensors is a shard that model.safetensors.index.json does not name"},
      {"damaged shard", with_second("x"), "model-00002-of-00002.safetensors: 1 bytes"},
  };
  for (const BadModel& bad : cases) {
    SCOPED_TRACE(bad.what);
    const ScratchDirectory copy;
    fs::copy(scratch_.path(), copy.path());
    bad.change(copy);
    EXPECT_ERROR(ModelFiles(copy.path()), DataError, copy.path().native(), bad.message);
  }
}

TEST_F(ShardedModel, RefusesAMapOfMillionsOfTensors) {
  std::string text = R"({"weight_map":{)";
  for (int i = 0; i < (1 << 20); ++i) text += fmt::format(R"("{}":"x.safetensors",)", i);
  text.back() = '}';
  scratch_.add(kIndex, text + "}");
  EXPECT_ERROR(ModelFiles(scratch_.path()), DataError, kIndex, "too many values");
  scratch_.add(kIndex, "");
  fs::resize_file(scratch_ / kIndex, (64ull << 20) + 1);
  EXPECT_ERROR(ModelFiles(scratch_.path()), DataError, kIndex, "at most 67108864");
}

TEST_F(ShardedModel, RefusesAShardThatIsNoFile) {
  fs::remove(scratch_ / kSecond);
  EXPECT_ERROR(ModelFiles(scratch_.path()), NoInputError, kIndex, "model-00002-of-00002.safetensors is not there");
  fs::create_directory(scratch_ / kSecond);
  EXPECT_ERROR(ModelFiles(scratch_.path()), DataError, kSecond, "not a regular file");
  fs::remove(scratch_ / kSecond);
  ASSERT_EQ(::mkfifo((scratch_ / kSecond).c_str(), 0600), 0);
  EXPECT_ERROR(ModelFiles(scratch_.path()), DataError, kSecond, "not a regular file");
}

TEST_F(ShardedModel, FollowsLinksInsideItsDirectoryOnly) {
  const ScratchDirectory elsewhere;
  fs::rename(scratch_ / kSecond, scratch_ / "inside.bin");
  fs::create_symlink("inside.bin", scratch_ / kSecond);
  EXPECT_EQ(ModelFiles(scratch_.path()).total_bytes(), 30u);

  fs::copy(scratch_ / "inside.bin", elsewhere / "outside.bin");
  fs::remove(scratch_ / kSecond);
  fs::create_symlink(elsewhere / "outside.bin", scratch_ / kSecond);
  EXPECT_ERROR(ModelFiles(scratch_.path()), DataError, kSecond, "a link that leads to", "outside.bin");

  fs::remove(scratch_ / kSecond);
  fs::create_symlink("nowhere", scratch_ / kSecond);
  EXPECT_ERROR(ModelFiles(scratch_.path()), NoInputError, kSecond);
}

TEST_F(ShardedModel, RefusesAnIndexThatIsALinkToElsewhere) {
  const ScratchDirectory elsewhere;
  fs::rename(scratch_ / kIndex, elsewhere / "index.json");
  fs::create_symlink(elsewhere / "index.json", scratch_ / kIndex);
  EXPECT_ERROR(ModelFiles(scratch_.path()), DataError, kIndex, "a link that leads to");
}

TEST(ModelFiles, ReadsASnapshotOfTheHuggingFaceCache) {
  const ScratchDirectory scratch;
  scratch.add("hub/blobs/0a1b", shard("only", 5));
  fs::create_directories(scratch / "hub/snapshots/main");
  fs::create_symlink("../../blobs/0a1b", scratch / "hub/snapshots/main/model.safetensors");
  EXPECT_EQ(ModelFiles(scratch / "hub/snapshots/main").total_bytes(), 5u);

  // The same two steps up from a directory that is no snapshot are two steps too many.
  fs::rename(scratch / "hub/snapshots", scratch / "hub/models");
  EXPECT_ERROR(ModelFiles(scratch / "hub/models/main"), DataError, "a link that leads to", "0a1b");
}

TEST(ModelFiles, SaysWhatToDoWithoutSafetensors) {
  const ScratchDirectory scratch;
  EXPECT_ERROR(ModelFiles(scratch / "absent"), NoInputError, "absent: no such directory");
  EXPECT_ERROR(ModelFiles(scratch.add("file", "")), NoInputError, "file: no such directory");
  EXPECT_ERROR(ModelFiles(scratch.path()), NoInputError, scratch.path().native(), "directory of a Hugging Face model");
  scratch.add("model.gguf", "GGUF");
  EXPECT_ERROR(ModelFiles(scratch.path()), NoInputError, "import it first (tools/import_gguf.py)");
  scratch.add("pytorch_model.bin", "PK");
  EXPECT_ERROR(ModelFiles(scratch.path()), NoInputError, "safe_serialization=True");
}

}  // namespace
}  // namespace rankwise
