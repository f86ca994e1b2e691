// A block has a stripe of columns and goes down its rows, a tile after the other; a warp has 32 of the columns. So sums
// over rows (gradients of B and A) stay in registers until the end, and sums over columns (S, dS) are made over a
// block's warps for each tile: both leave a block as parts, which a second kernel adds up.
//
// Columns of a warp are dealt out so that a thread's numbers of four 16 x 8 results are eight neighbours of a row, 16
// bytes: result j, place n is column 8 (n / 2) + 2 j + n % 2. "Logical" columns below count by (j, n).
#include "trainer/kernels/gpu_low_rank.h"

#include "base/counter_random.h"
#include "trainer/kernels/gpu_tiles.cuh"
#include "trainer/kernels/gpu_vectors.cuh"

namespace rankwise {
namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps, kBlocksOfOneSM = 2;
constexpr int kTileRows = 16, kWarpColumns = 32, kStripe = kWarps * kWarpColumns;
constexpr int kRank = kLowRankFilled;
constexpr int kStages = 2;
static_assert(kStripe == kLowRankStripe);

enum Side { kGate, kUp, kDown, kSides };  // whose pair

// Rows of kRank numbers in two halves, which change places in every other four rows: eight rows meet every bank once.
template <int kRows>
struct NarrowRows {
  uint4 halves[kRows][2];
  __device__ uint4* at(int row, int half) { return &halves[row][half ^ (row / 4 % 2)]; }
};

template <int kWide, int kNarrow>
struct Stage {
  uint4 wide[kWide][2][kThreads];  // a thread's own
  NarrowRows<kTileRows> narrow[kNarrow];
};

// kSums: matrices of S or dS that are made.
template <int kWide, int kNarrow, int kSums>
struct Shared {
  Stage<kWide, kNarrow> stages[kStages];
  NarrowRows<kStripe> sides[kSides];  // by logical column
  float sums[2][kWarps][kTileRows][kSums * kRank];
};

struct Matrix {
  const BFloat16* begin;
  int64_t stride;  // from row to row
};

// Where a thread stands.
struct Place {
  int warp = thread() / 32, lane = thread() % 32, row = lane / 4;
  int64_t column = int64_t{blockIdx.x} * kStripe + warp * kWarpColumns + lane % 4 * 8;  // the first of its eight
};

__device__ int64_t actual_column(int logical) {
  const int n = logical % 8, j = logical % kWarpColumns / 8;
  return int64_t{blockIdx.x} * kStripe + logical / kWarpColumns * kWarpColumns + n / 2 * 8 + 2 * j + n % 2;
}

__device__ const BFloat16* bfloat16s(const void* pointer) { return static_cast<const BFloat16*>(pointer); }

// B by rows; A, whose rows are ranks, transposed.
__device__ void read_sides(NarrowRows<kStripe> (&sides)[kSides], const GpuLowRankMlp& mlp) {
  const int64_t column = actual_column(thread());
  const bool inside = column < mlp.width;
  const BFloat16* const b[] = {bfloat16s(mlp.b_gate_IR), bfloat16s(mlp.b_up_IR)};
  const auto* a = reinterpret_cast<const uint16_t*>(mlp.a_down_RI) + column;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const bool here = inside && half * 8 < mlp.rank;
    for (const Side side : {kGate, kUp}) {
      const auto* row = reinterpret_cast<const uint4*>(b[side] + column * mlp.rank + half * 8);
      *sides[side].at(thread(), half) = here ? *row : uint4{};
    }
    uint32_t words[4] = {};
    for (int k = 0; here && k < 4; ++k) {
      const uint16_t* first = a + (half * 8 + 2 * k) * mlp.width;
      words[k] = first[0] | static_cast<uint32_t>(first[mlp.width]) << 16;
    }
    *sides[kDown].at(thread(), half) = {words[0], words[1], words[2], words[3]};
  }
}

template <int kWide, int kNarrow>
__device__ void start_tile(Stage<kWide, kNarrow>& stage, const Place& place, const GpuLowRankMlp& mlp, int64_t tile,
                           const Matrix (&wide)[kWide], const Matrix (&narrow)[kNarrow]) {
  const int64_t begin = tile * kTileRows;
#pragma unroll
  for (int w = 0; w < kWide; ++w) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int64_t row = begin + place.row + 8 * e;
      start_copy(&stage.wide[w][e][thread()], wide[w].begin + row * wide[w].stride + place.column,
                 row < mlp.rows && place.column < mlp.width);
    }
  }
