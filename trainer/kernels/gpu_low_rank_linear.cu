// Low-rank pairs around linear layers.
#include "trainer/kernels/gpu_low_rank.cuh"

namespace rankwise {
namespace {

// Which slice a block serves, and where in it.
struct BlockSlice {
  int index = 0;
  int64_t first_stripe = 0;  // of the slice, among all stripes

  __device__ explicit BlockSlice(const GpuLowRankSlice* slices) {
    while (blockIdx.x >= first_stripe + low_rank_stripes(slices[index].columns))
      first_stripe += low_rank_stripes(slices[index++].columns);
  }
  __device__ Stripe stripe(const GpuLowRankSlice& slice) const {
    return {slice.begin + (blockIdx.x - first_stripe) * kStripe, slice.begin + slice.columns};
  }
};

constexpr int kStages = 4;  // there is little to do on a tile but to wait for it

template <int kStarts, int kTerms>
struct AddShared {
  Stage<kStarts, kTerms> stages[kStages];
  NarrowRows<kStripe> sides[kTerms];
};

// The eight numbers of a thread's row e: the starts in the stage and the terms.
template <int kStarts, int kTerms>
__device__ void add_up(uint32_t (&words)[4], const Stage<kStarts, kTerms>& stage, const TileSum (&terms)[kTerms][4],
                       const float (&scalings)[kTerms], int e) {
  uint4 starts[kStarts > 0 ? kStarts : 1];
#pragma unroll
  for (int w = 0; w < kStarts; ++w) starts[w] = stage.wide[w][e][thread()];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    float sum[2] = {};
#pragma unroll
    for (int w = 0; w < kStarts; ++w) {
      sum[0] += first_of(word_of(starts[w], j));
      sum[1] += second_of(word_of(starts[w], j));
    }
#pragma unroll
    for (int k = 0; k < kTerms; ++k) {
      sum[0] += scalings[k] * terms[k][j][2 * e];
      sum[1] += scalings[k] * terms[k][j][2 * e + 1];
    }
    words[j] = packed(sum[0], sum[1]);
  }
}

// kTerms: slices that have this block's columns. What there is none of costs no instruction.
template <int kStarts, int kTerms>
__global__ void __launch_bounds__(kThreads) low_rank_add(GpuLowRankAdd call) {
  extern __shared__ __align__(16) char memory[];
  auto& shared = *reinterpret_cast<AddShared<kStarts, kTerms>*>(memory);
  const BlockSlice block(call.slices);
  const GpuLowRankSlice* const slices = call.slices + (kTerms == 1 ? block.index : 0);
  const Stripe stripe = kTerms == 1 ? block.stripe(slices[0]) : Stripe{int64_t{blockIdx.x} * kStripe, call.columns};
  const Place place(stripe);
  Matrix narrow[kTerms];
  float scalings[kTerms];
#pragma unroll
  for (int k = 0; k < kTerms; ++k) {
    const GpuLowRankSlice& slice = slices[k];
    const int64_t column_stride = call.right_is_a ? 1 : slice.rank, rank_stride = call.right_is_a ? slice.columns : 1;
    read_side(shared.sides[k], {bfloat16s(slice.right), slice.rank, column_stride, rank_stride}, stripe, slice.begin);
    narrow[k] = {bfloat16s(call.s_NR) + slice.rank_begin, call.total_rank, slice.rank};
    scalings[k] = slice.scaling;
  }
  Matrix wide[kStarts > 0 ? kStarts : 1] = {};
  for (int w = 0; w < kStarts; ++w) wide[w] = {bfloat16s(call.starts_NO[w]), call.start_strides[w]};
  auto* out = static_cast<BFloat16*>(call.out_NO) + place.column;
  const auto visit = [&](int64_t tile, auto& stage, int) {
    TileSum terms[kTerms][4] = {};
#pragma unroll
    for (int k = 0; k < kTerms; ++k) {
      TileLeft left;
      read_left(left, stage.narrow[k], place.lane);
#pragma unroll
      for (int m = 0; m < 2; ++m)
        add_terms(terms[k][2 * m], terms[k][2 * m + 1], left, shared.sides[k], place.warp * kWarpColumns + 16 * m,
                  place.lane);
    }
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int64_t row = tile * kTileRows + place.row + 8 * e;
      uint32_t words[4];
      add_up<kStarts>(words, stage, terms, scalings, e);
      if (row < call.rows && place.inside) store_piece(out + row * call.columns, words);
    }
  };
  each_tile(shared.stages, place, call.rows, wide, narrow, visit, [](int64_t, int) {});
}

using GradientShared = Shared<kStages, 1, 1, 1, 1>;

__host__ __device__ int64_t stripes_of(const GpuLowRankSlice* slices, int count) {
  int64_t stripes = 0;
  for (int k = 0; k < count; ++k) stripes += low_rank_stripes(slices[k].columns);
  return stripes;
}

// Sums over rows, [regions, kRank, O], behind those over columns, [stripes, N, kRank].
__device__ float* row_parts(const GpuLowRankGradient& call, int64_t region) {
  return call.scratch + (stripes_of(call.slices, call.num_slices) * call.rows + region * call.columns) * kRank;
}

