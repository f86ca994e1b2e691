// What one key demands of another. Internal to configs/.
#pragma once

#include "configs/run_config.h"
#include "configs/yaml_tree.h"

namespace rankwise {

// Defaults that depend on what else the tree holds.
void resolve_defaults(RunConfig& config, const YamlNode& root);

// Throws ConfigError at the place of the key that is to be changed.
void check_rules(const RunConfig& config, const YamlNode& root);

}  // namespace rankwise
