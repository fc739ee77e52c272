#include "kernels.h"

#define TARGET

namespace xnor {
namespace {

#include "plain_loops.h"

inline int32_t ones(uint32_t x) {
  x -= (x >> 1) & 0x55555555u;
  x = (x & 0x33333333u) + ((x >> 2) & 0x33333333u);
  x = (x + (x >> 4)) & 0x0f0f0f0fu;
  return static_cast<int32_t>((x * 0x01010101u) >> 24);
}

void count(const uint32_t* const* pixels, int64_t size, const Run* runs, int64_t run_count, const uint32_t* filters,
           int64_t vectors, int64_t words, int32_t* counts) {
  for (int64_t pixel = 0; pixel < size; ++pixel) {
    for (int64_t vector = 0; vector < vectors; ++vector) {
      int32_t sum[LANES] = {};
      const uint32_t* filter = filters + vector * words * LANES;
      for (int64_t run = 0; run < run_count; ++run) {
        const uint32_t* window = pixels[pixel] + runs[run].offset;
        for (int64_t word = 0; word < runs[run].words; ++word, filter += LANES)
          for (int lane = 0; lane < LANES; ++lane) sum[lane] += ones(window[word] ^ filter[lane]);
      }
      for (int lane = 0; lane < LANES; ++lane) counts[(pixel * vectors + vector) * LANES + lane] = sum[lane];
    }
  }
}

void compare(const int32_t* counts, const int32_t* classes, const ByClass& limit, int64_t size, int64_t vectors,
             const int32_t* flip, uint16_t* target, int64_t stride) {
  for (int64_t pixel = 0; pixel < size; ++pixel) {
    const int32_t* most = limit.numbers + classes[pixel] * limit.stride;
    for (int64_t vector = 0; vector < vectors; ++vector) {
      int32_t mask = flip[vector];
      for (int bit = 0; bit < LANES; ++bit) {
        const int64_t lane = vector * LANES + bit;
        mask ^= static_cast<int32_t>(counts[pixel * vectors * LANES + lane] <= most[lane]) << bit;
      }
      target[pixel * stride + vector] = static_cast<uint16_t>(mask);
    }
  }
}

void transpose(const float* source, int64_t rows, int64_t columns, int64_t source_stride, float* target,
               int64_t target_stride) {
  for (int64_t column = 0; column < columns; ++column)
    for (int64_t row = 0; row < rows; ++row)
      target[column * target_stride + row] = source[row * source_stride + column];
}

void pack_rows(const float* rows, int64_t stride, int64_t channels, int64_t pixels, const float* threshold,
               uint32_t flip, uint32_t* packed, int64_t words) {
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    uint32_t word = 0;
    for (int64_t channel = 0; channel < channels; ++channel) {
      const float edge = threshold ? threshold[channel] : 0.0f;
      word |= static_cast<uint32_t>(rows[pixel * stride + channel] >= edge) << channel;
    }
    packed[pixel * words] = word ^ flip;
  }
}

constexpr Kernels KERNELS = {count, scale_sums, compare, transpose, pack_last, pack_rows};

}  // namespace

const Kernels* scalar() { return &KERNELS; }

}  // namespace xnor
