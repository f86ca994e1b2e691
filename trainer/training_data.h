// Text and data of a run: tokenizer, chat template, prepared training and evaluation sets.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "configs/run_config.h"
#include "trainer/data/dataset.h"
#include "trainer/data/prepare.h"
#include "trainer/text/chat_template.h"
#include "trainer/text/tokenizer.h"

namespace rankwise {

struct TrainingText {
  Tokenizer tokenizer;
  std::optional<ChatTemplate> chat_template;
};

// The model's tokenizer, and data.chat_template or the model's own template.
TrainingText load_text(const ModelSection& model, const DataSection& data);

struct TrainingData {
  DatasetCache train;
  std::optional<DatasetCache> eval;  // absent where neither data.eval nor data.eval_fraction is set
};

// Makes or maps the caches. Of the processes that share data.cache_dir one works and the others wait for it.
TrainingData load_data(const RunConfig& config, const TrainingText& text, const PrepareCallback& progress);

// "train: 809 samples in 138 rows of 512 tokens (94 % full), 66,000 tokens, 39,000 in the loss; ..."
std::string describe(std::string_view name, const DataReport& report);

}  // namespace rankwise
