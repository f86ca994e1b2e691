#include "trainer/text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ctime>
#include <functional>
#include <nlohmann/json.hpp>
#include <thread>

#include "tests/support/expect_error.h"
#include "tests/unit/text/small_tokenizer.h"

namespace rankwise::testing {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;

std::vector<int32_t> ids(const Tokenizer& tokenizer, std::string_view text,
                         SpecialTokens special = SpecialTokens::kRecognise) {
  return tokenizer.encode(text, false, special).ids;
}

TEST(Tokenizer, EncodesAndDecodes) {
  const Tokenizer tokenizer = TokenizerDirectory().load();
  EXPECT_THAT(ids(tokenizer, "abc ab"), ElementsAre(5, 6, 4));
  EXPECT_EQ(tokenizer.decode({5, 6, 4}, false), "abc ab");
  EXPECT_THAT(ids(tokenizer, ""), ElementsAre());
  EXPECT_EQ(tokenizer.decode({}, false), "");
}

TEST(Tokenizer, GivesByteRanges) {
  const auto encoding = TokenizerDirectory().load().encode("a\u00e9\U0001F600ab", false, SpecialTokens::kRecognise);
  EXPECT_THAT(encoding.ids, ElementsAre(1, 0, 0, 4));
  EXPECT_THAT(encoding.begins, ElementsAre(0, 1, 3, 7));
  EXPECT_THAT(encoding.ends, ElementsAre(1, 3, 7, 9));
}

TEST(Tokenizer, AddsSpecialTokensOnlyOnRequest) {
  const Tokenizer tokenizer = TokenizerDirectory().load();
  EXPECT_THAT(tokenizer.encode("a", true, SpecialTokens::kRecognise).ids, ElementsAre(10, 1));
  EXPECT_THAT(tokenizer.encode("a", false, SpecialTokens::kRecognise).ids, ElementsAre(1));
}

TEST(Tokenizer, SpecialTokensThatAUserWroteStayText) {
  const Tokenizer tokenizer = TokenizerDirectory().load();
  EXPECT_THAT(ids(tokenizer, "<s>", SpecialTokens::kRecognise), ElementsAre(10));
  EXPECT_THAT(ids(tokenizer, "<s>", SpecialTokens::kAsText), ElementsAre(7, 8, 9));
  // Only what the file marks special is text: the switch of the library, as transformers' split_special_tokens.
  EXPECT_THAT(ids(tokenizer, "<tool>", SpecialTokens::kAsText), ElementsAre(11));
}

json piece(const char* token, double score) { return json::array({token, score}); }

TEST(Tokenizer, RefusesTextInWhichItCannotTellASpecialTokenFromItsSpelling) {
  json file = small_tokenizer();
  file["model"] = {{"type", "Unigram"},
                   {"unk_id", 0},
                   {"vocab", json::array({piece("<unk>", 0), piece("a", -1), piece("</s>", 0)})}};
  file["added_tokens"] = {added_token("</s>", 2)};
  file["post_processor"] = nullptr;
  const Tokenizer tokenizer = TokenizerDirectory(file).load();
  EXPECT_THAT(ids(tokenizer, "a", SpecialTokens::kAsText), ElementsAre(1));
  EXPECT_ERROR(ids(tokenizer, "a</s>", SpecialTokens::kAsText), DataError, "bytes 1 to 5", "\"</s>\"");
}

TEST(Tokenizer, SkipsSpecialTokensWhileDecodingOnRequest) {
  const Tokenizer tokenizer = TokenizerDirectory().load();
  EXPECT_EQ(tokenizer.decode({10, 1}, false), "<s>a");
  EXPECT_EQ(tokenizer.decode({10, 1}, true), "a");
}

TEST(Tokenizer, KnowsItsVocabulary) {
  const Tokenizer tokenizer = TokenizerDirectory().load();
  EXPECT_EQ(tokenizer.vocab_size(), 12);
  EXPECT_EQ(tokenizer.id_of("ab"), 4);
  EXPECT_EQ(tokenizer.id_of("<s>"), 10);
  EXPECT_EQ(tokenizer.id_of("ba"), std::nullopt);
  EXPECT_THAT(tokenizer.special_tokens(), ElementsAre("<s>"));
}

TEST(Tokenizer, ReadsTheNamesOfTokensAsTextOrAsObjects) {
  TokenizerDirectory directory;
  directory.files.add("tokenizer_config.json",
                      R"({"bos_token": "<s>", "eos_token": {"__type": "AddedToken", "content": "<tool>"},
                          "pad_token": null})");
  const Tokenizer tokenizer = directory.load();
  EXPECT_EQ(tokenizer.bos_token(), "<s>");
  EXPECT_EQ(tokenizer.eos_token(), "<tool>");
  EXPECT_EQ(tokenizer.pad_token(), "");
  EXPECT_EQ(tokenizer.unk_token(), "");
  EXPECT_THAT(tokenizer.special_tokens(), ElementsAre("<s>", "<tool>"));  // a name makes it special
}

