// Compressed streams (gzip, zstd); the input is the file.

#include "corpus/byte_source.h"

#include <vector>

#include "tests/fuzz/input_files.h"
#include "tests/fuzz/repair.h"
#include "tests/fuzz/target.h"

namespace cbtm::fuzz {
namespace {

/// A few bytes may rightly unpack to gigabytes; a stream costs nothing but time, so reading ends here.
constexpr size_t kUnpackedMax = 32 << 20;

void read(std::string_view input) {
  const InputFiles files;
  files.write("data", input);
  const std::unique_ptr<ByteSource> source = ByteSource::open(files / "data", "reading");
  std::vector<char> out(1 << 16);
  size_t total = 0;
  for (size_t bytes = 1; bytes > 0 && total < kUnpackedMax; total += bytes) bytes = source->read(out);
  source->damage();
  source->bytes_taken();
}

const Registration kRegistration{{"byte_source", read, repair_gzip}};

}  // namespace
}  // namespace cbtm::fuzz
