#include "trainer/model/linear.h"

#include <ATen/ATen.h>

#include "base/check.h"
#include "trainer/model/float8.h"
#include "trainer/model/products.h"

namespace rankwise {
namespace {

// One matrix over neighbours in memory. The adapter lays the A's of a group out without gaps.
at::Tensor join_rows(const std::vector<at::Tensor>& rows) {
  int64_t total = 0;
  for (const auto& part : rows) {
    const auto* expected =
        static_cast<const char*>(rows[0].data_ptr()) + total * rows[0].size(1) * rows[0].element_size();
    RW_CHECK(part.data_ptr() == expected, Error, "the A matrices of a group are not adjacent in the adapter's buffer");
    total += part.size(0);
  }
  return rows[0].as_strided({total, rows[0].size(1)}, {rows[0].size(1), 1}, rows[0].storage_offset());
}

}  // namespace

LinearGroup::LinearGroup(FrozenStore& store, std::vector<LinearPart> parts) : store_(store), parts_(std::move(parts)) {
  std::vector<std::string> names;
  std::vector<at::Tensor> biases;
  for (const auto& part : parts_) {
    names.push_back(part.module + ".weight");
    out_features_ += part.out_features;
    if (part.has_bias) biases.push_back(store.replicated(part.module + ".bias"));
  }
  RW_CHECK(biases.empty() || biases.size() == parts_.size(), Error, "{}: a group with and without biases",
           parts_[0].module);
  if (!biases.empty()) bias_O_ = at::cat(biases);
  if (const auto joined = store.find_adjacent(names)) {
    weights_ = {*joined};
  } else {
    for (const auto& name : names) weights_.push_back(store.find(name));
  }
}

void LinearGroup::lora_changed() {
  slices_.clear();
  total_rank_ = 0;
  int64_t out_begin = 0;
  std::vector<at::Tensor> as, gradients;
  for (size_t p = 0; p < parts_.size(); ++p) {
    if (const auto& lora = parts_[p].lora) {
      slices_.push_back({p, out_begin, total_rank_, lora->a_RI.size(0)});
      total_rank_ += lora->a_RI.size(0);
      as.push_back(lora->a_RI);
      if (lora->grad_a_RI.defined()) gradients.push_back(lora->grad_a_RI);
    }
    out_begin += parts_[p].out_features;
  }
  a_RI_ = as.empty() ? at::Tensor() : join_rows(as);
  grad_a_RI_ = gradients.empty() ? at::Tensor() : join_rows(gradients);
}

// All B's, scaled, as one matrix [O, R]: block-diagonal, so that a part's columns of S meet its own rows alone.
at::Tensor LinearGroup::scaled_b() const {
  const auto& first = parts_[slices_.front().part].lora->b_OR;
  if (slices_.size() == 1 && first.size(0) == out_features_)
    return first.mul(parts_[slices_.front().part].lora->scaling);
  at::Tensor all = at::zeros({out_features_, total_rank_}, first.options());
  for (const auto& slice : slices_) {
    const auto& lora = *parts_[slice.part].lora;
    at::Tensor block = all.narrow(0, slice.out_begin, lora.b_OR.size(0)).narrow(1, slice.rank_begin, slice.rank);
    at::mul_out(block, lora.b_OR, at::scalar_tensor(lora.scaling, block.options()));
  }
  return all;
}

at::Tensor LinearGroup::multiply_float8(const at::Tensor& x_NI, const at::Tensor& residual_NO, const at::Tensor& s_NR) {
  const Float8Rows rows_NI = float8_rows(x_NI);
  std::vector<at::Tensor> columns;
  for (const auto& handle : weights_) columns.push_back(float8_product(rows_NI, store_.float8_weight(handle)));
  at::Tensor y_NO = columns.size() == 1 ? columns.front() : at::cat(columns, 1);
  if (s_NR.defined()) y_NO.addmm_(s_NR, scaled_b().t());
  if (residual_NO.defined()) y_NO.add_(residual_NO);
  if (bias_O_.defined()) y_NO.add_(bias_O_);
  return y_NO;
}

at::Tensor LinearGroup::multiply_transposed_float8(const at::Tensor& dy_NO, const at::Tensor& ds_NR) {
  at::Tensor dx_NI;
  int64_t begin = 0;
  for (const auto& handle : weights_) {
    const at::Tensor part_NI =
        float8_product_transposed(dy_NO.narrow(1, begin, handle.shape[0]), store_.float8_weight(handle));
    dx_NI = dx_NI.defined() ? dx_NI.add_(part_NI) : part_NI;
    begin += handle.shape[0];
  }
  return ds_NR.defined() ? dx_NI.addmm_(ds_NR, a_RI_) : dx_NI;
}

at::Tensor LinearGroup::multiply(const at::Tensor& x_NI, const at::Tensor& residual_NO, const at::Tensor& s_NR) {
  if (store_.multiplies_float8()) return multiply_float8(x_NI, residual_NO, s_NR);
  const at::Tensor& start = residual_NO.defined() ? residual_NO : bias_O_;
  const at::Tensor b_OR = s_NR.defined() ? scaled_b() : at::Tensor();
  at::Tensor y_NO = at::empty({x_NI.size(0), out_features_}, x_NI.options());
  int64_t begin = 0;
  for (const auto& handle : weights_) {
    const int64_t columns = handle.shape[0];
    std::vector<Product> products = {{x_NI, store_.weight(handle).t()}};
    if (s_NR.defined()) products.push_back({s_NR, b_OR.narrow(0, begin, columns).t()});
    sum_products(y_NO.narrow(1, begin, columns), start.defined() ? start.narrow(-1, begin, columns) : start, products);
    begin += columns;
  }
  if (residual_NO.defined() && bias_O_.defined()) y_NO.add_(bias_O_);
  return y_NO;
}

at::Tensor LinearGroup::multiply_transposed(const at::Tensor& dy_NO, const at::Tensor& ds_NR) {
  if (store_.multiplies_float8()) return multiply_transposed_float8(dy_NO, ds_NR);
  std::vector<Product> products;
  int64_t begin = 0;
  for (const auto& handle : weights_) {
    products.push_back({dy_NO.narrow(1, begin, handle.shape[0]), store_.weight(handle)});
    begin += handle.shape[0];
  }
  if (ds_NR.defined()) products.push_back({ds_NR, a_RI_});
  return sum_products({}, products);
}

at::Tensor LinearGroup::low_rank_input(const at::Tensor& x_NI, const DropoutContext* dropout) const {
  if (!drops(dropout)) return narrow_product(x_NI, a_RI_.t());
  at::Tensor kept_NI = dropout_mask(dropout->key, *dropout->batch, x_NI.size(1), dropout->p, x_NI.options()).mul_(x_NI);
  return narrow_product(kept_NI, a_RI_.t());
}

at::Tensor LinearGroup::forward(const at::Tensor& x_NI, const at::Tensor& residual_NO, const DropoutContext* dropout,
                                LinearSaved* saved) {
  if (slices_.empty()) return multiply(x_NI, residual_NO, {});
  const at::Tensor s_NR = low_rank_input(x_NI, dropout);
  if (saved != nullptr) saved->s_NR = s_NR;
  return multiply(x_NI, residual_NO, s_NR);
}

at::Tensor LinearGroup::low_rank_gradient(const at::Tensor& dy_NO, const at::Tensor& s_NR) const {
  for (const auto& slice : slices_) {
    const auto& lora = *parts_[slice.part].lora;
    const at::Tensor dy = dy_NO.narrow(1, slice.out_begin, lora.b_OR.size(0));
    const at::Tensor gradient_RO = s_NR.narrow(1, slice.rank_begin, slice.rank).t().mm(dy);
    at::Tensor(lora.grad_b_OR).add_(gradient_RO.t(), lora.scaling);
  }
  return narrow_product(dy_NO, scaled_b());
}

at::Tensor LinearGroup::backward_from(const at::Tensor& ds_NR, const at::Tensor& dy_NO, const at::Tensor& x_NI,
                                      const DropoutContext* dropout, bool need_dx) {
  if (!drops(dropout)) {
    grad_a_RI_.add_(ds_NR.t().mm(x_NI));
    return need_dx ? multiply_transposed(dy_NO, ds_NR) : at::Tensor();
  }
  at::Tensor mask_NI = dropout_mask(dropout->key, *dropout->batch, x_NI.size(1), dropout->p, x_NI.options());
  grad_a_RI_.add_(ds_NR.t().mm(mask_NI.mul(x_NI)));
  return need_dx ? multiply_transposed(dy_NO, {}).addcmul_(mask_NI, ds_NR.mm(a_RI_)) : at::Tensor();
}

at::Tensor LinearGroup::backward(const at::Tensor& dy_NO, const at::Tensor& x_NI, const DropoutContext* dropout,
                                 const LinearSaved& saved, bool need_dx) {
  if (slices_.empty()) return need_dx ? multiply_transposed(dy_NO, {}) : at::Tensor();
  return backward_from(low_rank_gradient(dy_NO, saved.s_NR), dy_NO, x_NI, dropout, need_dx);
}

}  // namespace rankwise
