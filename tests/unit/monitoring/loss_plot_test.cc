#include "monitoring/loss_plot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "tests/support/scratch_directory.h"

namespace rankwise {
namespace {

using rankwise::testing::ScratchDirectory;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

LossCurves falling(int64_t num_steps) {
  LossCurves curves;
  for (int64_t step = 1; step <= num_steps; ++step) {
    const auto t = static_cast<double>(step) / static_cast<double>(num_steps);
    curves.train.push_back({step, 3.5 + std::exp(-4 * t) + 0.15 * std::sin(static_cast<double>(step * 7))});
    if (step % std::max<int64_t>(num_steps / 5, 1) == 0) curves.eval.push_back({step, 3.6 + 0.7 * std::exp(-4 * t)});
  }
  return curves;
}

// Python's expat is the judge: each is well-formed, and an <svg> whose coordinates all lie on the picture.
bool are_good_svgs(const std::vector<std::string>& pictures) {
  const ScratchDirectory directory;
  const char* python = std::getenv("PYTHON");
  std::string command = (python == nullptr ? "python3" : python) + (" -IS " + directory
                                                                                  .add("judge.py", R"(
import sys, xml.etree.ElementTree as xml
limits = dict(x=760, x1=760, x2=760, cx=760, y=440, y1=440, y2=440, cy=440)
for path in sys.argv[1:]:
    root = xml.parse(path).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg", root.tag
    for element in root.iter():
        for key in limits.keys() & element.attrib.keys():
            assert 0 <= float(element.attrib[key]) <= limits[key], element.attrib
        for pair in element.attrib.get("points", "").split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= 760 and 0 <= y <= 440, pair
)")
                                                                                  .string());
  for (size_t i = 0; i < pictures.size(); ++i) {
    command.append(" ").append(directory.add(std::to_string(i) + ".svg", pictures[i]).string());
  }
  return std::system(command.c_str()) == 0;
}

size_t count(const std::string& text, std::string_view what) {
  size_t n = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

TEST(LossPlot, IsAStandaloneSvgForEveryLengthOfRun) {
  std::vector<std::string> pictures = {loss_plot_svg({}, "")};
  for (const int64_t steps : {1, 2, 11, 12, 40, 5000}) pictures.push_back(loss_plot_svg(falling(steps), "a run"));
  pictures.push_back(loss_plot_svg({.train = {{1, 2.0}, {2, 2.0}}, .eval = {}}, "a constant loss"));
  EXPECT_TRUE(are_good_svgs(pictures));
}

TEST(LossPlot, MarksEveryEvaluationAndNamesTheAxes) {
  const std::string svg = loss_plot_svg(falling(40), "smollm2-devil");
  EXPECT_EQ(count(svg, "<circle"), 5u + 1u);  // and one in the legend
  for (const char* text : {">smollm2-devil<", ">optimizer step<", ">loss<", ">training<", ">evaluation<"})
    EXPECT_THAT(svg, HasSubstr(text));
  EXPECT_THAT(svg, HasSubstr("class=\"raw\""));
  EXPECT_THAT(svg, HasSubstr(">4.0<")) << "ticks have the same number of decimals";
}

TEST(LossPlot, LeavesOutPointsThatAreNotFinite) {
  LossCurves curves = falling(20);
  curves.train[5].loss = kNaN;
  curves.train[6].loss = std::numeric_limits<double>::infinity();
  const std::string svg = loss_plot_svg(curves, "x");
  EXPECT_TRUE(are_good_svgs({svg}));
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  EXPECT_THAT(svg, Not(HasSubstr("inf")));
}

TEST(LossPlot, APictureOfOnlyNonFinitePointsIsEmptyButGood) {
  const std::string svg = loss_plot_svg({.train = {{1, kNaN}}, .eval = {}}, "x");
  EXPECT_THAT(svg, HasSubstr("no step yet"));
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
}

TEST(LossPlot, ATitleOfAnyBytesIsText) {
  std::vector<std::string> pictures;
  for (const std::string& title : {std::string("<script>&\"'</script>]]>"), std::string("a\0b\x01\x1b\n", 6),
                                   std::string("\xff\xfe\xc3("), std::string("Gr\u00f6\u00dfe \u640d\u5931")}) {
    pictures.push_back(loss_plot_svg(falling(3), title));
    EXPECT_THAT(pictures.back(), Not(HasSubstr("<script")));
  }
  EXPECT_THAT(pictures.back(), HasSubstr(">Gr\u00f6\u00dfe \u640d\u5931<"));
  EXPECT_TRUE(are_good_svgs(pictures));
}

TEST(LossPlot, ALongRunsPictureStaysSmall) { EXPECT_LT(loss_plot_svg(falling(200000), "x").size(), 100000u); }

TEST(LossPlot, ReplacesTheFile) {
  const ScratchDirectory directory;
  const auto path = directory / "loss.svg";
  write_loss_plot(path, falling(3), "first");
  write_loss_plot(path, falling(3), "second");
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  EXPECT_EQ(text.str(), loss_plot_svg(falling(3), "second"));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(path.parent_path()), {}), 1);
}

TEST(NiceTicks, AreRoundAndInside) {
  EXPECT_THAT(nice_ticks(3.55, 4.31, 7),
              ElementsAre(::testing::DoubleNear(3.6, 1e-9), ::testing::DoubleNear(3.8, 1e-9),
                          ::testing::DoubleNear(4.0, 1e-9), ::testing::DoubleNear(4.2, 1e-9)));
  EXPECT_THAT(nice_ticks(0, 40, 9), ElementsAre(0, 5, 10, 15, 20, 25, 30, 35, 40));
  for (double high = 1e-6; high < 1e12; high *= 1.7) {
    const auto ticks = nice_ticks(0, high, 7);
    EXPECT_GE(ticks.size(), 3u) << high;
    EXPECT_LE(ticks.size(), 8u) << high;
    EXPECT_LE(ticks.back(), high);
  }
}

}  // namespace
}  // namespace rankwise
