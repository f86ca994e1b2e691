// What kernels with low-rank terms are made of. A block has a stripe of columns and goes down its rows, a tile after
// the other; a warp has 32 of the columns. So sums over rows (gradients of B and A) stay in registers until the end,
// and sums over columns (S, dS) are made over a block's warps for each tile: both leave a block as parts, which a
// second kernel adds up. A multiprocessor takes one block of most kernels; two of half the width would leave twice the
// sums over columns.
//
// Columns of a warp are dealt out so that a thread's numbers of four 16 x 8 results are eight neighbours of a row, 16
// bytes: result j, place n is column 8 (n / 2) + 2 j + n % 2. "Logical" columns below count by (j, n).
#pragma once

#include "trainer/kernels/gpu_low_rank.h"
#include "trainer/kernels/gpu_tiles.cuh"
#include "trainer/kernels/gpu_vectors.cuh"

namespace rankwise {

constexpr int kWarps = 16, kThreads = 32 * kWarps;
constexpr int kTileRows = 16, kWarpColumns = 32, kStripe = kWarps * kWarpColumns;
constexpr int kRank = kLowRankFilled;
static_assert(kStripe == kLowRankStripe);

// Rows of kRank numbers in two halves, which change places in every other four rows: eight rows meet every bank once.
template <int kRows>
struct NarrowRows {
  uint4 halves[kRows][2];
  __device__ uint4* at(int row, int half) { return &halves[row][half ^ (row / 4 % 2)]; }
};

template <int kWide, int kNarrow>
struct Stage {
  uint4 wide[kWide > 0 ? kWide : 1][2][kThreads];  // a thread's own
  NarrowRows<kTileRows> narrow[kNarrow];
};

// kSums: matrices of S or dS that are made.
template <int kStages, int kWide, int kNarrow, int kSides, int kSums>
struct Shared {
  Stage<kWide, kNarrow> stages[kStages];
  NarrowRows<kStripe> sides[kSides];  // by logical column
  float sums[2][kWarps][kTileRows][kSums * kRank];
};

// S and the like: [N, rank], rows `stride` apart. Wide ones have no rank.
struct Matrix {
  const BFloat16* begin;
  int64_t stride;
  int64_t rank = 0;
};

// B or A: the number of column c and rank k is begin[c * column_stride + k * rank_stride].
struct SideMatrix {
  const BFloat16* begin;
  int64_t rank, column_stride, rank_stride;
};

__device__ inline const BFloat16* bfloat16s(const void* pointer) { return static_cast<const BFloat16*>(pointer); }

// The columns of a block and what of them exists.
struct Stripe {
  int64_t begin, end;
};

// Where a thread stands.
struct Place {
  int warp = thread() / 32, lane = thread() % 32, row = lane / 4;
  int64_t column;  // the first of its eight
  bool inside;
  __device__ explicit Place(const Stripe& stripe)
      : column(stripe.begin + warp * kWarpColumns + lane % 4 * 8), inside(column < stripe.end) {}
};

// The same number, of which the compiler does not know that: what follows from it is made anew where it is used, and
// takes no register from one tile to the next.
__device__ inline int made_anew(int number) {
  asm volatile("" : "+r"(number));
  return number;
}

// The stripe's columns of a side; a thread reads one, whose first is column `first` of the stripe's matrix.
__device__ inline void read_side(NarrowRows<kStripe>& to, const SideMatrix& side, const Stripe& stripe, int64_t first) {
  const int n = thread() % 8, j = thread() % kWarpColumns / 8;
  const int64_t column = stripe.begin + thread() / kWarpColumns * kWarpColumns + n / 2 * 8 + 2 * j + n % 2;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint4 words = {};
    if (column < stripe.end && half * 8 < side.rank) {
      const BFloat16* numbers = side.begin + (column - first) * side.column_stride + half * 8 * side.rank_stride;
      if (side.rank_stride == 1) {
        words = *reinterpret_cast<const uint4*>(numbers);
      } else {
        const auto* bits = reinterpret_cast<const uint16_t*>(numbers);
        const auto pair = [&](int k) {
          return bits[2 * k * side.rank_stride] | static_cast<uint32_t>(bits[(2 * k + 1) * side.rank_stride]) << 16;
        };
        words = {pair(0), pair(1), pair(2), pair(3)};
      }
    }
    *to.at(thread(), half) = words;
  }
}

// What a thread copies of each tile: its own pieces of the wide matrices, and of the narrow ones, a warp each, one.
// In few registers: of a wide matrix only the place in a tile is the thread's own.
template <int kWide, int kNarrow>
struct Source {
  const Matrix (&wide)[kWide > 0 ? kWide : 1];
  uint32_t wide_offset[kWide > 0 ? kWide : 1];
  const BFloat16* narrow = nullptr;
  int64_t narrow_stride = 0;
  bool has_narrow = false;

