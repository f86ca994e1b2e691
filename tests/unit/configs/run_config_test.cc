#include "configs/run_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <fstream>
#include <map>
#include <random>
#include <sstream>

#include "base/error.h"
#include "configs/schema.h"
#include "tests/unit/configs/support.h"

namespace rankwise {
namespace {

using ::testing::HasSubstr;

const std::filesystem::path kSource = RANKWISE_SOURCE_DIR;

std::string text_of(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

// "train.max_steps" -> "20" of a dump.
std::map<std::string, std::string> values_of(const std::string& dump) {
  std::map<std::string, std::string> values;
  std::string section;
  for (const std::string& line : lines_of(dump)) {
    const size_t colon = line.find(':');
    if (line[0] != ' ') {
      section = line.substr(0, colon);
    } else {
      values[section + "." + line.substr(2, colon - 2)] = line.substr(colon + 2);
    }
  }
  return values;
}

// A valid value for each key that is not its default, and what must be set with it.
struct Change {
  std::string key;
  std::string value;
  std::vector<std::string> with = {};
};

const std::vector<Change> kChanges = {
    {"run.name", "other"},
    {"run.output_dir", "elsewhere/x"},
    {"run.seed", "18446744073709551615"},
    {"model.path", "/models/m"},
    {"model.dtype", "bfloat16"},
    {"model.base_dtype", "float8"},
    {"model.task", "causal_lm"},
    {"lora.r", "64"},
    {"lora.lora_alpha", "128"},
    {"lora.lora_dropout", "0.05"},
    {"lora.target_modules", "[q_proj, \"v proj\"]"},
    {"lora.exclude_modules", "\".*\\\\.[02]\\\\..*\""},
    {"lora.layers_to_transform", "[0, 29]", {"lora.target_modules=[q_proj]"}},
    {"lora.layers_pattern", "[layers]", {"lora.layers_to_transform=[1]", "lora.target_modules=[q_proj]"}},
    {"lora.rank_pattern", "{v_proj: 4, q_proj: 16}"},
    {"lora.alpha_pattern", "{\"layers.0.*\": 1}"},
    {"lora.use_rslora", "true"},
    {"lora.init_lora_weights", "gaussian"},
    {"lora.init_adapter", "runs/old/final"},
    {"data.train", "[{path: a, format: alpaca}, {path: b, format: sharegpt}]"},
    {"data.eval", "[{path: c, format: text}]"},
    {"data.eval_fraction", "0.1"},
    {"data.max_length", "4096"},
    {"data.packing", "false"},
    {"data.loss_on", "assistant"},
    {"data.over_length", "drop"},
    {"data.chat_template", "chat.jinja"},
    {"data.cache_dir", "/cache"},
    {"train.num_train_epochs", "3", {"train.max_steps=null"}},
    {"train.max_steps", "500"},
    {"train.global_batch_size", "64"},
    {"train.per_device_train_batch_size", "8"},
    {"train.per_device_eval_batch_size", "16"},
    {"train.learning_rate", "1e-05"},
    {"train.lr_scheduler_type", "constant_with_warmup"},
    {"train.warmup_ratio", "0.03"},
    {"train.warmup_steps", "7"},
    {"train.weight_decay", "0.01"},
    {"train.adam_beta1", "0.95"},
    {"train.adam_beta2", "0.95"},
    {"train.adam_epsilon", "1e-06"},
    {"train.max_grad_norm", "0"},
    {"train.deterministic", "true"},
    {"train.eval_steps", "0"},
    {"train.logging_steps", "1"},
    {"train.save_steps", "0"},
    {"train.save_total_limit", "1"},
    {"train.max_nonfinite_steps", "0"},
    {"train.integrity_check_steps", "0"},
    {"train.cuda_graphs", "false"},
    {"parallel.device", "cpu"},
    {"parallel.base", "hybrid"},
    {"parallel.shard_group", "4"},
    {"parallel.prefetch", "0"},
    {"parallel.resident_gib", "1.5"},
    {"parallel.activations", "offload"},
    {"parallel.cpu_offload", "true"},
    {"comms.timeout_seconds", "3"},
    {"comms.expected_world_size", "8"},
    {"comms.peer_copies", "false"},
    {"checkpoint.resume", "runs/x/checkpoint-20"},
    {"monitoring.listen", "\"[::1]:0\""},
    {"monitoring.endpoints", "rank"},
    {"monitoring.required", "true"},
};

TEST(RunConfig, AFileMayNameOnlyWhatHasNoDefault) {
  const RunConfig config = parse_run_config(kMinimal, "FILE");
  RunConfig expected;
  expected.run.output_dir = "runs/x";
  expected.model.path = "models/m";
  expected.data.train = {{.path = "a.jsonl", .format = DataSection::Format::kText}};
  expected.train.max_steps = 200;
  EXPECT_EQ(config, expected);
}

TEST(RunConfig, EveryKeyReachesItsOwnFieldAndNoOther) {
  const auto before = values_of(dump_run_config(parse_run_config(kMinimal, "FILE")));
  ASSERT_EQ(before.size(), kChanges.size());
  for (const Change& change : kChanges) {
    std::vector<std::string> overrides = change.with;
    overrides.push_back(change.key + "=" + change.value);
    auto after = values_of(dump_run_config(parse_run_config(kMinimal, "FILE", overrides)));
    ASSERT_TRUE(after.contains(change.key)) << change.key;
    EXPECT_EQ(after[change.key], change.value) << change.key;
    for (const std::string& text : overrides)
      after[text.substr(0, text.find('='))] = before.at(text.substr(0, text.find('=')));
    EXPECT_EQ(after, before) << change.key;
  }
}

TEST(RunConfig, ADumpParsesBackToTheSameValueAndText) {
  for (const Change& change : kChanges) {
    std::vector<std::string> overrides = change.with;
    overrides.push_back(change.key + "=" + change.value);
    const RunConfig config = parse_run_config(kMinimal, "FILE", overrides);
    const std::string dump = dump_run_config(config);
    const RunConfig again = parse_run_config(dump, "DUMP");
    EXPECT_EQ(again, config) << change.key;
    EXPECT_EQ(dump_run_config(again), dump);
  }
}

TEST(RunConfig, AwkwardTextSurvivesTheDump) {
  for (const std::string text : {"null", "true", "~", "a: b # c", "[x", "it's", "say \"x\"", "back\\slash", "ünï/çødé",
                                 " spaces ", "- dash", "!tag", "&anchor", "0x10", "1e5", "@", "%", "|", ">"}) {
    RunConfig config = parse_run_config(kMinimal, "FILE");
    config.run.name = text;
    config.model.path = text;
    config.lora.target_modules = text;
    config.lora.exclude_modules = text;
    config.lora.rank_pattern = {{text, 3}};
    config.data.chat_template = text;
    EXPECT_EQ(parse_run_config(dump_run_config(config), "DUMP"), config) << text;
  }
}

TEST(RunConfig, PatternsKeepTheOrderOfTheFile) {
  const RunConfig config = parse_run_config(kMinimal, "FILE", {"lora.rank_pattern={z: 1, a: 2, m: 3}"});
  EXPECT_EQ(config.lora.rank_pattern, (LoraSection::PatternMap{{"z", 1}, {"a", 2}, {"m", 3}}));
}

TEST(RunConfig, WordsAndPathsShareTheResumeKey) {
  const auto resume = [](const std::string& value) {
    return parse_run_config(kMinimal, "FILE", {"checkpoint.resume=" + value}).checkpoint.resume;
  };
  EXPECT_EQ(resume("required").mode, CheckpointSection::Mode::kRequired);
  EXPECT_EQ(resume("never").mode, CheckpointSection::Mode::kNever);
  EXPECT_EQ(resume("./never").directory, "./never");
}

TEST(RunConfig, TheWordsOfTheBaseAreThoseOfTheFile) {
  using Base = ModelSection::BaseDtype;
  const std::pair<std::string, Base> words[] = {{"same", Base::kSame}, {"nf4", Base::kNf4}, {"float8", Base::kFloat8}};
  for (const auto& [word, base_dtype] : words) {
    EXPECT_EQ(parse_run_config(kMinimal, "FILE", {"model.base_dtype=" + word}).model.base_dtype, base_dtype);
    EXPECT_EQ(word_of(base_dtype), word);
  }
}

TEST(RunConfig, SavesFitIntoAShortRunUnlessToldOtherwise) {
  EXPECT_EQ(parse_run_config(kMinimal, "FILE", {"train.max_steps=20"}).train.save_steps, 20);
  EXPECT_EQ(parse_run_config(kMinimal, "FILE", {"train.max_steps=2000"}).train.save_steps, 100);
}

TEST(RunConfigOverrides, TheLastOneForAKeyWins) {
  const RunConfig config = parse_run_config(kMinimal, "FILE", {"lora.r=4", "train.max_steps=7", "lora.r=32"});
  EXPECT_EQ(config.lora.r, 32);
  EXPECT_EQ(config.train.max_steps, 7);
}

TEST(RunConfigOverrides, ReplaceAWrongValueOfTheFile) {
  const std::string text = std::string(kMinimal) + "lora: {r: 010}\n";
  EXPECT_EQ(parse_run_config(text, "FILE", {"lora.r=4"}).lora.r, 4);
}

TEST(RunConfigOverrides, FillASectionThatIsEmpty) {
  const std::string text = std::string(kMinimal) + "lora:\n  # r: 3\n";
  EXPECT_EQ(parse_run_config(text, "FILE").lora.r, 8);
  EXPECT_EQ(parse_run_config(text, "FILE", {"lora.r=4"}).lora.r, 4);
}

TEST(RunConfigOverrides, AreNamedInMessages) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"lora.r=0", "--set lora.r=0: lora.r: \"0\" is out of range; write an integer from 1 to 4096"},
      {"lora.rr=3", "--set lora.rr: unknown key; nearest: lora.r"},
      {"lora=3", "--set lora: unknown key; nearest: lora.r"},
      {"learning_rate=1", "nearest: train.learning_rate"},
      {"data.train[].path=x", "data.train[].path: unknown key; nearest: data.train"},
      {"lora.r", "--set lora.r: no value; write --set section.key=value"},
      {"lora.r=", "--set lora.r=: lora.r: no value"},
      {"lora.r=# 3", "--set lora.r=# 3: lora.r: is null"},
      {"lora.r=[", "--set lora.r=[: lora.r: a key must be text, not a list or a map; check the brackets"},
      {"lora.r=\"x", "--set lora.r=\"x: not valid YAML: "},
      {"lora.rank_pattern={a: 1, a: 2}", ": lora.rank_pattern.a: given twice"},
      {"lora.rank_pattern={a: &x 1}", ": lora.rank_pattern.a: anchors and aliases are not allowed"},
      {"lora.r=\xFF", "--set: not valid UTF-8"},
      {"lora.r=\t3", "--set: a tab character"},
      {"train.save_steps=201", "--set train.save_steps=201: train.save_steps: 201 is more than train.max_steps (200)"},
  };
  for (const auto& [text, message] : cases) EXPECT_THAT(error_of(kMinimal, {text}), HasSubstr(message)) << text;
}

