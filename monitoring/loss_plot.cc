#include "monitoring/loss_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/file.h"

namespace rankwise {
namespace {

constexpr double kWidth = 760, kHeight = 440;
constexpr double kLeft = 72, kRight = 24, kTop = 52, kBottom = 60;
constexpr size_t kMaxTrainPoints = 800;  // about one a pixel
constexpr size_t kMinPointsToSmooth = 12;

constexpr std::string_view kStyle =
    "<style>text{font-family:Helvetica,Arial,'DejaVu Sans',sans-serif;font-size:12px;fill:#475569}"
    ".title{font-size:16px;font-weight:600;fill:#0f172a}.value{font-weight:600;fill:#c2410c;paint-order:stroke;stroke:#"
    "fff;stroke-width:4px}"
    ".grid{stroke:#e2e8f0}.axis{stroke:#94a3b8}.raw,.train,.eval{fill:none;stroke-linejoin:round;stroke-linecap:round}"
    ".raw{stroke:#bfdbfe;stroke-width:1.5}.train{stroke:#2563eb;stroke-width:2.5}"
    ".eval{stroke:#ea580c;stroke-width:1.5;stroke-dasharray:5 4}"
    ".dot{fill:#ea580c;stroke:#fff;stroke-width:1.5}</style>\n";

struct Point {
  double step;
  double loss;
};
using Points = std::vector<Point>;

Points finite_points(const std::vector<LossPoint>& all) {
  Points points;
  for (const LossPoint& p : all) {
    if (std::isfinite(p.loss)) points.push_back({static_cast<double>(p.step), p.loss});
  }
  return points;
}

// Means of neighbours, so that a long run's picture stays small.
Points thinned(const Points& points, size_t max_count) {
  const size_t group = (points.size() + max_count - 1) / max_count;
  if (group <= 1) return points;
  Points means;
  for (size_t begin = 0; begin < points.size(); begin += group) {
    const size_t end = std::min(begin + group, points.size());
    Point sum{0, 0};
    for (size_t i = begin; i < end; ++i) sum = {sum.step + points[i].step, sum.loss + points[i].loss};
    const auto count = static_cast<double>(end - begin);
    means.push_back({sum.step / count, sum.loss / count});
  }
  return means;
}

// A centred mean over about a tenth of the run. Unlike an exponential one it does not lag behind a falling loss; the
// window is as wide on both sides, and so shrinks towards the ends.
Points smoothed(const Points& points) {
  const size_t reach = std::max<size_t>(points.size() / 20, 1);
  Points means;
  for (size_t i = 0; i < points.size(); ++i) {
    const size_t side = std::min({reach, i, points.size() - 1 - i});
    double sum = 0;
    for (size_t j = i - side; j <= i + side; ++j) sum += points[j].loss;
    means.push_back({points[i].step, sum / static_cast<double>(2 * side + 1)});
  }
  return means;
}

// Any bytes -> text that XML takes: valid UTF-8 (the JSON writer repairs it), no control characters, escaped.
std::string xml_text(std::string_view raw) {
  using nlohmann::json;
  const std::string json_text = json(raw).dump(-1, ' ', false, json::error_handler_t::replace);
  std::string text;
  for (const char c : json::parse(json_text).get<std::string>()) {
    switch (c) {
      case '&':
        text += "&amp;";
        break;
      case '<':
        text += "&lt;";
        break;
      case '>':
        text += "&gt;";
        break;
      case '"':
        text += "&quot;";
        break;
      default:
        text += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? ' ' : c;
    }
  }
  return text;
}

struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
  void add(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  void widen(double share, double at_least) {
    const double margin = std::max((high - low) * share, at_least);
    low -= margin;
    high += margin;
  }
};

// As many as tell neighbours apart.
int decimals_of(const std::vector<double>& ticks) {
  if (ticks.size() < 2) return 3;
  return std::clamp(static_cast<int>(-std::floor(std::log10(ticks[1] - ticks[0]) + 1e-9)), 0, 9);
}

class Plot {
 public:
  Plot(Range steps, Range losses) : steps_(steps), losses_(losses) {}

