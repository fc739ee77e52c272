// VPOPCNTDQ counts the bits of 16 filters' words at a time.
#include "kernels.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))

#include <immintrin.h>

#include <cstring>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq")))

namespace xnor {
namespace {

#include "plain_loops.h"
#include "transpose_avx.h"

// PIXELS * VECTORS counters, the filters' words and one word of input stay in the 32 registers.
template <int PIXELS, int VECTORS>
TARGET inline void count_block(const uint32_t* const* pixels, const Run* runs, int64_t run_count,
                               const uint32_t* filters, int64_t words, int32_t* counts, int64_t stride) {
  __m512i sum[PIXELS][VECTORS];
  for (int pixel = 0; pixel < PIXELS; ++pixel)
    for (int vector = 0; vector < VECTORS; ++vector) sum[pixel][vector] = _mm512_setzero_si512();
  for (int64_t run = 0; run < run_count; ++run) {
    const uint32_t* window[PIXELS];
    for (int pixel = 0; pixel < PIXELS; ++pixel) window[pixel] = pixels[pixel] + runs[run].offset;
    for (int64_t word = 0; word < runs[run].words; ++word, filters += LANES) {
      __m512i filter[VECTORS];
      for (int vector = 0; vector < VECTORS; ++vector)
        filter[vector] = _mm512_loadu_si512(filters + vector * words * LANES);
      for (int pixel = 0; pixel < PIXELS; ++pixel) {
        const __m512i signs = _mm512_set1_epi32(static_cast<int32_t>(window[pixel][word]));
        for (int vector = 0; vector < VECTORS; ++vector) {
          const __m512i unequal = _mm512_popcnt_epi32(_mm512_xor_si512(signs, filter[vector]));
          sum[pixel][vector] = _mm512_add_epi32(sum[pixel][vector], unequal);
        }
      }
    }
  }
  for (int pixel = 0; pixel < PIXELS; ++pixel)
    for (int vector = 0; vector < VECTORS; ++vector)
      _mm512_storeu_si512(counts + pixel * stride + vector * LANES, sum[pixel][vector]);
}

template <int VECTORS>
TARGET void count_column(const uint32_t* const* pixels, int64_t size, const Run* runs, int64_t run_count,
                         const uint32_t* filters, int64_t words, int32_t* counts, int64_t stride) {
  int64_t pixel = 0;
  for (; pixel + 4 <= size; pixel += 4)
    count_block<4, VECTORS>(pixels + pixel, runs, run_count, filters, words, counts + pixel * stride, stride);
  for (; pixel < size; ++pixel)
    count_block<1, VECTORS>(pixels + pixel, runs, run_count, filters, words, counts + pixel * stride, stride);
}

TARGET void count(const uint32_t* const* pixels, int64_t size, const Run* runs, int64_t run_count,
                  const uint32_t* filters, int64_t vectors, int64_t words, int32_t* counts) {
  const int64_t stride = vectors * LANES;
  int64_t vector = 0;
  const auto each = [&](auto column, int64_t wide) {
    for (; vector + wide <= vectors; vector += wide)
      column(pixels, size, runs, run_count, filters + vector * words * LANES, words, counts + vector * LANES, stride);
  };
  each(count_column<4>, 4);
  each(count_column<2>, 2);
  each(count_column<1>, 1);
}

TARGET inline __mmask16 within(const int32_t* counts, const int32_t* most) {
  return _mm512_cmple_epi32_mask(_mm512_loadu_si512(counts), _mm512_loadu_si512(most));
}

TARGET void compare(const int32_t* counts, const int32_t* classes, const ByClass& limit, int64_t size, int64_t vectors,
                    const int32_t* flip, uint16_t* target, int64_t stride) {
  uint64_t inverted = 0;
  for (int64_t vector = 0; vector < vectors; ++vector)
    inverted |= static_cast<uint64_t>(static_cast<uint16_t>(flip[vector])) << (vector * LANES);
  for (int64_t pixel = 0; pixel < size; ++pixel, counts += vectors * LANES, target += stride) {
    const int32_t* most = limit.numbers + classes[pixel] * limit.stride;
    if (vectors == 4) {
      const __mmask32 low = _mm512_kunpackw(within(counts + LANES, most + LANES), within(counts, most));
      const __mmask32 high = _mm512_kunpackw(within(counts + 3 * LANES, most + 3 * LANES),
                                             within(counts + 2 * LANES, most + 2 * LANES));
      const uint64_t mask = _cvtmask64_u64(_mm512_kunpackd(high, low)) ^ inverted;
      std::memcpy(target, &mask, sizeof(mask));
    } else {
      for (int64_t vector = 0; vector < vectors; ++vector)
        target[vector] = static_cast<uint16_t>(within(counts + vector * LANES, most + vector * LANES) ^
                                               (inverted >> (vector * LANES)));
    }
  }
}

// CHUNK registers of 16 pixels, of whose words every channel sets a bit.
template <int CHUNK>
TARGET inline void pack_chunk(const float* planes, int64_t plane, int64_t channels, const float* threshold,
                              uint32_t flip, uint32_t* packed, int64_t words) {
  __m512i word[CHUNK];
  for (int i = 0; i < CHUNK; ++i) word[i] = _mm512_set1_epi32(static_cast<int32_t>(flip));
  for (int64_t channel = 0; channel < channels; ++channel) {
    const __m512i bit = _mm512_set1_epi32(static_cast<int32_t>(uint32_t{1} << channel));
    const __m512 edge = _mm512_set1_ps(threshold ? threshold[channel] : 0.0f);
    for (int i = 0; i < CHUNK; ++i) {
      const __m512 x = _mm512_loadu_ps(planes + channel * plane + i * 16);
      word[i] = _mm512_mask_xor_epi32(word[i], _mm512_cmp_ps_mask(x, edge, _CMP_GE_OQ), word[i], bit);
    }
  }
  for (int i = 0; i < CHUNK; ++i) {
    uint32_t lanes[16];
    _mm512_storeu_si512(lanes, word[i]);
    for (int pixel = 0; pixel < 16; ++pixel) packed[(i * 16 + pixel) * words] = lanes[pixel];
  }
}

TARGET void pack_planes(const float* planes, int64_t plane, int64_t channels, int64_t pixels, const float* threshold,
                        uint32_t flip, uint32_t* packed, int64_t words) {
  int64_t first = 0;
  for (; first + 128 <= pixels; first += 128)
    pack_chunk<8>(planes + first, plane, channels, threshold, flip, packed + first * words, words);
  for (; first + 16 <= pixels; first += 16)
    pack_chunk<1>(planes + first, plane, channels, threshold, flip, packed + first * words, words);
  pack_last(planes + first, plane, channels, pixels - first, threshold, flip, packed + first * words, words);
}

TARGET void pack_rows(const float* rows, int64_t stride, int64_t channels, int64_t pixels, const float* threshold,
                      uint32_t flip, uint32_t* packed, int64_t words) {
  const uint32_t valid = channels == WORD ? ~uint32_t{0} : (uint32_t{1} << channels) - 1;
  const __mmask16 low = static_cast<__mmask16>(valid), high = static_cast<__mmask16>(valid >> 16);
  const __m512 zero = _mm512_setzero_ps();
  const __m512 low_edge = threshold ? _mm512_maskz_loadu_ps(low, threshold) : zero;
  const __m512 high_edge = threshold ? _mm512_maskz_loadu_ps(high, threshold + 16) : zero;
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    const float* row = rows + pixel * stride;
    const uint32_t first = _mm512_mask_cmp_ps_mask(low, _mm512_maskz_loadu_ps(low, row), low_edge, _CMP_GE_OQ);
    const uint32_t last = _mm512_mask_cmp_ps_mask(high, _mm512_maskz_loadu_ps(high, row + 16), high_edge, _CMP_GE_OQ);
    packed[pixel * words] = (first | last << 16) ^ flip;
  }
}

constexpr Kernels KERNELS = {count, scale_sums, compare, transpose, pack_planes, pack_rows};

}  // namespace

const Kernels* avx512() {
  static const bool here = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                           __builtin_cpu_supports("avx512vpopcntdq");
  return here ? &KERNELS : nullptr;
}

}  // namespace xnor

#else

namespace xnor {
const Kernels* avx512() { return nullptr; }
}  // namespace xnor

#endif