// Every letter of every key of a complete file, sections included, is replaced in turn.
TEST(RunConfigKeys, OneChangedLetterIsRefusedAndTheRightKeyNamed) {
  const std::vector<std::string> lines = lines_of(dump_run_config(parse_run_config(kMinimal, "FILE")));
  std::string section;
  int num_tried = 0;
  for (size_t i = 0; i < lines.size(); ++i) {
    const size_t begin = lines[i].find_first_not_of(' ');
    const size_t end = lines[i].find(':');
    if (begin == 0) section = lines[i].substr(0, end);
    for (size_t at = begin; at < end; ++at) {
      if (!std::isalpha(static_cast<unsigned char>(lines[i][at]))) continue;
      std::vector<std::string> changed = lines;
      changed[i][at] = changed[i][at] == 'z' ? 'q' : 'z';
      const std::string prefix = begin == 0 ? "" : section + ".";
      const auto key = [&](const std::string& line) { return prefix + line.substr(begin, end - begin); };
      std::string text;
      for (const std::string& line : changed) text += line + "\n";
      EXPECT_EQ(error_of(text),
                "FILE:" + std::to_string(i + 1) + ": " + key(changed[i]) + ": unknown key; nearest: " + key(lines[i]));
      ++num_tried;
    }
  }
  EXPECT_GT(num_tried, 500);
}

