#include "trainer/text/chat_template.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "base/hash.h"
#include "tests/support/expect_error.h"
#include "tests/unit/text/small_tokenizer.h"
#include "trainer/text/tokenizer.h"

namespace rankwise::testing {
namespace {

constexpr std::chrono::sys_seconds kNoon =
    std::chrono::sys_days{std::chrono::year{2025} / 3 / 9} + std::chrono::hours(12);

const Tokenizer& tokenizer() {
  static const Tokenizer loaded = [] {
    TokenizerDirectory directory;
    directory.files.add("tokenizer_config.json", R"({"bos_token": "<s>"})");
    return directory.load();
  }();
  return loaded;
}

ChatTemplate compile(std::string source) { return {std::move(source), "chat.jinja", tokenizer(), kNoon}; }

std::string render(const std::string& source, const std::vector<ChatMessage>& messages = {{"user", "hi"}}) {
  return compile(source).render(messages, false);
}

TEST(ChatTemplate, RendersRolesAndContents) {
  const auto chat =
      compile("{% for m in messages %}[{{ m.role }}:{{ m['content'] }}]{% endfor %}{{ add_generation_prompt }}");
  EXPECT_EQ(chat.render({{"user", "a"}, {"assistant", "\u00e9\n"}}, true), "[user:a][assistant:\u00e9\n]True");
}

TEST(ChatTemplate, KnowsTheSpecialTokensThatThereAre) {
  EXPECT_EQ(render("{{ bos_token }}{{ eos_token is defined }}{{ tools is none }}"), "<s>FalseTrue");
}

TEST(ChatTemplate, ShowsTheTimeThatItWasGiven) {
  EXPECT_EQ(render("{{ strftime_now('%d %b %Y') }}|{{ strftime_now('') }}"), "09 Mar 2025|");
}

TEST(ChatTemplate, PrintsWhatAGenerationBlockHolds) {
  EXPECT_EQ(render("a\n  {%- generation %}\n b {{ messages[0].content }}\n{% endgeneration -%}\n c"), "a b hi\nc");
}

TEST(ChatTemplate, MarkupInAMessageIsNotTemplateAndNotEscaped) {
  EXPECT_EQ(render("{{ messages[0].content }}", {{"user", "{{ bos_token }}<&\">"}}), "{{ bos_token }}<&\">");
}

TEST(ChatTemplate, FingerprintIsTheHashOfItsSource) {
  EXPECT_EQ(compile("{{ bos_token }}").fingerprint(), sha256_hex("{{ bos_token }}"));
}

TEST(ChatTemplate, ServesSeveralThreadsAtOnce) {
  const auto chat = compile("{% for m in messages %}{{ m.content }}{% endfor %}");
  std::vector<std::jthread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&chat, text = std::string(1000, static_cast<char>('a' + i))] {
      for (int j = 0; j < 50; ++j) ASSERT_EQ(chat.render({{"user", text}}, false), text);
    });
  }
}

TEST(ChatTemplate, ThatDoesNotCompileNamesFileAndLine) {
  EXPECT_ERROR(compile("a\n{% if %}"), DataError, "chat.jinja:2:");
  EXPECT_ERROR(compile("{{ 'open"), DataError, "chat.jinja:1:");
  EXPECT_ERROR(compile("{% frobnicate %}"), DataError, "chat.jinja:1:", "frobnicate");
  EXPECT_ERROR(compile("\xff"), DataError, "chat.jinja", "UTF-8");
  EXPECT_ERROR(compile(std::string(1, '{') + "{ " + std::string(200000, '(')), DataError, "chat.jinja:1:");
  EXPECT_ERROR(compile(std::string((1 << 20) + 1, ' ')), DataError, "chat.jinja", "1048577 bytes");
}

TEST(ChatTemplate, PassesOnWhatItRefuses) {
  EXPECT_ERROR(render("\n\n{{ raise_exception('roles must alternate') }}"), DataError,
               "chat.jinja:3:", "roles must alternate");
}

TEST(ChatTemplate, RefusesAMessageThatIsNotUtf8) {
  EXPECT_ERROR(render("x", {{"user", "\xff"}}), DataError, "content of a message", "byte 0");
  EXPECT_ERROR(render("x", {{"\xff", "a"}}), DataError, "role of a message");
}

TEST(ChatTemplate, HasNoWayOutOfItsSandbox) {
  for (const char* source :
       {"{% include '/etc/passwd' %}", "{% import 'other' as o %}", "{% extends 'base' %}", "{{ open('/etc/passwd') }}",
        "{{ env('HOME') }}", "{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ debug() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}", "{{ 'x' | nosuchfilter }}",
        "{{ nosuchfunction() }}"}) {
    EXPECT_ERROR(render(source), DataError, "chat.jinja:1:");
  }
}

TEST(ChatTemplate, RunsOutOfFuel) {
  EXPECT_ERROR(render("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"), DataError,
               "chat.jinja:1:", "more than 1000000 steps");
  EXPECT_ERROR(render("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"), DataError, "chat.jinja");
}

TEST(ChatTemplate, WritesNoMoreThanItMay) {
  EXPECT_ERROR(render("{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}"), DataError,
               "chat.jinja: ", "longer than 33554432 bytes");
}

TEST(ChatTemplate, RunsOutOfMemoryWithoutTakingTheProcessAlong) {
  const char* doubling = "{% set n = namespace(s='x') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}";
  EXPECT_ERROR(render(doubling), DataError, "chat.jinja", "ran out of memory", "256 MiB");
  EXPECT_ERROR(render("{% set s %}{% for i in range(99999) %}{{ 'x' * 100000 }}{% endfor %}{% endset %}"), DataError,
               "ran out of memory");
  EXPECT_EQ(render("still {{ messages[0].content }}"), "still hi");
}

TEST(ChatTemplate, NestsDeeplyWithoutOverflowingTheStack) {
  const std::string nest = "{% set n = namespace(a=[]) %}{% for i in range(90000) %}{% set n.a = [n.a] %}{% endfor %}";
  EXPECT_EQ(render(nest + "done"), "done");
  EXPECT_ERROR(render(nest + "{{ n.a | tojson }}"), DataError, "deeper than 64 levels");
  EXPECT_EQ(render(nest + "{{ n.a | string | length }}"), "180002");
}

// minijinja 2.24 indexes into nothing here.
TEST(ChatTemplate, APanicInsideTheLibraryIsAnError) {
  EXPECT_ERROR(render("{{ ''[::-1] }}"), DataError, "chat.jinja", "gave up on this input");
}

}  // namespace
}  // namespace rankwise::testing
