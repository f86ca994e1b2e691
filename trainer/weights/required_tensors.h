// Whether a model's files hold what its config.json asks for; known from their headers, before anything is loaded.
#pragma once

#include <filesystem>

#include "trainer/weights/model_files.h"
#include "trainer/weights/unit_layout.h"

namespace rankwise {

// Throws one DataError, beginning with `model_dir`, that lists tensors which are missing, have another shape, are
// stored in a dtype that is not read, or belong to no layer of the model: then config.json is that of another one.
// Two kinds are often left over and harmless: the head's copy of a tied table, and rotary frequencies.
void check_required_tensors(const ModelFiles& files, const FrozenSpec& spec, const std::filesystem::path& model_dir);

}  // namespace rankwise
