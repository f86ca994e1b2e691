#include "monitoring/exposition.h"

#include <map>
#include <string_view>

namespace rankwise {
namespace {

struct Family {
  std::string_view header, series;
};

// "# HELP name ...": name.
std::string_view name_in(std::string_view help_line) {
  const std::string_view rest = help_line.substr(std::string_view("# HELP ").size());
  return rest.substr(0, rest.find(' '));
}

// A family: the lines that begin with #, which are two, and what follows up to the next of them.
std::map<std::string_view, Family> families_of(std::string_view page) {
  std::map<std::string_view, Family> families;
  while (page.starts_with("# HELP ")) {
    const size_t series = page.find('\n', page.find('\n') + 1) + 1;
    const size_t next = page.find("\n# HELP ", series);
    const size_t end = next == std::string_view::npos ? page.size() : next + 1;
    families[name_in(page)] = {page.substr(0, series), page.substr(series, end - series)};
    page.remove_prefix(end);
  }
  return families;
}

}  // namespace

std::string merge_pages(const std::vector<std::string>& pages) {
  std::map<std::string_view, std::string> merged;
  for (const std::string& page : pages) {
    for (const auto& [name, family] : families_of(page)) {
      std::string& text = merged[name];
      if (text.empty()) text = family.header;
      text += family.series;
    }
  }
  std::string all;
  for (const auto& [name, text] : merged) all += text;
  return all;
}

}  // namespace rankwise
