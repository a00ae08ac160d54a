// Tiles of 16 rows of 64 bytes: a part of the files that multiply by AMX.
//
// The left operand of a tile product is read row by row, the right one must have the four bytes that are summed side by
// side: columns 4 k .. 4 k + 3 (of bytes) of 16 rows in its row k. So weights, which are many and lie row by row, are
// the left operand and are read where they lie; activations are prepared as the right one; a tile of results has a row
// for each output and is transposed when it is written.

constexpr int64_t kTileBytes = 1024, kTileRows = 16, kTileColumns = 64;

struct alignas(64) Tile {
  __m512i rows[16];
};

/// All tiles whole. Released when the calculation ends: a thread then costs nothing more to switch.
class TileConfiguration {
 public:
  HWY_INLINE TileConfiguration() {
    struct {
      uint8_t palette = 1, first_row = 0, reserved[14] = {};
      uint16_t columns[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } configuration;
    _tile_loadconfig(&configuration);
  }
  HWY_INLINE ~TileConfiguration() { _tile_release(); }
};

HWY_INLINE void transpose(__m512i (&rows)[16]) {
  __m512i pairs[16];
  for (int i = 0; i < 16; i += 4) {
    const __m512i a = _mm512_unpacklo_epi32(rows[i], rows[i + 1]), b = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    const __m512i c = _mm512_unpacklo_epi32(rows[i + 2], rows[i + 3]),
                  d = _mm512_unpackhi_epi32(rows[i + 2], rows[i + 3]);
    pairs[i] = _mm512_unpacklo_epi64(a, c);
    pairs[i + 1] = _mm512_unpackhi_epi64(a, c);
    pairs[i + 2] = _mm512_unpacklo_epi64(b, d);
    pairs[i + 3] = _mm512_unpackhi_epi64(b, d);
  }
  // Row i + 4 l is now the l-th 128 bits of pairs[i], pairs[i + 4], pairs[i + 8] and pairs[i + 12].
  for (int i = 0; i < 4; ++i) {
    const __m512i a = _mm512_shuffle_i32x4(pairs[i], pairs[i + 4], 0x44);
    const __m512i b = _mm512_shuffle_i32x4(pairs[i], pairs[i + 4], 0xee);
    const __m512i c = _mm512_shuffle_i32x4(pairs[i + 8], pairs[i + 12], 0x44);
    const __m512i d = _mm512_shuffle_i32x4(pairs[i + 8], pairs[i + 12], 0xee);
    rows[i] = _mm512_shuffle_i32x4(a, c, 0x88);
    rows[i + 4] = _mm512_shuffle_i32x4(a, c, 0xdd);
    rows[i + 8] = _mm512_shuffle_i32x4(b, d, 0x88);
    rows[i + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
}

/// Where a tile of weights lies: in the matrix, or, at its edges, copied with zeros.
struct WeightTile {
  const char* data;
  int64_t stride;
};
HWY_INLINE WeightTile weight_tile(const char* weight, int64_t row_bytes, int64_t rows, int64_t bytes, Tile& copy) {
  if (rows >= kTileRows && bytes >= kTileColumns) return {weight, row_bytes};
  const __mmask64 present = bytes >= kTileColumns ? ~__mmask64{0} : (__mmask64{1} << bytes) - 1;
  for (int64_t r = 0; r < kTileRows; ++r)
    copy.rows[r] = r < rows ? _mm512_maskz_loadu_epi8(present, weight + r * row_bytes) : _mm512_setzero_si512();
  return {reinterpret_cast<const char*>(&copy), kTileColumns};
}

/// out[r, o] = row o, lane r, for r < rows and o < outputs. Transposes in place.
HWY_INLINE void store_transposed(__m512i (&of_outputs)[16], int64_t rows, int64_t outputs, float* out,
                                 int64_t out_stride) {
  if (outputs <= 0) return;
  transpose(of_outputs);
  const __mmask16 present = static_cast<__mmask16>(outputs >= 16 ? 0xffff : (1 << outputs) - 1);
  for (int64_t r = 0; r < rows && r < 16; ++r)
    _mm512_mask_storeu_ps(out + r * out_stride, present, _mm512_castsi512_ps(of_outputs[r]));
}
