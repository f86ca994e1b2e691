#include "base/json.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/support/expect_error.h"

namespace rankwise {
namespace {

using nlohmann::json;

TEST(ParseJson, ReadsWhatTheStockParserReads) {
  for (const char* text : {"{}", " [ ] ", "null", "true", "-0", "1e3", "18446744073709551615", "-9223372036854775808",
                           R"({"a":[1,-2,3.5,"x",{"b":null}],"c":{"":"\u00e9\ud83d\ude00\n"}})", "\"\\u0000\""}) {
    EXPECT_EQ(parse_json(text, "x"), json::parse(text)) << text;
  }
}

struct BadJson {
  std::string text;
  std::string message;  // its beginning, after "x.json"
};

TEST(ParseJson, RefusesWithThePlace) {
  const std::string nul("[1]\0", 4);
  const BadJson cases[] = {
      {"", ":1:1: syntax error"},
      {"{", ":1:1: syntax error"},
      {"[1,]", ":1:4: syntax error"},
      {"{} {}", ":1:4: syntax error"},
      {"// x\n{}", ":1:1: syntax error"},
      {"{'a':1}", ":1:2: syntax error"},
      {R"({"a":1,"b":2,"a":1})", ":1:16: duplicate key"},
      {"{\"k\":\n {\"a\":1,\n  \"a\":2}}", ":3:5: duplicate key"},
      {"[18446744073709551616]", ":1:22: integer out of range"},
      {"[-9223372036854775809]", ":1:22: integer out of range"},
      {"[1e999]", ":1:7: number out of range"},
      {"[NaN]", ":1:2: syntax error"},
      {"[Infinity]", ":1:2: syntax error"},
      {"[010]", ":1:5: syntax error"},
      {"[.5]", ":1:2: syntax error"},
      {"\xEF\xBB\xBF{}", ":1:1: begins with a byte-order mark"},
      {nul, ":1:4: NUL byte"},
      {"[\"\xC3\x28\"]", ":1:4: syntax error while parsing value - invalid string: ill-formed UTF-8"},
      {"[\"\xC0\xAF\"]", ":1:3: syntax error while parsing value - invalid string: ill-formed UTF-8"},
      {"[\"\xED\xA0\x80\"]", ":1:4: syntax error while parsing value - invalid string: ill-formed UTF-8"},
      {R"(["\ud800"])", ":1:9: syntax error"},
      {"[\"\n\"]", ":1:3: syntax error"},
      {std::string(65, '[') + std::string(65, ']'), ":1:65: nested deeper than 64 levels"},
      {std::string(1'000'000, '['), ":1:65: nested deeper than 64 levels"},
  };
  for (const BadJson& bad : cases) {
    try {
      parse_json(bad.text, "x.json");
      ADD_FAILURE() << "accepted: " << bad.text.substr(0, 80);
    } catch (const DataError& e) {
      EXPECT_TRUE(std::string_view(e.what()).starts_with("x.json" + bad.message))
          << e.what() << "\nfor " << bad.message;
    }
  }
}

TEST(ParseJson, AcceptsTheDeepestLevelAllowed) {
  EXPECT_NO_THROW(parse_json(std::string(64, '[') + std::string(64, ']'), "x"));
}

TEST(ParseJson, KeepsTheTextOutOfTheMessage) {
  for (const char* text : {R"({"a": SECRET})", R"(["SECRET)", R"({"SECRET":1,"SECRET":2})", R"(["x" "SECRET"])",
                           R"(["SECRET; last read: SECRET; expected SECRET" 1])"}) {
    try {
      parse_json(text, "x");
      ADD_FAILURE() << text;
    } catch (const DataError& e) {
      EXPECT_EQ(std::string_view(e.what()).find("SECRET"), std::string_view::npos) << e.what();
    }
  }
}

TEST(ParseJson, HoldsItsLimits) {
  EXPECT_ERROR(parse_json("[1,2]", "x", {.max_bytes = 4}), DataError, "5 bytes", "at most 4");
  EXPECT_NO_THROW(parse_json("[1,2]", "x", {.max_values = 3}));
  EXPECT_ERROR(parse_json("[1,2]", "x", {.max_values = 2}), DataError, "x:1:5", "too many values");
}

TEST(JsonUint, TakesExactIntegersOnly) {
  EXPECT_EQ(json_uint(parse_json("0", "x"), "n"), 0u);
  EXPECT_EQ(json_uint(parse_json("9007199254740992", "x"), "n"), 1ull << 53);
  EXPECT_EQ(json_uint(json(7), "n"), 7u);  // made by code, as a signed number
  for (const char* text :
       {"-1", "1.5", "1.0", "1e3", "9007199254740993", "18446744073709551615", "\"1\"", "true", "null", "[1]"}) {
    EXPECT_ERROR(json_uint(parse_json(text, "x"), "n"), DataError, "n: ");
  }
}

}  // namespace
TEST(JsonTest, WideIntegersAreDoublesWhereAskedFor) {
  const auto value =
      parse_json("[1000000000000000019884624838656]", "tokenizer_config.json", {.wide_integers_as_double = true});
  EXPECT_DOUBLE_EQ(value[0].get<double>(), 1e30);
  EXPECT_THROW(json_uint(value[0], "model_max_length"), DataError);
}

}  // namespace rankwise
