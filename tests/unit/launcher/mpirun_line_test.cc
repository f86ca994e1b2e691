#include "launcher/mpirun_line.h"

#include <gmock/gmock.h>

#include "base/file.h"
#include "tests/support/expect_error.h"
#include "tests/support/scratch_directory.h"

namespace rankwise {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

std::vector<Host> hosts_in(const std::string& text) {
  const testing::ScratchDirectory scratch;
  replace_file(scratch.path() / "hostfile", text);
  return read_hostfile(scratch.path() / "hostfile");
}

TEST(Hostfile, HostsWithTheirSlots) {
  const auto hosts =
      hosts_in("# made by somebody\n\njob-worker-0.job.ns.svc slots=8\n  b max_slots=4 # one\nc\tslots=2\n");
  ASSERT_EQ(hosts.size(), 3u);
  EXPECT_EQ(hosts[0].name, "job-worker-0.job.ns.svc");
  EXPECT_EQ(hosts[0].slots, 8);
  EXPECT_EQ(hosts[1].name, "b");
  EXPECT_EQ(hosts[1].slots, 1);
  EXPECT_EQ(hosts[2].slots, 2);
}

TEST(Hostfile, FaultsNameTheLine) {
  EXPECT_ERROR(hosts_in("a\nb slots=two\n"), DataError, "hostfile:2: slots=two");
  EXPECT_ERROR(hosts_in("a slots=0"), DataError, "slots wants a whole number from 1");
  EXPECT_ERROR(hosts_in("a slots="), DataError, "hostfile:1");
  EXPECT_ERROR(hosts_in("# nobody\n"), DataError, "no host in it");
  EXPECT_ERROR(read_hostfile("/nowhere/hostfile"), NoInputError, "/nowhere/hostfile");
}

TEST(MpirunLine, OfOneHost) {
  EXPECT_EQ(shell_text(mpirun_command({.ranks = 2, .program = {"/opt/rankwise", "train", "a b.yaml"}})),
            "mpirun -np 2 --bind-to none --oversubscribe /opt/rankwise train 'a b.yaml'");
  EXPECT_THAT(mpirun_command({.as_root = true, .program = {"x"}}), ::testing::Contains("--allow-run-as-root"));
}

TEST(MpirunLine, EachOpenMpiGetsItsOwnNames) {
  MpirunLine line{
      .ranks = 16, .hostfile = "/etc/mpi/hostfile", .ssh_port = 2222, .environment = {"NCCL_DEBUG"}, .program = {"x"}};
  const std::string four = shell_text(mpirun_command(line));
  EXPECT_THAT(four, HasSubstr("--mca orte_keep_fqdn_hostnames 1"));
  EXPECT_THAT(four, HasSubstr("--mca plm_rsh_args '-p 2222 -o ConnectionAttempts=10'"));
  EXPECT_THAT(four, HasSubstr("-x NCCL_DEBUG"));
  EXPECT_THAT(four, Not(HasSubstr("prte")));
  EXPECT_THAT(four, Not(HasSubstr("--oversubscribe")));
  line.open_mpi = 5;
  const std::string five = shell_text(mpirun_command(line));
  EXPECT_THAT(five, HasSubstr("--prtemca prte_keep_fqdn_hostnames 1"));
  EXPECT_THAT(five, HasSubstr("--prtemca plm_ssh_args '-p 2222"));
  EXPECT_THAT(five, Not(HasSubstr("orte_")));
}

TEST(MpirunLine, TheVersionOfMpirun) {
  EXPECT_EQ(open_mpi_major("mpirun (Open MPI) 4.1.4\n\nReport bugs"), 4);
  EXPECT_EQ(open_mpi_major("mpirun (Open MPI) 5.0.7"), 5);
  EXPECT_ERROR(open_mpi_major("HYDRA build details:\n Version: 4.0"), UnavailableError, "HYDRA build details:");
  EXPECT_ERROR(open_mpi_major("sh: 1: mpirun: not found"), UnavailableError, "mpirun: not found");
  EXPECT_ERROR(open_mpi_major("mpirun (Open MPI) 3.1.3"), UnavailableError, "3.1.3");
}

TEST(MpirunLine, NamesOfVariablesForOtherHosts) {
  EXPECT_THAT(forwarded_variables({"NCCL_DEBUG=INFO", "HOME=/root", "OMP_NUM_THREADS=4", "AWS_SECRET=x", "TZ=UTC",
                                   "NCCLX=1", "RANKWISE_A=", "HF_TOKEN=secret", "NVIDIA_VISIBLE_DEVICES="}),
              ElementsAre("NCCL_DEBUG", "OMP_NUM_THREADS", "RANKWISE_A", "TZ"));
}

TEST(MpirunLine, QuotesWhatAShellWouldTouch) {
  EXPECT_EQ(shell_text({"a", "", "it's", "$x", "k=v"}), "a '' 'it'\\''s' '$x' k=v");
}

}  // namespace
}  // namespace rankwise
