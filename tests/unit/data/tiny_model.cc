#include "tests/unit/data/tiny_model.h"

#include <array>
#include <fstream>
#include <nlohmann/json.hpp>

namespace rankwise::testing {
namespace {

using nlohmann::json;

std::string utf8(uint32_t c) {
  if (c < 0x80) return {static_cast<char>(c)};
  return {static_cast<char>(0xC0 | (c >> 6)), static_cast<char>(0x80 | (c & 0x3F))};
}

// The alphabet of byte-level BPE: printable bytes stand for themselves, the others for U+0100 and following.
std::array<std::string, 256> byte_alphabet() {
  std::array<std::string, 256> alphabet;
  uint32_t next = 0x100;
  for (uint32_t b = 0; b < 256; ++b) {
    const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    alphabet[b] = utf8(printable ? b : next++);
  }
  return alphabet;
}

json tokenizer_json(const TinyModel& model) {
  const auto alphabet = byte_alphabet();
  json vocab = json::object();
  for (size_t b = 0; b < 256; ++b) vocab[alphabet[b]] = b;
  const std::string newline = alphabet['\n'], space = alphabet[' '];
  json merges = json::array();
  int32_t id = 256;
  for (const auto& [a, b] :
       {std::pair{newline, newline}, std::pair<std::string, std::string>{"h", "e"},
        std::pair<std::string, std::string>{"l", "l"}, std::pair<std::string, std::string>{"he", "ll"},
        std::pair<std::string, std::string>{space, "a"}}) {
    vocab[a + b] = id++;
    merges.push_back(a + " " + b);
  }
  json added = json::array();
  for (const char* text : {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>"}) {
    vocab[text] = id;
    added.push_back({{"id", id++},
                     {"content", text},
                     {"special", true},
                     {"normalized", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"single_word", false}});
  }
  json post = nullptr;
  if (model.adds_bos) {
    const json bos = {{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}};
    const json a = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}, b = {{"Sequence", {{"id", "B"}, {"type_id", 1}}}};
    post = {{"type", "TemplateProcessing"},
            {"single", {bos, a}},
            {"pair", {bos, a, b}},
            {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {kBos}}, {"tokens", {"<s>"}}}}}}};
  }
  const json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level},
          {"post_processor", post},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"vocab", vocab},
            {"merges", merges}}}};
}

}  // namespace

Tokenizer make_tiny_tokenizer(const std::filesystem::path& dir, const TinyModel& model) {
  std::ofstream(dir / "tokenizer.json") << tokenizer_json(model).dump();
  json config = {{"bos_token", "<s>"}, {"tokenizer_class", "PreTrainedTokenizerFast"}};
  if (!model.eos_token.empty()) config["eos_token"] = model.eos_token;
  std::ofstream(dir / "tokenizer_config.json") << config.dump();
  return Tokenizer::load(dir);
}

ChatTemplate make_chat_ml(const Tokenizer& tokenizer) {
  return ChatTemplate(
      "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
      "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
      "chat_ml", tokenizer);
}

}  // namespace rankwise::testing
