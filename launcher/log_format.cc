#include <CLI/CLI.hpp>

#include "base/log.h"
#include "launcher/commands/commands.h"

namespace rankwise {

void describe_log_format(CLI::App& command) {
  command
      .add_option_function<std::string>(
          "--log-format", [](const std::string& name) { set_log_format(log_format_named(name, "--log-format")); },
          fmt::format("text for people, json for programs: an object a line on stderr ({})", kLogFormatVariable))
      ->trigger_on_parse();
}

}  // namespace rankwise