  __device__ Source(const Place& place, const Matrix (&wides)[kWide > 0 ? kWide : 1], const Matrix (&narrows)[kNarrow])
      : wide(wides) {
#pragma unroll
    for (int w = 0; w < kWide; ++w) wide_offset[w] = static_cast<uint32_t>(place.row * wides[w].stride + place.column);
    const int row = place.lane / 2, half = place.lane % 2;
#pragma unroll
    for (int n = 0; n < kNarrow; ++n) {
      if (place.warp != n) continue;
      narrow_stride = narrows[n].stride;
      narrow = narrows[n].begin + row * narrows[n].stride + half * 8;
      has_narrow = half * 8 < narrows[n].rank;
    }
  }

  __device__ void start(Stage<kWide, kNarrow>& stage, const Place& place, int64_t rows, int64_t tile) const {
    const int64_t begin = tile * kTileRows;
#pragma unroll
    for (int w = 0; w < kWide; ++w) {
      const BFloat16* first = wide[w].begin + begin * wide[w].stride;
      const BFloat16* second = first + 8 * wide[w].stride;
      start_copy(&stage.wide[w][0][thread()], first + wide_offset[w], place.inside && begin + place.row < rows);
      start_copy(&stage.wide[w][1][thread()], second + wide_offset[w], place.inside && begin + place.row + 8 < rows);
    }
    if (place.warp < kNarrow) {
      const int lane = made_anew(place.lane), row = lane / 2;
      start_copy(stage.narrow[place.warp].at(row, lane % 2), narrow + begin * narrow_stride,
                 has_narrow && begin + row < rows);
    }
    end_group_of_copies();
  }
};

// A tile's rows of S as the left side of a product; transposed: ranks are the rows then.
__device__ inline void read_left(TileLeft& left, NarrowRows<kTileRows>& rows, int lane) {
  read_tiles(left, rows.at(lane % 8 + lane / 8 % 2 * 8, lane / 16));
}
__device__ inline void read_transposed_left(TileLeft& left, NarrowRows<kTileRows>& rows, int lane) {
  read_transposed_tiles(left, rows.at(lane % 8 + lane / 16 * 8, lane / 8 % 2));
}

// Of 16 logical columns: {2 j, 2 j + 1} are the right side of the product that makes result j of two.
__device__ inline void read_right(uint32_t (&right)[4], NarrowRows<kStripe>& side, int first, int lane) {
  read_tiles(right, side.at(first + lane / 16 * 8 + lane % 8, lane / 8 % 2));
}
// The same as rows of a right side: {2 q, 2 q + 1} make ranks 8 q and further.
__device__ inline void read_right_rows(uint32_t (&right)[4], NarrowRows<kStripe>& side, int first, int lane) {
  read_transposed_tiles(right, side.at(first + lane / 8 % 2 * 8 + lane % 8, lane / 16));
}

// The two results of 16 columns from `first`: += left times the side, transposed.
__device__ inline void add_terms(TileSum& term0, TileSum& term1, const TileLeft& left, NarrowRows<kStripe>& side,
                                 int first, int lane) {
  uint32_t right[4];
  read_right(right, side, first, lane);
  multiply_tiles(term0, left, right[0], right[1]);
  multiply_tiles(term1, left, right[2], right[3]);
}

// Numbers of 16 columns that a thread has: of two results, of two rows each.
using Words = uint32_t[2][2];

__device__ inline void add_to_sums(TileSum (&sums)[2], const Words& words, NarrowRows<kStripe>& side, int first,
                                   int lane) {
  const TileLeft left = {words[0][0], words[0][1], words[1][0], words[1][1]};
  uint32_t right[4];
  read_right_rows(right, side, first, lane);
  multiply_tiles(sums[0], left, right[0], right[1]);
  multiply_tiles(sums[1], left, right[2], right[3]);
}

// sums [ranks, columns] of a half (m) of a warp's columns += narrow^T numbers
__device__ inline void add_over_rows(TileSum (&sums)[4], int m, const Words& words, NarrowRows<kTileRows>& narrow,
                                     int lane) {
  TileLeft left;
  read_transposed_left(left, narrow, lane);
#pragma unroll
  for (int jj = 0; jj < 2; ++jj)
    multiply_tiles(sums[2 * m + jj], left, transposed_tile(words[jj][0]), transposed_tile(words[jj][1]));
}

// Of this thread's eight numbers the four of half m.
__device__ inline uint2* own_pair(uint4 (&pieces)[kThreads], int m) {
  return reinterpret_cast<uint2*>(&pieces[thread()]) + m;
}

__device__ inline float number(const uint2& words, int jj, int k) {
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

// Of all warps, into `parts` [N, kColumns].
template <int kColumns>
__device__ void store_sums(float* parts, const float (&sums)[kWarps][kTileRows][kColumns], int64_t tile, int64_t rows) {
  static_assert(kTileRows * kColumns <= 2 * kThreads, "a pair for a thread");
  const int first = 2 * made_anew(thread()), row = first / kColumns, column = first % kColumns;
  if (row >= kTileRows || tile * kTileRows + row >= rows) return;
  const int place = place_of_pair<kColumns>(row, column / 8, column % 8 / 2);
  float2 sum = {};
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    const float2 part = *reinterpret_cast<const float2*>(&sums[w][row][place]);
    sum.x += part.x;
    sum.y += part.y;
  }
  *reinterpret_cast<float2*>(parts + (tile * kTileRows + row) * kColumns + column) = sum;
}