TEST(Tokenizer, ReadsTheSpecialTokensMap) {
  TokenizerDirectory directory;
  directory.files.add("special_tokens_map.json", R"({"pad_token": "<s>"})");
  EXPECT_EQ(directory.load().pad_token(), "<s>");
}

TEST(Tokenizer, IgnoresTruncationAndPaddingOfTheFile) {
  json file = small_tokenizer();
  file["truncation"] = {{"max_length", 2}, {"stride", 5}, {"strategy", "LongestFirst"}, {"direction", "Right"}};
  file["padding"] = {
      {"strategy", {{"Fixed", 8}}}, {"direction", "Right"}, {"pad_to_multiple_of", nullptr}, {"pad_id", 0},
      {"pad_type_id", 0},           {"pad_token", "<unk>"}};
  EXPECT_THAT(ids(TokenizerDirectory(file).load(), "a a a"), ElementsAre(1, 6, 1, 6, 1));
}

TEST(Tokenizer, FingerprintChangesWithAnyFile) {
  TokenizerDirectory directory;
  const auto before = directory.load().fingerprint();
  EXPECT_EQ(before.size(), 64u);
  EXPECT_EQ(directory.load().fingerprint(), before);
  directory.files.add("tokenizer_config.json", R"({"bos_token": "<s>"})");
  const auto with_config = directory.load().fingerprint();
  directory.files.add("chat_template.jinja", "x");
  EXPECT_NE(with_config, before);
  EXPECT_NE(directory.load().fingerprint(), with_config);
}

TEST(Tokenizer, ServesSeveralThreadsAtOnce) {
  const Tokenizer tokenizer = TokenizerDirectory().load();
  const auto work = [&] {
    for (int i = 0; i < 500; ++i) {
      ASSERT_THAT(ids(tokenizer, "abc<s>", SpecialTokens::kAsText), ElementsAre(5, 7, 8, 9));
      ASSERT_THAT(ids(tokenizer, "abc<s>"), ElementsAre(5, 10));
    }
  };
  std::vector<std::jthread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back(work);
}

// Processor time, so that a busy machine does not matter.
double seconds_to_encode(const Tokenizer& tokenizer, size_t num_letters) {
  const std::string text(num_letters, 'a');
  const std::clock_t begin = std::clock();
  EXPECT_EQ(ids(tokenizer, text), std::vector<int32_t>(num_letters, 1));
  return static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
}

TEST(Tokenizer, TimeGrowsWithTheTextAndNotWithItsSquare) {
  const Tokenizer tokenizer = TokenizerDirectory().load();
  const double eighth = seconds_to_encode(tokenizer, 1 << 17);
  EXPECT_LT(seconds_to_encode(tokenizer, 1 << 20), 24 * eighth);  // linear: 8, quadratic: 64
}

TEST(Tokenizer, MergesAMegabyteAllTheWay) {
  json file = small_tokenizer();
  std::string token = "a";
  for (int64_t id = 12; id < 28; ++id) {  // a a, aa aa, ... up to 65,536 letters
    file["model"]["merges"].push_back(token + " " + token);
    token += token;
    file["model"]["vocab"][token] = id;
  }
  const Tokenizer tokenizer = TokenizerDirectory(file).load();
  EXPECT_THAT(ids(tokenizer, std::string(1 << 20, 'a')), ElementsAreArray(std::vector<int32_t>(16, 27)));
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8) {
  const Tokenizer tokenizer = TokenizerDirectory().load();
  for (const char* text : {"ab\xff", "ab\xc0\x80", "ab\xed\xa0\x80", "ab\xf4\x90\x80\x80", "ab\xe2\x82"}) {
    EXPECT_ERROR(ids(tokenizer, text), DataError, "not valid UTF-8 at byte 2");
  }
}

TEST(Tokenizer, RefusesANegativeIdAndSkipsAnUnknownOne) {
  const Tokenizer tokenizer = TokenizerDirectory().load();
  EXPECT_ERROR(tokenizer.decode({1, -5}, false), DataError, "id -5 at position 1");
  EXPECT_EQ(tokenizer.decode({1, 2000000000, 2}, false), "ab");
}

TEST(TokenizerFile, ThatIsAbsentIsNoInput) {
  const ScratchDirectory empty;
  EXPECT_ERROR(Tokenizer::load(empty.path()), NoInputError, "tokenizer.json");
}

