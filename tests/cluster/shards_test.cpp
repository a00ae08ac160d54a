#include "cluster/shards.h"

#include <doctest/doctest.h>
#include <sys/resource.h>

#include <fstream>
#include <sstream>

#include "cbtm/base/error.h"
#include "cbtm/base/philox.h"
#include "cbtm/cluster/cluster_corpus.h"
#include "cluster/growing_files.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

std::string contents(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

/// At most this many open files until the end of the scope.
class FewOpenFiles {
 public:
  explicit FewOpenFiles(rlim_t count) {
    getrlimit(RLIMIT_NOFILE, &before_);
    const rlimit few{count, before_.rlim_max};
    setrlimit(RLIMIT_NOFILE, &few);
  }
  ~FewOpenFiles() { setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_{};
};

TEST_CASE("far more files grow at once than may be open, and with less memory than they hold") {
  const TemporaryDirectory directory;
  constexpr size_t kFiles = 300;
  std::vector<std::string> want(kFiles);
  const FewOpenFiles few(24);
  GrowingFiles files(/*waiting_bytes_max=*/500);
  for (size_t i = 0; i < kFiles; ++i)
    CHECK(files.add(directory.path() / std::to_string(i % 7) / std::to_string(i)) == i);
  PhiloxStream random(1, 0);
  for (int part = 0; part < 5000; ++part) {
    const size_t file = random.next_below(kFiles - 1);  // the last stays empty
    const std::string bytes(random.next_below(20), static_cast<char>('a' + part % 26));
    files.append(file, bytes);
    want[file] += bytes;
  }
  files.finish(directory.path());
  for (size_t i = 0; i < kFiles; ++i) {
    CAPTURE(i);
    const auto path = directory.path() / std::to_string(i % 7) / std::to_string(i);
    CHECK(std::filesystem::exists(path));
    CHECK(contents(path) == want[i]);
  }
}

TEST_CASE("a file that cannot be written is named") {
  const TemporaryDirectory directory;
  GrowingFiles files(10);
  std::filesystem::create_directory(directory.path() / "taken");
  files.add(directory.path() / "taken");
  CHECK_THROWS_WITH_AS(files.append(0, "more than may wait"), doctest::Contains("taken: cannot be written"), Error);
}

std::vector<ShardSize> sizes_of(const std::vector<int64_t>& tokens) {
  std::vector<ShardSize> sizes;
  for (const int64_t count : tokens) sizes.push_back({.train_tokens = count});
  return sizes;
}

TEST_CASE("shards that no expert can learn from are named, with what to do") {
  CHECK(empty_shards(sizes_of({5, 9})).empty());
  const std::string one = empty_shards(sizes_of({5, 0, 9}));
  CHECK(one.starts_with("shard 1 of 3 would hold nothing to train on"));
  CHECK(one.find("smaller --k (at most 2)") != std::string::npos);
  CHECK(empty_shards(sizes_of({5, 0, 0, 9})).starts_with("shards 1 and 2 of 4 "));
  CHECK(empty_shards(sizes_of(std::vector<int64_t>(20, 0))).starts_with("shards 0, 1, 2, 3 and 16 more of 20 "));
  CHECK_THROWS_WITH_AS(check_shards(sizes_of({5, 0}), false), doctest::Contains("shard 1 of 2"), Error);
  check_shards(sizes_of({5, 0}), true);
}

}  // namespace
}  // namespace cbtm
