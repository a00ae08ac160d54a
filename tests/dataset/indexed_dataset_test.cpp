#include "cbtm/dataset/indexed_dataset.h"

#include <doctest/doctest.h>

#include <fstream>

#include "cbtm/base/error.h"
#include "cbtm/base/json.h"
#include "cbtm/base/mapped_file.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

const std::filesystem::path kGolden = std::filesystem::path(CBTM_TEST_DATA) / "tokenizer";

std::string contents(const std::filesystem::path& path) { return std::string(MappedFile(path).text()); }

TEST_CASE("the golden dataset is read, and written back byte for byte") {
  const IndexedDataset dataset(kGolden / "dataset");
  const Json golden = read_json_file(kGolden / "dataset.json");
  CHECK(dataset.sequences() == golden["documents"].get<int64_t>());
  CHECK(dataset.tokens() == golden["tokens"].get<int64_t>());
  const auto first = golden["first_document"].get<std::vector<int32_t>>();
  const std::vector<int32_t> got = dataset.sequence(0);
  CHECK(std::vector<int32_t>(got.begin(), got.begin() + static_cast<int64_t>(first.size())) == first);
  const TemporaryDirectory directory;
  IndexedDatasetWriter writer(directory.path() / "copy", 1260);
  for (int64_t i = 0; i < dataset.sequences(); ++i) {
    CHECK(dataset.length(i) == golden["lengths"][static_cast<size_t>(i)].get<int64_t>());
    writer.add(dataset.sequence(i));
  }
  writer.commit();
  CHECK(contents(directory.path() / "copy.idx") == contents(kGolden / "dataset.idx"));
  CHECK(contents(directory.path() / "copy.bin") == contents(kGolden / "dataset.bin"));
  CHECK_NOTHROW(dataset.check_ids(1260));
  CHECK_THROWS_AS(dataset.check_ids(100), Error);
}

TEST_CASE("large vocabularies take four bytes, empty sequences are kept") {
  const TemporaryDirectory directory;
  IndexedDatasetWriter writer(directory.path() / "wide", 70'000);
  writer.add(std::vector<int32_t>{69'999, 0});
  writer.add({});
  writer.commit();
  const IndexedDataset dataset(directory.path() / "wide");
  CHECK(dataset.sequence(0) == std::vector<int32_t>{69'999, 0});
  CHECK(dataset.length(1) == 0);
}

TEST_CASE("damaged datasets are refused with their name") {
  const std::string index = contents(kGolden / "dataset.idx");
  const std::string tokens = contents(kGolden / "dataset.bin");
  const auto refused = [&](std::string bad_index, const std::string& bad_tokens) {
    const TemporaryDirectory directory;
    std::ofstream(directory.path() / "d.idx", std::ios::binary) << bad_index;
    std::ofstream(directory.path() / "d.bin", std::ios::binary) << bad_tokens;
    CHECK_THROWS_WITH_AS(IndexedDataset(directory.path() / "d"), doctest::Contains("d."), Error);
  };
  const auto changed = [&](size_t place, char value) {
    std::string copy = index;
    copy[place] = value;
    return copy;
  };
  refused("", tokens);
  refused(changed(0, 'X'), tokens);
  refused(changed(9, 7), tokens);
  refused(changed(17, 6), tokens);
  refused(changed(18, 41), tokens);
  refused(changed(25, 127), tokens);
  refused(changed(34, 1), tokens);
  refused(index.substr(0, index.size() - 1), tokens);
  refused(index, tokens.substr(2));
  refused(index, "version https://git-lfs.github.com/spec/v1\n");
  refused("TNTIDX" + std::string(60, '\0'), tokens);
}

TEST_CASE("an index whose counts and lengths overflow is refused") {
  const auto number = [](auto value) { return std::string(reinterpret_cast<const char*>(&value), sizeof value); };
  const auto refused = [&](uint64_t count, uint64_t documents, const std::string& rest, uint8_t code = 5) {
    const TemporaryDirectory directory;
    std::ofstream(directory.path() / "d.idx", std::ios::binary) << std::string("MMIDIDX\0\0", 9) + number(uint64_t{1}) +
                                                                       number(code) + number(count) +
                                                                       number(documents) + rest;
    std::ofstream(directory.path() / "d.bin", std::ios::binary) << std::string(16, '\0');
    CHECK_THROWS_WITH_AS(IndexedDataset(directory.path() / "d"), doctest::Contains("d."), Error);
  };
  const std::string room(96, '\0');
  refused(uint64_t{1} << 62, 1, room);
  refused((uint64_t{1} << 63) / 6, 4, room);  // 12 times it wraps to a small number
  refused(0, uint64_t{1} << 61, room);        // and so does 8 times this
  refused(2, 0, number(int32_t{1}) + number(int32_t{1}) + number(int64_t{0}) + number(int64_t{8}));
  // Two sequences of 2^31 - 1 tokens of 8 bytes; offsets are as they should be.
  const int32_t longest = 0x7fffffff;
  refused(2, 3,
          number(longest) + number(longest) + number(int64_t{0}) + number(int64_t{longest} * 8) + number(int64_t{0}) +
              number(int64_t{1}) + number(int64_t{2}));
  refused(1, 2, number(int32_t{-1}) + number(int64_t{0}) + number(int64_t{0}) + number(int64_t{1}));
  refused(1, 2, number(int32_t{2}) + number(int64_t{0}) + number(int64_t{0}) + number(int64_t{1}), 6);
}

}  // namespace
}  // namespace cbtm
