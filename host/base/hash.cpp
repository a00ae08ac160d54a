#include "cbtm/base/hash.h"

#include <fcntl.h>
#include <unistd.h>
#include <xxhash.h>

#include <vector>

#include "cbtm/base/error.h"

namespace cbtm {
namespace {

std::string hex_of(XXH128_hash_t hash) {
  return fmt::format("{:016x}{:016x}", static_cast<uint64_t>(hash.high64), static_cast<uint64_t>(hash.low64));
}

}  // namespace

std::string hash_hex(std::string_view bytes) { return hex_of(XXH3_128bits(bytes.data(), bytes.size())); }

uint64_t hash64(std::string_view bytes, uint64_t seed) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

std::string hash_file_hex(const std::filesystem::path& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) fail("{}: cannot be read: {}", path.string(), errno_text());
  StreamingHash hash;
  std::vector<char> block(1 << 20);
  ssize_t count = 0;
  while ((count = ::read(file, block.data(), block.size())) > 0) hash.update(block.data(), static_cast<size_t>(count));
  const std::string error = count < 0 ? errno_text() : "";
  ::close(file);
  if (count < 0) fail("{}: reading failed: {}", path.string(), error);
  return hash.hex();
}

StreamingHash::StreamingHash() : state_(XXH3_createState()) { XXH3_128bits_reset(static_cast<XXH3_state_t*>(state_)); }
StreamingHash::~StreamingHash() { XXH3_freeState(static_cast<XXH3_state_t*>(state_)); }
void StreamingHash::update(const void* data, size_t bytes) {
  XXH3_128bits_update(static_cast<XXH3_state_t*>(state_), data, bytes);
}
std::string StreamingHash::hex() const { return hex_of(XXH3_128bits_digest(static_cast<XXH3_state_t*>(state_))); }

}  // namespace cbtm