// In one instruction, which an assignment of four computed words is not.
__device__ inline void store_piece(BFloat16* to, const uint32_t (&words)[4]) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(words[0]), "r"(words[1]), "r"(words[2]),
               "r"(words[3])
               : "memory");
}

__device__ inline uint32_t word_of(const uint4& piece, int j) {
  return reinterpret_cast<const uint32_t(&)[4]>(piece)[j];
}

// The tiles of this block.
struct Tiles {
  int64_t begin, end;
  __device__ explicit Tiles(int64_t rows) {
    const int64_t all = (rows + kTileRows - 1) / kTileRows;
    begin = all * blockIdx.y / gridDim.y;
    end = all * (blockIdx.y + 1) / gridDim.y;
  }
};

// visit(tile, stage, parity of the round) for each tile of this block, left(tile, parity) for it a round later. All
// stages but one are on their way.
template <int kStages, int kWide, int kNarrow, typename Visit, typename Left>
__device__ void each_tile(Stage<kWide, kNarrow> (&stages)[kStages], const Place& place, int64_t rows,
                          const Matrix (&wide)[kWide > 0 ? kWide : 1], const Matrix (&narrow)[kNarrow], Visit visit,
                          Left left) {
  const Tiles tiles(rows);
  if (tiles.begin == tiles.end) return;
  const Source<kWide, kNarrow> source(place, wide, narrow);
  const auto start = [&](int round) {
    if (tiles.begin + round < tiles.end) {
      source.start(stages[round % kStages], place, rows, tiles.begin + round);
    } else {
      end_group_of_copies();  // one a round, whatever is in it
    }
  };
  for (int ahead = 0; ahead < kStages - 1; ++ahead) start(ahead);
  int round = 0;
  for (int64_t tile = tiles.begin; tile < tiles.end; ++tile, ++round) {
    await_copies<kStages - 2>();
    __syncthreads();  // this tile is there, and nobody reads the last one any more
    start(round + kStages - 1);
    if (round > 0) left(tile - 1, (round + 1) % 2);
    visit(tile, stages[round % kStages], round % 2);
  }
  __syncthreads();
  left(tiles.end - 1, (round + 1) % 2);
}

// Of a stripe's sums over rows, [kRank, width] at `out`.
__device__ inline void store_over_rows(float* out, int64_t width, const Place& place, const TileSum (&sums)[4]) {
  if (!place.inside) return;
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    auto* row = reinterpret_cast<float2*>(out + (place.row + 8 * e) * width + place.column);
#pragma unroll
    for (int j = 0; j < 4; ++j) row[j] = {sums[j][2 * e], sums[j][2 * e + 1]};
  }
}

// Of a pair of numbers in `count` parts of so many pairs each.
__device__ inline float2 sum_of_parts(const float* first, int64_t count, int64_t pairs) {
  const auto* part = reinterpret_cast<const float2*>(first);
  float2 sum = {};
#pragma unroll 8
  for (int64_t k = 0; k < count; ++k) {
    const float2 one = part[k * pairs];
    sum.x += one.x;
    sum.y += one.y;
  }
  return sum;
}

// In how many parts the rows go: as many as leave the fewest multiprocessors without a block in the last round.
inline int64_t regions_of(int64_t rows, int64_t stripes) {
  const int64_t processors = std::max(1, device_attribute(cudaDevAttrMultiProcessorCount));
  const int64_t most = std::clamp<int64_t>((rows + kTileRows - 1) / kTileRows, 1, kLowRankMostRegions);
  int64_t best = 1, best_idle = INT64_MAX;
  for (int64_t regions = 1; regions <= most; ++regions) {
    const int64_t rounds = (stripes * regions + processors - 1) / processors;
    const int64_t idle = (rounds * processors - stripes * regions) * most / rounds;
    if (idle < best_idle) best = regions, best_idle = idle;
  }
  return best;
}

// With a thread for each.
inline unsigned blocks_for(int64_t work) { return static_cast<unsigned>((work + kThreads - 1) / kThreads); }

template <typename SharedMemory, typename Call>
int start_stripes(void (*kernel)(Call), const Call& call, int64_t stripes, int64_t regions, cudaStream_t stream) {
  static_assert(sizeof(SharedMemory) <= kLowRankSharedBytes);
  const int bytes = static_cast<int>(sizeof(SharedMemory));
  if (const auto code = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes)) return code;
  const dim3 blocks(static_cast<unsigned>(stripes), static_cast<unsigned>(regions));
  kernel<<<blocks, kThreads, bytes, stream>>>(call);
  return cudaGetLastError();
}

}  // namespace rankwise