  double x(double step) const {
    return kLeft + (step - steps_.low) / (steps_.high - steps_.low) * (kWidth - kLeft - kRight);
  }
  double y(double loss) const {
    return kHeight - kBottom - (loss - losses_.low) / (losses_.high - losses_.low) * (kHeight - kTop - kBottom);
  }
  void line(const char* css_class, double x1, double y1, double x2, double y2) {
    add("<line class=\"{}\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>\n", css_class, x1, y1, x2, y2);
  }
  void text(std::string_view attributes, double at_x, double at_y, std::string_view content) {
    add("<text {} x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n", attributes, at_x, at_y, xml_text(content));
  }
  void dot(double at_x, double at_y) {
    add("<circle class=\"dot\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4.5\"/>\n", at_x, at_y);
  }
  void curve(const char* css_class, const Points& points) {
    std::string coordinates;
    for (const Point& p : points) coordinates += fmt::format("{:.1f},{:.1f} ", x(p.step), y(p.loss));
    add("<polyline class=\"{}\" points=\"{}\"/>\n", css_class, coordinates);
  }
  void axes() {
    const std::vector<double> loss_ticks = nice_ticks(losses_.low, losses_.high, 7);
    for (const double loss : loss_ticks) {
      line("grid", kLeft, y(loss), kWidth - kRight, y(loss));
      text("text-anchor=\"end\"", kLeft - 8, y(loss) + 4, fmt::format("{:.{}f}", loss, decimals_of(loss_ticks)));
    }
    for (const double step : nice_ticks(steps_.low, steps_.high, 9)) {
      if (step != std::floor(step)) continue;
      line("axis", x(step), kHeight - kBottom, x(step), kHeight - kBottom + 5);
      text("text-anchor=\"middle\"", x(step), kHeight - kBottom + 20, fmt::format("{:.0f}", step));
    }
    line("axis", kLeft, kHeight - kBottom, kWidth - kRight, kHeight - kBottom);
    text("text-anchor=\"middle\"", (kLeft + kWidth - kRight) / 2, kHeight - 14, "optimizer step");
    add("<text text-anchor=\"middle\" transform=\"translate(20 {:.1f}) rotate(-90)\">loss</text>\n",
        (kTop + kHeight - kBottom) / 2);
  }
  void legend_entry(double at_x, const char* css_class, std::string_view name) {
    line(css_class, at_x, kTop - 13, at_x + 26, kTop - 13);
    text("", at_x + 32, kTop - 9, name);
  }
  std::string svg(std::string_view title) const {
    return fmt::format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" viewBox=\"0 0 {0:.0f} "
        "{1:.0f}\" "
        "role=\"img\">\n<title>{2}</title>\n{3}<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
        "<text class=\"title\" x=\"{4:.0f}\" y=\"24\">{2}</text>\n{5}</svg>\n",
        kWidth, kHeight, xml_text(title), kStyle, kLeft, body_);
  }

 private:
  template <typename... Args>
  void add(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(body_), format, std::forward<Args>(args)...);
  }

  Range steps_;
  Range losses_;
  std::string body_;
};

void draw_train(Plot& plot, const Points& train) {
  if (train.empty()) return;
  plot.legend_entry(kWidth - 270, "train", "training");
  const bool smooth = train.size() >= kMinPointsToSmooth;
  if (smooth) plot.curve("raw", train);
  plot.curve("train", smooth ? smoothed(train) : train);
}

void draw_eval(Plot& plot, const Points& eval) {
  if (eval.empty()) return;
  plot.legend_entry(kWidth - 150, "eval", "evaluation");
  plot.dot(kWidth - 137, kTop - 13);
  plot.curve("eval", eval);
  for (const Point& p : eval) plot.dot(plot.x(p.step), plot.y(p.loss));
  const auto label = [&](const Point& p, const char* anchor) {
    plot.text(fmt::format("class=\"value\" text-anchor=\"{}\"", anchor), plot.x(p.step), plot.y(p.loss) - 11,
              fmt::format("{:.3f}", p.loss));
  };
  if (eval.size() > 1) label(eval.front(), "start");
  label(eval.back(), "end");
}

}  // namespace

std::vector<double> nice_ticks(double low, double high, int max_count) {
  const double rough = (high - low) / max_count;
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  double spacing = 10 * power;
  for (const double factor : {5, 2, 1}) {
    if (factor * power >= rough) spacing = factor * power;
  }
  std::vector<double> ticks;
  for (double k = std::ceil(low / spacing); k * spacing <= high; ++k)
    ticks.push_back(k * spacing + 0.0);  // + 0.0: never "-0"
  return ticks;
}

std::string loss_plot_svg(const LossCurves& curves, std::string_view title) {
  const Points train = thinned(finite_points(curves.train), kMaxTrainPoints);
  const Points eval = finite_points(curves.eval);
  Range steps, losses;
  for (const Points* points : {&train, &eval}) {
    for (const Point& p : *points) {
      steps.add(p.step);
      losses.add(p.loss);
    }
  }
  const bool empty = train.empty() && eval.empty();
  if (empty) steps = losses = {.low = 0, .high = 1};
  if (steps.low == steps.high) steps.widen(0, 1);
  losses.widen(0.08, 1e-3);

  Plot plot(steps, losses);
  plot.axes();
  if (empty) plot.text("text-anchor=\"middle\"", kWidth / 2, kHeight / 2, "no step yet");
  draw_train(plot, train);
  draw_eval(plot, eval);
  return plot.svg(title);
}

void write_loss_plot(const std::filesystem::path& path, const LossCurves& curves, std::string_view title) {
  replace_file(path, loss_plot_svg(curves, title));
}

}  // namespace rankwise
