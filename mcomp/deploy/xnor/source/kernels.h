// The loops of a binary convolution, once per instruction set.
//
// A packed tensor is [images][rows][columns][groups * words]: bit c % 32 of word c / 32 of a group is channel c, set
// where its sign is +1. Bits beyond the last channel are 0. A filter is packed alike, with its bits over
// [kernel rows][kernel columns][words]; LANES filters lie side by side, so that one vector register holds the same word
// of each: [vectors][words of a filter][LANES].
#pragma once

#include <cstdint>

namespace xnor {

constexpr int LANES = 16;
constexpr int WORD = 32;
constexpr int TILE_PIXELS = 64;
constexpr int TILE_VECTORS = 4;

// A stretch of packed words that a window reads without a gap.
struct Run {
  int64_t offset;
  int64_t words;
};

// A row of `stride` numbers for each class of pixels: those whose window lies over the border alike.
struct ByClass {
  const int32_t* numbers;
  int64_t stride;
};

struct Kernels {
  // Unequal bits of the windows at `pixels` and each filter of `vectors`: counts[pixel][vectors * LANES].
  void (*count)(const uint32_t* const* pixels, int64_t size, const Run* runs, int64_t run_count,
                const uint32_t* filters, int64_t vectors, int64_t words, int32_t* counts);

  // The sums of products, base - (count << shift), times `scale`, plus `bias` where there is one:
  // values[pixel][lanes].
  void (*scale)(const int32_t* counts, const int32_t* classes, const ByClass& base, int32_t shift, int64_t size,
                int64_t lanes, const float* scale, const float* bias, float* values);

  // Whether each count is within its limit, inverted where `flip` says so: a bit per lane, LANES in each of
  // target[pixel * stride + vector].
  void (*compare)(const int32_t* counts, const int32_t* classes, const ByClass& limit, int64_t size, int64_t vectors,
                  const int32_t* flip, uint16_t* target, int64_t stride);

  // target[column][row] = source[row][column], both with gaps between their rows.
  void (*transpose)(const float* source, int64_t rows, int64_t columns, int64_t source_stride, float* target,
                    int64_t target_stride);

  // Signs of `pixels` pixels of up to WORD channels, each a plane: one word per pixel, `words` apart.
  void (*pack_planes)(const float* planes, int64_t plane, int64_t channels, int64_t pixels, const float* threshold,
                      uint32_t flip, uint32_t* packed, int64_t words);

  // The same of channels that lie side by side, with `stride` numbers from pixel to pixel.
  void (*pack_rows)(const float* rows, int64_t stride, int64_t channels, int64_t pixels, const float* threshold,
                    uint32_t flip, uint32_t* packed, int64_t words);
};

// The kernels of an instruction set, or null where compiler or processor do not have it.
const Kernels* avx512();
const Kernels* avx2();
const Kernels* scalar();

}  // namespace xnor
