// A block of 8 x 8 numbers turned over in registers. Included like plain_loops.h.

TARGET inline void transpose_block(const float* source, int64_t source_stride, float* target, int64_t target_stride) {
  __m256 row[8], pair[8], quad[8];
  for (int i = 0; i < 8; ++i) row[i] = _mm256_loadu_ps(source + i * source_stride);
  for (int i = 0; i < 8; i += 2) {
    pair[i] = _mm256_unpacklo_ps(row[i], row[i + 1]);
    pair[i + 1] = _mm256_unpackhi_ps(row[i], row[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    quad[i] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0x44);
    quad[i + 1] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0xee);
    quad[i + 2] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0x44);
    quad[i + 3] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(target + i * target_stride, _mm256_permute2f128_ps(quad[i], quad[i + 4], 0x20));
    _mm256_storeu_ps(target + (i + 4) * target_stride, _mm256_permute2f128_ps(quad[i], quad[i + 4], 0x31));
  }
}

TARGET void transpose(const float* source, int64_t rows, int64_t columns, int64_t source_stride, float* target,
                      int64_t target_stride) {
  const int64_t whole_rows = rows & ~int64_t{7}, whole_columns = columns & ~int64_t{7};
  for (int64_t column = 0; column < whole_columns; column += 8)
    for (int64_t row = 0; row < whole_rows; row += 8)
      transpose_block(source + row * source_stride + column, source_stride, target + column * target_stride + row,
                      target_stride);
  for (int64_t column = 0; column < columns; ++column)
    for (int64_t row = column < whole_columns ? whole_rows : 0; row < rows; ++row)
      target[column * target_stride + row] = source[row * source_stride + column];
}
