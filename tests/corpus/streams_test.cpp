// Pipes as a corpus: read once as they come, or kept; never a hang.

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <thread>

#include "cbtm/base/error.h"
#include "cbtm/corpus/spool.h"
#include "tests/corpus/reading.h"
#include "tests/temporary_directory.h"

namespace cbtm {
namespace {

namespace fs = std::filesystem;

/// A pipe as `<(...)` gives one: /dev/fd/N, with a writer that writes `text` in two pieces.
class Pipe {
 public:
  explicit Pipe(std::string text) {
    REQUIRE(::pipe(ends_) == 0);
    writer_ = std::thread([this, text = std::move(text)] {
      const size_t half = text.size() / 2;
      for (const std::string& piece : {text.substr(0, half), text.substr(half)})
        for (size_t done = 0; done < piece.size();) {
          const ssize_t count = ::write(ends_[1], piece.data() + done, piece.size() - done);
          if (count <= 0) break;
          done += static_cast<size_t>(count);
        }
      ::close(ends_[1]);
    });
  }
  ~Pipe() {
    ::close(ends_[0]);
    writer_.join();
  }
  Pipe(const Pipe&) = delete;
  std::string path() const { return "/dev/fd/" + std::to_string(ends_[0]); }

 private:
  int ends_[2] = {-1, -1};
  std::thread writer_;
};

TEST_CASE("pipes are read as they come, whatever they hold") {
  for (const std::string& packed : {json_lines(5000), gzip(json_lines(5000)), zstd(json_lines(5000))}) {
    const Pipe pipe(packed);
    CHECK(read(pipe.path()).documents.size() == 5000);
  }
  const Pipe pipe("plain text");
  CHECK(read(pipe.path()).texts() == std::vector<std::string>{"plain text"});
}

TEST_CASE("a named pipe is waited for") {
  const TemporaryDirectory work;
  const fs::path fifo = work / "f.jsonl";
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  std::thread writer([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    write(fifo, json_lines(100));
  });
  const Read got = read(fifo);
  writer.join();
  CHECK(got.documents.size() == 100);
  CHECK(got.documents[4].id == "f.jsonl:5");
}

TEST_CASE("devices without an end are refused, and an empty one is empty") {
  CHECK_THROWS_WITH_AS(read("/dev/zero"), doctest::Contains("/dev/zero: a device, which is not read"), Error);
  CHECK_THROWS_WITH_AS(read("/dev/null"), doctest::Contains("no usable document"), Error);
}

TEST_CASE("streams are kept, compared by content, and never replaced by nothing") {
  const TemporaryDirectory work;
  const auto spool = [&](const std::string& text, bool may_replace) {
    const Pipe pipe(text);
    CorpusOptions options{.paths = {"before", pipe.path()}};
    spool_streams(options, work / "run", may_replace);
    CHECK(options.paths[0] == "before");
    CHECK(options.paths[1] == work / "run/pipe-1");
    return read(options.paths[1]).documents.size();
  };
  CHECK_THROWS_WITH_AS(spool("", true), doctest::Contains("is empty"), Error);
  CHECK(spool(json_lines(50), false) == 50);
  const auto time = fs::last_write_time(work / "run/pipe-1");
  CHECK(spool(json_lines(50), false) == 50);
  CHECK(fs::last_write_time(work / "run/pipe-1") == time);
  CHECK(spool("", true) == 50);
  CHECK_THROWS_WITH_AS(spool(json_lines(60), false), doctest::Contains("--redo"), Error);
  CHECK(read(work / "run/pipe-1").documents.size() == 50);
  CHECK(spool(json_lines(60), true) == 60);
  int files = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(work / "run")) ++files;
  CHECK(files == 1);
}

}  // namespace
}  // namespace cbtm
