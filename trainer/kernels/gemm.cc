#include "trainer/kernels/gemm.h"

#include <omp.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include "base/check.h"
#include "base/round_up.h"
#include "trainer/kernels/gemm_kernel.h"

namespace rankwise {
namespace {

// A right panel of this many elements stays near while the left block, in the second-level cache, passes by; the packed
// right block lies in the third. Found by trying, on Zen 4.
constexpr int64_t kRightPanel = 10240;
constexpr int64_t kBlockRows = 96;
constexpr int64_t kBlockColumns = 1536;

constexpr int64_t kSmallOutput = 1 << 14;  // elements below which a second thread costs more than it gives

// Grows and stays: the same sizes come again every layer.
class Scratch {
 public:
  float* at_least(int64_t count) {
    if (count > count_) {
      memory_.reset(
          static_cast<float*>(std::aligned_alloc(64, static_cast<size_t>(round_up(count, 16)) * sizeof(float))));
      if (memory_ == nullptr) throw std::bad_alloc();
      count_ = count;
    }
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(float* memory) const { std::free(memory); }
  };
  std::unique_ptr<float, Free> memory_;
  int64_t count_ = 0;
};
thread_local Scratch left_scratch, right_scratch;

// One block of depth and columns: packed together by all threads, then multiplied by each with its own rows. Depth
// counts through all terms: a block may end one and hold the whole of a short one after it.
struct Block {
  const GemmKernel& kernel;
  std::span<const GemmTerm> terms;
  int64_t depth_begin, depth, column_begin, columns;
  float* right_panels;

  // Calls visit(term, where in the term, how much of it, where in the block) for what the block has of each term.
  template <typename Visit>
  void for_each_piece(const Visit& visit) const {
    int64_t term_begin = 0;
    for (const auto& term : terms) {
      const int64_t begin = std::max(depth_begin, term_begin);
      const int64_t end = std::min(depth_begin + depth, term_begin + term.depth);
      if (begin < end) visit(term, begin - term_begin, end - begin, begin - depth_begin);
      term_begin += term.depth;
    }
  }

  void pack_right(int64_t thread, int64_t threads) const {
    const int64_t width = kernel.tile_columns;
    for (int64_t j = thread * width; j < columns; j += threads * width) {
      for_each_piece([&](const GemmTerm& term, int64_t begin, int64_t length, int64_t offset) {
        kernel.pack_right(term, begin, length, column_begin + j, std::min(width, columns - j),
                          right_panels + j * depth + offset * width);
      });
    }
  }

  void pack_left(int64_t row, int64_t rows, float* panel) const {
    for_each_piece([&](const GemmTerm& term, int64_t begin, int64_t length, int64_t offset) {
      kernel.pack_left(term, row, rows, begin, length, panel + offset * kernel.tile_rows);
    });
  }

  // Rows [begin, end) of output, which is the whole one.
  void multiply(const GemmOutput& output, int64_t begin, int64_t end) const {
    const int64_t height = kernel.tile_rows, block_rows = kBlockRows / height * height;
    float* left_panels = left_scratch.at_least(block_rows * depth);
    for (int64_t block = begin; block < end; block += block_rows) {
      const int64_t rows = std::min(block_rows, end - block);
      for (int64_t i = 0; i < rows; i += height)
        pack_left(block + i, std::min(height, rows - i), left_panels + i * depth);
      for (int64_t j = 0; j < columns; j += kernel.tile_columns) {
        for (int64_t i = 0; i < rows; i += height)
          kernel.multiply(depth, left_panels + i * depth, right_panels + j * depth,
                          tile_of(output, block + i, column_begin + j, std::min(height, rows - i),
                                  std::min(kernel.tile_columns, columns - j)));
      }
    }
  }

  static GemmOutput tile_of(const GemmOutput& all, int64_t row, int64_t column, int64_t rows, int64_t columns) {
    const float* start = all.start != nullptr ? all.start + row * all.start_stride + column : nullptr;
    return {all.out + row * all.stride + column, all.stride, start, all.start_stride, rows, columns};
  }
};

// Calls visit(block, whether it is the first of its columns) in the order of the sum.
template <typename Visit>
void for_each_block(const GemmKernel& kernel, const GemmOutput& output, std::span<const GemmTerm> terms,
                    float* right_panels, const Visit& visit) {
  int64_t depth = 0;
  for (const auto& term : terms) depth += term.depth;
  const int64_t most = kRightPanel / kernel.tile_columns, num_blocks = (depth + most - 1) / most;
  const int64_t step = round_up((depth + num_blocks - 1) / num_blocks, 8);
  for (int64_t column = 0; column < output.columns; column += kBlockColumns) {
    const int64_t columns = std::min(kBlockColumns, output.columns - column);
    for (int64_t k = 0; k < depth; k += step)
      visit(Block{kernel, terms, k, std::min(step, depth - k), column, columns, right_panels}, k == 0);
  }
}

}  // namespace

void gemm(const GemmOutput& output, std::span<const GemmTerm> terms) {
  const GemmKernel* const kernel = gemm_kernel();
  RW_CHECK(kernel != nullptr, Error, "gemm: this CPU has neither AVX2 with FMA nor AVX-512");
  GemmOutput further = output;  // after the first block the sum goes on from what is there
  further.start = output.out;
  further.start_stride = output.stride;
  const int64_t panels = (std::min(output.columns, kBlockColumns) + kernel->tile_columns - 1) / kernel->tile_columns;
  float* right_panels = right_scratch.at_least(panels * kRightPanel);
#pragma omp parallel if (output.rows * output.columns >= kSmallOutput)
  {
    const int64_t threads = omp_get_num_threads(), thread = omp_get_thread_num();
    const int64_t rows = round_up((output.rows + threads - 1) / threads, kernel->tile_rows);
    const int64_t begin = std::min(output.rows, rows * thread), end = std::min(output.rows, begin + rows);
    for_each_block(*kernel, output, terms, right_panels, [&](const Block& block, bool first) {
      block.pack_right(thread, threads);
#pragma omp barrier
      block.multiply(first ? output : further, begin, end);
#pragma omp barrier
    });
  }
}

}  // namespace rankwise
