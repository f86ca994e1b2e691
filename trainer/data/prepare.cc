#include "trainer/data/prepare.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/counter_random.h"
#include "base/hash.h"
#include "base/log.h"
#include "trainer/data/cache_directory.h"
#include "trainer/data/dataset_header.h"
#include "trainer/data/dataset_writer.h"
#include "trainer/data/encode.h"
#include "trainer/data/error_list.h"
#include "trainer/data/packing.h"
#include "trainer/data/records.h"

namespace rankwise {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> hash_files(const std::vector<DataFile>& files) {
  std::vector<std::string> hashes;
  for (const DataFile& file : files) {
    const LineReader refuses_other_kinds(file.path);  // before a FIFO is waited for, or gigabytes of gzip are hashed
    hashes.push_back(sha256_hex_of_file(file.path));
  }
  return hashes;
}

// Everything that decides what the prepared file holds. Paths do not: a moved file keeps its cache.
std::string key_of(const DataSettings& settings, const std::vector<std::string>& file_hashes,
                   const Tokenizer& tokenizer, const ChatTemplate* chat_template) {
  std::string text = fmt::format(
      "version {}\ntokenizer {}\ntemplate {}\nmax_length {}\npacking {}\nloss_on {}\nover_length {}\npart {}\n"
      "eval_fraction {}\nsplit_seed {}\n",
      DatasetHeader::kVersion, tokenizer.fingerprint(),
      chat_template == nullptr ? "none" : chat_template->fingerprint(), settings.max_length, settings.packing,
      word_of(settings.loss_on), word_of(settings.over_length), word_of(settings.part), settings.eval_fraction,
      settings.split_seed);
  for (size_t i = 0; i < file_hashes.size(); ++i) {
    text += fmt::format("file {} {}\n", word_of(settings.files[i].format), file_hashes[i]);
  }
  return sha256_hex(text);
}

bool takes(const DataSettings& settings, int64_t record_index) {
  switch (settings.part) {
    case DataPart::kAll:
      return true;
    case DataPart::kTrain:
      return !is_eval_record(settings, record_index);
    case DataPart::kEval:
      return is_eval_record(settings, record_index);
  }
  throw Error("a data part without a rule");
}

// Reads all files once and writes the tokens.
class Preparation {
 public:
  Preparation(const DataSettings& settings, const SampleEncoder& encoder, const PrepareCallback& callback)
      : settings_(settings), encoder_(encoder), callback_(callback) {
    for (const DataFile& file : settings.files) progress_.bytes_total += fs::file_size(file.path);
    report_.row_capacity = settings.max_length;
  }

  void write_to(const fs::path& path, const std::string& key, const std::vector<std::string>& file_hashes) {
    DatasetWriter writer(path);
    for (size_t i = 0; i < settings_.files.size(); ++i) add_file(settings_.files[i], file_hashes[i], writer);
    errors_.throw_if_any();
    require_samples();
    const std::vector<uint32_t> lengths = writer.lengths();
    writer.finish(settings_.packing ? pack_best_fit(lengths, static_cast<uint32_t>(settings_.max_length))
                                    : one_sample_a_row(lengths.size()),
                  key, report_);
  }

 private:
  void add_file(const DataFile& file, const std::string& hash, DatasetWriter& writer) {
    progress_.file = file.path;
    const uint64_t bytes_before = progress_.bytes_read;
    RecordReader reader(file, errors_);
    Record record;
    while (reader.next(record)) {
      add_record(record, reader, writer);
      tell_each_mebibyte(bytes_before + reader.bytes_read());
    }
    report_.num_blank_lines += reader.num_blank_lines();
    RW_CHECK(reader.finish() == hash, DataError,
             "{}: the file was changed while it was prepared; start again when it is complete", file.path.string());
    tell(bytes_before + reader.bytes_read());
  }

