#include "corpus/byte_source.h"

#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include <algorithm>
#include <cstring>

#include "cbtm/base/error.h"
#include "corpus/input_file.h"

namespace cbtm {
namespace {

class PlainSource : public ByteSource {
 public:
  explicit PlainSource(InputFile file) : file_(std::move(file)) {}
  size_t read(std::span<char> out) override {
    if (!file_.refill()) return 0;
    const std::span<const char> available = file_.available();
    const size_t count = std::min(out.size(), available.size());
    std::memcpy(out.data(), available.data(), count);
    file_.consume(count);
    return count;
  }
  std::string damage() const override { return file_.error(); }
  int64_t bytes_taken() const override { return file_.consumed(); }

 private:
  InputFile file_;
};

/// Passes over zero bytes, which block devices and tar leave behind the last member or frame. True if more follows.
bool skip_zeros(InputFile& file) {
  while (file.refill()) {
    const std::span<const char> available = file.available();
    const auto zeros = std::find_if(available.begin(), available.end(), [](char c) { return c != 0; });
    file.consume(static_cast<size_t>(zeros - available.begin()));
    if (zeros != available.end()) return true;
  }
  return false;
}

bool begins_gzip(std::span<const char> bytes) { return bytes.size() >= 2 && bytes[0] == '\x1f' && bytes[1] == '\x8b'; }

class GzipSource : public ByteSource {
 public:
  explicit GzipSource(InputFile file) : file_(std::move(file)) {
    constexpr int kGzipWindow = 15 + 16;
    if (inflateInit2(&stream_, kGzipWindow) != Z_OK) fail("gzip cannot be started");
  }
  ~GzipSource() override { inflateEnd(&stream_); }
  GzipSource(const GzipSource&) = delete;

  size_t read(std::span<char> out) override {
    stream_.next_out = reinterpret_cast<Bytef*>(out.data());
    stream_.avail_out = static_cast<uInt>(std::min<size_t>(out.size(), 1U << 30));
    const uInt asked = stream_.avail_out;
    while (stream_.avail_out == asked && damage_.empty() && !ended_) {
      if (!within_member_ && !next_member()) break;
      if (!file_.refill()) {
        damage_ = file_.error().empty() ? "truncated gzip" : file_.error();
        break;
      }
      const std::span<const char> input = file_.available();
      stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(input.data()));
      stream_.avail_in = static_cast<uInt>(input.size());
      const int status = inflate(&stream_, Z_NO_FLUSH);
      file_.consume(input.size() - stream_.avail_in);
      if (status == Z_STREAM_END) {
        within_member_ = false;
        confirmed_ = file_.consumed();
        first_ = false;
        inflateReset(&stream_);
      } else if (status == Z_MEM_ERROR) {
        fail("out of memory while unpacking gzip");
      } else if (status != Z_OK && status != Z_BUF_ERROR) {
        damage_ = stream_.msg != nullptr ? fmt::format("damaged gzip ({})", stream_.msg) : "damaged gzip";
        // Wrong bits may go on as wrong letters, which nothing notices but the check at the end of the member.
        doubtful_ = file_.consumed() - confirmed_;
      }
    }
    return asked - stream_.avail_out;
  }
  std::string damage() const override { return damage_; }
  std::string remark() const override { return remark_; }
  std::string packing() const override { return "gzip"; }
  int64_t bytes_taken() const override { return file_.consumed(); }
  int64_t bytes_doubtful() const override { return doubtful_; }

 private:
  /// Finds the next member. As gzip does, zeros after the last one are nothing, and other bytes are not looked at.
  bool next_member() {
    if (!first_ && skip_zeros(file_) && !begins_gzip(file_.peek(2))) {
      remark_ = "what follows the last gzip member is not gzip, and is left out";
      ended_ = true;
    }
    if (!ended_ && !file_.refill()) {
      damage_ = file_.error();
      ended_ = true;
    }
    within_member_ = !ended_;
    return within_member_;
  }

