// Each malformed or hostile tokenizer.json is refused with the place and the reason, before the library sees it.
#include "trainer/text/tokenizer_rules.h"

#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "tests/support/expect_error.h"
#include "tests/unit/text/small_tokenizer.h"
#include "trainer/text/known_patterns.h"

namespace rankwise::testing {
namespace {

using nlohmann::json;

struct BadFile {
  const char* name;
  std::function<void(json&)> bend;
  std::string message;
};

json split(const std::string& regex) {
  return {{"type", "Split"}, {"pattern", {{"Regex", regex}}}, {"behavior", "Isolated"}, {"invert", false}};
}
json replace(const json& pattern, const std::string& content) {
  return {{"type", "Replace"}, {"pattern", pattern}, {"content", content}};
}

const BadFile kBadFiles[] = {
    {"NotAnObject", [](json& t) { t = json::array(); }, "t.json: array, expected an object"},
    {"NoModel", [](json& t) { t.erase("model"); }, "t.json: model: null, expected an object"},
    {"UnknownModel", [](json& t) { t["model"]["type"] = "Magic"; }, "unknown type \"Magic\""},
    {"VocabularyIsText", [](json& t) { t["model"]["vocab"] = "x"; }, "\"vocab\" is string"},
    {"EmptyVocabulary",
     [](json& t) {
       t["model"]["vocab"] = json::object();
       t["model"]["merges"] = t["added_tokens"] = json::array();
     },
     "the vocabulary is empty"},
    {"NegativeId", [](json& t) { t["model"]["vocab"]["a"] = -1; }, "id of \"a\""},
    {"FractionalId", [](json& t) { t["model"]["vocab"]["a"] = 1.5; }, "found 1.5"},
    {"IdAsText", [](json& t) { t["model"]["vocab"]["a"] = "1"; }, "found string"},
    {"IdTooLarge", [](json& t) { t["model"]["vocab"]["a"] = 1u << 31; }, "has id 2147483648, the limit is 4194304"},
    {"SparseIds", [](json& t) { t["model"]["vocab"]["a"] = 4000000; }, "largest id is 4000000: the ids are sparse"},
    {"TwoTokensOneId", [](json& t) { t["model"]["vocab"]["a"] = 2; }, "id 2 belongs to two tokens"},
    {"AddedTokenTakesAnId", [](json& t) { t["added_tokens"][0]["id"] = 3; }, "id 3 belongs to two tokens"},
    {"AddedTokenWithASecondId", [](json& t) { t["added_tokens"].push_back(added_token("ab", 12)); },
     "token \"ab\" has two ids, 4 and 12"},
    {"AddedTokensAreText", [](json& t) { t["added_tokens"] = "x"; }, "added_tokens: string, expected a list"},
    {"EmptyAddedToken", [](json& t) { t["added_tokens"][0]["content"] = ""; }, "added_tokens[0]: the token is empty"},
    {"SameAddedTokenTwice", [](json& t) { t["added_tokens"].push_back(added_token("<s>", 10)); },
     "added_tokens[2]: token \"<s>\" is already entry 0"},
    {"MergeOfAnUnknownToken", [](json& t) { t["model"]["merges"].push_back("a z"); },
     "merges[2]: token \"z\" is not in the vocabulary"},
    {"MergeIntoAnUnknownToken",
     [](json& t) {
       t["model"]["merges"].push_back(json::array({"b", "a"}));
     },
     "merges[2]: token \"ba\" is not in the vocabulary"},
    {"MergeOfOneToken", [](json& t) { t["model"]["merges"].push_back("a"); }, "is not two tokens"},
    {"MergeOfThree",
     [](json& t) {
       t["model"]["merges"].push_back(json::array({"a", "b", "c"}));
     },
     "neither \"a b\" nor"},
    {"MergeShorterThanItsPrefix", [](json& t) { t["model"]["continuing_subword_prefix"] = "##"; },
     "\"b\" lacks the prefix \"##\""},
    {"NoMerges", [](json& t) { t["model"].erase("merges"); }, "merges: null, expected a list"},
    {"UnigramPieceWithoutScore",
     [](json& t) {
       t["model"] = {{"type", "Unigram"}, {"vocab", json::array({json::array({"a", -1.0}), json::array({"b"})})}};
     },
     "entry 1 is not a pair"},
    {"UnknownTokenThatIsUnknown", [](json& t) { t["model"]["unk_token"] = "?"; }, "unk_token: token \"?\" is not in"},
    {"UnigramUnknownIdBehindTheEnd",
     [](json& t) {
       t["model"] = {{"type", "Unigram"}, {"unk_id", 3}, {"vocab", json::array({json::array({"a", -1.0})})}};
     },
     "unk_id 3"},
    {"UnknownPattern", [](json& t) { t["pre_tokenizer"] = split("(a+)+$"); }, "pre_tokenizer(Split): the pattern"},
    {"UnknownPatternDeepInside",
     [](json& t) {
       t["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {split("\\s+"), split("(x+x+)+y")}}};
     },
     "pre_tokenizer(Sequence)(Split): the pattern \"(x+x+)+y\""},
    {"UnknownPatternInTheDecoder",
     [](json& t) {
       t["decoder"] = replace({{"Regex", "(a|a)*b"}}, "");
     },
     "decoder(Replace): the pattern"},
    {"ReplacementThatDoubles",
     [](json& t) {
       t["normalizer"] = replace({{"String", "a"}}, "aa");
     },
     "replaces 1 characters by 2"},
    {"ReplacementOfNothing",
     [](json& t) {
       t["normalizer"] = replace({{"String", ""}}, "");
     },
     "replaces 0 characters by 0"},
    {"ComponentWithoutType",
     [](json& t) {
       t["pre_tokenizer"] = {{"length", 0}};
     },
     "\"type\" is null"},
    {"ChunksOfNothing",
     [](json& t) {
       t["pre_tokenizer"] = {{"type", "FixedLength"}, {"length", 0}};
     },
     "pre_tokenizer(FixedLength): length 0"},
};

class BadTokenizerFile : public ::testing::TestWithParam<BadFile> {};

TEST_P(BadTokenizerFile, IsRefusedWithPlaceAndReason) {
  json file = small_tokenizer();
  GetParam().bend(file);
  EXPECT_ERROR(check_tokenizer_json(file, "t.json"), DataError, "t.json", GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(All, BadTokenizerFile, ::testing::ValuesIn(kBadFiles),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(TokenizerRules, TakeTheSmallTokenizer) { EXPECT_NO_THROW(check_tokenizer_json(small_tokenizer(), "t.json")); }

TEST(TokenizerRules, TakeBothSpellingsOfMerges) {
  json file = small_tokenizer();
  file["model"]["merges"] = json::array({json::array({"a", "b"}), json::array({"ab", "c"})});
  EXPECT_NO_THROW(check_tokenizer_json(file, "t.json"));
}

TEST(TokenizerRules, TakeAnAddedTokenThatIsInTheVocabularyToo) {
  json file = small_tokenizer();
  file["added_tokens"].push_back(added_token("<unk>", 0));
  EXPECT_NO_THROW(check_tokenizer_json(file, "t.json"));
}

TEST(TokenizerRules, TakeAReplacementThatOnlyTakesMoreBytes) {
  json file = small_tokenizer();
  file["normalizer"] = replace({{"String", " "}}, "\u2581");
  EXPECT_NO_THROW(check_tokenizer_json(file, "t.json"));
}

TEST(TokenizerRules, ShortenAHugeTokenInTheMessage) {
  json file = small_tokenizer();
  file["model"]["vocab"][std::string(100000, 'x')] = 2;
  try {
    check_tokenizer_json(file, "t.json");
    FAIL() << "accepted";
  } catch (const DataError& error) {
    EXPECT_LT(std::string_view(error.what()).size(), 300u);
  }
}

TEST(KnownPatterns, MatchLetterForLetter) {
  EXPECT_TRUE(is_known_pattern(R"(\p{N}{1,3})"));
  EXPECT_FALSE(is_known_pattern(R"(\p{N}{1,4})"));
  EXPECT_FALSE(is_known_pattern(R"(\p{N}{1,3} )"));
  EXPECT_FALSE(is_known_pattern(""));
}

}  // namespace
}  // namespace rankwise::testing
