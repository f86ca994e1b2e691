// Which keys the schema has, and what a wrong one was probably meant to be. Internal to configs/.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "configs/kind.h"

namespace rankwise {

// Every key in dotted form, in the order of the table: run.name ... data.train, data.train[].path ...
std::vector<std::string> dotted_keys(const Shape& root);

// The candidate that is the same word in another section, if there is one, else the one with the fewest edits.
std::string nearest_key(std::string_view key, const std::vector<std::string>& candidates);

// Throws ConfigError at the first key of the tree that the schema does not have, naming the nearest one that it has.
void check_known_keys(const YamlNode& root, const Shape& shape);

}  // namespace rankwise
