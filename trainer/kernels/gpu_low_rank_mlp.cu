// SwiGLU with the low-rank pairs of gate, up and down.
#include "base/counter_random.h"
#include "trainer/kernels/gpu_low_rank.cuh"

namespace rankwise {
namespace {

enum Side { kGate, kUp, kDown, kSides };  // whose pair

using ForwardShared = Shared<2, 2, 2, kSides, 1>;
using BackwardShared = Shared<2, 3, 3, kSides, 2>;

__device__ Stripe stripe_of(const GpuLowRankMlp& mlp) { return {int64_t{blockIdx.x} * kStripe, mlp.width}; }

__device__ void read_sides(NarrowRows<kStripe> (&sides)[kSides], const GpuLowRankMlp& mlp, const Stripe& stripe) {
  read_side(sides[kGate], {bfloat16s(mlp.b_gate_IR), mlp.rank, mlp.rank, 1}, stripe, 0);
  read_side(sides[kUp], {bfloat16s(mlp.b_up_IR), mlp.rank, mlp.rank, 1}, stripe, 0);
  read_side(sides[kDown], {bfloat16s(mlp.a_down_RI), mlp.rank, 1, mlp.width}, stripe, 0);
}

// Of the stripe's sums over columns, [N, kColumns].
template <int kColumns>
__device__ float* column_parts(const GpuLowRankMlp& mlp) {
  return mlp.scratch + int64_t{blockIdx.x} * mlp.rows * kColumns;
}

// Of the sums over rows, [regions, kSides, kRank, I], behind those over columns.
__device__ float* row_parts(const GpuLowRankMlp& mlp, int64_t region, int side) {
  return mlp.scratch + low_rank_stripes(mlp.width) * mlp.rows * 2 * kRank +
         (region * kSides + side) * kRank * mlp.width;
}

// Of a thread's eight numbers of two rows each.
template <bool kDrops>
struct Mask {
  GpuDropout dropout;
  StreamPlace rows[2];

  __device__ Mask(const GpuLowRankMlp& mlp, int64_t row, int64_t column)
      : dropout(mlp.dropout), rows{place(mlp, row, column), place(mlp, row + 8, column)} {}
  __device__ float operator()(int e, int c) const {
    if (!kDrops) return 1.0f;
    return (rows[e].number(static_cast<uint64_t>(c)) >> 32) < dropout.threshold ? 0.0f : dropout.kept;
  }

 private:
  static __device__ StreamPlace place(const GpuLowRankMlp& mlp, int64_t row, int64_t column) {
    return {kDrops && row < mlp.rows ? mlp.dropout.row_keys_N[row] : 0, static_cast<uint64_t>(column)};
  }
};

__device__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

// Of half m of a warp's columns: h into its rows' words; returns it as down's pair sees it.
template <bool kDrops>
__device__ void make_h(uint32_t (&h)[2][4], Words& kept, Stage<2, 2>& stage, const TileSum (&terms)[2][2],
                       const GpuLowRankMlp& mlp, const Mask<kDrops>& mask, int m) {
#pragma unroll
  for (int jj = 0; jj < 2; ++jj) {
    const int j = 2 * m + jj;
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const uint32_t gates = word_of(stage.wide[kGate][e][thread()], j);
      const uint32_t ups = word_of(stage.wide[kUp][e][thread()], j);
      float product[2];
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const float gate = (k ? second_of(gates) : first_of(gates)) + mlp.gate_scaling * terms[kGate][jj][2 * e + k];
        const float up = (k ? second_of(ups) : first_of(ups)) + mlp.up_scaling * terms[kUp][jj][2 * e + k];
        product[k] = gate * sigmoid(gate) * up;
      }
      h[e][j] = packed(product[0], product[1]);
      kept[jj][e] = h[e][j];
      if (kDrops) {
        kept[jj][e] = packed(first_of(h[e][j]) * mask(e, 2 * j), second_of(h[e][j]) * mask(e, 2 * j + 1));
      }
    }
  }
}

