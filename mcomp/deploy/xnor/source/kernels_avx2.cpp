// Without an instruction that counts bits, a table of 16 entries in a register does it for half a byte
// (Mula, Kurz and Lemire, "Faster Population Counts Using AVX2 Instructions", arXiv:1611.07612).
#include "kernels.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))

#include <immintrin.h>

#define TARGET __attribute__((target("avx2")))

namespace xnor {
namespace {

#include "plain_loops.h"
#include "transpose_avx.h"

constexpr int HALF = 8;      // filters in a register
constexpr int64_t FULL = 31;  // words whose bits, at most 8 in a byte, a byte can count

TARGET inline __m256i ones(__m256i bits) {
  const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                         0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i nibble = _mm256_set1_epi8(0x0f);
  const __m256i low = _mm256_shuffle_epi8(table, _mm256_and_si256(bits, nibble));
  const __m256i high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi32(bits, 4), nibble));
  return _mm256_add_epi8(low, high);
}

TARGET inline __m256i widen(__m256i bytes) {
  return _mm256_madd_epi16(_mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1)), _mm256_set1_epi16(1));
}

// PIXELS windows against the LANES filters of one vector.
template <int PIXELS>
TARGET inline void count_block(const uint32_t* const* pixels, const Run* runs, int64_t run_count,
                               const uint32_t* filters, int32_t* counts, int64_t stride) {
  __m256i sum[PIXELS][2], bytes[PIXELS][2];
  for (int pixel = 0; pixel < PIXELS; ++pixel)
    for (int half = 0; half < 2; ++half) sum[pixel][half] = _mm256_setzero_si256();
  for (int64_t run = 0; run < run_count; ++run) {
    for (int64_t first = 0; first < runs[run].words; first += FULL) {
      const int64_t end = first + FULL < runs[run].words ? first + FULL : runs[run].words;
      for (int pixel = 0; pixel < PIXELS; ++pixel)
        for (int half = 0; half < 2; ++half) bytes[pixel][half] = _mm256_setzero_si256();
      for (int64_t word = first; word < end; ++word, filters += LANES) {
        for (int half = 0; half < 2; ++half) {
          const __m256i filter = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(filters + half * HALF));
          for (int pixel = 0; pixel < PIXELS; ++pixel) {
            const __m256i signs = _mm256_set1_epi32(static_cast<int32_t>(pixels[pixel][runs[run].offset + word]));
            bytes[pixel][half] = _mm256_add_epi8(bytes[pixel][half], ones(_mm256_xor_si256(signs, filter)));
          }
        }
      }
      for (int pixel = 0; pixel < PIXELS; ++pixel)
        for (int half = 0; half < 2; ++half)
          sum[pixel][half] = _mm256_add_epi32(sum[pixel][half], widen(bytes[pixel][half]));
    }
  }
  for (int pixel = 0; pixel < PIXELS; ++pixel)
    for (int half = 0; half < 2; ++half)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(counts + pixel * stride + half * HALF), sum[pixel][half]);
}

TARGET void count(const uint32_t* const* pixels, int64_t size, const Run* runs, int64_t run_count,
                  const uint32_t* filters, int64_t vectors, int64_t words, int32_t* counts) {
  const int64_t stride = vectors * LANES;
  for (int64_t vector = 0; vector < vectors; ++vector) {
    const uint32_t* filter = filters + vector * words * LANES;
    int32_t* column = counts + vector * LANES;
    int64_t pixel = 0;
    for (; pixel + 2 <= size; pixel += 2)
      count_block<2>(pixels + pixel, runs, run_count, filter, column + pixel * stride, stride);
    for (; pixel < size; ++pixel)
      count_block<1>(pixels + pixel, runs, run_count, filter, column + pixel * stride, stride);
  }
}

TARGET inline int32_t within(const int32_t* counts, const int32_t* most) {
  const __m256i count = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(counts));
  const __m256i over = _mm256_cmpgt_epi32(count, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(most)));
  return 0xff ^ _mm256_movemask_ps(_mm256_castsi256_ps(over));
}