#pragma unroll
  for (int n = 0; n < kNarrow; ++n) {  // a warp each
    if (place.warp != n) continue;
    const int row = place.lane / 2, half = place.lane % 2;
    start_copy(stage.narrow[n].at(row, half), narrow[n].begin + (begin + row) * narrow[n].stride + half * 8,
               begin + row < mlp.rows && half * 8 < mlp.rank);
  }
  end_group_of_copies();
}

// A tile's rows of S as the left side of a product; transposed: ranks are the rows then.
__device__ void read_left(TileLeft& left, NarrowRows<kTileRows>& rows, int lane) {
  read_tiles(left, rows.at(lane % 8 + lane / 8 % 2 * 8, lane / 16));
}
__device__ void read_transposed_left(TileLeft& left, NarrowRows<kTileRows>& rows, int lane) {
  read_transposed_tiles(left, rows.at(lane % 8 + lane / 16 * 8, lane / 8 % 2));
}

// Of 16 logical columns: {2 j, 2 j + 1} are the right side of the product that makes result j of two.
__device__ void read_right(uint32_t (&right)[4], NarrowRows<kStripe>& side, int first, int lane) {
  read_tiles(right, side.at(first + lane / 16 * 8 + lane % 8, lane / 8 % 2));
}
// The same as rows of a right side: {2 q, 2 q + 1} make ranks 8 q and further.
__device__ void read_right_rows(uint32_t (&right)[4], NarrowRows<kStripe>& side, int first, int lane) {
  read_transposed_tiles(right, side.at(first + lane / 8 % 2 * 8 + lane % 8, lane / 16));
}

// Numbers of 16 columns that a thread has: of two results, of two rows each.
using Words = uint32_t[2][2];

__device__ void add_to_sums(TileSum (&sums)[2], const Words& words, NarrowRows<kStripe>& side, int first, int lane) {
  const TileLeft left = {words[0][0], words[0][1], words[1][0], words[1][1]};
  uint32_t right[4];
  read_right_rows(right, side, first, lane);
  multiply_tiles(sums[0], left, right[0], right[1]);
  multiply_tiles(sums[1], left, right[2], right[3]);
}

// sums [ranks, columns] of a half (m) of a warp's columns += narrow^T numbers
__device__ void add_over_rows(TileSum (&sums)[4], int m, const Words& words, NarrowRows<kTileRows>& narrow, int lane) {
  TileLeft left;
  read_transposed_left(left, narrow, lane);
#pragma unroll
  for (int jj = 0; jj < 2; ++jj)
    multiply_tiles(sums[2 * m + jj], left, transposed_tile(words[jj][0]), transposed_tile(words[jj][1]));
}

// Of this thread's eight numbers the four of half m.
__device__ uint2* own_pair(uint4 (&pieces)[kThreads], int m) { return reinterpret_cast<uint2*>(&pieces[thread()]) + m; }

__device__ float number(const uint2& words, int jj, int k) {
  const uint32_t word = jj == 0 ? words.x : words.y;
  return k == 0 ? first_of(word) : second_of(word);
}

// Where a pair of a row's sums lies: eight-byte places that half a warp finds in banks of their own.
template <int kColumns>
__device__ int place_of_pair(int row, int q, int pair) {
  return (q ^ (row / (32 / kColumns) % (kColumns / 8))) * 8 + 2 * pair;
}

template <int kColumns, int kTiles>
__device__ void leave_sums(float (&to)[kTileRows][kColumns], const TileSum (&sums)[kTiles], int lane) {
#pragma unroll
  for (int q = 0; q < kTiles; ++q) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int row = lane / 4 + 8 * e;
      *reinterpret_cast<float2*>(&to[row][place_of_pair<kColumns>(row, q, lane % 4)]) = {sums[q][2 * e],
                                                                                         sums[q][2 * e + 1]};
    }
  }
}