template <bool kDrops>
__global__ void __launch_bounds__(kThreads) low_rank_swiglu(GpuLowRankSwiglu call) {
  extern __shared__ __align__(16) char memory[];
  auto& shared = *reinterpret_cast<ForwardShared*>(memory);
  const GpuLowRankMlp& mlp = call.mlp;
  const Stripe stripe = stripe_of(mlp);
  const Place place(stripe);
  read_sides(shared.sides, mlp, stripe);
  const auto* gate_up = bfloat16s(mlp.gate_up_NI2);
  const auto* s = bfloat16s(mlp.s_gate_up_NR2);
  const Matrix wide[] = {{gate_up, 2 * mlp.width}, {gate_up + mlp.width, 2 * mlp.width}};
  const Matrix narrow[] = {{s, 2 * mlp.rank, mlp.rank}, {s + mlp.rank, 2 * mlp.rank, mlp.rank}};
  const auto visit = [&](int64_t tile, auto& stage, int round) {
    TileLeft s_gate, s_up;
    read_left(s_gate, stage.narrow[kGate], place.lane);
    read_left(s_up, stage.narrow[kUp], place.lane);
    const int64_t row = tile * kTileRows + place.row;
    const Mask<kDrops> mask(mlp, row, place.column);
    uint32_t h[2][4];
    TileSum s_down[2] = {};
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const int first = place.warp * kWarpColumns + 16 * m;
      TileSum terms[2][2] = {};
      add_terms(terms[kGate][0], terms[kGate][1], s_gate, shared.sides[kGate], first, place.lane);
      add_terms(terms[kUp][0], terms[kUp][1], s_up, shared.sides[kUp], first, place.lane);
      Words kept;
      make_h(h, kept, stage, terms, mlp, mask, m);
      add_to_sums(s_down, kept, shared.sides[kDown], first, place.lane);
    }
    leave_sums(shared.sums[round][place.warp], s_down, place.lane);
    auto* out = static_cast<BFloat16*>(call.h_NI) + place.column;
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      if (row + 8 * e < mlp.rows && place.inside) store_piece(out + (row + 8 * e) * mlp.width, h[e]);
    }
  };
  each_tile(shared.stages, place, mlp.rows, wide, narrow, visit,
            [&](int64_t tile, int round) { store_sums(column_parts<kRank>(mlp), shared.sums[round], tile, mlp.rows); });
}

// Gradients of gate and up, and h as down's pair sees it.
struct HalfGradients {
  Words gate, up, h;
};

// Of half m of a warp's columns; gate and up's take their places in the stage, too.
template <bool kDrops>
__device__ void differentiate(HalfGradients& made, Stage<3, 3>& stage, const TileSum (&terms)[kSides][2],
                              const GpuLowRankMlp& mlp, const Mask<kDrops>& mask, int m) {
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    uint2* const gates = own_pair(stage.wide[kGate][e], m);
    uint2* const ups = own_pair(stage.wide[kUp][e], m);
    const uint2 dhs = *own_pair(stage.wide[kDown][e], m);
#pragma unroll
    for (int jj = 0; jj < 2; ++jj) {
      float of_gate[2], of_up[2], h[2];
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const float drop = mask(e, 4 * m + 2 * jj + k);
        const float gate = number(*gates, jj, k) + mlp.gate_scaling * terms[kGate][jj][2 * e + k];
        const float up = number(*ups, jj, k) + mlp.up_scaling * terms[kUp][jj][2 * e + k];
        const float dh = number(dhs, jj, k) + drop * terms[kDown][jj][2 * e + k];
        const float open = sigmoid(gate), silu = gate * open;
        of_gate[k] = dh * up * open * (1.0f + gate * (1.0f - open));
        of_up[k] = dh * silu;
        h[k] = silu * up * drop;
      }
      made.gate[jj][e] = packed(of_gate[0], of_gate[1]);
      made.up[jj][e] = packed(of_up[0], of_up[1]);
      made.h[jj][e] = packed(h[0], h[1]);
    }
    *gates = {made.gate[0][e], made.gate[1][e]};
    *ups = {made.up[0][e], made.up[1][e]};
  }
}

