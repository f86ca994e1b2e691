// What a configuration file must not be able to say: each with its line, its key and a reason.
#include <gtest/gtest.h>

#include <chrono>

#include "tests/unit/configs/support.h"

namespace rankwise {
namespace {

struct BadInput {
  const char* name;
  std::string text;     // appended to kMinimal, so that its first line is line 5
  std::string message;  // how the error begins, after "FILE:"
};

void PrintTo(const BadInput& input, std::ostream* stream) { *stream << input.name; }

std::string repeated(std::string_view text, int count) {
  std::string result;
  for (int i = 0; i < count; ++i) result += text;
  return result;
}

class RefusedInput : public testing::TestWithParam<BadInput> {};

TEST_P(RefusedInput, NamesLineKeyAndReason) {
  const std::string error = error_of(std::string(kMinimal) + GetParam().text);
  EXPECT_EQ(error.substr(0, 5 + GetParam().message.size()), "FILE:" + GetParam().message) << error;
}

const std::vector<BadInput> kSyntax = {
    {"unknown_section", "loar: {r: 3}\n", "5: loar: unknown key; nearest: lora"},
    {"unknown_key_before_wrong_value", "lora: {r: x}\ncomms:\n  time: 3\n", "7: comms.time: unknown key; nearest: "},
    {"duplicate_section", "comms: {}\nlora: {}\ncomms: {}\n", "7: comms: given twice, first at FILE:5; keep one"},
    {"duplicate_key", "lora:\n  r: 4\n  lora_alpha: 4\n  r: 8\n", "8: lora.r: given twice, first at FILE:6; keep one"},
    {"duplicate_in_flow", "lora: {r: 4, \"r\": 8}\n", "5: lora.r: given twice"},
    {"tab_indent", "lora:\n\tr: 8\n", "6: a tab character; indent with spaces"},
    {"tab_between", "lora: {r:\t8}\n", "5: a tab character"},
    {"second_document", "lora: {r: 8}\n---\nlora: {r: 4}\n", "6: a second document begins here; keep one"},
    {"second_empty_document", "---\n", "5: a second document begins here"},
    {"after_document_end", "...\nlora: {r: 4}\n", "6: a second document begins here"},
    {"anchor", "lora: &x {r: 8}\n", "5: lora: anchors and aliases are not allowed; write the value out"},
    {"anchor_on_scalar", "lora:\n  r: &x 8\n", "6: lora.r: anchors and aliases"},
    {"anchor_on_null", "lora:\n  init_adapter: &x\n", "6: lora.init_adapter: anchors and aliases"},
    {"alias_unknown", "lora:\n  r: *x\n", "6: not valid YAML: the referenced anchor is not defined"},
    {"alias_bomb", "a: &a [x, x]\nb: &b [*a, *a]\n", "5: a: anchors and aliases"},
    {"merge_key", "lora: {<<: {r: 3}}\n", "5: lora.<<: unknown key"},
    {"tag_python", "lora:\n  r: !!python/object/apply:os.system [ls]\n", "6: lora.r: tags are not allowed"},
    {"tag_int", "lora: {r: !!int \"8\"}\n", "5: lora.r: tags are not allowed"},
    {"tag_own", "lora: !mine {r: 8}\n", "5: lora: tags are not allowed"},
    {"bad_utf8", "lora: {r: 8}\n# \xC3\x28\n", "6: not valid UTF-8; save the file as UTF-8"},
    {"overlong_utf8", "# \xC0\xAF\n", "5: not valid UTF-8"},
    {"surrogate_utf8", "# \xED\xA0\x80\n", "5: not valid UTF-8"},
    {"truncated_utf8", "# \xE2\x82", "5: not valid UTF-8"},
    {"nul", std::string("# a\0b\n", 6), "5: a control character"},
    {"escape_code", "# \x1B[31m\n", "5: a control character"},
    {"lone_carriage_return", "# a\rlora: {}\n", "5: a control character"},
    {"unclosed_flow", "lora: {r: 8\n", "6: not valid YAML: "},
    {"unclosed_quote", "lora: {r: \"8\n", "6: not valid YAML: "},
    {"bad_indent", "lora:\n  r: 8\n lora_alpha: 3\n", "7: not valid YAML: "},
    {"value_with_colon", "run2: a: b\n", "5: not valid YAML: "},
    {"list_key", "lora: {[r]: 8}\n", "5: lora: a key must be text, not a list or a map; check the brackets"},
    {"null_key", "lora: {~: 8}\n", "5: lora: a key must be text, not null"},
    {"long_key", "lora:\n  " + std::string(300, 'k') + ": 8\n", "6: lora: \"kkkk"},
    {"key_with_line_break", "lora: {\"r\\n\": 8}\n", "5: lora: \"r\\n\" is not a key"},
    {"deep_flow", "lora: {r: " + repeated("[", 200'000) + "\n",
     "5: lora.r[0]: a key must be text, not a list or a map; check the brackets"},
    {"deep_flow_map", "lora: {r: " + repeated("{a: ", 100'000) + "\n", "5: lora.r.a.a"},
    {"deep_block_list", "lora:\n  r:\n    " + repeated("- ", 200'000) + "\n", "7: lora.r[0][0]"},
    {"many_values", "lora:\n  target_modules: [" + repeated("a,", 30'000) + "]\n", "6: lora.target_modules[1"},
    {"many_keys", "lora: {rank_pattern: {" + repeated("a: 1, b: 2,\n", 30'000) + "}}\n",
     "6: lora.rank_pattern.a: given twice"},
};

const std::vector<BadInput> kValues = {
    {"section_is_number", "lora: 3\n", "5: lora: is \"3\"; write a map of keys"},
    {"section_is_list", "lora: [r]\n", "5: lora: is a list; write a map of keys"},
    {"nan", "comms:\nparallel: {resident_gib: .nan}\n", "6: parallel.resident_gib: \".nan\" is not a number"},
    {"inf", "parallel: {resident_gib: .inf}\n", "5: parallel.resident_gib: \".inf\" is not a number"},
    {"octal_integer", "lora: {r: 010}\n", "5: lora.r: \"010\" has a leading zero, which YAML 1.1 reads as octal"},
    {"octal_number", "lora: {lora_dropout: 00}\n", "5: lora.lora_dropout: \"00\" has a leading zero"},
    {"hexadecimal", "lora: {r: 0x10}\n", "5: lora.r: \"0x10\" is not an integer"},
    {"underscore", "lora: {r: 1_0}\n", "5: lora.r: \"1_0\" is not an integer"},
    {"plus", "lora: {r: +8}\n", "5: lora.r: \"+8\" is not an integer"},
    {"fraction_for_integer", "lora: {r: 8.0}\n",
     "5: lora.r: \"8.0\" is not an integer; write an integer from 1 to 4096"},
    {"exponent_for_integer", "lora: {r: 1e1}\n", "5: lora.r: \"1e1\" is not an integer"},
    {"quoted_integer", "lora: {r: \"8\"}\n", "5: lora.r: \"8\" is quoted, so it is text; write an integer"},
    {"negative_unsigned", "lora: {r: -1}\n", "5: lora.r: \"-1\" is out of range; write an integer from 1 to 4096"},
    {"too_large", "lora: {r: 4097}\n", "5: lora.r: \"4097\" is out of range"},
    {"beyond_64_bits", "lora: {r: 18446744073709551617}\n", "5: lora.r: \"18446744073709551617\" is out of range"},
    {"null_integer", "lora:\n  r:\n  lora_alpha: 3\n", "6: lora.r: is null; write an integer"},
    {"list_for_integer", "lora: {r: [8]}\n", "5: lora.r: is a list; write an integer"},
    {"trailing_letter", "lora: {lora_dropout: 1e-4x}\n", "5: lora.lora_dropout: \"1e-4x\" is not a number"},
    {"comma", "parallel: {resident_gib: \"1,5\"}\n", "5: parallel.resident_gib: \"1,5\" is quoted"},
    {"dropout_one", "lora: {lora_dropout: 1.0}\n",
     "5: lora.lora_dropout: \"1.0\" is out of range; write a number, at least 0 and less than 1"},
    {"huge_exponent", "parallel: {resident_gib: 1e999}\n", "5: parallel.resident_gib: \"1e999\" is out of range"},
    {"tiny_exponent", "parallel: {resident_gib: 1e-999}\n", "5: parallel.resident_gib: \"1e-999\" is out of range"},
    {"yes", "lora: {use_rslora: yes}\n", "5: lora.use_rslora: \"yes\" is not a boolean here; write true or false"},
    {"off", "monitoring: {required: off}\n", "5: monitoring.required: \"off\" is not a boolean here"},
    {"True", "lora: {use_rslora: True}\n", "5: lora.use_rslora: \"True\" is not a boolean here"},
    {"quoted_true", "lora: {use_rslora: 'true'}\n", "5: lora.use_rslora: \"true\" is quoted"},
    {"one_for_boolean", "lora: {use_rslora: 1}\n", "5: lora.use_rslora: \"1\" is not a boolean here"},
    {"wrong_word", "parallel: {base: shared}\n",
     "5: parallel.base: \"shared\" is not known; supported: auto, replicate, shard, hybrid"},
    {"wrong_init", "lora: {init_lora_weights: pissa}\n",
     "5: lora.init_lora_weights: \"pissa\" is not known; supported: true, false, gaussian"},
    {"empty_text", "monitoring: {listen: ''}\n", "5: monitoring.listen: is empty; write text"},
    {"text_with_control", "lora: {init_adapter: \"a\\nb\"}\n",
     "5: lora.init_adapter: \"a\\nb\" holds a control character"},
    {"text_with_nul", "lora: {init_adapter: \"a\\0b\"}\n",
     "5: lora.init_adapter: \"a\\u0000b\" holds a control character"},
    {"map_for_text", "lora: {init_adapter: {a: b}}\n", "5: lora.init_adapter: is a map; write text"},
    {"port_alone", "monitoring: {listen: 9464}\n",
     "5: monitoring.listen: \"9464\" is not ADDRESS:PORT; write for example 127.0.0.1:9464 or [::1]:9464"},
    {"host_name", "monitoring: {listen: \"localhost:9464\"}\n",
     "5: monitoring.listen: \"localhost:9464\" is not ADDRESS:PORT"},
    {"bad_address", "monitoring: {listen: \"127.0.0.256:9464\"}\n",
     "5: monitoring.listen: \"127.0.0.256:9464\" is not"},
    {"port_too_large", "monitoring: {listen: \"127.0.0.1:65536\"}\n",
     "5: monitoring.listen: \"127.0.0.1:65536\" is not ADDRESS:PORT"},
    {"empty_targets", "lora: {target_modules: []}\n", "5: lora.target_modules: an empty list; give at least one item"},
    {"target_is_map", "lora: {target_modules: {a: b}}\n", "5: lora.target_modules: is a map; write text"},
    {"target_item_is_null", "lora:\n  target_modules:\n    - q_proj\n    -\n",
     "9: lora.target_modules[1]: is null; write text"},
    {"negative_layer", "lora: {layers_to_transform: [-1]}\n", "5: lora.layers_to_transform[0]: \"-1\" is out of range"},
    {"pattern_is_list", "lora: {rank_pattern: [a]}\n", "5: lora.rank_pattern: is a list; write a map of keys"},
    {"pattern_value", "lora:\n  rank_pattern:\n    a: 1\n    b: 0\n", "8: lora.rank_pattern.b: \"0\" is out of range"},
    {"pattern_empty", "lora: {rank_pattern: {'': 1}}\n", "5: lora.rank_pattern.: the pattern is empty"},
    {"layers_with_pattern", "lora:\n  layers_to_transform: [1]\n",
     "6: lora.layers_to_transform: needs a list in lora.target_modules"},
    {"layers_pattern_alone", "lora:\n  target_modules: [q]\n  layers_pattern: [h]\n",
     "7: lora.layers_pattern: has no effect without lora.layers_to_transform"},
};

INSTANTIATE_TEST_SUITE_P(Syntax, RefusedInput, testing::ValuesIn(kSyntax),
                         [](const auto& test) { return test.param.name; });
INSTANTIATE_TEST_SUITE_P(Values, RefusedInput, testing::ValuesIn(kValues),
                         [](const auto& test) { return test.param.name; });

struct BadFile {
  const char* name;
  std::string model = "{path: m}";
  std::string data = "{train: [{path: a, format: text}]}";
  std::string train = "";
  std::string message = "";
};

void PrintTo(const BadFile& file, std::ostream* stream) { *stream << file.name; }

class RefusedFile : public testing::TestWithParam<BadFile> {};

TEST_P(RefusedFile, NamesLineKeyAndReason) {
  const BadFile& file = GetParam();
  const std::string text =
      "run: {output_dir: x}\nmodel: " + file.model + "\ndata: " + file.data + "\ntrain:" + file.train + "\n";
  const std::string error = error_of(text);
  EXPECT_EQ(error.substr(0, 5 + file.message.size()), "FILE:" + file.message) << error;
}

const std::vector<BadFile> kFiles = {
    {.name = "no_model_path",
     .model = "{}",
     .train = " {max_steps: 5}",
     .message = "2: model.path: is required; add it"},
    {.name = "empty_model", .model = "", .train = " {max_steps: 5}", .message = "2: model.path: is required; add it"},
    {.name = "base_dtype",
     .model = "{path: m, base_dtype: fp8}",
     .message = "2: model.base_dtype: \"fp8\" is not known; supported: same, nf4, float8"},
    {.name = "task",
     .model = "{path: m, task: sequence_classification}",
     .message = "2: model.task: \"sequence_classification\" is not built yet; supported: causal_lm"},
    {.name = "dtype",
     .model = "{path: m, dtype: fp32}",
     .message = "2: model.dtype: \"fp32\" is not known; supported: auto, float32, bfloat16, float64"},
    {.name = "no_train_data", .data = "{eval: []}", .message = "3: data.train: is required; add it"},
    {.name = "empty_train_data",
     .data = "{train: []}",
     .message = "3: data.train: an empty list; give at least one item"},
    {.name = "train_data_is_path",
     .data = "{train: a.jsonl}",
     .message = "3: data.train: is \"a.jsonl\"; write a list"},
    {.name = "file_is_path",
     .data = "{train: [a.jsonl]}",
     .message = "3: data.train[0]: is \"a.jsonl\"; write a map of keys"},
    {.name = "file_without_path",
     .data = "{train: [{path: a, format: text},\n  {format: text}]}",
     .message = "4: data.train[1].path: is required; add it"},
    {.name = "file_without_format",
     .data = "{train: [{path: a}]}",
     .message = "3: data.train[0].format: is required; add it"},
    {.name = "unknown_format",
     .data = "{train: [{path: a, format: csv}]}",
     .message = "3: data.train[0].format: \"csv\" is not known; supported: messages, "},
    {.name = "eval_twice",
     .data = "{train: [{path: a, format: text}], eval: [{path: b, format: text}],\n  eval_fraction: 0.1}",
     .train = " {max_steps: 5}",
     .message = "4: data.eval_fraction: 0.1 excludes data.eval (1 files); remove one of them"},
    {.name = "eval_fraction_one",
     .data = "{train: [{path: a, format: text}], eval_fraction: 1}",
     .message = "3: data.eval_fraction: \"1\" is out of range"},
    {.name = "no_length",
     .train = " {}",
     .message = "4: train.max_steps: how long to train is not said; give train.max_steps or train.num_train_epochs"},
    {.name = "both_lengths",
     .train = "\n  num_train_epochs: 2\n  max_steps: 20",
     .message = "6: train.max_steps: excludes train.num_train_epochs; set one of them to null"},
    {.name = "zero_steps", .train = "\n  max_steps: 0", .message = "5: train.max_steps: \"0\" is out of range"},
    {.name = "learning_rate_zero",
     .train = "\n  learning_rate: 0",
     .message = "5: train.learning_rate: \"0\" is out of range; write a number, more than 0 and at most 1"},
    {.name = "learning_rate_nan",
     .train = "\n  learning_rate: .nan",
     .message = "5: train.learning_rate: \".nan\" is not a number"},
    {.name = "learning_rate_letter",
     .train = "\n  learning_rate: 1e-4x",
     .message = "5: train.learning_rate: \"1e-4x\" is not a number"},
    {.name = "warmup_twice",
     .train = "\n  max_steps: 20\n  warmup_ratio: 0.03\n  warmup_steps: 5",
     .message = "7: train.warmup_steps: 5 excludes train.warmup_ratio (0.03); remove one of them"},
    {.name = "warmup_too_long",
     .train = "\n  max_steps: 20\n  warmup_steps: 21",
     .message = "6: train.warmup_steps: 21 is more than train.max_steps (20); lower it"},
    {.name = "constant_with_warmup",
     .train = "\n  max_steps: 20\n  lr_scheduler_type: constant\n  warmup_ratio: 0.1",
     .message = "6: train.lr_scheduler_type: constant has no warm-up; write constant_with_warmup"},
    {.name = "saves_too_rare",
     .train = "\n  max_steps: 20\n  save_steps: 21",
     .message = "6: train.save_steps: 21 is more than train.max_steps (20); lower it, or write 0"},
    {.name = "global_batch",
     .train = "\n  max_steps: 20\n  global_batch_size: 30",
     .message = "6: train.global_batch_size: 30 is not a multiple of train.per_device_train_batch_size (4); try 28"},
    {.name = "global_batch_of_default",
     .train = "\n  max_steps: 20\n  per_device_train_batch_size: 64",
     .message = "5: train.global_batch_size: 32 is not a multiple of train.per_device_train_batch_size (64); try 64"},
};

INSTANTIATE_TEST_SUITE_P(Whole, RefusedFile, testing::ValuesIn(kFiles),
                         [](const auto& test) { return test.param.name; });

TEST(RefusedText, EmptyFilesSayWhereToBegin) {
  for (const char* text : {"", "\n\n", "# nothing\n", "---\n", "~\n"}) {
    EXPECT_EQ(error_of(text), "FILE:1: the file is empty; begin with a copy of configs/recipes/smollm2_devil.yaml")
        << text;
  }
}

TEST(RefusedText, AWholeFileIsAMap) {
  EXPECT_EQ(error_of("just words\n"), "FILE:1: is \"just words\"; write a map of keys: {key: value}");
  EXPECT_EQ(error_of("- run\n"), "FILE:1: is a list; write a map of keys: {key: value}");
}

TEST(RefusedText, OtherEncodingsAreNotGuessed) {
  EXPECT_EQ(error_of("\xEF\xBB\xBFrun: {}\n"), "FILE:1: a byte-order mark; save the file as UTF-8 without one");
  EXPECT_EQ(error_of("\xFF\xFEr\0u\0n\0"), "FILE:1: not valid UTF-8; save the file as UTF-8");
  EXPECT_EQ(error_of(std::string("r\0u\0n\0", 6)), "FILE:1: a control character; remove it");
}

TEST(RefusedText, LargeTextIsNotParsed) {
  const std::string text = std::string(kMinimal) + std::string(1 << 20, '#');
  EXPECT_EQ(error_of(text), "FILE: " + std::to_string(text.size()) + " bytes; the limit is 1048576");
}

TEST(RefusedText, LongValuesAreShortenedBetweenCharacters) {
  const std::string text = std::string(kMinimal) + "lora: {r: " + repeated("é", 100) + "}\n";
  EXPECT_EQ(error_of(text).substr(0, 29 + 80 + 14),
            "FILE:5: lora.r: \"" + repeated("é", 40) + "\"... (200 bytes) is not an");
}

TEST(AcceptedText, DosLineEndsAndCommentsAreHarmless) {
  std::string text;
  for (const char c : std::string(kMinimal) + "# end\n") text += c == '\n' ? "\r\n" : std::string(1, c);
  EXPECT_EQ(parse_run_config(text, "FILE"), parse_run_config(kMinimal, "FILE"));
}

}  // namespace
}  // namespace rankwise