// Of all warps, into this stripe's part [N, kColumns].
template <int kColumns>
__device__ void store_sums(float* parts, const float (&sums)[kWarps][kTileRows][kColumns], int64_t tile, int64_t rows) {
  for (int i = 2 * thread(); i < kTileRows * kColumns; i += 2 * kThreads) {
    const int row = i / kColumns, column = i % kColumns;
    if (tile * kTileRows + row >= rows) return;
    const int place = place_of_pair<kColumns>(row, column / 8, column % 8 / 2);
    float2 sum = {};
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float2 part = *reinterpret_cast<const float2*>(&sums[w][row][place]);
      sum.x += part.x;
      sum.y += part.y;
    }
    float* out = parts + (int64_t{blockIdx.x} * rows + tile * kTileRows + row) * kColumns + column;
    *reinterpret_cast<float2*>(out) = sum;
  }
}

template <bool kDrops>
struct Mask {
  GpuDropout dropout;
  uint64_t keys[2];  // of the thread's rows

  __device__ Mask(const GpuLowRankMlp& mlp, int64_t row) : dropout(mlp.dropout) {
    for (int e = 0; kDrops && e < 2; ++e) keys[e] = row + 8 * e < mlp.rows ? dropout.row_keys_N[row + 8 * e] : 0;
  }
  __device__ float operator()(int e, int64_t column) const {
    if (!kDrops) return 1.0f;
    return (random64(keys[e], static_cast<uint64_t>(column)) >> 32) < dropout.threshold ? 0.0f : dropout.kept;
  }
};

__device__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

struct Tiles {
  int64_t begin, end;
  __device__ explicit Tiles(int64_t rows) {
    const int64_t all = (rows + kTileRows - 1) / kTileRows;
    begin = all * blockIdx.y / gridDim.y;
    end = all * (blockIdx.y + 1) / gridDim.y;
  }
};

// visit(tile, stage, sums of this warp) for each tile of this block, whose parts go to `parts`.
template <int kWide, int kNarrow, int kSums, typename Visit>
__device__ void each_tile(Shared<kWide, kNarrow, kSums>& shared, const Place& place, const GpuLowRankMlp& mlp,
                          const Matrix (&wide)[kWide], const Matrix (&narrow)[kNarrow], Visit visit) {
  const Tiles tiles(mlp.rows);
  if (tiles.begin == tiles.end) return;
  start_tile(shared.stages[0], place, mlp, tiles.begin, wide, narrow);
  int round = 0;
  for (int64_t tile = tiles.begin; tile < tiles.end; ++tile, ++round) {
    await_copies<0>();
    __syncthreads();  // this tile is there, and nobody reads the last one any more
    if (tile + 1 < tiles.end) start_tile(shared.stages[(round + 1) % 2], place, mlp, tile + 1, wide, narrow);
    if (round > 0) store_sums(mlp.scratch, shared.sums[(round + 1) % 2], tile - 1, mlp.rows);
    visit(tile, shared.stages[round % 2], shared.sums[round % 2][place.warp]);
  }
  __syncthreads();
  store_sums(mlp.scratch, shared.sums[(round + 1) % 2], tiles.end - 1, mlp.rows);
}

using ForwardShared = Shared<2, 2, 1>;
using BackwardShared = Shared<3, 3, 2>;

__device__ void store_row(BFloat16* to, const uint32_t (&words)[4], bool inside) {
  if (inside) *reinterpret_cast<uint4*>(to) = {words[0], words[1], words[2], words[3]};
}

__device__ uint32_t word_of(const uint4& piece, int j) { return reinterpret_cast<const uint32_t(&)[4]>(piece)[j]; }

