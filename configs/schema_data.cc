#include "configs/schema.h"

namespace rankwise {
namespace {

Kind<DataSection::File> data_file_kind() {
  using S = DataSection::File;
  using Format = DataSection::Format;
  return record<S>({
      field("path", &S::path, path(), "A JSONL file: one record a line.", Required::kYes),
      field("format", &S::format,
            choice<Format>({{"messages", Format::kMessages},
                            {"prompt_completion", Format::kPromptCompletion},
                            {"alpaca", Format::kAlpaca},
                            {"sharegpt", Format::kShareGpt},
                            {"text", Format::kText}}),
            "The fields of a record: `messages`; `prompt` and `completion`; `instruction`, `input` and `output`; "
            "`conversations`; or `text`.",
            Required::kYes),
  });
}

}  // namespace

Kind<DataSection> data_kind() {
  using S = DataSection;
  return record<S>({
      field("train", &S::train, list_of(data_file_kind(), 1), "What is trained on, as one data set.", Required::kYes),
      field("eval", &S::eval, list_of(data_file_kind(), 0), "What the evaluation loss is measured on."),
      field("eval_fraction", &S::eval_fraction, number(kFraction),
            "Without `data.eval`: this share of the training samples is set aside for evaluation, the same ones each "
            "time."),
      field("max_length", &S::max_length, integer(2), "The most tokens in a sample, and in a packed row."),
      field("packing", &S::packing, boolean(),
            "Put several samples into a row; attention and positions stay inside each sample."),
      field(
          "loss_on", &S::loss_on,
          choice<S::LossOn>(
              {{"completion", S::LossOn::kCompletion}, {"assistant", S::LossOn::kAssistant}, {"all", S::LossOn::kAll}}),
          "Which tokens are learned. `completion`: the last answer; `assistant`: every answer; `all`: every token. "
          "Records of the format `text` are learned whole."),
      field("over_length", &S::over_length,
            choice<S::OverLength>({{"error", S::OverLength::kError},
                                   {"truncate_left", S::OverLength::kTruncateLeft},
                                   {"truncate_right", S::OverLength::kTruncateRight},
                                   {"drop", S::OverLength::kDrop}}),
            "What to do with a sample of more than `data.max_length` tokens: stop before training, cut its beginning, "
            "cut its end, or leave it out. Cut and dropped samples are counted."),
      field("chat_template", &S::chat_template, optional_kind("null", path()),
            "A Jinja chat template to use instead of the model's own."),
      field(
          "cache_dir", &S::cache_dir, path(),
          "Where tokenised data is kept, keyed by the contents of data, tokenizer, template and settings; and on GPUs, "
          "which algorithms multiply fastest. Safe to delete."),
  });
}

}  // namespace rankwise
