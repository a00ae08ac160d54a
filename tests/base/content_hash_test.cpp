#include "cbtm/base/content_hash.h"

#include <doctest/doctest.h>

#include <fstream>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/threads.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

TEST_CASE("a file is compared with its recorded hash, by its bytes alone") {
  const TemporaryDirectory directory;
  const std::string bytes(size_t{40} << 20, 'x');  // three blocks
  write_file_atomically(directory / "weights", bytes);
  write_file_atomically(directory / "copy", bytes);
  const Json hashes = content_hashes(directory.path(), {"weights"});
  CHECK(hashes["weights"]["bytes"] == bytes.size());
  CHECK(hashes["weights"]["hash"] == block_hash_hex(directory / "copy"));
  set_thread_count(1);
  CHECK(hashes["weights"]["hash"] == block_hash_hex(directory / "copy"));
  CHECK(verify_content(directory.path(), "weights", hashes));
  CHECK_FALSE(verify_content(directory.path(), "copy", hashes));
  CHECK_FALSE(verify_content(directory.path(), "copy", nullptr));

  std::filesystem::rename(directory / "copy", directory / "weights");
  CHECK(verify_content(directory.path(), "weights", hashes));
  {
    std::fstream file(directory / "weights", std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(20 << 20);
    file.put('y');
  }
  CHECK_THROWS_WITH_AS(verify_content(directory.path(), "weights", hashes),
                       doctest::Contains("weights: damaged or replaced"), Error);
  set_content_verification(false);
  CHECK_FALSE(verify_content(directory.path(), "weights", hashes));
  set_content_verification(true);
  std::filesystem::resize_file(directory / "weights", 5);
  CHECK_THROWS_WITH_AS(verify_content(directory.path(), "weights", hashes), doctest::Contains("it has 5 bytes"), Error);
  CHECK_THROWS_WITH_AS(verify_content(directory.path(), "weights", {{"weights", 3}}),
                       doctest::Contains("recorded content hash is damaged"), Error);
}

}  // namespace
}  // namespace cbtm