__global__ void __launch_bounds__(kThreads) low_rank_gradient(GpuLowRankGradient call) {
  extern __shared__ __align__(16) char memory[];
  auto& shared = *reinterpret_cast<GradientShared*>(memory);
  const BlockSlice block(call.slices);
  const GpuLowRankSlice& slice = call.slices[block.index];
  const Stripe stripe = block.stripe(slice);
  const Place place(stripe);
  read_side(shared.sides[0], {bfloat16s(slice.right), slice.rank, slice.rank, 1}, stripe, slice.begin);
  const Matrix wide[] = {{bfloat16s(call.dy_NO), call.columns}};
  const Matrix narrow[] = {{bfloat16s(call.s_NR) + slice.rank_begin, call.total_rank, slice.rank}};
  TileSum over_rows[4] = {};
  const auto visit = [&](int64_t, auto& stage, int round) {
    TileSum ds[2] = {};
    const uint4 rows[2] = {stage.wide[0][0][thread()], stage.wide[0][1][thread()]};
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const Words words = {{word_of(rows[0], 2 * m), word_of(rows[1], 2 * m)},
                           {word_of(rows[0], 2 * m + 1), word_of(rows[1], 2 * m + 1)}};
      add_to_sums(ds, words, shared.sides[0], place.warp * kWarpColumns + 16 * m, place.lane);
      add_over_rows(over_rows, m, words, stage.narrow[0], place.lane);
    }
    leave_sums(shared.sums[round][place.warp], ds, place.lane);
  };
  float* const parts = call.scratch + int64_t{blockIdx.x} * call.rows * kRank;
  each_tile(shared.stages, place, call.rows, wide, narrow, visit,
            [&](int64_t tile, int round) { store_sums(parts, shared.sums[round], tile, call.rows); });
  store_over_rows(row_parts(call, blockIdx.y), call.columns, place, over_rows);
}

// A slice's ds = the stripes' parts, scaled: a thread's pair of it.
__device__ void add_column_parts(const GpuLowRankGradient& call, int index) {
  const GpuLowRankSlice& slice = call.slices[index];
  const int64_t pair = (int64_t{blockIdx.x} * kThreads + thread()) * 2, row = pair / kRank, rank = pair % kRank;
  if (row >= call.rows || rank >= slice.rank) return;
  const int64_t first = stripes_of(call.slices, index), count = low_rank_stripes(slice.columns);
  const float2 sum = sum_of_parts(call.scratch + first * call.rows * kRank + pair, count, call.rows * (kRank / 2));
  auto* out = static_cast<uint32_t*>(call.ds_NR) + (row * call.total_rank + slice.rank_begin + rank) / 2;
  *out = packed(sum.x * slice.scaling, sum.y * slice.scaling);
}

// The gradient of a slice's b += the regions' parts, scaled: a thread's number.
__device__ void add_row_parts(const GpuLowRankGradient& call, int index, int64_t regions) {
  const GpuLowRankSlice& slice = call.slices[index];
  const int64_t place = int64_t{blockIdx.x} * kThreads + thread();
  const int64_t rank = place / slice.columns, column = place % slice.columns;
  if (rank >= slice.rank) return;
  const float* part = row_parts(call, 0) + rank * call.columns + slice.begin + column;
  float sum = 0.0f;
#pragma unroll 4
  for (int64_t region = 0; region < regions; ++region) sum += part[region * kRank * call.columns];
  slice.grad_b_OR[column * slice.rank + rank] += slice.scaling * sum;
}

// blockIdx.y: the slices' ds, then their b.
__global__ void __launch_bounds__(kThreads) add_parts(GpuLowRankGradient call, int64_t regions) {
  const int index = static_cast<int>(blockIdx.y);
  if (index < call.num_slices) return add_column_parts(call, index);
  add_row_parts(call, index - call.num_slices, regions);
}

template <int kStarts, int kTerms>
int start_add(const GpuLowRankAdd& call, cudaStream_t stream) {
  const int64_t stripes = call.right_is_a ? low_rank_stripes(call.columns) : stripes_of(call.slices, call.num_slices);
  return start_stripes<AddShared<kStarts, kTerms>>(low_rank_add<kStarts, kTerms>, call, stripes,
                                                   regions_of(call.rows, stripes), stream);
}

template <int kStarts>
int start_add(const GpuLowRankAdd& call, cudaStream_t stream) {
  const int terms = call.right_is_a ? call.num_slices : 1;
  return terms == 1   ? start_add<kStarts, 1>(call, stream)
         : terms == 2 ? start_add<kStarts, 2>(call, stream)
                      : start_add<kStarts, 3>(call, stream);
}

}  // namespace
}  // namespace rankwise

int rankwise_low_rank_add(const rankwise::GpuLowRankAdd* call, void* stream) {
  if (call->rows == 0) return cudaSuccess;
  using namespace rankwise;
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  if (call->starts_NO[0] == nullptr) return start_add<0>(*call, cuda_stream);
  return call->starts_NO[1] == nullptr ? start_add<1>(*call, cuda_stream) : start_add<2, 1>(*call, cuda_stream);
}

int64_t rankwise_low_rank_gradient_scratch_bytes(const rankwise::GpuLowRankGradient* call) {
  using namespace rankwise;
  const int64_t stripes = stripes_of(call->slices, call->num_slices);
  return (stripes * call->rows + regions_of(call->rows, stripes) * call->columns) * kRank * int64_t{sizeof(float)};
}

int rankwise_low_rank_gradient(const rankwise::GpuLowRankGradient* call, void* stream) {
  using namespace rankwise;
  if (call->rows == 0) return cudaSuccess;
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const int64_t stripes = stripes_of(call->slices, call->num_slices), regions = regions_of(call->rows, stripes);
  if (const int code = start_stripes<GradientShared>(low_rank_gradient, *call, stripes, regions, cuda_stream))
    return code;
  int64_t widest = 0;
  for (int k = 0; k < call->num_slices; ++k) widest = std::max(widest, call->slices[k].columns);
  const dim3 blocks(blocks_for(std::max((call->rows + 1) / 2, widest) * kRank),
                    2 * static_cast<unsigned>(call->num_slices));
  add_parts<<<blocks, kThreads, 0, cuda_stream>>>(*call, regions);
  return cudaGetLastError();
}
