// The bridge between the text room and the Python parity tests: one JSON object a line in, one a line out.
//   text_tool encode DIR     {"text", "add_special_tokens", "as_text"}            -> {"ids", "begins", "ends"}
//   text_tool decode DIR     {"ids", "skip_special_tokens"}                       -> {"text"}
//   text_tool render DIR     {"messages", "add_generation_prompt"}                -> {"text"}
//   text_tool info DIR       (nothing on stdin)                                   -> {"vocab_size", "bos_token", ...}
// An input that is refused gives {"error": message}. A directory that is refused ends the program with its exit code.
#include <fmt/format.h>

#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "trainer/text/chat_template.h"
#include "trainer/text/tokenizer.h"

namespace rankwise {
namespace {

using nlohmann::json;

json encode(const Tokenizer& tokenizer, const json& request) {
  const auto special = request.at("as_text").get<bool>() ? SpecialTokens::kAsText : SpecialTokens::kRecognise;
  const auto encoding =
      tokenizer.encode(request.at("text").get<std::string>(), request.at("add_special_tokens").get<bool>(), special);
  return {{"ids", encoding.ids}, {"begins", encoding.begins}, {"ends", encoding.ends}};
}

json decode(const Tokenizer& tokenizer, const json& request) {
  const auto ids = request.at("ids").get<std::vector<int32_t>>();
  return {{"text", tokenizer.decode(ids, request.at("skip_special_tokens").get<bool>())}};
}

json render(const ChatTemplate& chat_template, const json& request) {
  std::vector<ChatMessage> messages;
  for (const json& message : request.at("messages")) {
    messages.push_back({message.at("role").get<std::string>(), message.at("content").get<std::string>()});
  }
  return {{"text", chat_template.render(messages, request.at("add_generation_prompt").get<bool>())}};
}

json info(const Tokenizer& tokenizer) {
  return {{"vocab_size", tokenizer.vocab_size()}, {"special_tokens", tokenizer.special_tokens()},
          {"bos_token", tokenizer.bos_token()},   {"eos_token", tokenizer.eos_token()},
          {"pad_token", tokenizer.pad_token()},   {"unk_token", tokenizer.unk_token()}};
}

template <typename Answer>
void answer_lines(const Answer& answer) {
  for (std::string line; std::getline(std::cin, line);) {
    json reply;
    try {
      reply = answer(json::parse(line));
    } catch (const Error& error) {
      reply = {{"error", error.what()}};
    }
    std::cout << reply.dump() << '\n';
  }
}

void serve(const std::string& command, const std::string& directory) {
  const Tokenizer tokenizer = Tokenizer::load(directory);
  if (command == "info") {
    std::cout << info(tokenizer).dump() << '\n';
  } else if (command == "encode") {
    answer_lines([&](const json& request) { return encode(tokenizer, request); });
  } else if (command == "decode") {
    answer_lines([&](const json& request) { return decode(tokenizer, request); });
  } else if (command == "render") {
    if (!tokenizer.chat_template()) throw DataError(directory + ": has no chat template");
    const ChatTemplate chat_template(*tokenizer.chat_template(), directory, tokenizer);
    answer_lines([&](const json& request) { return render(chat_template, request); });
  } else {
    throw UsageError("text_tool: unknown command " + command);
  }
}

}  // namespace
}  // namespace rankwise

int main(int argc, char** argv) {
  try {
    if (argc != 3) throw rankwise::UsageError("usage: text_tool encode|decode|render|info DIR");
    rankwise::serve(argv[1], argv[2]);
    return 0;
  } catch (const rankwise::Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return static_cast<int>(error.code());
  }
}
