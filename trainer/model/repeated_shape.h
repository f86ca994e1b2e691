// When it pays to record what a micro-batch starts (gpu_graph.h): where those of one shape follow each other. What is
// recorded keeps its memory, so whatever else is computed loses it, and recording takes time.
#pragma once

#include <array>
#include <cstdint>

namespace rankwise {

class RepeatedShape {
 public:
  using Shape = std::array<int64_t, 3>;  // tokens, targets, tokens of a sample

  // Of one more micro-batch. Whether it is the second of its shape in a row, or as many as lost() has come to want.
  bool comes(const Shape& shape);
  // What was recorded was used so often until something else was computed. Less than kPays: from now on twice as many
  // in a row are wanted; else two again. The row begins anew.
  void lost(int64_t uses);

  static constexpr int64_t kPays = 32;  // 8B: recording takes 0.2 micro-batches, each use saves up to 0.007

 private:
  Shape last_{};
  int64_t in_a_row_ = 0, wanted_ = 2;
};

}  // namespace rankwise
