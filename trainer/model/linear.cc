#include "trainer/model/linear.h"

#include <ATen/ATen.h>

#include "base/check.h"

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

// accumulator += scale * left right; in one GEMM where the dtypes agree, as they do unless compute is 16-bit.
void add_product(at::Tensor accumulator, const at::Tensor& left, const at::Tensor& right, double scale) {
  if (accumulator.scalar_type() == left.scalar_type()) {
    accumulator.addmm_(left, right, 1, scale);
  } else {
    accumulator.add_(left.mm(right), scale);
  }
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

at::Tensor LinearGroup::multiply(const at::Tensor& x_NI, const at::Tensor& residual_NO) {
  const at::Tensor& start = residual_NO.defined() ? residual_NO : bias_O_;
  const auto product = [&](const WeightHandle& handle, const at::Tensor& added) {
    const at::Tensor weight_IO = store_.weight(handle).t();
    return added.defined() ? at::addmm(added, x_NI, weight_IO) : at::mm(x_NI, weight_IO);
  };
  at::Tensor y_NO;
  if (weights_.size() == 1) {
    y_NO = product(weights_[0], start);
  } else {
    std::vector<at::Tensor> columns;
    int64_t begin = 0;
    for (const auto& handle : weights_) {
      columns.push_back(product(handle, start.defined() ? start.narrow(-1, begin, handle.shape[0]) : start));
      begin += handle.shape[0];
    }
    y_NO = at::cat(columns, 1);
  }
  if (residual_NO.defined() && bias_O_.defined()) y_NO.add_(bias_O_);
  return y_NO;
}

at::Tensor LinearGroup::multiply_transposed(const at::Tensor& dy_NO) {
  at::Tensor dx_NI;
  int64_t begin = 0;
  for (const auto& handle : weights_) {
    const at::Tensor weight_OI = store_.weight(handle), dy = dy_NO.narrow(1, begin, handle.shape[0]);
    if (dx_NI.defined()) {
      dx_NI.addmm_(dy, weight_OI);
    } else {
      dx_NI = dy.mm(weight_OI);
    }
    begin += handle.shape[0];
  }
  return dx_NI;
}

void LinearGroup::add_low_rank(at::Tensor& y_NO, const at::Tensor& s_NR) const {
  for (const auto& slice : slices_) {
    const auto& lora = *parts_[slice.part].lora;
    y_NO.narrow(1, slice.out_begin, parts_[slice.part].out_features)
        .addmm_(s_NR.narrow(1, slice.rank_begin, slice.rank), lora.b_OR.t(), 1, lora.scaling);
  }
}

at::Tensor LinearGroup::forward(const at::Tensor& x_NI, const at::Tensor& residual_NO, const DropoutContext* dropout,
                                LinearSaved* saved) {
  at::Tensor y_NO = multiply(x_NI, residual_NO);
  if (slices_.empty()) return y_NO;
  const bool drops = dropout != nullptr && dropout->p > 0;
  const at::Tensor kept_NI =
      drops ? dropout_mask(dropout->key, *dropout->batch, x_NI.size(1), dropout->p, x_NI.scalar_type()).mul_(x_NI)
            : x_NI;
  const at::Tensor s_NR = kept_NI.mm(a_RI_.t());
  add_low_rank(y_NO, s_NR);
  if (saved != nullptr) saved->s_NR = s_NR;
  return y_NO;
}

at::Tensor LinearGroup::backward(const at::Tensor& dy_NO, const at::Tensor& x_NI, const DropoutContext* dropout,
                                 const LinearSaved& saved, bool need_dx) {
  at::Tensor dx_NI = need_dx ? multiply_transposed(dy_NO) : at::Tensor();
  if (slices_.empty()) return dx_NI;
  at::Tensor ds_NR = at::empty({dy_NO.size(0), total_rank_}, dy_NO.options());
  for (const auto& slice : slices_) {
    const auto& lora = *parts_[slice.part].lora;
    const at::Tensor dy = dy_NO.narrow(1, slice.out_begin, parts_[slice.part].out_features);
    at::Tensor ds = ds_NR.narrow(1, slice.rank_begin, slice.rank);
    at::addmm_out(ds, ds, dy, lora.b_OR, /*beta=*/0, lora.scaling);
    add_product(lora.grad_b_OR, dy.t(), saved.s_NR.narrow(1, slice.rank_begin, slice.rank), lora.scaling);
  }
  const bool drops = dropout != nullptr && dropout->p > 0;
  if (!drops) {
    add_product(grad_a_RI_, ds_NR.t(), x_NI, 1.0);
    if (need_dx) dx_NI.addmm_(ds_NR, a_RI_);
    return dx_NI;
  }
  at::Tensor mask_NI = dropout_mask(dropout->key, *dropout->batch, x_NI.size(1), dropout->p, x_NI.scalar_type());
  add_product(grad_a_RI_, ds_NR.t(), mask_NI.mul(x_NI), 1.0);
  if (need_dx) dx_NI.addcmul_(mask_NI, ds_NR.mm(a_RI_));
  return dx_NI;
}

}  // namespace rankwise