  void add_record(const Record& record, RecordReader& reader, DatasetWriter& writer) {
    if (!takes(settings_, report_.num_records++)) {
      ++report_.num_in_other_part;
      return;
    }
    try {
      EncodedSample sample = encoder_.encode(record);
      add_sample(sample, writer);
    } catch (const DataError& error) {
      reader.report(error.what());
    }
  }

  void add_sample(EncodedSample& sample, DatasetWriter& writer) {
    const Fit fit = fit_to_length(sample, settings_.max_length, settings_.over_length);
    if (fit == Fit::kDropped) {
      ++report_.num_dropped_too_long;
    } else if (num_targets(sample) == 0) {
      ++report_.num_dropped_no_target;
    } else {
      writer.add(sample);
      ++progress_.num_samples;
      report_.num_truncated += fit == Fit::kTruncated;
    }
  }

  void tell_each_mebibyte(uint64_t bytes_read) {
    constexpr uint64_t kMebibyte = 1u << 20;
    if (bytes_read >= progress_.bytes_read + kMebibyte) tell(bytes_read);
  }

  void tell(uint64_t bytes_read) {
    progress_.bytes_read = bytes_read;
    if (callback_) callback_(progress_);
  }

  void require_samples() const {
    RW_CHECK(progress_.num_samples > 0, DataError,
             "{}: no sample is left to learn from: {} records, {} in the other part of the split, {} dropped as longer "
             "than max_length {}, {} dropped without a token that carries loss (empty or cut-off answers)",
             settings_.files.front().path.string(), report_.num_records, report_.num_in_other_part,
             report_.num_dropped_too_long, settings_.max_length, report_.num_dropped_no_target);
  }

  const DataSettings& settings_;
  const SampleEncoder& encoder_;
  const PrepareCallback& callback_;
  PrepareProgress progress_;
  DataReport report_;
  ErrorList errors_;
};

std::optional<DatasetCache> open_if_sound(const fs::path& path, const std::string& key) {
  try {
    return DatasetCache::open(path, key);
  } catch (const DataError& error) {
    log_warning("data: {}; preparing it again", error.what());
    return std::nullopt;
  }
}

void require_valid(const DataSettings& settings) {
  RW_CHECK(!settings.files.empty(), ConfigError, "data.train: names no file");
  RW_CHECK(settings.max_length >= 2 && settings.max_length <= (1 << 30), ConfigError,
           "data.max_length: {} is not between 2 and 2^30", settings.max_length);
  RW_CHECK(settings.part == DataPart::kAll || (settings.eval_fraction > 0.0 && settings.eval_fraction < 1.0),
           ConfigError, "data.eval_fraction: {} is not between 0 and 1", settings.eval_fraction);
}

}  // namespace

bool is_eval_record(const DataSettings& settings, int64_t record_index) {
  return random_unit(mix64(settings.split_seed), static_cast<uint64_t>(record_index)) < settings.eval_fraction;
}

DatasetCache prepare_dataset(const DataSettings& settings, const Tokenizer& tokenizer,
                             const ChatTemplate* chat_template, const PrepareCallback& progress) {
  require_valid(settings);
  const std::vector<std::string> file_hashes = hash_files(settings.files);
  const std::string key = key_of(settings, file_hashes, tokenizer, chat_template);
  const fs::path path = settings.cache_dir / (key + ".tokens");

  make_directories(settings.cache_dir);
  const UniqueFd lock = lock_file(settings.cache_dir / (key + ".lock"));
  if (auto cache = open_if_sound(path, key)) return std::move(*cache);
  const SampleEncoder encoder(tokenizer, chat_template, settings.loss_on);
  TemporaryFile temporary(settings.cache_dir / (key + ".tmp"));
  Preparation(settings, encoder, progress).write_to(temporary.path(), key, file_hashes);
  temporary.publish_as(path);
  return DatasetCache::open(path, key).value();
}

}  // namespace rankwise
