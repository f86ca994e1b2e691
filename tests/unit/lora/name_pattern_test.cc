#include "trainer/lora/name_pattern.h"

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"

namespace rankwise {
namespace {

TEST(NamePattern, WholeMatchMustReachTheEnd) {
  const NamePattern pattern("q_proj|q_proj_extra", "here");
  EXPECT_TRUE(pattern.matches_whole("q_proj"));
  EXPECT_TRUE(pattern.matches_whole("q_proj_extra"));  // tries the second branch after the first fell short
  EXPECT_FALSE(pattern.matches_whole("q_proj_ext"));
  EXPECT_FALSE(pattern.matches_whole("a.q_proj"));
}

TEST(NamePattern, StartMatchMayStopEarly) {
  const NamePattern pattern("model", "here");
  EXPECT_TRUE(pattern.matches_start("model.layers"));
  EXPECT_FALSE(pattern.matches_start("my.model"));
}

TEST(NamePattern, CapturesANamedGroup) {
  const NamePattern pattern(R"((?:layers\.(?P<idx>\d+)|other))", "here");
  EXPECT_EQ(pattern.capture("layers.12.x", "idx"), "12");
  EXPECT_EQ(pattern.capture("other", "idx"), std::nullopt);
  EXPECT_EQ(pattern.capture("nothing", "idx"), std::nullopt);
  EXPECT_EQ(pattern.capture("layers.1", "absent"), std::nullopt);
}

TEST(NamePattern, BadSyntaxNamesPlacePatternAndPosition) {
  EXPECT_ERROR(NamePattern("q_(proj", "lora.target_modules"), ConfigError,
               "lora.target_modules: \"q_(proj\" is not a regular expression", "position 7");
}

// Python reads {,2} as {0,2}; PCRE2 10.42 reads it as four characters.
TEST(NamePattern, RefusesWhatPythonWouldReadDifferently) {
  EXPECT_THROW(NamePattern("a{,2}", "here"), ConfigError);
  EXPECT_TRUE(NamePattern("a{0,2}", "here").matches_whole("aa"));
}

TEST(NamePattern, AHostilePatternIsAnErrorAndNotAStall) {
  const std::string name(60, 'a');
  for (const char* hostile : {"(a+)+[bc]", "(a|aa)+[bc]", "(a*)*[bc]", "(.*)(.*)(.*)(.*)(.*)(.*)[xy]", "(a(?1)?)+[bc]"})
    EXPECT_ERROR(NamePattern(hostile, "here").matches_whole(name), ConfigError, "here: ", hostile, "simpler pattern");
  // Some hundred thousand steps: quick, but a model has thousands of modules.
  EXPECT_ERROR(NamePattern("(a|aa)+[bc]", "here").matches_whole(name.substr(0, 27)), ConfigError, "simpler pattern");
  EXPECT_THROW(NamePattern(std::string(1 << 20, 'a'), "here"), ConfigError);
  EXPECT_THROW(NamePattern("((((a{1,200}){1,200}){1,200}){1,200})", "here"), ConfigError);
  EXPECT_THROW(NamePattern("\xff", "here"), ConfigError);
}

}  // namespace
}  // namespace rankwise
