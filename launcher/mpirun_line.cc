#include "launcher/mpirun_line.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <sstream>

#include "base/check.h"
#include "base/file.h"

namespace rankwise {
namespace {

constexpr uint64_t kMaxHostfileBytes = 1 << 20;
constexpr std::string_view kForwardedPrefixes[] = {"RANKWISE_", "NCCL_", "CUDA_", "OMP_", "UCX_", "FI_"};
constexpr std::string_view kForwardedNames[] = {"LD_LIBRARY_PATH", "TMPDIR", "TZ", "HF_HOME", "HF_HUB_OFFLINE"};

int slots_of(std::string_view word, const std::filesystem::path& path, int line) {
  const std::string_view number = word.substr(word.find('=') + 1);
  int slots = 0;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), slots);
  RW_CHECK(error == std::errc() && end == number.data() + number.size() && slots >= 1, DataError,
           "{}:{}: {}: slots wants a whole number from 1", path.native(), line, word);
  return slots;
}

Host host_of(std::istringstream words, std::string name, const std::filesystem::path& path, int line) {
  Host host{std::move(name)};
  for (std::string word; words >> word;) {
    if (word.starts_with("slots=")) host.slots = slots_of(word, path, line);
  }
  return host;
}

void append(std::vector<std::string>& command, std::initializer_list<std::string> words) {
  command.insert(command.end(), words);
}

// So that a host that is gone is noticed by mpirun within half a minute instead of eight, and names with a domain are
// looked up as they are written.
void append_hosts(std::vector<std::string>& command, const MpirunLine& line) {
  const bool old = line.open_mpi < 5;
  const std::string option = old ? "--mca" : "--prtemca";
  append(command, {"--hostfile", line.hostfile.native()});
  append(command, {option, old ? "orte_keep_fqdn_hostnames" : "prte_keep_fqdn_hostnames", "1"});
  append(command, {option, "oob_tcp_keepalive_time", "15"});
  append(command, {option, "oob_tcp_keepalive_intvl", "5"});
  append(command, {option, "oob_tcp_keepalive_probes", "3"});
  if (line.ssh_port != 0)
    append(command, {option, old ? "plm_rsh_args" : "plm_ssh_args",
                     fmt::format("-p {} -o ConnectionAttempts=10", line.ssh_port)});
  for (const auto& name : line.environment) append(command, {"-x", name});
}

bool is_plain(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) ||
         std::string_view("_-./=:,@%+").find(c) != std::string_view::npos;
}

std::string quoted(const std::string& word) {
  if (!word.empty() && std::ranges::all_of(word, is_plain)) return word;
  std::string text = "'";
  for (const char c : word) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

}  // namespace

std::vector<Host> read_hostfile(const std::filesystem::path& path) {
  std::istringstream lines(read_file(path, kMaxHostfileBytes));
  std::vector<Host> hosts;
  int number = 0;
  for (std::string text; std::getline(lines, text);) {
    ++number;
    std::istringstream words(text.substr(0, text.find('#')));
    std::string name;
    if (words >> name) hosts.push_back(host_of(std::move(words), std::move(name), path, number));
  }
  RW_CHECK(!hosts.empty(), DataError, "{}: no host in it; a line of a hostfile is \"name slots=N\"", path.native());
  return hosts;
}

std::vector<std::string> mpirun_command(const MpirunLine& line) {
  std::vector<std::string> command = {"mpirun"};
  if (line.as_root) append(command, {"--allow-run-as-root"});
  append(command, {"-np", std::to_string(line.ranks), "--bind-to", "none"});
  if (line.hostfile.empty()) {
    append(command, {"--oversubscribe"});
  } else {
    append_hosts(command, line);
  }
  command.insert(command.end(), line.program.begin(), line.program.end());
  return command;
}

int open_mpi_major(std::string_view version_text) {
  constexpr std::string_view kBefore = "mpirun (Open MPI) ";
  const size_t at = version_text.find(kBefore);
  const std::string_view digits = at == std::string_view::npos ? "" : version_text.substr(at + kBefore.size());
  int major = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), major);
  RW_CHECK(major >= 4, UnavailableError,
           "mpirun --version says \"{}\": Open MPI 4 or 5 is wanted (Debian: openmpi-bin), first in PATH",
           version_text.substr(0, version_text.find('\n')));
  return major;
}

std::vector<std::string> forwarded_variables(const std::vector<std::string_view>& environment) {
  std::vector<std::string> names;
  for (const auto entry : environment) {
    const std::string_view name = entry.substr(0, entry.find('='));
    if (std::ranges::any_of(kForwardedPrefixes, [&](auto prefix) { return name.starts_with(prefix); }) ||
        std::ranges::find(kForwardedNames, name) != std::end(kForwardedNames))
      names.emplace_back(name);
  }
  std::ranges::sort(names);
  return names;
}

std::string shell_text(const std::vector<std::string>& command) {
  std::string text;
  for (const auto& word : command) text += (text.empty() ? "" : " ") + quoted(word);
  return text;
}

}  // namespace rankwise