TEST(RunConfigKeys, AKeyOfAListItemIsCheckedToo) {
  for (const auto& [wrong, right] : {std::pair("pbth", "path"), std::pair("formaz", "format")}) {
    const std::string value = std::string("data.train=[{path: a, format: text}, {") + wrong + ": b}]";
    EXPECT_THAT(error_of(kMinimal, {value}),
                HasSubstr(std::string("data.train[1].") + wrong + ": unknown key; nearest: data.train[1]." + right));
  }
}

TEST(RunConfigKeys, AKeyInTheWrongSectionIsFoundInItsOwn) {
  const std::string text = std::string(kMinimal) + "lora: {learning_rate: 0.1}\n";
  EXPECT_THAT(error_of(text), HasSubstr("FILE:5: lora.learning_rate: unknown key; nearest: train.learning_rate"));
  EXPECT_THAT(error_of(std::string(kMinimal) + "max_length: 5\n"),
              HasSubstr("max_length: unknown key; nearest: data.max_length"));
}

TEST(RunConfigFiles, AnAbsentFileIsNoInputAndABadOneIsBadConfig) {
  EXPECT_THROW(load_run_config(kSource / "configs/recipes/none.yaml"), NoInputError);
  EXPECT_THROW(load_run_config(kSource / "configs/recipes"), ConfigError);
  const std::filesystem::path file = testing::TempDir() + "rankwise_run_config_test.yaml";
  std::ofstream(file) << kMinimal << "#" << std::string(1 << 20, 'x');
  EXPECT_THROW(load_run_config(file), ConfigError);
  std::ofstream(file) << kMinimal << "lora: {r: x}\n";
  try {
    load_run_config(file);
    ADD_FAILURE() << "no error";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr(file.string() + ":5: lora.r: \"x\" is not an integer"));
    EXPECT_EQ(error.code(), ExitCode::kBadConfig);
  }
  std::filesystem::remove(file);
}

