#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <memory>
#include <utility>

#include "base/check.h"
#include "base/hash.h"
#include "base/log.h"
#include "comms/cuda.h"
#include "configs/run_config.h"
#include "launcher/commands/commands.h"
#include "launcher/hosts.h"
#include "launcher/local_ranks.h"
#include "launcher/mpirun_line.h"
#include "launcher/permanent_failure.h"
#include "launcher/supervisor.h"

namespace rankwise {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr milliseconds kFirstBackOff{1000}, kLongestBackOff{60'000};
constexpr int kSshPort = 22;

struct Options {
  int ranks = 0;  // 0: the hostfile's slots, or the GPUs of this host
  std::string hostfile;
  int ssh_port = 0;
  int start_timeout = 600, grace = 0;
  int restarts = 3;
  std::string termination_log = "/dev/termination-log";
  bool worker = false;
  std::vector<std::string> program;  // what ranks run: a command of this binary and its arguments; a worker: sshd
};

// What is known of a training run before it is started.
struct TrainRun {
  RunConfig config;
  std::string fingerprint;
};

// None for other commands, and where the command line is one that `train` itself will refuse.
std::optional<TrainRun> train_run_of(const std::vector<std::string>& program) {
  if (program.front() != "train") return std::nullopt;
  CLI::App command;
  TrainOptions options;
  describe_train(command, options);
  describe_log_format(command);  // and what the ranks are told there holds here too
  try {
    command.parse(std::vector<std::string>(program.rbegin(), program.rend() - 1));  // CLI11 takes the last first
  } catch (const CLI::ParseError&) {
    return std::nullopt;
  }
  if (options.config.empty()) return std::nullopt;
  TrainRun run{load_run_config(options.config, options.overrides), ""};
  run.fingerprint = sha256_hex(dump_run_config(run.config) + shell_text(program));
  return run;
}

std::string output_of(const char* command) {
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(::popen(command, "r"), &::pclose);
  std::array<char, 256> text{};
  const size_t count = pipe ? std::fread(text.data(), 1, text.size(), pipe.get()) : 0;
  return {text.data(), count};
}

int num_gpus() {
  try {
    return num_cuda_devices();
  } catch (const UnavailableError&) {  // a build or a host without CUDA
    return 0;
  }
}

int ranks_of(const Options& options, const std::vector<Host>& hosts) {
  if (options.ranks > 0) return options.ranks;
  int slots = 0;
  for (const auto& host : hosts) slots += host.slots;
  const int ranks = hosts.empty() ? num_gpus() : slots;
  RW_CHECK(ranks > 0, UsageError, "--np: how many ranks? There is no GPU here to count, and no --hostfile");
  return ranks;
}

std::vector<std::string_view> environment() {
  std::vector<std::string_view> entries;
  for (char** entry = environ; *entry != nullptr; ++entry) entries.emplace_back(*entry);
  return entries;
}

MpirunLine line_of(const Options& options, const std::vector<Host>& hosts, const std::optional<TrainRun>& run) {
  MpirunLine line{.open_mpi = open_mpi_major(output_of("mpirun --version 2>&1")),
                  .ranks = ranks_of(options, hosts),
                  .hostfile = options.hostfile,
                  .ssh_port = options.ssh_port,
                  .as_root = ::geteuid() == 0,
                  .environment = forwarded_variables(environment()),
                  .program = {std::filesystem::read_symlink("/proc/self/exe").native()}};
  line.program.insert(line.program.end(), options.program.begin(), options.program.end());
  // An mpirun that does not see the hostfile starts every rank alone, and each believes that it is the whole job.
  if (run && !run->config.comms.expected_world_size) {
    line.program.emplace_back("--set");
    line.program.push_back(fmt::format("comms.expected_world_size={}", line.ranks));
  }
  return line;
}

// Another start may get further: a lost peer, a signal, mpirun itself. What the run says of its input will not change.
bool may_help(int code) {
  constexpr ExitCode kFinal[] = {ExitCode::kOk, ExitCode::kUnavailable, ExitCode::kInternal, ExitCode::kCannotWrite};
  return !is_permanent(code) && std::ranges::find(kFinal, static_cast<ExitCode>(code)) == std::end(kFinal);
}

// A rank that gave up ends the others through mpirun; but one that waits for a host that is cut off may never end. The
// first is a rank's message as JSON, the second its line of text; the others are mpirun's.
bool says_job_is_over(std::string_view message) {
  return message.starts_with("no progress on ") || message.starts_with("rankwise: no progress on ") ||
         message.find("has lost communication with a remote daemon") != std::string_view::npos ||
         message.find("Per user-direction, the job has been aborted") != std::string_view::npos;
}

// The code that the launcher leaves with.
int final_code(const Outcome& outcome) {
  // A rank died of the signal that asks it to stop: it had not begun, so there was nothing to save.
  const bool not_begun = outcome.stop_requested && outcome.code == 128 + SIGUSR1;
  return not_begun ? static_cast<int>(ExitCode::kStopped) : outcome.code;
}

void leave_message(const Options& options, const Outcome& outcome) {
  if (outcome.code == 0 || ::access(options.termination_log.c_str(), W_OK) != 0) return;
  std::ofstream(options.termination_log) << fmt::format("exit code {}: {}\n", final_code(outcome), outcome.last_error);
}

void note_permanent(const std::optional<TrainRun>& run, const Outcome& outcome) {
  if (!run || !is_permanent(outcome.code) || !std::filesystem::is_directory(run->config.run.output_dir)) return;
  mark_permanent_failure(run->config.run.output_dir, {outcome.code, outcome.last_error, run->fingerprint});
  log_error("no other start can help: {} says so to the next one; remove it to try all the same",
            permanent_failure_path(run->config.run.output_dir).native());
}

// Asked to stop before a start; `failed` is the one before, if there was one.
Outcome stopped_before_start(const std::optional<Outcome>& failed) {
  Outcome outcome{.code = static_cast<int>(ExitCode::kStopped),
                  .stop_requested = true,
                  .last_error = "stopped before the ranks were started"};
  if (failed)
    outcome.last_error += fmt::format(" again; before, they ended with code {}: {}", failed->code, failed->last_error);
  return outcome;
}

// Starts it again, after longer and longer pauses, as long as that may help.
Outcome run_again_and_again(Supervisor& supervisor, const MpirunLine& line, const Options& options,
                            const std::vector<Host>& hosts) {
  const StopPolicy policy{.ask = [](pid_t mpirun) { ::kill(mpirun, SIGUSR1); },
                          .may_end = nullptr,
                          .grace = seconds(options.grace),
                          .says_it_is_over = &says_job_is_over};
  const auto pause = [&](milliseconds time) { return !supervisor.stopped_within(time); };
  const int port = options.ssh_port == 0 ? kSshPort : options.ssh_port;
  std::optional<Outcome> failed;
  milliseconds back_off{0};
  for (int restart = 0;; ++restart) {
    if (!pause(back_off) || !wait_for_hosts(hosts, port, seconds(options.start_timeout), pause))
      return stopped_before_start(failed);
    Outcome outcome = supervisor.run(mpirun_command(line), policy);
    // Open MPI 5 leaves with 0 when it has lost a host.
    if (outcome.overstayed || (outcome.said_over && outcome.code == 0))
      outcome.code = static_cast<int>(ExitCode::kCommunication);
    if (outcome.stop_requested || !may_help(outcome.code) || restart == options.restarts) return outcome;
    back_off = std::clamp(2 * back_off, kFirstBackOff, kLongestBackOff);
    log_message(LogLevel::kWarning,
                fmt::format("ended with code {}; start {} of {} in {} s", outcome.code, restart + 2,
                            options.restarts + 1, back_off.count() / 1000),
                {.event = "restart", .fields = {{"exit_code", outcome.code}, {"start", restart + 2}}});
    failed = std::move(outcome);
  }
}

ExitCode launch_ranks(const Options& options) {
  Supervisor supervisor;  // first of all: as a container's first process we would never get what we do not wait for
  const auto run = train_run_of(options.program);
  ::setenv(kLogFormatVariable, log_format() == LogFormat::kJson ? "json" : "text", 1);  // for the ranks
  if (run) {
    if (const auto failure = find_permanent_failure(run->config.run.output_dir, run->fingerprint))
      throw Error(static_cast<ExitCode>(failure->code),
                  fmt::format("{}: this run failed before, and no other start can help: {}; remove that file to try "
                              "all the same",
                              permanent_failure_path(run->config.run.output_dir).native(), failure->error));
  }
  const auto hosts = options.hostfile.empty() ? std::vector<Host>() : read_hostfile(options.hostfile);
  const MpirunLine line = line_of(options, hosts, run);
  log_message(LogLevel::kInfo, shell_text(mpirun_command(line)), {.event = "launch"});
  const Outcome outcome = run_again_and_again(supervisor, line, options, hosts);
  note_permanent(run, outcome);
  leave_message(options, outcome);
  return static_cast<ExitCode>(final_code(outcome));
}

// sshd as a container's first process: when that is told to end, the ranks here save first.
ExitCode launch_worker(const Options& options) {
  const StopPolicy policy{.ask =
                              [told = false](pid_t) mutable {
                                const auto ranks = local_ranks();
                                if (!std::exchange(told, true))
                                  log_info("asked to stop: {} ranks here are to save", ranks.size());
                                for (const pid_t rank : ranks) ::kill(rank, SIGUSR1);
                              },
                          .may_end = [] { return local_ranks().empty(); },
                          .grace = seconds(options.grace)};
  log_info("{}", shell_text(options.program));
  Supervisor supervisor;
  const Outcome outcome = supervisor.run(options.program, policy);
  return outcome.stop_requested ? ExitCode::kOk : static_cast<ExitCode>(outcome.code);
}

ExitCode launch(const Options& options) {
  init_log(-1, LogLevel::kInfo);
  return options.worker ? launch_worker(options) : launch_ranks(options);
}

}  // namespace

void add_launch(CLI::App& app, Command& chosen) {
  auto options = std::make_shared<Options>();
  auto* command = app.add_subcommand(
      "launch", "Start a command on several ranks and look after them; made to be the first process of a container.");
  command->add_option("--np", options->ranks, "ranks; else the hostfile's slots, or the GPUs of this host")
      ->check(CLI::Range(1, 65536));
  command->add_option("--hostfile", options->hostfile, "Open MPI's: a line \"name slots=N\" a host");
  command->add_option("--ssh-port", options->ssh_port, "of its hosts; else as ssh finds it, and 22 is waited for")
      ->check(CLI::Range(1, 65535));
  command->add_option("--start-timeout", options->start_timeout, "seconds to wait for its hosts")
      ->check(CLI::Range(0, 86400))
      ->capture_default_str();
  command
      ->add_option("--grace", options->grace,
                   "seconds between a first signal and the end of this host's patience; the ranks are told to end 10 s "
                   "before.\n0: they take as long as they need to save")
      ->check(CLI::Range(0, 86400))
      ->capture_default_str();
  command->add_option("--restarts", options->restarts, "times to start again what another start may help")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str();
  command
      ->add_option("--termination-log", options->termination_log, "file for the reason of a failure, where it is there")
      ->capture_default_str();
  command->add_flag("--worker", options->worker,
                    "run the program that follows (sshd) and let this host's ranks save first");
  command->prefix_command();
  command->footer(
      "Example: rankwise launch --np 2 train configs/recipes/smollm2_devil.yaml\n"
      "         rankwise launch --worker --grace 180 /usr/sbin/sshd -De -f sshd_config");
  command->callback([=, &chosen] {
    options->program = command->remaining();
    if (options->program.empty()) throw CLI::RequiredError("what to run: a command of rankwise, or sshd with --worker");
    if (options->program.front().starts_with("-")) throw CLI::ExtrasError({options->program.front()});
    chosen = [options] { return launch(*options); };
  });
}

}  // namespace rankwise
