// docs/configuration.md out of the schema.
#include <fmt/format.h>

#include "configs/run_config.h"
#include "configs/schema.h"

namespace rankwise {
namespace {

constexpr std::string_view kIntroduction = R"(# Configuration

One run is one YAML file. `rankwise train FILE --set train.max_steps=20` overrides a key for one run; the value is YAML,
lists and maps are given whole (`--set 'lora.target_modules=[q_proj, v_proj]'`), and the last one for a key wins.
The run writes what it was finally told, every default spelled out, to `config.yaml` in its output directory.

* Relative paths are relative to the directory in which `rankwise` is started, not to that of the file.
* A file is refused, with `FILE:LINE: key: reason; remedy` and exit code 78, for the first of: an unknown key (the nearest
  known one is named), a key given twice, a value of another type or out of range, keys that exclude each other.
* YAML without its traps: booleans are `true` and `false` alone; numbers are decimal (not `010`, `0x10`, `1_000`, `.nan`)
  and never in quotes, counts up to 10^9; no tabs, anchors, aliases, tags or second document; UTF-8, at most 1 MiB.
* `null` means what the key's meaning says of it. A section that is empty or left out has its defaults.

<!-- Written by run_config_reference() from the table in configs/schema.cc. After a change there:
     RANKWISE_WRITE_DOCS=1 build/release/tests/unit/configs/run_config_test -->
)";

std::string table_row(const std::string& key, const FieldShape& field, const std::string& value) {
  const std::string shown_default = field.required ? "required" : fmt::format("`{}`", value);
  return fmt::format("| `{}` | {} | {} | {} |\n", key, field.shape.type, shown_default, field.doc);
}

std::string section_table(const FieldShape& section, const YamlNode& defaults) {
  std::string page = fmt::format("\n## {}\n\n{}\n\n| key | value | default | meaning |\n| --- | --- | --- | --- |\n",
                                 section.name, section.doc);
  for (const FieldShape& field : section.shape.fields) {
    const std::string key = join_key(section.name, field.name);
    page += table_row(key, field, yaml_flow(*defaults.find(field.name)));
    // The keys of a list item are all required.
    for (const FieldShape& part : field.shape.fields) page += table_row(join_key(key + "[]", part.name), part, "");
  }
  return page;
}

}  // namespace

std::string run_config_reference() {
  const Kind<RunConfig>& kind = run_config_kind();
  const YamlNode defaults = kind.write({});
  std::string page(kIntroduction);
  for (const FieldShape& section : kind.shape.fields) page += section_table(section, *defaults.find(section.name));
  return page;
}

}  // namespace rankwise
