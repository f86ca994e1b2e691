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

std::vector<at::Tensor> defined(std::initializer_list<at::Tensor> tensors) {
  std::vector<at::Tensor> kept;
  for (const auto& tensor : tensors) {
    if (tensor.defined()) kept.push_back(tensor);
  }
  return kept;
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
  int64_t out_begin = 0, rank_begin = 0;
  std::vector<at::Tensor> as, gradients;
  for (const auto& part : parts_) {
    LowRankSlice& slice = slices_.emplace_back(LowRankSlice{.out_begin = out_begin, .columns = part.out_features});
    out_begin += part.out_features;
    if (!part.lora) continue;
    slice.rank_begin = rank_begin;
    slice.rank = part.lora->a_RI.size(0);
    slice.b_OR = part.lora->b_OR;
    slice.grad_b_OR = part.lora->grad_b_OR;
    slice.scaling = part.lora->scaling;
    rank_begin += slice.rank;
    as.push_back(part.lora->a_RI);
    if (part.lora->grad_a_RI.defined()) gradients.push_back(part.lora->grad_a_RI);
  }
  a_RI_ = as.empty() ? at::Tensor() : join_rows(as);
  grad_a_RI_ = gradients.empty() ? at::Tensor() : join_rows(gradients);
  on_gpu_ = a_RI_.defined() && fits_low_rank(slices_, a_RI_);
}

// All B's, scaled, as one matrix [O, R]: block-diagonal, so that a part's columns of S meet its own rows alone.
at::Tensor LinearGroup::scaled_b() const {
  if (slices_.size() == 1) return slices_.front().b_OR.mul(slices_.front().scaling);
  at::Tensor all = at::zeros({out_features_, a_RI_.size(0)}, a_RI_.options());
  for (const auto& slice : slices_) {
    if (slice.rank == 0) continue;
    at::Tensor block = all.narrow(0, slice.out_begin, slice.columns).narrow(1, slice.rank_begin, slice.rank);
    at::mul_out(block, slice.b_OR, at::scalar_tensor(slice.scaling, block.options()));
  }
  return all;
}

at::Tensor LinearGroup::multiply_float8(const at::Tensor& x_NI, const at::Tensor& residual_NO, const at::Tensor& s_NR) {
  const Float8Rows rows_NI = float8_rows(x_NI);
  at::Tensor y_NO = at::empty({x_NI.size(0), out_features_}, x_NI.options().dtype(at::kBFloat16));
  const at::Tensor start_NO = s_NR.defined() ? y_NO : residual_NO;
  const bool starts_with_bias = s_NR.defined() && on_gpu_;
  if (starts_with_bias) {
    low_rank_add(y_NO, defined({residual_NO, bias_O_}), s_NR, slices_);
  } else if (s_NR.defined()) {
    const Product term[] = {{s_NR, scaled_b().t()}};
    sum_products(y_NO, residual_NO, term);
  }
  int64_t begin = 0;
  for (const auto& handle : weights_) {
    const int64_t columns = handle.shape[0];
    float8_product(y_NO.narrow(1, begin, columns), start_NO.defined() ? start_NO.narrow(1, begin, columns) : start_NO,
                   rows_NI, store_.float8_weight(handle));
    begin += columns;
  }
  return bias_O_.defined() && !starts_with_bias ? y_NO.add_(bias_O_) : y_NO;
}

at::Tensor LinearGroup::multiply_transposed_float8(const at::Tensor& dy_NO, const at::Tensor& ds_NR) {
  at::Tensor dx_NI = at::empty({dy_NO.size(0), parts_[0].in_features}, dy_NO.options().dtype(at::kBFloat16));
  at::Tensor start_NI = ds_NR.defined() ? dx_NI : at::Tensor();
  if (ds_NR.defined() && on_gpu_) {
    low_rank_add_a(dx_NI, {}, ds_NR, a_RI_);
  } else if (ds_NR.defined()) {
    const Product term[] = {{ds_NR, a_RI_}};
    sum_products(dx_NI, {}, term);
  }
  int64_t begin = 0;
  for (const auto& handle : weights_) {
    float8_product_transposed(dx_NI, start_NI, dy_NO.narrow(1, begin, handle.shape[0]), store_.float8_weight(handle));
    start_NI = dx_NI;
    begin += handle.shape[0];
  }
  return dx_NI;
}