// From the stage to where gate and up were.
__device__ void store_gradients(BFloat16* gate_up, Stage<3, 3>& stage, const GpuLowRankMlp& mlp, const Place& place,
                                int64_t tile) {
  const int64_t row = tile * kTileRows + made_anew(place.row);
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    if (row + 8 * e >= mlp.rows || !place.inside) continue;
    BFloat16* out = gate_up + (row + 8 * e) * 2 * mlp.width + place.column;
    *reinterpret_cast<uint4*>(out) = stage.wide[kGate][e][thread()];
    *reinterpret_cast<uint4*>(out + mlp.width) = stage.wide[kUp][e][thread()];
  }
}

template <bool kDrops>
__global__ void __launch_bounds__(kThreads) low_rank_swiglu_backward(GpuLowRankSwigluBackward call) {
  extern __shared__ __align__(16) char memory[];
  auto& shared = *reinterpret_cast<BackwardShared*>(memory);
  const GpuLowRankMlp& mlp = call.mlp;
  const Stripe stripe = stripe_of(mlp);
  const Place place(stripe);
  read_sides(shared.sides, mlp, stripe);
  auto* gate_up = static_cast<BFloat16*>(mlp.gate_up_NI2);
  const auto* s = bfloat16s(mlp.s_gate_up_NR2);
  const Matrix wide[] = {
      {gate_up, 2 * mlp.width}, {gate_up + mlp.width, 2 * mlp.width}, {bfloat16s(call.dh_NI), mlp.width}};
  const Matrix narrow[] = {{s, 2 * mlp.rank, mlp.rank},
                           {s + mlp.rank, 2 * mlp.rank, mlp.rank},
                           {bfloat16s(call.ds_down_NR), mlp.rank, mlp.rank}};
  TileSum over_rows[kSides][4] = {};
  const auto visit = [&](int64_t tile, auto& stage, int round) {
    const Mask<kDrops> mask(mlp, tile * kTileRows + place.row, place.column);
    TileSum ds[4] = {};  // gate's two, then up's
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const int lane = made_anew(place.lane), first = place.warp * kWarpColumns + 16 * m;
      TileSum terms[kSides][2] = {};
#pragma unroll
      for (int side = 0; side < kSides; ++side) {
        TileLeft left;
        read_left(left, stage.narrow[side], lane);
        add_terms(terms[side][0], terms[side][1], left, shared.sides[side], first, lane);
      }
      HalfGradients made;
      differentiate(made, stage, terms, mlp, mask, m);
      add_to_sums(reinterpret_cast<TileSum(&)[2]>(ds[0]), made.gate, shared.sides[kGate], first, lane);
      add_to_sums(reinterpret_cast<TileSum(&)[2]>(ds[2]), made.up, shared.sides[kUp], first, lane);
      add_over_rows(over_rows[kGate], m, made.gate, stage.narrow[kGate], lane);
      add_over_rows(over_rows[kUp], m, made.up, stage.narrow[kUp], lane);
      add_over_rows(over_rows[kDown], m, made.h, stage.narrow[kDown], lane);
    }
    leave_sums(shared.sums[round][place.warp], ds, made_anew(place.lane));
    store_gradients(gate_up, stage, mlp, place, tile);
  };
  each_tile(shared.stages, place, mlp.rows, wide, narrow, visit, [&](int64_t tile, int round) {
    store_sums(column_parts<2 * kRank>(mlp), shared.sums[round], tile, mlp.rows);
  });
#pragma unroll
  for (int side = 0; side < kSides; ++side)
    store_over_rows(row_parts(mlp, blockIdx.y, side), mlp.width, place, over_rows[side]);
}

// out [N, kSums R] = the stripes' parts, a factor for each of kSums: a thread's pair of it.
template <int kSums>
__device__ void add_column_parts(const GpuLowRankMlp& mlp, void* out, float2 factors) {
  const int64_t pair = (int64_t{blockIdx.x} * kThreads + thread()) * 2, columns = kSums * kRank;
  const int64_t row = pair / columns, rank = pair % kRank, side = pair % columns / kRank;
  if (row >= mlp.rows || rank >= mlp.rank) return;
  const float2 sum = sum_of_parts(mlp.scratch + pair, low_rank_stripes(mlp.width), mlp.rows * (columns / 2));
  const float factor = side == 0 ? factors.x : factors.y;
  auto* to = static_cast<uint32_t*>(out) + ((row * kSums + side) * mlp.rank + rank) / 2;
  *to = packed(sum.x * factor, sum.y * factor);
}

