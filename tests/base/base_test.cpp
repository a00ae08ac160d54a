#include <doctest/doctest.h>

#include <numeric>
#include <vector>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/hash.h"
#include "cbtm/base/json.h"
#include "cbtm/base/mapped_file.h"
#include "cbtm/base/memory.h"
#include "cbtm/base/progress.h"
#include "cbtm/base/threads.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

TEST_CASE("sizes are read and written as people do") {
  CHECK(parse_bytes("1000", "--memory") == 1000);
  CHECK(parse_bytes("512M", "--memory") == 512ll << 20);
  CHECK(parse_bytes("1.5GiB", "--memory") == 3ll << 29);
  for (const char* bad :
       {"", "G", "-1G", "1X", "1 G", "1e30T", "nan", "1,5G", "5%", "1e-3x", "0x1p30", " 5G", "5G ", "0", "0.5"})
    CHECK_THROWS_WITH_AS(parse_bytes(bad, "--memory"), doctest::Contains("--memory"), Error);
  CHECK(format_bytes(7) == "7 B");
  CHECK(format_bytes(3ll << 29) == "1.5 GiB");
  CHECK(available_memory_bytes() > 0);
  CHECK(peak_resident_bytes() > 0);
  CHECK(own_memory_bytes() > 0);
}

TEST_CASE("durations and counts") {
  CHECK(format_duration(59.6) == "1:00");
  CHECK(format_duration(3723) == "1:02:03");
  CHECK(format_count(12) == "12");
  CHECK(format_count(1234567) == "1,234,567");
  CHECK(format_count(-123456) == "-123,456");
}

TEST_CASE("hashes do not depend on how the bytes are cut") {
  std::string bytes(100'000, 'a');
  std::iota(bytes.begin(), bytes.end(), 0);
  StreamingHash hash;
  for (size_t begin = 0; begin < bytes.size(); begin += 777) hash.update(std::string_view(bytes).substr(begin, 777));
  CHECK(hash.hex() == hash_hex(bytes));
  const TemporaryDirectory directory;
  write_file_atomically(directory / "file", bytes);
  CHECK(hash_file_hex(directory / "file") == hash_hex(bytes));
  CHECK(hash_hex("").size() == 32);
}

TEST_CASE("JSON that cannot be read names its file") {
  const TemporaryDirectory directory;
  write_file_atomically(directory / "broken.json", "{\"a\": ");
  CHECK_THROWS_WITH_AS(read_json_file(directory / "broken.json"), doctest::Contains("broken.json: not valid JSON"),
                       Error);
  CHECK_THROWS_WITH_AS(read_json_file(directory / "none.json"), doctest::Contains("none.json"), Error);
  CHECK_THROWS_WITH_AS(MappedFile(directory.path()), doctest::Contains("not a regular file"), Error);
  write_json_file(directory / "good.json", {{"k", 8}});
  CHECK(read_json_file(directory / "good.json")["k"] == 8);
}

TEST_CASE("parallel ranges cover everything once, and pass exceptions on") {
  for (const int64_t count : {0, 1, 2, 3, 1000}) {
    std::vector<int> seen(static_cast<size_t>(count), 0);
    parallel_ranges(count, 1e6, [&](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item) ++seen[static_cast<size_t>(item)];
    });
    for (const int times : seen) CHECK(times == 1);
  }
  CHECK_THROWS_AS(parallel_ranges(100, 1e6, [](int64_t, int64_t) { fail("no"); }), Error);
}

}  // namespace
}  // namespace cbtm
