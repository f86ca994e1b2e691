// The page at /: monitoring/page/index.html, which the build makes a part of the program.
#pragma once

#include <string_view>

namespace rankwise {

// One document that needs nothing else but /run.json beside it.
std::string_view page_html();

// For the header of that name: nothing is loaded from elsewhere, and of scripts and styles only those run whose hashes
// these are, so that a text that found its way into the page as markup stays without effect.
std::string_view page_security_policy();

}  // namespace rankwise