TEST(TokenizerFile, WithDefectsIsRefusedWithItsPath) {
  const auto refused = [](std::string_view text, std::string_view reason) {
    ScratchDirectory directory;
    const auto path = directory.add("tokenizer.json", text);
    EXPECT_ERROR(Tokenizer::load(directory.path()), DataError, path.native(), reason);
  };
  refused("", "tokenizer.json");
  refused("{", "tokenizer.json");
  refused(R"({"model": {}, "model": {}})", "duplicate key");
  refused(std::string(100000, '['), "deep");
  refused("\xff", "tokenizer.json");
}

TEST(TokenizerFile, LargerThan64MiBIsNotRead) {
  ScratchDirectory directory;
  std::filesystem::resize_file(directory.add("tokenizer.json", ""), (64u << 20) + 1);
  EXPECT_ERROR(Tokenizer::load(directory.path()), DataError, "tokenizer.json", "67108864");
}

// What the library itself finds wrong, or would panic about, reaches us as an error too.
TEST(TokenizerFile, ThatTheLibraryRefusesIsADataError) {
  const auto refused = [](const std::function<void(json&)>& bend, std::string_view reason) {
    json file = small_tokenizer();
    bend(file);
    const TokenizerDirectory directory(file);
    const auto path = directory.files / "tokenizer.json";
    EXPECT_ERROR(directory.load(), DataError, path.native(), reason);
  };
  refused([](json& t) { t["version"] = "9.0"; }, "9.0");
  refused([](json& t) { t["pre_tokenizer"] = {{"type", "Magic"}}; }, "PreTokenizer");
  refused([](json& t) { t["added_tokens"].push_back(added_token("<new>", 20)); },
          "\"<new>\" is listed with id 20, but the vocabulary leads to id 12");
  refused([](json& t) { t["post_processor"]["special_tokens"] = json::object(); }, "text library gave up");
  refused([](json& t) { t["post_processor"]["special_tokens"]["<s>"]["ids"] = {99}; }, "adds id 99");
}

TEST(TokenizerFile, WithAGarbledCharacterMapDoesNoHarm) {
  for (const char* charsmap : {"", "AA==", "/////w==", "AAAAAP////8=", "not base64!"}) {
    json file = small_tokenizer();
    file["normalizer"] = {{"type", "Precompiled"}, {"precompiled_charsmap", charsmap}};
    const TokenizerDirectory directory(file);
    try {
      ids(directory.load(), "a\u00e9\u3000");
    } catch (const DataError&) {  // refused is as good as harmless
    }
  }
}

TEST(TokenizerFile, WithStrangeByteTokensDecodesWithoutHarm) {
  json file = small_tokenizer();
  file["decoder"] = {{"type", "ByteFallback"}};
  int64_t id = 12;
  for (const char* token : {"<0x-1>", "<0xZZ>", "<0x+1>", "<0x>", "<0xFF"}) file["model"]["vocab"][token] = id++;
  const Tokenizer tokenizer = TokenizerDirectory(file).load();
  EXPECT_EQ(tokenizer.decode({12, 13, 15, 16}, false), "<0x-1><0xZZ><0x><0xFF");
}

TEST(TokenizerConfig, WithDefectsIsRefusedWithItsPath) {
  const auto refused = [](std::string_view text, std::string_view reason) {
    const TokenizerDirectory directory;
    const auto path = directory.files.add("tokenizer_config.json", text);
    EXPECT_ERROR(directory.load(), DataError, path.native(), reason);
  };
  refused("[]", "array, expected an object");
  refused(R"({"bos_token": 1})", "bos_token: number");
  refused(R"({"bos_token": ""})", "bos_token: string");
  refused(R"({"bos_token": {"content": ""}})", "bos_token: object");
  refused(R"({"additional_special_tokens": [[]]})", "additional_special_tokens: array");
  refused(R"({"added_tokens_decoder": []})", "added_tokens_decoder: array");
  refused(R"({"added_tokens_decoder": {"x": {"content": "y"}}})", "\"x\": the key is not a token id");
  refused(R"({"chat_template": 1})", "chat_template: number");
  refused(R"({"chat_template": [{"name": "rag", "template": "x"}]})", "none of the 1 templates is named \"default\"");
}

TEST(TokenizerConfig, GivesTheChatTemplate) {
  TokenizerDirectory directory;
  EXPECT_EQ(directory.load().chat_template(), std::nullopt);
  directory.files.add("tokenizer_config.json", R"({"chat_template": "one"})");
  EXPECT_EQ(directory.load().chat_template(), "one");
  directory.files.add(
      "tokenizer_config.json",
      R"({"chat_template": [{"name": "rag", "template": "x"}, {"name": "default", "template": "two"}]})");
  EXPECT_EQ(directory.load().chat_template(), "two");
  directory.files.add("chat_template.jinja", "three");
  EXPECT_EQ(directory.load().chat_template(), "three");
}

}  // namespace
}  // namespace rankwise::testing
