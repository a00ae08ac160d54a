#include "cbtm/base/atomic_output.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <sstream>

#include "cbtm/base/error.h"
#include "cbtm/base/threads.h"
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
  for (const size_t bytes : {4 << 20, 64 << 20}) {  // 64 MiB are written by several threads
    CAPTURE(bytes);
    setrlimit(RLIMIT_FSIZE, &small);
    CHECK_THROWS_WITH_AS(write_file_atomically(directory / "file", std::string(bytes, 'x')),
                         doctest::Contains("file: writing failed"), Error);
    setrlimit(RLIMIT_FSIZE, &before);
    CHECK(contents(directory / "file") == "old");
    CHECK(entries(directory.path()) == 1);
  }
}

TEST_CASE("large data between small ones lands where it belongs, whatever the number of threads") {
  const TemporaryDirectory directory;
  std::string large((70 << 20) + 7, ' ');
  for (size_t i = 0; i < large.size(); i += 4096) large[i] = static_cast<char>('a' + i / 4096 % 26);
  const int before = thread_count();
  for (const int threads : {1, 3}) {
    CAPTURE(threads);
    set_thread_count(threads);
    AtomicFile file(directory / "file");
    file.write("head");
    file.write(large);
    file.write("tail");
    file.write_at(0, "H", 1);
    CHECK(file.bytes_written() == large.size() + 8);
    file.commit();
    const std::string text = contents(directory / "file");
    REQUIRE(text.size() == large.size() + 8);
    CHECK(text.compare(0, 4, "Head") == 0);
    CHECK(text.compare(4, large.size(), large) == 0);
    CHECK(text.compare(4 + large.size(), 4, "tail") == 0);
  }
  set_thread_count(before);
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

/// A directory as AtomicDirectory makes it, with one file.
void make_output(const fs::path& path, const std::string& name, const std::string& text) {
  AtomicDirectory output(path);
  write_file_atomically(output.path() / name, text);
  output.commit();
}

TEST_CASE("a directory is replaced whole") {
  const TemporaryDirectory directory;
  for (const std::string name : {"first", "second"}) {
    make_output(directory / "out/", name, name);
    CHECK(entries(directory / "out") == 2);
    CHECK(contents(directory / "out" / name) == name);
    CHECK(fs::exists(directory / "out" / kOutputList));
  }
  { const AtomicDirectory abandoned(directory / "out"); }
  CHECK(entries(directory.path()) == 1);
}

TEST_CASE("only what cbtm made is replaced, and nothing that somebody added to it") {
  const TemporaryDirectory directory;
  fs::create_directory(directory / "mine");
  write_file_atomically(directory / "mine/notes.txt", "precious");
  write_file_atomically(directory / "file", "precious");
  fs::create_directory(directory / "empty");
  make_output(directory / "ours", "deep/weights", "1");
  make_output(directory / "added", "weights", "1");
  write_file_atomically(directory / "added/notes.txt", "precious");
  fs::create_symlink("mine", directory / "link-to-mine");
  fs::create_symlink("nothing", directory / "link-to-nothing");
  fs::create_symlink("ours", directory / "link-to-ours");

  CHECK_NOTHROW(check_replaceable(directory / "missing"));
  CHECK_NOTHROW(check_replaceable(directory / "empty"));
  CHECK_NOTHROW(check_replaceable(directory / "ours/"));
  CHECK_THROWS_WITH_AS(check_replaceable(directory / "mine"), doctest::Contains("holds 'notes.txt'"), Error);
  CHECK_THROWS_WITH_AS(check_replaceable(directory / "link-to-mine"), doctest::Contains("holds 'notes.txt'"), Error);
  CHECK_THROWS_WITH_AS(check_replaceable(directory / "added"), doctest::Contains("'notes.txt', which is not"), Error);
  make_output(directory / "backup", "weights", "1");
  write_file_atomically(directory / "backup/notes.previous", "precious");
  CHECK_THROWS_WITH_AS(check_replaceable(directory / "backup"), doctest::Contains("'notes.previous'"), Error);
  remove_output_directory(directory / "backup");
  CHECK(contents(directory / "backup/notes.previous") == "precious");
  CHECK_THROWS_WITH_AS(check_replaceable(directory / "file"), doctest::Contains("is a file"), Error);
  CHECK_THROWS_WITH_AS(check_replaceable("/dev/null"), doctest::Contains("is a file"), Error);
  CHECK_THROWS_WITH_AS(check_replaceable(directory / "link-to-nothing"), doctest::Contains("leads nowhere"), Error);
  CHECK_THROWS_WITH_AS(check_replaceable("."), doctest::Contains("is the current directory"), Error);
  CHECK_THROWS_AS(AtomicDirectory(directory / "mine"), Error);

  make_output(directory / "link-to-ours", "other", "2");
  CHECK(fs::is_symlink(directory / "link-to-ours"));
  CHECK(contents(directory / "ours/other") == "2");
  CHECK_FALSE(fs::exists(directory / "ours/deep"));
  CHECK(contents(directory / "mine/notes.txt") == "precious");
}

TEST_CASE("files that came while the work went on are kept, and so is the work") {
  const TemporaryDirectory directory;
  AtomicDirectory output(directory / "out");
  write_file_atomically(output.path() / "weights", "1");
  write_file_atomically(directory / "out/notes.txt", "precious");
  CHECK_THROWS_WITH_AS(output.commit(), doctest::Contains("the new result is in"), Error);
  CHECK(contents(directory / "out/notes.txt") == "precious");
  CHECK(entries(directory.path()) == 2);
}

TEST_CASE("removing an output leaves what somebody added") {
  const TemporaryDirectory directory;
  make_output(directory / "out", "deep/weights", "1");
  write_file_atomically(directory / "out/deep/notes.txt", "precious");
  remove_output_directory(directory / "out");
  CHECK(contents(directory / "out/deep/notes.txt") == "precious");
  CHECK_FALSE(fs::exists(directory / "out/deep/weights"));
  make_output(directory / "other", "weights", "1");
  remove_output_directory(directory / "other");
  remove_output_directory(directory / "other");
  CHECK(entries(directory.path()) == 1);
}

TEST_CASE("a commit killed between its two renames is undone, but a directory of somebody's is not taken for ours") {
  const TemporaryDirectory directory;
  make_output(directory / "out.previous", "file", "old");
  recover_directory(directory / "out");
  CHECK(contents(directory / "out/file") == "old");
  recover_directory(directory / "out");
  CHECK(entries(directory.path()) == 1);

  write_file_atomically(directory / "mine.previous/file", "precious");
  recover_directory(directory / "mine");
  CHECK(contents(directory / "mine.previous/file") == "precious");
  make_output(directory / "mine", "file", "1");
  make_output(directory / "mine", "file", "2");
  CHECK(contents(directory / "mine.previous/file") == "precious");
}

TEST_CASE("what a killed process left unfinished is removed, what a living one writes is not") {
  const TemporaryDirectory directory;
  const pid_t child = ::fork();
  if (child == 0) {
    AtomicFile file(directory / "file");
    file.write("half");
    AtomicDirectory output(directory / "out");
    write_file_atomically(output.path() / "weights", "half");
    ::_exit(0);  // as SIGKILL: nothing is cleaned up
  }
  REQUIRE(::waitpid(child, nullptr, 0) == child);
  REQUIRE(entries(directory.path()) == 2);
  const AtomicFile living(directory / "living");
  write_file_atomically(directory / "thesis.partial-3", "precious");
  make_output(directory / "other", "weights", "1");
  CHECK(entries(directory.path()) == 5);
  make_output(directory / "out", "weights", "1");
  write_file_atomically(directory / "file", "whole");
  CHECK(entries(directory.path()) == 5);
  remove_abandoned_outputs(directory.path());
  CHECK(entries(directory.path()) == 5);
  CHECK(contents(directory / "thesis.partial-3") == "precious");
}

TEST_CASE("an output file replaces results of its own kind only") {
  const TemporaryDirectory directory;
  write_file_atomically(directory / "result.json", "{\n  \"perplexity\": 3\n}\n");
  write_file_atomically(directory / "lines.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b\"}\n");
  write_file_atomically(directory / "ids.jsonl", "[2,5]\n[2]\n");
  write_file_atomically(directory / "notes.txt", "precious");
  write_file_atomically(directory / "empty", "");
  for (const OutputKind kind : {OutputKind::json_result, OutputKind::id_lists, OutputKind::token_details,
                                OutputKind::decoded_lines, OutputKind::logits, OutputKind::html})
    CHECK_THROWS_AS(check_writable(directory / "lines.jsonl", kind), Error);
  CHECK_THROWS_AS(check_writable(directory / "result.json", OutputKind::json_result), Error);
  CHECK_NOTHROW(check_writable(directory / "result.json", OutputKind::json));
  CHECK_NOTHROW(check_writable(directory / "empty", OutputKind::json));
  CHECK_NOTHROW(check_writable(directory / "new/result.json", OutputKind::json));
  CHECK_NOTHROW(check_writable("/dev/null", OutputKind::json));
  CHECK_NOTHROW(check_writable("/dev/stdout", OutputKind::json));
  CHECK_NOTHROW(check_writable(directory / "ids.jsonl", OutputKind::id_lists));
  CHECK_THROWS_WITH_AS(check_writable(directory / "lines.jsonl", OutputKind::json), doctest::Contains("left as it is"),
                       Error);
  CHECK_THROWS_WITH_AS(check_writable(directory / "notes.txt", OutputKind::id_lists),
                       doctest::Contains("left as it is"), Error);
  CHECK_THROWS_WITH_AS(check_writable(directory.path(), OutputKind::json), doctest::Contains("is a directory"), Error);
}

TEST_CASE("an open descriptor is written to at its own offset, whatever it leads to") {
  const TemporaryDirectory directory;
  write_file_atomically(directory / "log", "earlier\n");
  const int file = ::open((directory / "log").c_str(), O_WRONLY | O_APPEND);
  REQUIRE(file >= 0);
  fs::create_symlink(fs::path("/proc/self/fd") / std::to_string(file), directory / "link");
  write_file_atomically("/dev/fd/" + std::to_string(file), "first\n");
  write_file_atomically("/proc/self/fd/" + std::to_string(file), "second\n");
  write_file_atomically(directory / "link", "third\n");
  CHECK_NOTHROW(check_writable("/dev/fd/" + std::to_string(file), OutputKind::json));
  ::close(file);
  CHECK(contents(directory / "log") == "earlier\nfirst\nsecond\nthird\n");
  CHECK_THROWS_WITH_AS(write_file_atomically("/dev/fd/987", ""), doctest::Contains("/dev/fd/987"), Error);
}

}  // namespace
}  // namespace cbtm
