#include "cbtm/base/atomic_output.h"

#include <doctest/doctest.h>
#include <sys/resource.h>

#include <csignal>
#include <fstream>
#include <sstream>

#include "cbtm/base/error.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

namespace fs = std::filesystem;

std::string contents(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

size_t entries(const fs::path& directory) {
  return static_cast<size_t>(std::distance(fs::directory_iterator(directory), fs::directory_iterator()));
}

TEST_CASE("a file appears whole at commit and not before") {
  const TemporaryDirectory directory;
  const fs::path path = directory / "deep/er/file.bin";
  AtomicFile file(path);
  file.write(std::string(3 << 20, 'x'));
  file.write("end");
  file.write_at(1, "yz", 2);
  CHECK_FALSE(fs::exists(path));
  file.commit();
  const std::string text = contents(path);
  REQUIRE(text.size() == (3u << 20) + 3);
  CHECK(text.substr(0, 4) == "xyzx");
  CHECK(text.substr(text.size() - 4) == "xend");
}

TEST_CASE("without commit the old file stays and nothing is left behind") {
  const TemporaryDirectory directory;
  write_file_atomically(directory / "file", "old");
  {
    AtomicFile file(directory / "file");
    file.write("new");
  }
  CHECK(contents(directory / "file") == "old");
  CHECK(entries(directory.path()) == 1);
}

TEST_CASE("a write that fails names the file and leaves the old one") {
  const TemporaryDirectory directory;
  write_file_atomically(directory / "file", "old");
  // A file size limit stands in for a full disk: write() fails the same way.
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const rlimit small{1 << 20, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  CHECK_THROWS_WITH_AS(write_file_atomically(directory / "file", std::string(4 << 20, 'x')),
                       doctest::Contains("file: writing failed"), Error);
  setrlimit(RLIMIT_FSIZE, &before);
  CHECK(contents(directory / "file") == "old");
  CHECK(entries(directory.path()) == 1);
}

TEST_CASE("a file cannot be made below a file") {
  const TemporaryDirectory directory;
  write_file_atomically(directory / "file", "");
  CHECK_THROWS_WITH_AS(write_file_atomically(directory / "file/below", ""), doctest::Contains("cannot create"), Error);
}

TEST_CASE("what is no regular file is written as it stands, and stays what it is") {
  CHECK_THROWS_WITH_AS(write_file_atomically("/dev/full", "text"),
                       doctest::Contains("/dev/full: writing failed: No space left on device"), Error);
  CHECK(fs::is_character_file("/dev/full"));
  write_file_atomically("/dev/null", "text");
  CHECK(fs::is_character_file("/dev/null"));
}

TEST_CASE("a link stays and what it names is replaced") {
  const TemporaryDirectory directory;
  write_file_atomically(directory / "deep/target", "old");
  fs::create_symlink("deep/target", directory / "link");
  write_file_atomically(directory / "link", "new");
  CHECK(fs::is_symlink(directory / "link"));
  CHECK(contents(directory / "deep/target") == "new");
}

TEST_CASE("a directory is replaced whole") {
  const TemporaryDirectory directory;
  for (const std::string name : {"first", "second"}) {
    AtomicDirectory output(directory / "out/");
    write_file_atomically(output.path() / name, name);
    output.commit();
    CHECK(entries(directory / "out") == 1);
    CHECK(contents(directory / "out" / name) == name);
  }
  { const AtomicDirectory abandoned(directory / "out"); }
  CHECK(entries(directory.path()) == 1);
}

TEST_CASE("a commit killed between its two renames is undone") {
  const TemporaryDirectory directory;
  fs::create_directory(directory / "out.previous");
  write_file_atomically(directory / "out.previous/file", "old");
  recover_directory(directory / "out");
  CHECK(contents(directory / "out/file") == "old");
  recover_directory(directory / "out");
  CHECK(entries(directory.path()) == 1);
}

}  // namespace
}  // namespace cbtm