template <bool kDrops>
__global__ void __launch_bounds__(kThreads, kBlocksOfOneSM) low_rank_swiglu(GpuLowRankSwiglu call) {
  extern __shared__ __align__(16) char memory[];
  auto& shared = *reinterpret_cast<ForwardShared*>(memory);
  const GpuLowRankMlp& mlp = call.mlp;
  const Place place;
  read_sides(shared.sides, mlp);
  const auto* gate_up = bfloat16s(mlp.gate_up_NI2);
  const auto* s = bfloat16s(mlp.s_gate_up_NR2);
  const Matrix wide[] = {{gate_up, 2 * mlp.width}, {gate_up + mlp.width, 2 * mlp.width}};
  const Matrix narrow[] = {{s, 2 * mlp.rank}, {s + mlp.rank, 2 * mlp.rank}};
  each_tile(shared, place, mlp, wide, narrow, [&](int64_t tile, auto& stage, auto& warp_sums) {
    TileLeft s_gate, s_up;
    read_left(s_gate, stage.narrow[kGate], place.lane);
    read_left(s_up, stage.narrow[kUp], place.lane);
    const int64_t row = tile * kTileRows + place.row;
    const Mask<kDrops> mask(mlp, row);
    uint32_t h[2][4];
    TileSum s_down[2] = {};
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const int first = place.warp * kWarpColumns + 16 * m;
      uint32_t b_gate[4], b_up[4];
      read_right(b_gate, shared.sides[kGate], first, place.lane);
      read_right(b_up, shared.sides[kUp], first, place.lane);
      Words kept;
#pragma unroll
      for (int jj = 0; jj < 2; ++jj) {
        const int j = 2 * m + jj;
        TileSum of_gate = {}, of_up = {};
        multiply_tiles(of_gate, s_gate, b_gate[2 * jj], b_gate[2 * jj + 1]);
        multiply_tiles(of_up, s_up, b_up[2 * jj], b_up[2 * jj + 1]);
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const uint32_t gates = word_of(stage.wide[kGate][e][thread()], j);
          const uint32_t ups = word_of(stage.wide[kUp][e][thread()], j);
          float product[2];
#pragma unroll
          for (int k = 0; k < 2; ++k) {
            const float gate = (k ? second_of(gates) : first_of(gates)) + mlp.gate_scaling * of_gate[2 * e + k];
            const float up = (k ? second_of(ups) : first_of(ups)) + mlp.up_scaling * of_up[2 * e + k];
            product[k] = gate * sigmoid(gate) * up;
          }
          h[e][j] = packed(product[0], product[1]);
          kept[jj][e] = h[e][j];
          if (kDrops) {
            const int64_t column = place.column + 2 * j;
            kept[jj][e] = packed(first_of(h[e][j]) * mask(e, column), second_of(h[e][j]) * mask(e, column + 1));
          }
        }
      }
      add_to_sums(s_down, kept, shared.sides[kDown], first, place.lane);
    }
    leave_sums(warp_sums, s_down, place.lane);
    auto* out = static_cast<BFloat16*>(call.h_NI) + place.column;
#pragma unroll
    for (int e = 0; e < 2; ++e)
      store_row(out + (row + 8 * e) * mlp.width, h[e], row + 8 * e < mlp.rows && place.column < mlp.width);
  });
}

// Parts of the sums over rows, [regions, kSides, kRank, I], behind those over columns.
__device__ float* row_parts(const GpuLowRankMlp& mlp) {
  return mlp.scratch + low_rank_stripes(mlp.width) * mlp.rows * 2 * kRank;
}

__device__ void store_row_parts(const GpuLowRankMlp& mlp, const Place& place, const TileSum (&sums)[kSides][4]) {
  if (place.column >= mlp.width) return;
#pragma unroll
  for (int side = 0; side < kSides; ++side) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int64_t row = (int64_t{blockIdx.y} * kSides + side) * kRank + place.row + 8 * e;
      auto* out = reinterpret_cast<float2*>(row_parts(mlp) + row * mlp.width + place.column);
#pragma unroll
      for (int j = 0; j < 4; ++j) out[j] = {sums[side][j][2 * e], sums[side][j][2 * e + 1]};
    }
  }
}

