// Tables of a pass's sequences: when two passes have one layout, where its tables lie, and what lies there.

#include "runtime/sequence_tables.h"

#include <doctest/doctest.h>

#include <set>
#include <vector>

#include "runtime/check.h"
#include "runtime/handles.h"
#include "runtime/not_recordable.h"

namespace cbtm::cuda {
namespace {

struct Row {
  int32_t begin, length;
};

std::vector<Row> rows_of(const PassSequences& sequences) {
  std::vector<Row> rows;
  for (size_t s = 0; s + 1 < sequences.query_offsets.size(); ++s)
    rows.push_back({sequences.query_offsets[s], sequences.query_offsets[s + 1] - sequences.query_offsets[s]});
  return rows;
}

struct Tables {
  Stream stream;
  StagingRing staging;
  SequenceTables tables{staging, stream};

  void lay_out(const std::vector<int32_t>& offsets) {
    tables.lay_out({.query_offsets = offsets, .key_offsets = offsets, .cached_lengths = {}});
  }
  SequenceTable<Row> get(int64_t kind) { return tables.get<Row>({kind, 0, 0, 0}, rows_of); }
  /// Whether a table is what `offsets` gives, and zeros behind it.
  bool holds(const SequenceTable<Row>& table, const std::vector<int32_t>& offsets) {
    std::vector<Row> got(static_cast<size_t>(table.room));
    CBTM_CUDA(cudaMemcpyAsync(got.data(), table.rows, got.size() * sizeof(Row), cudaMemcpyDeviceToHost, stream));
    CBTM_CUDA(cudaStreamSynchronize(stream));
    std::vector<Row> want = rows_of({.query_offsets = offsets, .key_offsets = offsets, .cached_lengths = {}});
    want.resize(got.size());
    return std::ranges::equal(got, want,
                              [](const Row& a, const Row& b) { return a.begin == b.begin && a.length == b.length; });
  }
};

TEST_CASE("room comes in steps, and is never much more than what is needed") {
  std::vector<int64_t> steps = {0};
  for (int64_t rows = 1; rows <= 5000; ++rows) {
    const int64_t room = table_room(rows);
    CHECK(room >= rows);
    CHECK(room <= rows + (rows <= 16 ? rows / 2 : rows / 4));
    CHECK(table_room(room) == room);
    if (room != steps.back()) steps.push_back(room);
  }
  CHECK(std::vector<int64_t>(steps.begin(), steps.begin() + 15) ==
        std::vector<int64_t>{0, 1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 28, 32, 40, 48});
}

TEST_CASE("passes whose tables take the same room share a layout and its places") {
  Tables t;
  const std::vector<int32_t> first = {0, 10, 20, 31, 40, 48}, second = {0, 1, 2, 3, 4, 5, 48}, third = {0, 48};
  t.lay_out(first);
  const int64_t number = t.tables.layout();
  const SequenceTable<Row> one = t.get(1), two = t.get(2);
  CHECK(one.room == 6);
  CHECK(one.rows != two.rows);
  CHECK(t.holds(one, first));
  CHECK(t.holds(two, first));

  t.lay_out(second);  // six sequences
  CHECK(t.tables.layout() == number);
  CHECK(t.get(1).rows == one.rows);
  CHECK(t.holds(one, second));  // written without being asked for
  CHECK(t.holds(two, second));
  t.lay_out(first);
  CHECK(t.holds(one, first));  // zeros where the sixth was

  t.lay_out(third);
  CHECK(t.tables.layout() != number);
  CHECK(t.get(1).rows != one.rows);
  CHECK(t.holds(one, first));
  t.lay_out(second);
  CHECK(t.tables.layout() == number);
}

TEST_CASE("a pass over a cache never has the layout of one without") {
  Tables t;
  const std::vector<int32_t> offsets = {0, 1, 2}, lengths = {5, 6};
  t.lay_out(offsets);
  const int64_t number = t.tables.layout();
  t.get(1);
  t.tables.lay_out({.query_offsets = offsets, .key_offsets = {}, .cached_lengths = lengths});
  CHECK(t.tables.layout() != number);
}

TEST_CASE("layouts are forgotten, and their numbers do not come again") {
  Tables t;
  std::set<int64_t> numbers;
  std::vector<int32_t> offsets = {0};
  // Ever longer tables, until the memory has been full several times.
  int64_t bytes = 0;
  while (bytes < 2 * SequenceTables::kBytes) {
    const auto more = static_cast<size_t>(table_room(static_cast<int64_t>(offsets.size()) + 9000));
    while (offsets.size() < more) offsets.push_back(offsets.back() + 1);
    t.lay_out(offsets);
    const SequenceTable<Row> table = t.get(1);
    CHECK(numbers.insert(t.tables.layout()).second);
    CHECK(t.holds(table, offsets));
    bytes += table.room * static_cast<int64_t>(sizeof(Row));
  }
  const std::vector<int32_t> small = {0, 7};
  for (size_t i = 0; i < SequenceTables::kLayoutsMax; ++i) {
    t.lay_out(std::vector<int32_t>(i == 0 ? 2 : 2 + (size_t{4} << i), 0));
    t.get(1);
    if (i == 0) numbers = {t.tables.layout()};
  }
  t.lay_out(std::vector<int32_t>(4001, 0));
  t.get(1);
  t.lay_out(small);
  CHECK(!numbers.contains(t.tables.layout()));  // the least recently used one of the eight
}

TEST_CASE("what an operator was given stays while it is given more, though the memory is full") {
  Tables t;
  const std::vector<int32_t> offsets = [] {
    std::vector<int32_t> many(60'001);
    for (size_t i = 0; i < many.size(); ++i) many[i] = static_cast<int32_t>(i);
    return many;
  }();
  t.lay_out(offsets);
  SequenceTable<Row> last = t.get(0);
  for (int64_t kind = 1; kind < 80; ++kind) {
    const SequenceTable<Row> table = t.get(kind);
    CHECK(t.holds(last, offsets));
    last = table;
  }
}

TEST_CASE("tables that are not there yet cannot be recorded") {
  Tables t;
  const std::vector<int32_t> offsets = {0, 3}, other = {0, 2, 3};
  t.lay_out(offsets);
  t.get(1);
  cudaGraph_t graph = nullptr;
  CBTM_CUDA(cudaStreamBeginCapture(t.stream, cudaStreamCaptureModeThreadLocal));
  t.lay_out(offsets);
  t.get(1);
  CHECK_THROWS_AS(t.get(2), NotRecordable);
  CHECK_THROWS_AS(t.lay_out(other), NotRecordable);
  t.lay_out(offsets);
  CBTM_CUDA(cudaStreamEndCapture(t.stream, &graph));
  CBTM_CUDA(cudaGraphDestroy(graph));
  t.lay_out(other);
  CHECK(t.holds(t.get(2), other));
}

}  // namespace
}  // namespace cbtm::cuda