TARGET void compare(const int32_t* counts, const int32_t* classes, const ByClass& limit, int64_t size, int64_t vectors,
                    const int32_t* flip, uint16_t* target, int64_t stride) {
  for (int64_t pixel = 0; pixel < size; ++pixel) {
    const int32_t* most = limit.numbers + classes[pixel] * limit.stride;
    const int32_t* count = counts + pixel * vectors * LANES;
    for (int64_t vector = 0; vector < vectors; ++vector, most += LANES, count += LANES) {
      const int32_t mask = within(count, most) | within(count + HALF, most + HALF) << HALF;
      target[pixel * stride + vector] = static_cast<uint16_t>(mask ^ flip[vector]);
    }
  }
}

// CHUNK registers of 8 pixels, of whose words every channel sets a bit.
template <int CHUNK>
TARGET inline void pack_chunk(const float* planes, int64_t plane, int64_t channels, const float* threshold,
                              uint32_t flip, uint32_t* packed, int64_t words) {
  __m256i word[CHUNK];
  for (int i = 0; i < CHUNK; ++i) word[i] = _mm256_set1_epi32(static_cast<int32_t>(flip));
  for (int64_t channel = 0; channel < channels; ++channel) {
    const __m256i bit = _mm256_set1_epi32(static_cast<int32_t>(uint32_t{1} << channel));
    const __m256 edge = _mm256_set1_ps(threshold ? threshold[channel] : 0.0f);
    for (int i = 0; i < CHUNK; ++i) {
      const __m256 found = _mm256_cmp_ps(_mm256_loadu_ps(planes + channel * plane + i * 8), edge, _CMP_GE_OQ);
      word[i] = _mm256_xor_si256(word[i], _mm256_and_si256(_mm256_castps_si256(found), bit));
    }
  }
  for (int i = 0; i < CHUNK; ++i) {
    uint32_t lanes[8];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), word[i]);
    for (int pixel = 0; pixel < 8; ++pixel) packed[(i * 8 + pixel) * words] = lanes[pixel];
  }
}

TARGET void pack_planes(const float* planes, int64_t plane, int64_t channels, int64_t pixels, const float* threshold,
                        uint32_t flip, uint32_t* packed, int64_t words) {
  int64_t first = 0;
  for (; first + 64 <= pixels; first += 64)
    pack_chunk<8>(planes + first, plane, channels, threshold, flip, packed + first * words, words);
  for (; first + 8 <= pixels; first += 8)
    pack_chunk<1>(planes + first, plane, channels, threshold, flip, packed + first * words, words);
  pack_last(planes + first, plane, channels, pixels - first, threshold, flip, packed + first * words, words);
}

TARGET void pack_rows(const float* rows, int64_t stride, int64_t channels, int64_t pixels, const float* threshold,
                      uint32_t flip, uint32_t* packed, int64_t words) {
  const __m256 zero = _mm256_setzero_ps();
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    const float* row = rows + pixel * stride;
    uint32_t word = 0;
    int64_t channel = 0;
    for (; channel + 8 <= channels; channel += 8) {
      const __m256 edge = threshold ? _mm256_loadu_ps(threshold + channel) : zero;
      const __m256 found = _mm256_cmp_ps(_mm256_loadu_ps(row + channel), edge, _CMP_GE_OQ);
      word |= static_cast<uint32_t>(_mm256_movemask_ps(found)) << channel;
    }
    for (; channel < channels; ++channel)
      word |= static_cast<uint32_t>(row[channel] >= (threshold ? threshold[channel] : 0.0f)) << channel;
    packed[pixel * words] = word ^ flip;
  }
}

constexpr Kernels KERNELS = {count, scale_sums, compare, transpose, pack_planes, pack_rows};

}  // namespace

const Kernels* avx2() {
  static const bool here = __builtin_cpu_supports("avx2");
  return here ? &KERNELS : nullptr;
}

}  // namespace xnor

#else

namespace xnor {
const Kernels* avx2() { return nullptr; }
}  // namespace xnor

#endif