template <bool kDrops>
__global__ void __launch_bounds__(kThreads, kBlocksOfOneSM) low_rank_swiglu_backward(GpuLowRankSwigluBackward call) {
  extern __shared__ __align__(16) char memory[];
  auto& shared = *reinterpret_cast<BackwardShared*>(memory);
  const GpuLowRankMlp& mlp = call.mlp;
  const Place place;
  read_sides(shared.sides, mlp);
  auto* gate_up = static_cast<BFloat16*>(mlp.gate_up_NI2);
  const auto* s = bfloat16s(mlp.s_gate_up_NR2);
  const Matrix wide[] = {
      {gate_up, 2 * mlp.width}, {gate_up + mlp.width, 2 * mlp.width}, {bfloat16s(call.dh_NI), mlp.width}};
  const Matrix narrow[] = {{s, 2 * mlp.rank}, {s + mlp.rank, 2 * mlp.rank}, {bfloat16s(call.ds_down_NR), mlp.rank}};
  TileSum over_rows[kSides][4] = {};
  each_tile(shared, place, mlp, wide, narrow, [&](int64_t tile, auto& stage, auto& warp_sums) {
    const int64_t row = tile * kTileRows + place.row;
    const Mask<kDrops> mask(mlp, row);
    TileSum ds[4] = {};  // gate's two, then up's
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const int first = place.warp * kWarpColumns + 16 * m;
      TileSum terms[kSides][2] = {};
#pragma unroll
      for (int side = 0; side < kSides; ++side) {
        TileLeft left;
        uint32_t right[4];
        read_left(left, stage.narrow[side], place.lane);
        read_right(right, shared.sides[side], first, place.lane);
        multiply_tiles(terms[side][0], left, right[0], right[1]);
        multiply_tiles(terms[side][1], left, right[2], right[3]);
      }
      Words dgate, dup, kept;
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
            const float drop = mask(e, place.column + 4 * m + 2 * jj + k);
            const float gate = number(*gates, jj, k) + mlp.gate_scaling * terms[kGate][jj][2 * e + k];
            const float up = number(*ups, jj, k) + mlp.up_scaling * terms[kUp][jj][2 * e + k];
            const float dh = number(dhs, jj, k) + drop * terms[kDown][jj][2 * e + k];
            const float open = sigmoid(gate), silu = gate * open;
            of_gate[k] = dh * up * open * (1.0f + gate * (1.0f - open));
            of_up[k] = dh * silu;
            h[k] = silu * up * drop;
          }
          dgate[jj][e] = packed(of_gate[0], of_gate[1]);
          dup[jj][e] = packed(of_up[0], of_up[1]);
          kept[jj][e] = packed(h[0], h[1]);
        }
        *gates = {dgate[0][e], dgate[1][e]};
        *ups = {dup[0][e], dup[1][e]};
      }
      add_to_sums(reinterpret_cast<TileSum(&)[2]>(ds[0]), dgate, shared.sides[kGate], first, place.lane);
      add_to_sums(reinterpret_cast<TileSum(&)[2]>(ds[2]), dup, shared.sides[kUp], first, place.lane);
      add_over_rows(over_rows[kGate], m, dgate, stage.narrow[kGate], place.lane);
      add_over_rows(over_rows[kUp], m, dup, stage.narrow[kUp], place.lane);
      add_over_rows(over_rows[kDown], m, kept, stage.narrow[kDown], place.lane);
    }
    leave_sums(warp_sums, ds, place.lane);
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      if (row + 8 * e >= mlp.rows || place.column >= mlp.width) continue;
      BFloat16* out = gate_up + (row + 8 * e) * 2 * mlp.width + place.column;
      *reinterpret_cast<uint4*>(out) = stage.wide[kGate][e][thread()];
      *reinterpret_cast<uint4*>(out + mlp.width) = stage.wide[kUp][e][thread()];
    }
  });
  store_row_parts(mlp, place, over_rows);
}

// out [N, kSums R] = the stripes' parts, a factor for each of kSums.
template <int kSums>
__global__ void __launch_bounds__(kThreads)
    add_column_parts(GpuLowRankMlp mlp, int64_t stripes, void* out, float2 factors) {
  const int64_t pair = (int64_t{blockIdx.x} * kThreads + thread()) * 2, columns = kSums * kRank;
  const int64_t row = pair / columns, rank = pair % kRank, side = pair % columns / kRank;
  if (row >= mlp.rows || rank >= mlp.rank) return;
  const auto* part = reinterpret_cast<const float2*>(mlp.scratch + pair);
  float2 sum = {};
#pragma unroll 8
  for (int64_t stripe = 0; stripe < stripes; ++stripe) {
    const float2 one = part[stripe * mlp.rows * columns / 2];
    sum.x += one.x;
    sum.y += one.y;
  }
  const float factor = side == 0 ? factors.x : factors.y;
  auto* to = static_cast<uint32_t*>(out) + ((row * kSums + side) * mlp.rank + rank) / 2;
  *to = packed(sum.x * factor, sum.y * factor);
}

