// Loops that a compiler turns into vector code by itself, compiled anew for each instruction set.
//
// Included inside an unnamed namespace, after TARGET was defined as the attribute that names the instruction set.
// Each product and sum is rounded by itself (-ffp-contract=off), so that all sets give the same bits.

TARGET void scale_sums(const int32_t* counts, const int32_t* classes, const ByClass& base, int32_t shift, int64_t size,
                       int64_t lanes, const float* scale, const float* bias, float* values) {
  for (int64_t pixel = 0; pixel < size; ++pixel) {
    const int32_t* from = base.numbers + classes[pixel] * base.stride;
    const int32_t* count = counts + pixel * lanes;
    float* value = values + pixel * lanes;
    if (bias) {
      for (int64_t lane = 0; lane < lanes; ++lane)
        value[lane] = static_cast<float>(from[lane] - (count[lane] << shift)) * scale[lane] + bias[lane];
    } else {
      for (int64_t lane = 0; lane < lanes; ++lane)
        value[lane] = static_cast<float>(from[lane] - (count[lane] << shift)) * scale[lane];
    }
  }
}

// A word each of the last pixels, too few for the vector code.
TARGET inline void pack_last(const float* planes, int64_t plane, int64_t channels, int64_t pixels,
                             const float* threshold, uint32_t flip, uint32_t* packed, int64_t words) {
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    uint32_t word = 0;
    for (int64_t channel = 0; channel < channels; ++channel) {
      const float edge = threshold ? threshold[channel] : 0.0f;
      word |= static_cast<uint32_t>(planes[channel * plane + pixel] >= edge) << channel;
    }
    packed[pixel * words] = word ^ flip;
  }
}
