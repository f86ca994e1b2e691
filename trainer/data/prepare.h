// From data files to a prepared data set, once: later calls with the same data, tokenizer, template and settings map
// the file that the first one made.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>

#include "trainer/data/dataset.h"
#include "trainer/data/settings.h"
#include "trainer/text/chat_template.h"
#include "trainer/text/tokenizer.h"

namespace rankwise {

struct PrepareProgress {
  std::filesystem::path file;
  uint64_t bytes_read = 0;   // of all files
  uint64_t bytes_total = 0;  // of all files
  int64_t num_samples = 0;   // kept so far
};
using PrepareCallback = std::function<void(const PrepareProgress&)>;

// Whether a record goes to the evaluation side: a function of (split_seed, index of the record over all files) alone,
// so that neither the order of reading nor a changed setting moves it.
bool is_eval_record(const DataSettings& settings, int64_t record_index);

// Hashes the data files, then maps <cache_dir>/<key>.tokens, which is made first if it is absent or does not verify.
// Only one process makes it: others that call at the same time wait for its lock, then map its file. Made in a
// temporary file, fsynced and renamed, so a kill leaves nothing that looks whole. Memory grows by some 30 bytes a
// sample.
//
// chat_template: null if there is none.
// progress: may be empty. Called about once for each MiB read and at the end of each file, and not at all when the
// prepared file was there.
//
// Throws DataError with file:line for up to twenty bad records and the count of all, if a file changes while it is
// read, and if no sample is left, with the counts. NoInputError if a file is absent. Errors of the cache directory by
// errno.
DatasetCache prepare_dataset(const DataSettings& settings, const Tokenizer& tokenizer,
                             const ChatTemplate* chat_template, const PrepareCallback& progress);

}  // namespace rankwise
