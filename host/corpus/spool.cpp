#include "cbtm/corpus/spool.h"

#include <string>
#include <system_error>

#include "cbtm/base/atomic_output.h"
#include "cbtm/base/error.h"
#include "cbtm/base/hash.h"
#include "cbtm/base/memory.h"
#include "cbtm/base/progress.h"
#include "cbtm/base/signals.h"
#include "cbtm/corpus/file_name.h"
#include "corpus/input_file.h"

namespace cbtm {
namespace {

namespace fs = std::filesystem;
constexpr const char* kStage = "keeping the corpus";

/// The bytes of a kept file, 0 if there is none.
int64_t kept_bytes(const fs::path& kept) {
  std::error_code error;
  const auto bytes = fs::file_size(kept, error);
  return error ? 0 : static_cast<int64_t>(bytes);
}

void keep(const std::string& stream, const fs::path& kept, bool may_replace) {
  const std::string source = stream == "-" ? "standard input" : shown_path(stream);
  say(fmt::format("keeping {} in {}: the corpus is read more than once", source, shown_path(kept)));
  InputFile input(stream, kStage);
  AtomicFile file(kept);
  StreamingHash hash;
  Progress progress(kStage);
  int64_t bytes = 0;
  while (input.refill()) {
    stop_if_requested(kStage);
    const std::span<const char> piece = input.available();
    file.write(piece.data(), piece.size());
    hash.update(piece.data(), piece.size());
    bytes += static_cast<int64_t>(piece.size());
    input.consume(piece.size());
    if (progress.seconds() > 1) progress.update(fmt::format("{} of {}", format_bytes(bytes), source));
  }
  if (!input.error().empty()) fail("{}: {}", source, input.error());
  const int64_t before = kept_bytes(kept);
  if (bytes == 0) {
    if (before == 0) fail("{} is empty: there is no corpus to read", source);
    say(fmt::format("{} is empty; going on with what is kept in {}", source, shown_path(kept)));
    return;
  }
  if (before == bytes && hash_file_hex(kept) == hash.hex()) return;
  if (before > 0 && !may_replace)
    fail(
        "{} is not what {} keeps; pass --redo if this run was made from that and is to be made again, move the file "
        "away, or name another run directory",
        source, shown_path(kept));
  file.commit();
}

}  // namespace

void spool_streams(CorpusOptions& options, const fs::path& directory, bool may_replace) {
  int pipes = 0;
  bool stdin_kept = false;
  for (std::string& path : options.paths) {
    if (!is_stream(path)) continue;
    std::string name = "stdin.jsonl";
    if (path == "-") {
      if (stdin_kept) fail_usage("--corpus: - can be given once");
      stdin_kept = true;
    } else {
      name = fmt::format("pipe-{}", ++pipes) + utf8_name(fs::path(path).extension().native());
    }
    const fs::path kept = directory / name;
    keep(path, kept, may_replace);
    path = kept.string();
  }
}

}  // namespace cbtm
