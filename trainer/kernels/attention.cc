#include "trainer/kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "trainer/kernels/gemm.h"
#include "trainer/kernels/row_kernels.h"

namespace rankwise {
namespace {

constexpr int64_t kBlockQueries =
    96;  // of one head: more waste above the diagonal, fewer pack keys and values too often

// Some queries of one sample, and the keys that any of them sees.
struct Block {
  int64_t begin, queries;
  int64_t key_begin, keys;
};

// One head's part of rows: a matrix whose rows follow each other after a stride.
template <typename T>
struct Columns {
  T* data;
  int64_t stride;
  T* row(int64_t index) const { return data + index * stride; }
};

// The work of one key head with the query heads that share it, on one sample.
class HeadGroup {
 public:
  HeadGroup(const AttentionRows& rows, int64_t kv_head)
      : rows_(rows), kv_head_(kv_head), scale_(1.0f / std::sqrt(static_cast<float>(rows.head_dim))) {}

  void forward(int64_t begin, int64_t end, float* out) {
    for_each_block(begin, end, [&](const Block& block, int64_t head) {
      make_probabilities(block, head);
      const GemmTerm term = from_scores(probabilities_, block, value().row(block.key_begin), value().stride);
      gemm(head_rows(out, head, block), {&term, 1});
    });
  }

  void backward(int64_t begin, int64_t end, const float* dout, float* dqkv) {
    for_each_block(begin, end, [&](const Block& block, int64_t head) {
      make_probabilities(block, head);
      const Columns<const float> dout_head{dout + head * rows_.head_dim, rows_.num_heads * rows_.head_dim};
      make_score_gradient(block, dout_head);
      add_transposed(probabilities_, block, dout_head, kv_column(dqkv, rows_.num_kv_heads));
      add_transposed(gradient_, block, query(head), kv_column(dqkv, 0));
      const GemmTerm term = from_scores(gradient_, block, key().row(block.key_begin), key().stride);
      gemm({dqkv + block.begin * width() + head * rows_.head_dim, width(), nullptr, 0, block.queries, rows_.head_dim},
           {&term, 1});
    });
  }

 private:
  template <typename Visit>
  void for_each_block(int64_t begin, int64_t end, const Visit& visit) {
    const int64_t per_key = rows_.num_heads / rows_.num_kv_heads;
    for (int64_t first = begin; first < end; first += kBlockQueries) {
      const int64_t queries = std::min(kBlockQueries, end - first);
      const int64_t key_begin = rows_.window > 0 ? std::max(begin, first + 1 - rows_.window) : begin;
      const Block block{first, queries, key_begin, first + queries - key_begin};
      for (int64_t g = 0; g < per_key; ++g) visit(block, kv_head_ * per_key + g);
    }
  }

  int64_t width() const { return (rows_.num_heads + 2 * rows_.num_kv_heads) * rows_.head_dim; }
  Columns<const float> query(int64_t head) const { return {rows_.qkv + head * rows_.head_dim, width()}; }
  Columns<const float> key() const { return kv_column(rows_.qkv, 0); }
  Columns<const float> value() const { return kv_column(rows_.qkv, rows_.num_kv_heads); }
  template <typename T>
  Columns<T> kv_column(T* qkv, int64_t heads_between) const {
    return {qkv + (rows_.num_heads + heads_between + kv_head_) * rows_.head_dim, width()};
  }
  GemmOutput head_rows(float* out, int64_t head, const Block& block) const {
    const int64_t stride = rows_.num_heads * rows_.head_dim;
    return {out + block.begin * stride + head * rows_.head_dim, stride, nullptr, 0, block.queries, rows_.head_dim};
  }

  // scores [queries, keys] times rows of keys or values.
  static GemmTerm from_scores(const std::vector<float>& scores, const Block& block, const float* right,
                              int64_t stride) {
    return {scores.data(), block.keys, 1, right, false, stride, 1, block.keys};
  }
  // left [queries, head_dim] times the block's keys or values, transposed.
  void to_scores(std::vector<float>& scores, const Block& block, Columns<const float> left,
                 Columns<const float> right) {
    scores.resize(static_cast<size_t>(kBlockQueries * block.keys));
    const GemmTerm term{left.row(block.begin), left.stride,   1, right.row(block.key_begin), false, 1,
                        right.stride,          rows_.head_dim};
    gemm({scores.data(), block.keys, nullptr, 0, block.queries, block.keys}, {&term, 1});
  }
  // Rows of the block's keys in `to` += transposed scores times the block's rows of `right`.
  void add_transposed(const std::vector<float>& scores, const Block& block, Columns<const float> right,
                      Columns<float> to) const {
    const GemmTerm term{scores.data(), 1, block.keys, right.row(block.begin), false, right.stride, 1, block.queries};
    float* out = to.row(block.key_begin);
    gemm({out, to.stride, out, to.stride, block.keys, rows_.head_dim}, {&term, 1});
  }

  void make_probabilities(const Block& block, int64_t head) {
    to_scores(probabilities_, block, query(head), key());
    for (int64_t q = 0; q < block.queries; ++q) {
      float* row = probabilities_.data() + q * block.keys;
      const int64_t end = block.begin + q + 1 - block.key_begin;
      const int64_t begin = rows_.window > 0 ? std::max<int64_t>(0, end - rows_.window) : 0;
      const float factor = 1.0f / row_kernels()->exponentiate(row + begin, end - begin, scale_).sum;
      std::fill(row, row + begin, 0.0f);
      for (int64_t k = begin; k < end; ++k) row[k] *= factor;
      std::fill(row + end, row + block.keys, 0.0f);
    }
  }

  void make_score_gradient(const Block& block, Columns<const float> dout) {
    to_scores(gradient_, block, dout, value());
    for (int64_t q = 0; q < block.queries; ++q)
      row_kernels()->softmax_backward(probabilities_.data() + q * block.keys, gradient_.data() + q * block.keys,
                                      block.keys, scale_);
  }

  const AttentionRows& rows_;
  int64_t kv_head_;
  float scale_;
  std::vector<float> probabilities_, gradient_;  // [queries, keys]
};

// Calls work(group, begin, end) for every sample and key head, side by side.
template <typename Work>
void for_each_group(const AttentionRows& rows, const Work& work) {
  const int64_t samples = static_cast<int64_t>(rows.sample_starts.size()) - 1;
#pragma omp parallel for schedule(dynamic)
  for (int64_t task = 0; task < samples * rows.num_kv_heads; ++task) {
    const auto sample = static_cast<size_t>(task / rows.num_kv_heads);
    HeadGroup group(rows, task % rows.num_kv_heads);
    work(group, rows.sample_starts[sample], rows.sample_starts[sample + 1]);
  }
}

}  // namespace

void attention_forward(const AttentionRows& rows, float* out) {
  for_each_group(rows, [out](HeadGroup& group, int64_t begin, int64_t end) { group.forward(begin, end, out); });
}

void attention_backward(const AttentionRows& rows, const float* dout, float* dqkv) {
  for_each_group(
      rows, [dout, dqkv](HeadGroup& group, int64_t begin, int64_t end) { group.backward(begin, end, dout, dqkv); });
}

}  // namespace rankwise