// Gradients += the regions' parts: blockIdx.y names the side. B's gradient has a row for each column of its part.
__global__ void __launch_bounds__(kThreads) add_row_parts(GpuLowRankSwigluBackward call, int64_t regions) {
  const GpuLowRankMlp& mlp = call.mlp;
  const int side = static_cast<int>(blockIdx.y);
  const int64_t place = int64_t{blockIdx.x} * kThreads + thread(), rank = place / mlp.width, column = place % mlp.width;
  if (rank >= mlp.rank) return;
  const float* part = row_parts(mlp) + (side * kRank + rank) * mlp.width + column;
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

// Of the rows: as many as leave the fewest multiprocessors without a block in the last round.
int64_t regions_of(int64_t rows, int64_t width) {
  int device = 0, processors = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  const int64_t at_once = int64_t{kBlocksOfOneSM} * std::max(1, processors), stripes = low_rank_stripes(width);
  const int64_t most = std::clamp<int64_t>((rows + kTileRows - 1) / kTileRows, 1, kLowRankMostRegions);
  int64_t best = 1, best_idle = INT64_MAX;
  for (int64_t regions = 1; regions <= most; ++regions) {
    const int64_t rounds = (stripes * regions + at_once - 1) / at_once;
    const int64_t idle = (rounds * at_once - stripes * regions) * kLowRankMostRegions / rounds;
    if (idle < best_idle) best = regions, best_idle = idle;
  }
  return best;
}

template <typename SharedMemory, typename Call>
int start(void (*kernel)(Call), const Call& call, int64_t regions, cudaStream_t stream) {
  const int bytes = static_cast<int>(sizeof(SharedMemory));
  if (const auto code = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes)) return code;
  const dim3 blocks(static_cast<unsigned>(low_rank_stripes(call.mlp.width)), static_cast<unsigned>(regions));
  kernel<<<blocks, kThreads, bytes, stream>>>(call);
  return cudaGetLastError();
}

template <int kSums>
int start_column_parts(const GpuLowRankMlp& mlp, void* out, float2 factors, cudaStream_t stream) {
  const int64_t pairs = mlp.rows * kSums * kRank / 2;
  const auto blocks = static_cast<unsigned>((pairs + kThreads - 1) / kThreads);
  add_column_parts<kSums><<<blocks, kThreads, 0, stream>>>(mlp, low_rank_stripes(mlp.width), out, factors);
  return cudaGetLastError();
}

}  // namespace
}  // namespace rankwise

int64_t rankwise_low_rank_scratch_bytes(int64_t rows, int64_t width) {
  using namespace rankwise;
  return low_rank_scratch_bytes(rows, width, regions_of(rows, width));
}

int rankwise_low_rank_swiglu(const rankwise::GpuLowRankSwiglu* call, void* stream) {
  using namespace rankwise;
  if (call->mlp.rows == 0) return cudaSuccess;
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const auto kernel = call->mlp.dropout.row_keys_N ? low_rank_swiglu<true> : low_rank_swiglu<false>;
  const int64_t regions = regions_of(call->mlp.rows, call->mlp.width);
  if (const int code = start<ForwardShared>(kernel, *call, regions, cuda_stream)) return code;
  return start_column_parts<1>(call->mlp, call->s_down_NR, {1.0f, 0.0f}, cuda_stream);
}

int rankwise_low_rank_swiglu_backward(const rankwise::GpuLowRankSwigluBackward* call, void* stream) {
  using namespace rankwise;
  const GpuLowRankMlp& mlp = call->mlp;
  if (mlp.rows == 0) return cudaSuccess;
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const auto kernel = mlp.dropout.row_keys_N ? low_rank_swiglu_backward<true> : low_rank_swiglu_backward<false>;
  const int64_t regions = regions_of(mlp.rows, mlp.width);
  if (const int code = start<BackwardShared>(kernel, *call, regions, cuda_stream)) return code;
  const float2 factors = {mlp.gate_scaling, mlp.up_scaling};
  if (const int code = start_column_parts<2>(mlp, call->ds_gate_up_NR2, factors, cuda_stream)) return code;
  const dim3 blocks(static_cast<unsigned>((mlp.width * kRank + kThreads - 1) / kThreads), kSides);
  add_row_parts<<<blocks, kThreads, 0, cuda_stream>>>(*call, regions);
  return cudaGetLastError();
}