TEST(RunConfigFiles, EveryRecipeParses) {
  int num_recipes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kSource / "configs/recipes")) {
    const RunConfig config = load_run_config(entry.path());
    EXPECT_EQ(parse_run_config(dump_run_config(config), "DUMP"), config) << entry.path();
    ++num_recipes;
  }
  EXPECT_GE(num_recipes, 1);
}

// The page in the repository is the page of this code. RANKWISE_WRITE_DOCS=1 rewrites it.
TEST(RunConfigReference, TheCommittedPageIsUpToDate) {
  const std::filesystem::path page = kSource / "docs/configuration.md";
  if (std::getenv("RANKWISE_WRITE_DOCS")) std::ofstream(page, std::ios::binary) << run_config_reference();
  EXPECT_EQ(text_of(page), run_config_reference());
}

TEST(RunConfigReference, HasARowWithAMeaningForEveryKey) {
  const std::string page = run_config_reference();
  for (const Change& change : kChanges) EXPECT_THAT(page, HasSubstr("\n| `" + change.key + "` | "));
  EXPECT_THAT(page, HasSubstr("\n| `data.train[].path` | path | required | "));
  EXPECT_THAT(page, HasSubstr("\n| `train.learning_rate` | number, more than 0 and at most 1 | `0.0002` | "));
  for (const std::string& line : lines_of(page)) {
    const auto bars = std::count(line.begin(), line.end(), '|');
    EXPECT_EQ(bars, line.starts_with("|") ? 5 : 0) << line;
  }
}

// Whatever a damaged file says: an error with a message, or a value that survives its dump. Never a crash.
TEST(RunConfigFiles, DamagedTextIsRefusedOrUnderstood) {
  const std::string whole = dump_run_config(parse_run_config(kMinimal, "FILE"));
  const std::string alphabet = " \n:{}[],-?#&*!|>'\"%@`~.0aé\\\r";
  std::mt19937 random(7);
  int num_accepted = 0;
  for (int i = 0; i < 1500; ++i) {
    std::string text = whole;
    for (int edits = 1 + static_cast<int>(random() % 3); edits > 0; --edits) {
      const size_t at = random() % text.size();
      const char c = alphabet[random() % alphabet.size()];
      if (random() % 2) {
        text[at] = c;
      } else {
        text.insert(at, 1 + random() % 2, c);
      }
    }
    try {
      const RunConfig config = parse_run_config(text, "FILE");
      ++num_accepted;
      EXPECT_EQ(parse_run_config(dump_run_config(config), "DUMP"), config) << text;
    } catch (const ConfigError& error) {
      EXPECT_THAT(error.what(), HasSubstr("FILE"));
    }
  }
  EXPECT_GT(num_accepted, 10);
}

}  // namespace
}  // namespace rankwise
