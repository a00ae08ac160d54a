// Matrix products of one thread: a part of kernels.cpp, compiled once per instruction set with it.
//
// A tile of C, kRows x kVectors vectors, stays in registers while k is run through; A is read value by value and
// broadcast, B by whole vectors. block_product packs B into panels as wide as a tile, a block of k deep, so that a
// panel is read from the nearest cache for all rows (Goto and van de Geijn, "Anatomy of high-performance matrix
// multiplication", 2008), and A only where it is given by columns: by rows it lies well enough as it is.
// The value of an element does not depend on which rows and columns are computed together.

template <int kRows, int kVectors, typename LastAccess>
HWY_INLINE void product_tile(const SmallProduct& p, int64_t row, int64_t column, LastAccess last) {
  Floats sums[kRows][kVectors];
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVectors; ++v) {
      sums[r][v] = hn::Zero(kFloats);
      __builtin_prefetch(p.c + (row + r) * p.c_stride + column + v * kLanes, 1);
    }
  const float* a = p.a + row * p.a_row_stride;
  const float* b = p.b + column;
  for (int64_t l = 0; l < p.k; ++l, a += p.a_column_stride, b += p.b_stride) {
    Floats right[kVectors];
    for (int v = 0; v + 1 < kVectors; ++v) right[v] = hn::LoadU(kFloats, b + v * kLanes);
    right[kVectors - 1] = last.load(b + (kVectors - 1) * kLanes);
    for (int r = 0; r < kRows; ++r) {
      const Floats left = hn::Set(kFloats, a[r * p.a_row_stride]);
      for (int v = 0; v < kVectors; ++v) sums[r][v] = hn::MulAdd(left, right[v], sums[r][v]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    float* c = p.c + (row + r) * p.c_stride + column;
    for (int v = 0; v + 1 < kVectors; ++v) {
      if (p.accumulate) sums[r][v] = hn::Add(sums[r][v], hn::LoadU(kFloats, c + v * kLanes));
      hn::StoreU(sums[r][v], kFloats, c + v * kLanes);
    }
    constexpr int kLast = kVectors - 1;
    if (p.accumulate) sums[r][kLast] = hn::Add(sums[r][kLast], last.load(c + kLast * kLanes));
    last.store(sums[r][kLast], c + kLast * kLanes);
  }
}

/// Columns of the next tile when `rest` are left. Two and two rather than three and one: a tile of a single vector
/// waits for its own sums.
HWY_INLINE int64_t tile_columns(int64_t rest) {
  if (rest <= 3 * kLanes) return rest;
  return rest <= 4 * kLanes ? 2 * kLanes : 3 * kLanes;
}

template <int kRows>
HWY_INLINE void product_rows(const SmallProduct& p, int64_t row) {
  int64_t column = 0;
  for (int64_t width; column < p.n; column += width) {
    width = tile_columns(p.n - column);
    const int64_t in_last = (width - 1) % kLanes + 1;
    const bool whole = in_last == kLanes;
    const TailAccess tail(in_last);
    switch ((width - 1) / kLanes) {
      case 2:
        whole ? product_tile<kRows, 3>(p, row, column, WholeAccess{}) : product_tile<kRows, 3>(p, row, column, tail);
        break;
      case 1:
        whole ? product_tile<kRows, 2>(p, row, column, WholeAccess{}) : product_tile<kRows, 2>(p, row, column, tail);
        break;
      default:
        whole ? product_tile<kRows, 1>(p, row, column, WholeAccess{}) : product_tile<kRows, 1>(p, row, column, tail);
    }
  }
}

constexpr int kTileRows = HWY_TARGET <= HWY_AVX3 ? 8 : 4;  // what the registers of the instruction set hold

void small_product(const SmallProduct& p) {
  int64_t row = 0;
  for (; row + kTileRows <= p.m; row += kTileRows) product_rows<kTileRows>(p, row);
  if (kTileRows == 8 && row + 4 <= p.m) {
    product_rows<4>(p, row);
    row += 4;
  }
  if (row + 2 <= p.m) {
    product_rows<2>(p, row);
    row += 2;
  }
  if (row < p.m) product_rows<1>(p, row);
}

/// out[l * columns + j] = b[l * row_stride + j] for l < depth.
HWY_INLINE void pack_rows(const float* b, int64_t row_stride, int64_t depth, int64_t columns, float* out) {
  for (int64_t l = 0; l < depth; ++l, b += row_stride, out += columns)
    for_vectors(columns, [&](int64_t j, auto access) HWY_ATTR { access.store(access.load(b + j), out + j); });
}

/// out[l * columns + j] = b[j * column_stride + l] for l < depth.
HWY_INLINE void pack_columns(const float* b, int64_t column_stride, int64_t depth, int64_t columns, float* out) {
  const hn::FixedTag<float, 4> quad;
  int64_t j = 0;
  for (; j + 4 <= columns; j += 4) {
    const float* source = b + j * column_stride;
    int64_t l = 0;
    for (; l + 4 <= depth; l += 4) {  // a block of 4 x 4, transposed in registers
      const auto r0 = hn::LoadU(quad, source + l);
      const auto r1 = hn::LoadU(quad, source + column_stride + l);
      const auto r2 = hn::LoadU(quad, source + 2 * column_stride + l);
      const auto r3 = hn::LoadU(quad, source + 3 * column_stride + l);
      const auto low02 = hn::InterleaveLower(quad, r0, r2);
      const auto low13 = hn::InterleaveLower(quad, r1, r3);
      const auto high02 = hn::InterleaveUpper(quad, r0, r2);
      const auto high13 = hn::InterleaveUpper(quad, r1, r3);
      float* target = out + l * columns + j;
      hn::StoreU(hn::InterleaveLower(quad, low02, low13), quad, target);
      hn::StoreU(hn::InterleaveUpper(quad, low02, low13), quad, target + columns);
      hn::StoreU(hn::InterleaveLower(quad, high02, high13), quad, target + 2 * columns);
      hn::StoreU(hn::InterleaveUpper(quad, high02, high13), quad, target + 3 * columns);
    }
    for (; l < depth; ++l)
      for (int64_t i = 0; i < 4; ++i) out[l * columns + j + i] = source[i * column_stride + l];
  }
  for (; j < columns; ++j)
    for (int64_t l = 0; l < depth; ++l) out[l * columns + j] = b[j * column_stride + l];
}

void block_product(const BlockProduct& p) {
  constexpr int64_t kRowBlock = 256;  // rows of A that stay in the second cache while the panels pass
  float* packed_a = p.scratch + kProductDepth * kProductColumns;
  const int64_t pieces = p.k > kProductDepth ? (p.k + kProductDepth - 1) / kProductDepth : 1;
  for (int64_t first = 0; first < p.n; first += kProductColumns) {
    const int64_t columns = p.n - first < kProductColumns ? p.n - first : kProductColumns;
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const int64_t l = p.k * piece / pieces;
      const int64_t depth = p.k * (piece + 1) / pieces - l;
      for (int64_t j = 0, width; j < columns; j += width) {
        width = tile_columns(columns - j);
        if (p.b_column_stride == 1) {
          pack_rows(p.b + l * p.b_row_stride + first + j, p.b_row_stride, depth, width, p.scratch + j * depth);
        } else {
          pack_columns(p.b + l + (first + j) * p.b_column_stride, p.b_column_stride, depth, width,
                       p.scratch + j * depth);
        }
      }
      const float* a = p.a + l * p.a_column_stride;
      for (int64_t row = 0, rows; row < p.m; row += rows) {
        // Columns of a row-major A lie far apart: copied once into tiles, they are read from there for every panel.
        const bool packed = p.a_row_stride == 1 && columns > 6 * kLanes && p.m - row >= kTileRows;
        if (packed) {
          rows = p.m - row < kProductPackedRows ? (p.m - row) / kTileRows * kTileRows : kProductPackedRows;
          for (int64_t tile = 0; tile < rows; tile += kTileRows)
            pack_rows(a + row + tile, p.a_column_stride, depth, kTileRows, packed_a + tile * depth);
        } else {
          rows = p.m - row < kRowBlock ? p.m - row : kRowBlock;
        }
        for (int64_t j = 0, width; j < columns; j += width) {
          width = tile_columns(columns - j);
          float* c = p.c + row * p.c_stride + first + j;
          const float* panel = p.scratch + j * depth;
          const bool accumulate = p.accumulate || piece > 0;
          if (packed) {
            for (int64_t tile = 0; tile < rows; tile += kTileRows)
              small_product({kTileRows, width, depth, packed_a + tile * depth, 1, kTileRows, panel, width,
                             c + tile * p.c_stride, p.c_stride, accumulate});
          } else {
            small_product({rows, width, depth, a + row * p.a_row_stride, p.a_row_stride, p.a_column_stride, panel,
                           width, c, p.c_stride, accumulate});
          }
        }
      }
    }
  }
}