  InputFile file_;
  z_stream stream_{};
  bool first_ = true;
  bool within_member_ = false;
  bool ended_ = false;
  int64_t confirmed_ = 0;  ///< bytes of the members whose check sums were right
  int64_t doubtful_ = 0;
  std::string remark_;
  std::string damage_;
};

class ZstdSource : public ByteSource {
 public:
  explicit ZstdSource(InputFile file) : file_(std::move(file)), stream_(ZSTD_createDCtx()) {
    if (stream_ == nullptr) fail("zstd cannot be started");
    // What --long=31 writes. The decoder takes memory for the window that a frame names, or for all of a smaller frame.
    ZSTD_DCtx_setParameter(stream_, ZSTD_d_windowLogMax, sizeof(size_t) == 4 ? 30 : 31);
  }
  ~ZstdSource() override { ZSTD_freeDCtx(stream_); }
  ZstdSource(const ZstdSource&) = delete;

  size_t read(std::span<char> out) override {
    ZSTD_outBuffer output{out.data(), out.size(), 0};
    while (output.pos == 0 && damage_.empty()) {
      if (!within_frame_ && !first_ && !skip_zeros(file_)) {
        damage_ = file_.error();
        break;
      }
      if (!file_.refill()) {
        if (!file_.error().empty()) damage_ = file_.error();
        // The decoder may still hold output when all of its input is taken.
        if (within_frame_ && damage_.empty()) decode(output, {});
        if (output.pos == 0 && within_frame_ && damage_.empty()) damage_ = "truncated zstd";
        break;
      }
      file_.consume(decode(output, file_.available()));
    }
    return output.pos;
  }
  std::string damage() const override { return damage_; }
  std::string packing() const override { return "zstd"; }
  int64_t bytes_taken() const override { return file_.consumed(); }
  int64_t bytes_doubtful() const override { return doubtful_; }

 private:
  size_t decode(ZSTD_outBuffer& output, std::span<const char> available) {
    // No more than the decoder asks for, a block: what it made before damage in the same call would be lost.
    ZSTD_inBuffer input{available.data(), std::min(available.size(), wanted_), 0};
    const size_t status = ZSTD_decompressStream(stream_, &output, &input);
    if (ZSTD_isError(status) != 0) {
      damage_ = explain(status);
      if (ZSTD_getErrorCode(status) == ZSTD_error_checksum_wrong)
        doubtful_ = file_.consumed() + static_cast<int64_t>(input.pos) - frame_begin_;
      return input.pos;
    }
    within_frame_ = status != 0;
    wanted_ = within_frame_ ? status : kHeaderBytes;
    if (!within_frame_) {
      first_ = false;
      frame_begin_ = file_.consumed() + static_cast<int64_t>(input.pos);
    }
    return input.pos;
  }

  std::string explain(size_t status) const {
    switch (ZSTD_getErrorCode(status)) {
      case ZSTD_error_frameParameter_windowTooLarge: return "zstd with a window above 2 GiB, which is not read";
      case ZSTD_error_memory_allocation: return "zstd with a window that does not fit into memory";
      case ZSTD_error_dictionary_wrong: return "zstd made with a dictionary, which is not read";
      case ZSTD_error_prefix_unknown:
        if (!first_) return "damaged zstd (what follows a frame is not zstd)";
        [[fallthrough]];
      default: return fmt::format("damaged zstd ({})", ZSTD_getErrorName(status));
    }
  }

  InputFile file_;
  static constexpr size_t kHeaderBytes = 5;

  ZSTD_DCtx* stream_;
  size_t wanted_ = kHeaderBytes;
  int64_t frame_begin_ = 0;
  int64_t doubtful_ = 0;
  bool first_ = true;  ///< no frame has ended yet
  bool within_frame_ = false;
  std::string damage_;
};

/// A zstd frame, or a skippable one (pzstd writes one of these first).
bool begins_zstd(std::span<const char> bytes) {
  if (bytes.size() < 4) return false;
  const std::string_view magic(bytes.data(), 4);
  return magic == "\x28\xb5\x2f\xfd" || ((magic[0] & 0xf0) == 0x50 && magic.substr(1) == "\x2a\x4d\x18");
}

}  // namespace

std::unique_ptr<ByteSource> ByteSource::open(const std::filesystem::path& path, const std::string& stage) {
  InputFile file(path, stage);
  const std::span<const char> first = file.peek(4);
  if (begins_gzip(first)) return std::make_unique<GzipSource>(std::move(file));
  if (begins_zstd(first)) return std::make_unique<ZstdSource>(std::move(file));
  return std::make_unique<PlainSource>(std::move(file));
}

}  // namespace cbtm
