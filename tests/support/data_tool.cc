// The bridge between the data room and the Python parity tests: a data file in, one JSON object a record out, with the
// labels as Hugging Face has them (-100: no loss; not shifted).
//   data_tool MODEL_DIR FILE --format messages --loss-on completion --max-length 256 --over-length truncate_right
#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "base/error.h"
#include "trainer/data/encode.h"
#include "trainer/data/records.h"

namespace rankwise {
namespace {

struct Options {
  std::string model_dir;
  std::string file;
  std::string format = "messages";
  std::string loss_on = "completion";
  int64_t max_length = 1 << 20;
  std::string over_length = "error";
};

nlohmann::json as_json(const EncodedSample& sample) {
  std::vector<int32_t> labels(sample.ids);
  for (size_t i = 0; i < labels.size(); ++i) {
    if (sample.in_loss[i] == 0) labels[i] = -100;
  }
  return {{"ids", sample.ids}, {"labels", labels}};
}

void run(const Options& options) {
  const Tokenizer tokenizer = Tokenizer::load(options.model_dir);
  std::optional<ChatTemplate> chat_template;
  if (tokenizer.chat_template()) chat_template.emplace(*tokenizer.chat_template(), options.model_dir, tokenizer);
  const SampleEncoder encoder(tokenizer, chat_template ? &*chat_template : nullptr, loss_on_from(options.loss_on));
  ErrorList errors;
  RecordReader reader({options.file, record_format_from(options.format)}, errors);
  Record record;
  while (reader.next(record)) {
    EncodedSample sample = encoder.encode(record);
    fit_to_length(sample, options.max_length, over_length_from(options.over_length));
    std::cout << as_json(sample).dump() << '\n';
  }
  errors.throw_if_any();
}

}  // namespace
}  // namespace rankwise

int main(int argc, char** argv) {
  rankwise::Options options;
  CLI::App app("Prints ids and labels of a data file");
  app.add_option("model_dir", options.model_dir)->required();
  app.add_option("file", options.file)->required();
  app.add_option("--format", options.format);
  app.add_option("--loss-on", options.loss_on);
  app.add_option("--max-length", options.max_length);
  app.add_option("--over-length", options.over_length);
  CLI11_PARSE(app, argc, argv);
  try {
    rankwise::run(options);
    return 0;
  } catch (const rankwise::Error& error) {
    std::cerr << error.what() << '\n';
    return static_cast<int>(error.code());
  }
}