__global__ void __launch_bounds__(kThreads) add_forward_parts(GpuLowRankSwiglu call) {
  add_column_parts<1>(call.mlp, call.s_down_NR, {1.0f, 0.0f});
}

// A side's gradient += the regions' parts: a thread's number. B's gradient has a row for each column of its part.
__device__ void add_row_parts(const GpuLowRankSwigluBackward& call, int side, int64_t regions) {
  const GpuLowRankMlp& mlp = call.mlp;
  const int64_t place = int64_t{blockIdx.x} * kThreads + thread(), rank = place / mlp.width, column = place % mlp.width;
  if (rank >= mlp.rank) return;
  const float* part = row_parts(mlp, 0, side) + rank * mlp.width + column;
  float sum = 0.0f;
#pragma unroll 4
  for (int64_t region = 0; region < regions; ++region) sum += part[region * kSides * kRank * mlp.width];
  if (side == kDown) {
    call.grad_a_down_RI[rank * mlp.width + column] += sum;
  } else if (side == kGate) {
    call.grad_b_gate_IR[column * mlp.rank + rank] += mlp.gate_scaling * sum;
  } else {
    call.grad_b_up_IR[column * mlp.rank + rank] += mlp.up_scaling * sum;
  }
}

// blockIdx.y: dS, or a side.
__global__ void __launch_bounds__(kThreads) add_backward_parts(GpuLowRankSwigluBackward call, int64_t regions) {
  const int what = static_cast<int>(blockIdx.y);
  if (what < kSides) return add_row_parts(call, what, regions);
  add_column_parts<2>(call.mlp, call.ds_gate_up_NR2, {call.mlp.gate_scaling, call.mlp.up_scaling});
}

}  // namespace
}  // namespace rankwise

bool rankwise_low_rank_fits_device() {
  return rankwise::device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) >= rankwise::kLowRankSharedBytes;
}

int64_t rankwise_low_rank_scratch_bytes(int64_t rows, int64_t width) {
  using namespace rankwise;
  return low_rank_scratch_bytes(rows, width, regions_of(rows, low_rank_stripes(width)));
}

int rankwise_low_rank_swiglu(const rankwise::GpuLowRankSwiglu* call, void* stream) {
  using namespace rankwise;
  if (call->mlp.rows == 0) return cudaSuccess;
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const auto kernel = call->mlp.dropout.row_keys_N ? low_rank_swiglu<true> : low_rank_swiglu<false>;
  const int64_t stripes = low_rank_stripes(call->mlp.width), regions = regions_of(call->mlp.rows, stripes);
  if (const int code = start_stripes<ForwardShared>(kernel, *call, stripes, regions, cuda_stream)) return code;
  add_forward_parts<<<blocks_for(call->mlp.rows * kRank / 2), kThreads, 0, cuda_stream>>>(*call);
  return cudaGetLastError();
}

int rankwise_low_rank_swiglu_backward(const rankwise::GpuLowRankSwigluBackward* call, void* stream) {
  using namespace rankwise;
  const GpuLowRankMlp& mlp = call->mlp;
  if (mlp.rows == 0) return cudaSuccess;
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const auto kernel = mlp.dropout.row_keys_N ? low_rank_swiglu_backward<true> : low_rank_swiglu_backward<false>;
  const int64_t stripes = low_rank_stripes(mlp.width), regions = regions_of(mlp.rows, stripes);
  if (const int code = start_stripes<BackwardShared>(kernel, *call, stripes, regions, cuda_stream)) return code;
  const dim3 blocks(blocks_for(std::max(mlp.rows, mlp.width) * kRank), kSides + 1);
  add_backward_parts<<<blocks, kThreads, 0, cuda_stream>>>(*call, regions);
  return cudaGetLastError();
}