at::Tensor LinearGroup::multiply(const at::Tensor& x_NI, const at::Tensor& residual_NO, const at::Tensor& s_NR) {
  if (store_.multiplies_float8()) return multiply_float8(x_NI, residual_NO, s_NR);
  at::Tensor y_NO = at::empty({x_NI.size(0), out_features_}, x_NI.options());
  const bool starts_with_term = s_NR.defined() && on_gpu_;
  if (starts_with_term) low_rank_add(y_NO, defined({residual_NO, bias_O_}), s_NR, slices_);
  const at::Tensor& start = starts_with_term ? y_NO : residual_NO.defined() ? residual_NO : bias_O_;
  const at::Tensor b_OR = s_NR.defined() && !starts_with_term ? scaled_b() : at::Tensor();
  int64_t begin = 0;
  for (const auto& handle : weights_) {
    const int64_t columns = handle.shape[0];
    std::vector<Product> products = {{x_NI, store_.weight(handle).t()}};
    if (b_OR.defined()) products.push_back({s_NR, b_OR.narrow(0, begin, columns).t()});
    sum_products(y_NO.narrow(1, begin, columns), start.defined() ? start.narrow(-1, begin, columns) : start, products);
    begin += columns;
  }
  if (!starts_with_term && residual_NO.defined() && bias_O_.defined()) y_NO.add_(bias_O_);
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
  if (ds_NR.defined() && on_gpu_) {
    at::Tensor dx_NI = at::empty({dy_NO.size(0), a_RI_.size(1)}, dy_NO.options());
    low_rank_add_a(dx_NI, {}, ds_NR, a_RI_);
    sum_products(dx_NI, dx_NI, products);
    return dx_NI;
  }
  if (ds_NR.defined()) products.push_back({ds_NR, a_RI_});
  return sum_products({}, products);
}

at::Tensor LinearGroup::low_rank_input(const at::Tensor& x_NI, const Dropout& dropout) const {
  if (!dropout.drops()) return narrow_product(x_NI, a_RI_.t());
  at::Tensor kept_NI = dropout_mask(dropout, x_NI.size(1), x_NI.options()).mul_(x_NI);
  return narrow_product(kept_NI, a_RI_.t());
}

at::Tensor LinearGroup::forward(const at::Tensor& x_NI, const at::Tensor& residual_NO, const Dropout& dropout,
                                LinearSaved* saved) {
  if (!a_RI_.defined()) return multiply(x_NI, residual_NO, {});
  const at::Tensor s_NR = low_rank_input(x_NI, dropout);
  if (saved != nullptr) saved->s_NR = s_NR;
  return multiply(x_NI, residual_NO, s_NR);
}

at::Tensor LinearGroup::low_rank_gradient(const at::Tensor& dy_NO, const at::Tensor& s_NR) const {
  if (on_gpu_ && dy_NO.is_contiguous()) return rankwise::low_rank_gradient(dy_NO, s_NR, slices_);
  for (const auto& slice : slices_) {
    if (slice.rank == 0) continue;
    const at::Tensor dy = dy_NO.narrow(1, slice.out_begin, slice.columns);
    const at::Tensor gradient_RO = s_NR.narrow(1, slice.rank_begin, slice.rank).t().mm(dy);
    at::Tensor(slice.grad_b_OR).add_(gradient_RO.t(), slice.scaling);
  }
  return narrow_product(dy_NO, scaled_b());
}

// With input = x * rstd * weight, dS^T input = ((dS * rstd)^T x) * weight: narrow matrices are scaled in place of a
// wide one. mask: undefined or of the input.
void LinearGroup::add_gradient_of_a(const at::Tensor& ds_NR, const LinearInput& input, const at::Tensor& mask_NI) {
  const at::Tensor kept_NI = mask_NI.defined() ? mask_NI.mul(input.x_NI) : input.x_NI;
  if (!input.rstd_N1.defined()) {
    grad_a_RI_.add_(ds_NR.t().mm(kept_NI));
    return;
  }
  at::Tensor scaled_NR = at::empty_like(ds_NR);
  at::mul_out(scaled_NR, ds_NR, input.rstd_N1);
  grad_a_RI_.addcmul_(scaled_NR.t().mm(kept_NI), input.weight_I);
}

at::Tensor LinearGroup::backward_from(const at::Tensor& ds_NR, const at::Tensor& dy_NO, const LinearInput& input,
                                      const Dropout& dropout, bool need_dx) {
  if (!dropout.drops()) {
    add_gradient_of_a(ds_NR, input, {});
    return need_dx ? multiply_transposed(dy_NO, ds_NR) : at::Tensor();
  }
  const at::Tensor& x_NI = input.x_NI;
  at::Tensor mask_NI = dropout_mask(dropout, x_NI.size(1), x_NI.options());
  add_gradient_of_a(ds_NR, input, mask_NI);
  return need_dx ? multiply_transposed(dy_NO, {}).addcmul_(mask_NI, ds_NR.mm(a_RI_)) : at::Tensor();
}

at::Tensor LinearGroup::backward(const at::Tensor& dy_NO, const LinearInput& input, const Dropout& dropout,
                                 const LinearSaved& saved, bool need_dx) {
  if (!a_RI_.defined()) return need_dx ? multiply_transposed(dy_NO, {}) : at::Tensor();
  return backward_from(low_rank_gradient(dy_NO, saved.s_NR), dy_NO, input, dropout, need_dx);
}

}  // namespace rankwise
